#!/usr/bin/env bash
# Every hack/update-*.sh would change nothing: no generated file is stale, missing, or left over.
#
# The scripts run in a copy of the tree, so that the check never writes to the tree it checks, and says the truth about
# one with uncommitted changes as well. update-k8s.sh is not among them: verify-k8s.sh has it.
set -euo pipefail
cd "$(dirname "$0")/.."
WEFT_TOOLS=$(hack/tools.sh)
export WEFT_TOOLS

work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
mkdir "${work}/before"
# What git ignores is not part of the tree. A file that is deleted but still in the index is skipped.
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' file; do [[ ! -e ${file} ]] || printf '%s\0' "${file}"; done |
  tar -c --null --no-recursion -T - | tar -x -C "${work}/before"
cp -a "${work}/before" "${work}/after"

for script in hack/update-*.sh; do
  [[ ${script} != hack/update-k8s.sh ]] || continue
  (cd "${work}/after" && "${script}")
done
(cd "${work}" && diff -ruN before after) || {
  echo "generated files are not up to date: run make update" >&2
  exit 1
}
