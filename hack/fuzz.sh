#!/usr/bin/env bash
# Runs every fuzz target of the repository for FUZZTIME (10s) and goes on after a failure. go test fuzzes one target at
# a time. An input that fails is written to testdata/fuzz beside its test: commit it with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()
count=0
while IFS=: read -r file target; do
  count=$((count + 1))
  echo "==> ${file%/*} ${target}"
  "${GO:-go}" test "./${file%/*}" -run '^$' -fuzz "^${target}\$" -fuzztime "${FUZZTIME:-10s}" || failed+=("${file%/*} ${target}")
done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' pkg cmd test | sed 's/:func /:/' | sort)

echo "fuzz: ${count} targets, ${#failed[@]} failed"
((${#failed[@]} == 0)) || printf '  %s\n' "${failed[@]}"
((${#failed[@]} == 0))
