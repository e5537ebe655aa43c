#!/usr/bin/env bash
# Runs every hack/verify-*.sh, or those named (hack/verify.sh arch mod), goes on after a failure, and ends with one line
# for each. They only read: what they have to write they write in a copy of the tree.
#
# They run one after another. The heavy ones (vet, fix, staticcheck, deadcode) each use all cores, and each holds the
# types of a part of Kubernetes in memory; two at once gain nothing and need twice the memory.
set -euo pipefail
cd "$(dirname "$0")/.."

checks=("$@")
if ((${#checks[@]} == 0)); then
  for script in hack/verify-*.sh; do
    name=${script#hack/verify-}
    checks+=("${name%.sh}")
  done
fi

summary=()
failed=0
for check in "${checks[@]}"; do
  echo "==> ${check}"
  start=${SECONDS}
  if "hack/verify-${check}.sh"; then
    result=ok
  else
    result=FAILED
    failed=$((failed + 1))
  fi
  summary+=("$(printf '%-12s %-7s %4ds' "${check}" "${result}" "$((SECONDS - start))")")
done

echo
echo "verify: ${#checks[@]} checks, ${failed} failed"
printf '  %s\n' "${summary[@]}"
((failed == 0))
