#!/usr/bin/env bash
# The import rules. -count=1, for a result that go test kept would not tell of a file that it did not know of.
set -euo pipefail
cd "$(dirname "$0")/.."
"${GO:-go}" test -count=1 ./test/arch
