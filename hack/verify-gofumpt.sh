#!/usr/bin/env bash
# Formatting. gofumpt leaves vendor, testdata and generated files alone.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)
unformatted=$("${tools}/gofumpt" -l .)
if [[ -n ${unformatted} ]]; then
  printf 'not formatted, run bin/tools/gofumpt -w on them:\n%s\n' "${unformatted}" >&2
  exit 1
fi
