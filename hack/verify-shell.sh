#!/usr/bin/env bash
# Every tracked shell script parses, stops at the first error, and can be run.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
complain() {
  echo "$1: $2" >&2
  failed=1
}
while IFS= read -r -d '' file; do
  [[ -f ${file} ]] || continue
  case $(head -n 1 "${file}" | tr -d '\0') in
    '#!'*bash) ;;
    '#!'*sh) complain "${file}" "write scripts for bash, as the others: #!/usr/bin/env bash" ;;
    *)
      [[ ${file} != *.sh ]] || complain "${file}" "has no #! line"
      continue
      ;;
  esac
  bash -n "${file}" || failed=1
  grep -qx 'set -euo pipefail' "${file}" || complain "${file}" "lacks set -euo pipefail"
  [[ -x ${file} ]] || complain "${file}" "is not executable"
done < <(git ls-files -z)
exit "${failed}"
