#!/usr/bin/env bash
# Builds the tools that hack/tools/go.mod pins into bin/tools and prints that folder, so that a caller writes
#
#   tools=$(hack/tools.sh)
#
# and uses "${tools}/gofumpt". Nothing is taken from PATH: a gofumpt of another version formats differently.
# Cold this takes about a minute on two cores, warm one second (the build cache knows).
set -euo pipefail
cd "$(dirname "$0")/.."

# WEFT_TOOLS names a folder of ready tools; verify-generated.sh sets it when it works in a copy of the tree.
if [[ -n ${WEFT_TOOLS:-} ]]; then
  echo "${WEFT_TOOLS}"
  exit
fi
bin="${PWD}/bin/tools"
mkdir -p "${bin}"
# -mod=readonly, for a vendor/ folder belongs to the product's module and not to this one.
"${GO:-go}" -C hack/tools build -mod=readonly -o "${bin}/" tool >&2
echo "${bin}"
