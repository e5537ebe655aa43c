#!/usr/bin/env bash
# go vet over everything. The analyzers want facts of every dependency, so vet visits all of Kubernetes too; the go
# command keeps the result, and from then on it costs what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
"${GO:-go}" vet ./...
