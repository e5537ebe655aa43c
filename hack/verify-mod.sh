#!/usr/bin/env bash
# go.mod and go.sum are what the sources need, for the product and for the tools, and what the module cache holds is what
# was downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
# Both flags, for a vendor/ folder would make -mod=vendor the default.
"${go}" mod tidy -diff
"${go}" -C hack/tools mod tidy -diff
"${go}" mod verify
