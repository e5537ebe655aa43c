# Each target is a few lines; what is longer is a script under hack/, which runs by itself too.
SHELL := /usr/bin/env bash
export GO ?= go

# The API server in weft-playground reports the version that is linked into it, v0.0.0-master without this; schedulers
# and clients decide by it what to expect. Read with sed, for asking the go command costs a second in every target.
K8S_VERSION := $(shell sed -n 's,^.*k8s\.io/kubernetes \(v[0-9.]*\)$$,\1,p' go.mod)
K8S_MINOR := $(word 2,$(subst ., ,$(K8S_VERSION)))
VERSION_PACKAGE := k8s.io/component-base/version
# No -trimpath, nor other flags for the compiler: go test and go vet would then not share what go build compiled.
export GO_LDFLAGS ?= -X $(VERSION_PACKAGE).gitVersion=$(K8S_VERSION) -X $(VERSION_PACKAGE).gitMajor=1 -X $(VERSION_PACKAGE).gitMinor=$(K8S_MINOR)

.DEFAULT_GOAL := build
.PHONY: help build test verify update demo up vendor fuzz bench compat e2e clean

help: ## Show this list.
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

build: ## Build every command into bin/ (eight minutes on two cores the first time, seconds after that).
	@mkdir -p bin
	$(GO) build -ldflags '$(GO_LDFLAGS)' -o bin/ ./cmd/...
	@ln -sf weft bin/kubectl-weft

test: build ## Run the unit and the integration tests, the light packages with the race detector.
	hack/test.sh

verify: ## Run every check of hack/verify-*.sh; nothing is written to the tree.
	hack/verify.sh

update: ## Write everything that is generated (hack/update-*.sh).
	@set -e; for script in hack/update-*.sh; do echo "$$script"; $$script; done

demo: build ## Start a local cluster, schedule a few jobs, show where they went, and stop it.
	bin/weft-playground demo

up: build ## Start a local cluster and leave it running until interrupted.
	bin/weft-playground up

vendor: ## Make vendor/ for building without a network, and prove that it suffices (as long as a first build).
	hack/vendor.sh

fuzz: ## Run each fuzz target for FUZZTIME (10s).
	hack/fuzz.sh

bench: build ## Run the benchmarks of test/perf and test/devicemanager (root), COUNT times each (6); bin/tools/benchstat compares two outputs.
	$(GO) test -run '^$$' -bench . -benchmem -count $(or $(COUNT),6) -timeout 60m ./test/perf/... ./test/devicemanager/...

compat: build ## Run the scheduler against real API servers of every supported release.
	hack/compat.sh

e2e: build ## Run real containers on a real kubelet; needs root, and says so where it cannot.
	hack/e2e.sh

clean: ## Remove what was built. vendor/ stays: where it is needed it could not be made again.
	rm -rf bin _output
