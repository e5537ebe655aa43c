#!/usr/bin/env bash
# Runs all tests, in random order, each once. Arguments go to go test, for instance -run or -v.
#
# The packages that need little besides the standard library run with the race detector: the core, and adapters that know
# the API types only. The others run without, because -race compiles every dependency a second time: with the
# libraries below that is most of Kubernetes, or SQLite translated to Go.
#
#   PACKAGES            what to test, default ./...
#   WEFT_REQUIRE_DATA   when 1, a test that needs the traces of ../shared/data (or of WEFT_DATA) fails without them
#                       instead of skipping
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
heavy=' (k8s\.io/(kubernetes|apiserver|client-go)|modernc\.org/sqlite)'
# Real API servers start in some of them, two cores may be shared, and go test runs packages side by side.
timeout=50m

# A test binary is listed as a package p.test; its Deps are everything that is linked into it.
read -r -a packages <<<"${PACKAGES:-./...}"
listing=$("${go}" list -test -f '{{.ImportPath}} {{join .Deps " "}} ' "${packages[@]}")
light=()
if [[ $("${go}" env CGO_ENABLED) == 1 ]]; then
  mapfile -t light < <(grep -E '^[^ ]+\.test ' <<<"${listing}" | grep -vE "${heavy}" | sed 's/\.test .*//')
else
  echo "test.sh: no cgo, so no race detector" >&2
fi
mapfile -t rest < <("${go}" list "${packages[@]}" | grep -vxF -f <(printf '%s\n' "${light[@]:--}"))

# Those that leave out under the race detector what takes too long with it run without it as well.
for package in "${light[@]}"; do
  [[ ! -e .${package#weft.sh/weft}/norace_test.go ]] || rest+=("${package}")
done

failed=0
if ((${#light[@]} > 0)); then
  echo "==> ${#light[@]} packages with the race detector"
  "${go}" test -race -shuffle=on -timeout "${timeout}" "$@" "${light[@]}" || failed=1
fi
if ((${#rest[@]} > 0)); then
  echo "==> ${#rest[@]} packages without"
  "${go}" test -shuffle=on -timeout "${timeout}" "$@" "${rest[@]}" || failed=1
fi
exit "${failed}"
