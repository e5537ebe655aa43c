#!/usr/bin/env bash
# go.mod and go.sum are what the sources need, for the product and for the tools, and what the module cache holds is what
# was downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
failed=0
"${go}" mod tidy -diff || failed=1
"${go}" -C hack/tools mod tidy -diff || failed=1
# Hashes a gigabyte of sources: six seconds of CPU.
"${go}" mod verify || failed=1
exit "${failed}"
