#!/usr/bin/env bash
# staticcheck with its default checks, and two that are off by default and that the conventions ask for: every package
# has a comment (ST1000), and every method of a type names its receiver alike (ST1016).
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)
"${tools}/staticcheck" -checks inherit,ST1000,ST1016 ./...
