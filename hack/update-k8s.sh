#!/usr/bin/env bash
# Pins the Kubernetes libraries to one release: k8s.io/kubernetes at the given version, and every staging module
# that its go.mod replaces with a local folder at the matching v0 version, for an importer does not inherit replaces.
#
#   hack/update-k8s.sh v1.37.0
#
# Without an argument it rewrites the lines for the version that go.mod already requires. After a change of version run
# `go mod tidy`, for the new release asks for other versions of everything else.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

version=${1:-$("${go}" mod edit -json | sed -n '/"k8s.io\/kubernetes"/{n;s/.*"Version": "\(.*\)".*/\1/p;}' | head -n 1)}
if [[ ! ${version} =~ ^v1\.[0-9]+\.[0-9]+$ ]]; then
  echo "update-k8s.sh: want a release such as v1.37.0, got \"${version}\"" >&2
  exit 2
fi
staging="v0.${version#v1.}"

upstream=$(mktemp -d)
trap 'rm -rf "${upstream}"' EXIT
(cd "${upstream}" && "${go}" mod init upstream >/dev/null 2>&1 && "${go}" mod download -json "k8s.io/kubernetes@${version}" >download.json)
gomod=$(sed -n 's/.*"GoMod": "\(.*\)".*/\1/p' "${upstream}/download.json")
modules=$(sed -n 's#^\s*\(k8s\.io/[a-z0-9-]*\) => \./staging/.*#\1#p' "${gomod}" | sort -u)
# Without this a go.mod of another shape would silently lose every replace below.
if [[ -z ${modules} ]]; then
  echo "update-k8s.sh: found no staging module in ${gomod}" >&2
  exit 1
fi

# Drop replaces of an earlier release, so that a module that left staging does not linger.
for old in $("${go}" mod edit -json | sed -n '/"Replace"/,$p' | sed -n 's/.*"Path": "\(k8s.io\/[^"]*\)".*/\1/p' | sort -u); do
  "${go}" mod edit -dropreplace "${old}"
done
"${go}" mod edit -require "k8s.io/kubernetes@${version}"
# One edit for all, for each rewrites the file. What the module requires itself moves along with its replace: the replace
# wins whatever the requirement says, and a reader should not see two versions. The indirect ones belong to go mod tidy.
edits=()
for module in ${modules}; do
  edits+=(-replace "${module}=${module}@${staging}")
  if grep -qE "^\s*(require )?${module} v[^ ]*$" go.mod; then
    edits+=(-require "${module}@${staging}")
  fi
done
"${go}" mod edit "${edits[@]}"
