#!/usr/bin/env bash
# staticcheck with its default checks, and two that are off by default and that the conventions ask for: every package
# has a comment (ST1000), and every method of a type names its receiver alike (ST1016).
# 185 s of CPU and 0.5 GiB the first time, in a cache of its own (STATICCHECK_CACHE); 10 s from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(hack/tools.sh)
"${tools}/staticcheck" -checks inherit,ST1000,ST1016 ./...
