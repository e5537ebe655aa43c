#!/usr/bin/env bash
# Runs the scheduler against every Kubernetes API server it promises to work with: real kube-apiservers, each built
# from its own Go modules, on a real etcd, all on loopback.
#
#   hack/compat.sh            build the API servers that are missing, then run the checks
#   hack/compat.sh build      build only
#   hack/compat.sh test       run the checks on what is built
#
# The API servers go to _output/compat/<version>/. A build of one from nothing takes about ten minutes on two cores, so
# they are built one after another and kept; remove a folder to build it again.
#
#   VERSIONS   the older releases to check, default the newest patch of each minor that is supported
#   SCHEDULER  the scheduler to check, default bin/weft-scheduler (make build)
#   RUN        a -run pattern for go test, to check one server only
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

versions=${VERSIONS:-v1.34.4 v1.35.4 v1.36.3}
output="${PWD}/_output/compat"
scheduler=${SCHEDULER:-bin/weft-scheduler}
# The test runs in another folder.
[[ ${scheduler} == /* ]] || scheduler=${PWD}/${scheduler}
# The gentlest way to build on a machine that is shared: lowest priority, one package at a time.
gobuild=(nice -n 19 "${go}" build -p "${BUILD_JOBS:-1}")

# Without these the API server calls itself v0.0.0-master, which is one of the cases and not the rule.
version_flags() {
  local version=$1 minor=${1#v1.}
  local package=k8s.io/component-base/version
  echo "-X ${package}.gitVersion=${version} -X ${package}.gitMajor=1 -X ${package}.gitMinor=${minor%%.*} -X ${package}.gitTreeState=clean"
}

# An API server of another release needs the modules of that release, so it gets a throw-away module of its own that
# requires k8s.io/kubernetes and replaces each of its staging modules, as hack/update-k8s.sh does for ours.
build_release() {
  local version=$1 folder="${output}/$1"
  local binary="${folder}/kube-apiserver"
  if [[ ! ${version} =~ ^v1\.[0-9]+\.[0-9]+$ ]]; then
    echo "compat.sh: VERSIONS must hold releases such as v1.36.3, got \"${version}\"" >&2
    exit 2
  fi
  if [[ -x ${binary} ]]; then
    echo "compat.sh: ${version}: already built" >&2
    return
  fi
  echo "compat.sh: ${version}: building kube-apiserver" >&2
  rm -rf "${folder}"
  mkdir -p "${folder}"
  (
    cd "${folder}"
    printf 'module weft.sh/compat/apiserver\n\ngo %s\n' "$("${go}" env GOVERSION | sed s/^go//)" >go.mod
    "${go}" mod download -json "k8s.io/kubernetes@${version}" >download.json
    upstream=$(sed -n 's/.*"GoMod": "\(.*\)".*/\1/p' download.json)
    "${go}" mod edit -require "k8s.io/kubernetes@${version}"
    for module in $(sed -n 's#^\s*\(k8s\.io/[a-z0-9-]*\) => \./staging/.*#\1#p' "${upstream}" | sort -u); do
      "${go}" mod edit -replace "${module}=${module}@v0.${version#v1.}"
    done
    # The throw-away module has no source, so nothing but the build itself can tell which modules it needs.
    "${gobuild[@]}" -mod=mod -ldflags "$(version_flags "${version}")" -o kube-apiserver.partial k8s.io/kubernetes/cmd/kube-apiserver
    mv kube-apiserver.partial kube-apiserver
  )
}

# Our own release is in bin/weft-playground, with its version. Built from our own go.mod without one, it is what anybody
# gets who builds it as a Go module.
build_own() {
  local version folder
  version=$("${go}" list -m -f '{{.Version}}' k8s.io/kubernetes)
  folder="${output}/${version}-unversioned"
  # Always linked anew: it is cheap once weft-playground is built, and go.mod may have moved.
  echo "compat.sh: ${version}: linking kube-apiserver without its version" >&2
  mkdir -p "${folder}"
  "${gobuild[@]}" -o "${folder}/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
}

build() {
  for version in ${versions}; do
    build_release "${version}"
  done
  build_own
}

check() {
  local binary
  for binary in "${scheduler}" bin/weft-playground; do
    if [[ ! -x ${binary} ]]; then
      echo "compat.sh: ${binary} is missing: run make build, or name another scheduler with SCHEDULER" >&2
      exit 1
    fi
  done
  WEFT_COMPAT_APISERVERS="${output}" WEFT_COMPAT_SCHEDULER="${scheduler}" \
    "${go}" test -count=1 -v -timeout 30m -run "${RUN:-.}" ./test/compat
}

case ${1:-all} in
  build) build ;;
  test) check ;;
  all)
    build
    check
    ;;
  *)
    echo "usage: hack/compat.sh [build|test]" >&2
    exit 2
    ;;
esac
