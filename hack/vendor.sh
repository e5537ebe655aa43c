#!/usr/bin/env bash
# Makes vendor/ for a machine without a network, and proves that it suffices: builds every command from it with the module
# proxy switched off. The module cache may be there, but -mod=vendor does not look at it.
#
# vendor/ is not committed, and stays: it is what was asked for. As long as it is there the go command builds from
# it by itself, and refuses with "inconsistent vendoring" once go.mod changes; then run this again or remove the folder.
# What it compiles is kept apart from what is compiled from the module cache, so the build takes as long as a first one.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

# A tree of an earlier version must not lend a file to this one; go mod vendor removes it first.
"${go}" mod vendor
echo "vendor/: $(du -sh vendor | cut -f 1), $(grep -c '^# .* v' vendor/modules.txt) modules"

out=$(mktemp -d)
trap 'rm -rf "${out}"' EXIT
GOPROXY=off GOFLAGS="${GOFLAGS:-} -mod=vendor" "${go}" build -ldflags "${GO_LDFLAGS:-}" -o "${out}/" ./cmd/...
echo "built from vendor/ alone: $(ls "${out}" | tr '\n' ' ')"
