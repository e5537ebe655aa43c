#!/usr/bin/env bash
# The replace lines of go.mod are those that hack/update-k8s.sh writes for the Kubernetes release that go.mod requires.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "${copy}"' EXIT
mkdir "${copy}/hack"
cp go.mod "${copy}/"
cp hack/update-k8s.sh "${copy}/hack/"
"${copy}/hack/update-k8s.sh"
diff -u go.mod "${copy}/go.mod" || {
  echo "go.mod does not pin one Kubernetes release: run hack/update-k8s.sh" >&2
  exit 1
}
