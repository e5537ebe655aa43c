#!/usr/bin/env bash
# Runs the end-to-end tests: real containers, started by containerd, runc and the kubelet of our Kubernetes release, on a
# real control plane with the real scheduler. Builds what they need into _output/e2e/bin, installs the Debian packages
# that are missing, and leaves all logs in _output/e2e/logs. bin/ must be built (make build; make e2e does that too).
# Arguments go to go test: hack/e2e.sh -v -run TestPod
#
# The tests make namespaces and cgroups of their own, so they need root. Where a machine cannot run them the script says
# why, on a line that begins with SKIP, and succeeds.
#
# The first build takes six minutes on two cores after `make build`; from then on it is seconds.
#
#   WEFT_REQUIRE_E2E   when 1, a machine that cannot run the tests is a failure
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}

skip() {
  echo "SKIP: the end-to-end tests cannot run here: $*"
  [[ ${WEFT_REQUIRE_E2E:-} != 1 ]] || exit 1
  exit 0
}

[[ $(uname -s) == Linux ]] || skip "a kubelet needs Linux, this is $(uname -s)"
((EUID == 0)) || skip "containers need root, this is user ${EUID}"

# Package to install, and the command or file whose absence says that it is missing.
missing=()
while read -r package command; do
  command -v "${command}" >/dev/null || missing+=("${package}")
done <<'PACKAGES'
runc runc
containernetworking-plugins /usr/lib/cni/bridge
iproute2 ip
PACKAGES
if ((${#missing[@]} > 0)); then
  command -v apt-get >/dev/null || skip "it lacks ${missing[*]} (names of Debian packages), and apt-get to install them"
  echo "e2e.sh: installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}" || skip "apt-get could not install ${missing[*]}"
fi
# shellcheck disable=SC2016 # the inner shell is another one
reason=$(unshare --mount --pid --fork --net --ipc -- bash -ec '
  mount -t tmpfs tmpfs /run
  mount -t proc proc /proc
  mkdir -p /run/{lower,upper,work}
  mount -t overlay -o lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work overlay /run/lower
  ip link add weft0 type bridge
  ip link add weft1 type veth peer name weft2
' 2>&1) || skip "no namespaces, mounts, bridges or pairs of network interfaces can be made: ${reason}"

bin="${PWD}/_output/e2e/bin"
logs="${PWD}/_output/e2e/logs"
rm -rf "${logs}"
mkdir -p "${bin}" "${logs}"

# The container runtime is a module of its own: it wants other versions of libraries that it shares with Kubernetes.
# -mod=readonly, for a vendor/ folder belongs to the product's module and not to this one.
echo "e2e.sh: building containerd"
"${go}" -C test/e2e/containerd build -mod=readonly -tags "no_btrfs no_zfs no_devmapper" -o "${bin}/" tool
echo "e2e.sh: building the kubelet"
# The version of Kubernetes, which the Makefile knows.
: "${GO_LDFLAGS:=$(make -s --eval='ldflags: ; @echo "$(GO_LDFLAGS)"' ldflags)}"
"${go}" build -ldflags "${GO_LDFLAGS}" -o "${bin}/kubelet" ./test/e2e/kubelet
# Static, for nothing else is in its image.
CGO_ENABLED=0 "${go}" build -ldflags '-s -w' -o "${bin}/workload" ./test/e2e/workload
"${go}" build -o "${bin}/agent" ./test/e2e/agent

# Nothing here is slow by itself, but two cores may be shared.
WEFT_E2E_BIN=${bin} WEFT_E2E_LOGS=${logs} "${go}" test -count=1 -timeout 20m "$@" ./test/e2e || {
  echo "e2e.sh: the logs of all components are in ${logs}" >&2
  exit 1
}
