# Berth's commands. `make` lists them.
#
# All that is generated or downloaded goes to .cache (or $BERTH_CACHE) and bin; nothing is installed
# but, when it is missing, the C compiler that the race detector needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two steps that compile or measure at once would only disturb each other.
.NOTPARALLEL:

export BERTH_CACHE := $(abspath $(or $(BERTH_CACHE),.cache))
# One set of flags for everything, so that everything is compiled once.
export GOFLAGS := -trimpath
export CGO_ENABLED := 0
export GOLANGCI_LINT_CACHE := $(BERTH_CACHE)/golangci
export BERTH_FRR_ROOT := $(BERTH_CACHE)/pkg

TOOLS := $(BERTH_CACHE)/tools
LAB := $(BERTH_CACHE)/bin/lab
VM := $(BERTH_CACHE)/bin/vm-exec
# Tests of routes and of rules, on this machine's kernel, and tests of the API server.
route_tests = CGO_ENABLED=1 go test -race -tags root -count=1 -p 1 -timeout 15m ./bgp ./internal/urgent ./speaker/dataplane ./speaker/dataplane/midstream ./speaker/dataplane/unserved ./speaker/dataplane/guard ./speaker/dataplane/podnat ./speaker/dataplane/steering/... ./speaker/heart ./speaker/bgpd ./speaker/localnet ./speaker/rival ./speaker/steer
api_tests = cd e2e && CGO_ENABLED=1 go test -race -tags root -count=1 -timeout 15m ./api
# Namespaces of its own are its rack; it needs what the lab runs.
steering_bench = cd e2e && go test -tags bench -count=1 -timeout 10m -run '^$$' -bench . ./vm/rate
# The packages below the working directory that have tests under the tags $(1). The rest is left to
# `make build`: with the race detector Kubernetes itself would be compiled once more.
tested = go list -tags '$(1)' -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ The two for newcomers; they need root and fetch the rest.

demo: preflight packages binaries ## show Berth at work in the lab, under 2 minutes once built (DEMO_KEEP=1 leaves it running)
	cd e2e && go build -o $(BERTH_CACHE)/bin/demo ./cmd/demo
	$(BERTH_CACHE)/bin/demo

test: preflight fetch binaries unit l2-tests side-by-side vm-test rack-tests ## run all tests: unit, kernel, API, another kernel, end to end

##@ Parts of them.

preflight:
	@tools/preflight

fetch: packages $(VM) ## download and unpack what the lab runs, and the other kernels
	$(VM) -fetch

packages: $(LAB)
	$(LAB) fetch

binaries: $(LAB) ## build Berth, Kubernetes and the lab's programs, and pack the images
	$(LAB) build

unit: ## unit tests of all modules, with the race detector (no root)
	@tools/preflight race
	CGO_ENABLED=1 go test -race ./...
	BERTH_L2_HISTORIES=40000 go test -run TestRandomHistories ./l2/election
	BERTH_IPAM_OPERATIONS=1000000 go test -run Model ./ipam
	go test -run TestNoMessageOfAPeer ./bgp
	cd e2e && CGO_ENABLED=1 go test -race $$($(call tested,))
	cd tools && go test ./...
	cd e2e/helm && go test ./...
	cd tools/monitoring && go test ./...

root-tests: l2-tests route-tests ## tests on this machine's kernel, in network namespaces (root)

l2-tests: packages
	@tools/preflight tools
	CGO_ENABLED=1 go test -race -tags root -count=1 -p 1 -timeout 10m ./l2/...

route-tests: packages
	@tools/preflight tools
	$(route_tests)

# Routers' timers and an API server leave the processors idle for most of the time, and do not disturb each other.
side-by-side: fetch binaries
	@tools/preflight tools
	@tools/preflight race
	@echo '$(route_tests)'; echo '$(api_tests)'; \
	log=$$(mktemp); routes=0 api=0; \
	($(route_tests)) >$$log 2>&1 & other=$$!; \
	($(api_tests)) || api=$$?; \
	wait $$other || routes=$$?; \
	cat $$log; rm $$log; [ $$routes$$api = 00 ]

vm-test: fetch binaries ## tests on other kernels: user-mode-linux, and Debian's in QEMU (root)
	cd e2e && go test -tags vm -count=1 -p 1 -exec $(VM) ./vm ./vm/ipvs
	BERTH_VM_KIND=qemu go test -tags root,vrf -count=1 -run VRF -exec $(VM) ./bgp
	BERTH_VM_KIND=qemu go test -tags root -count=1 -run '^TestSteer_(packets|secondChance|encapsulates)$$' -exec $(VM) ./speaker/dataplane/steering/program
	cd e2e && BERTH_VM_KIND=qemu go test -tags qemu -count=1 -exec $(VM) ./vm
	cd e2e && BERTH_VM_KIND=qemu BERTH_VM_MEMORY=2G BERTH_VM_TIMEOUT=15m go test -tags qemu -count=1 -p 1 -timeout 15m -exec $(VM) ./vm/life

e2e: api-tests rack-tests ## tests of the API and end to end, on the lab (root)

api-tests: fetch binaries
	@tools/preflight race
	$(api_tests)

rack-tests: fetch binaries
	cd e2e && go test -tags root -count=1 -p 1 -timeout 25m $$($(call tested,root) | grep -v /e2e/api)

test-release: preflight fetch binaries ## beside the real MetalLB and in its place, with the gap measured; upgrades and back; Helm and Flux; Traefik, external-dns, Envoy Gateway; one owner per address; BGP with other daemons; alerts fired by the real Prometheus; the page in Chromium; the tutorial of Services; what kubectl berth doctor finds of the API server: what has no room in make test (root)
	$(LAB) build --metallb --installers --company --previous --dns
	cd e2e && go test -tags release -count=1 -parallel 6 -timeout 20m ./interop
	cd e2e && go test -tags release -count=1 -v -timeout 10m ./ui
	cd e2e && go test -tags release -count=1 -timeout 10m ./tutorial
	BERTH_L2_HISTORIES=200000 go test -timeout 20m -run TestRandomHistories ./l2/election
	BERTH_BGP_SPEAKERS=16 BERTH_BGP_ROUTERS=4 BERTH_BGP_FLAPS=1m go test -tags root -count=1 -v -timeout 10m -run '^TestManySessions$$' ./bgp
	cd e2e && BERTH_DIFF_CHANGES=200 go test -tags root -count=1 -timeout 20m -run '^TestForecast$$' ./api
	cd e2e && BERTH_LINT_OBJECTS=2000 go test -tags root -count=1 -timeout 20m -run Lint ./plugin
	cd e2e && go test -tags release -count=1 -v -timeout 60m ./plugin
	cd e2e && go test -tags release -count=1 -v -timeout 100m ./release
	cd e2e && go test -tags 'vm release' -count=1 -v -run '^TestUpgrade$$' -exec $(VM) ./vm/ipvs
	cd e2e && BERTH_VM_KIND=qemu BERTH_VM_MEMORY=2G BERTH_VM_TIMEOUT=15m go test -tags 'qemu release' -count=1 -p 1 -timeout 15m -exec $(VM) ./vm/chain ./vm/nodes ./vm/life
	BERTH_VM_KIND=qemu BERTH_VM_TIMEOUT=20m go test -tags root,guest -count=1 -timeout 20m -run '^(TestDriver_(filter|secondChance|devices|sctp)|TestUninstall)$$' -exec $(VM) ./speaker/dataplane/steering

SOAK ?= 1h
SEED ?=
# It ends by itself: no wait in it has no end.
soak: preflight fetch binaries ## faults of all kinds and changes at random on the lab for SOAK (1h), judged by a capture, the router and the API; prints a seed and a summary, writes bin/soak.svg (root; SEED=N repeats)
	cd e2e && BERTH_SOAK=$(SOAK) BERTH_FAULTS_SEED=$(SEED) go test -tags release -count=1 -v -timeout 0 -run '^TestSoak$$' ./release

test-minors: preflight packages binaries ## the tests of the API, and of nodes that die, on each minor version of Kubernetes; writes the table in the docs (root; about 20 minutes for each version the first time; MINORS="v1.34.4" for some)
	cd e2e && go run ./cmd/minors $(MINORS)
	cd tools && go run ./minors ../e2e/cmd/minors/results.json ../docs/reference/versions.md

# Without SCRIPT it runs all, and records what came out.
interop: packages ## each field of the BGP API with FRR, BIRD, GoBGP, ExaBGP and OpenBGPD; writes the table in the docs (root; about 3 minutes; SCRIPT=bfd for one, which writes nothing)
	@tools/preflight tools
	cd e2e && go test -tags release -count=1 -parallel 6 -timeout 20m $(if $(SCRIPT),-v -run '^TestInterop$$/^scripts$$/^$(SCRIPT)$$' ./interop,./interop -record)
	cd tools && go run ./interop ../manifests/crds ../e2e/interop/testdata ../docs/reference/interop.md

bench: preflight packages binaries ## measure Berth in the lab: "name value unit" lines and bin/bench.json (root)
	cd e2e && go build -o $(BERTH_CACHE)/bin/bench ./cmd/bench
	$(BERTH_CACHE)/bin/bench
	go test -run '^$$' -bench . -benchtime 200ms ./ipam ./bgp ./speaker ./speaker/heart
	go test -tags root -run '^$$' -bench . ./l2/... ./speaker/dataplane/steering/...
	$(steering_bench)

bench-steering: preflight packages binaries ## what steering costs the nodes per packet and the client, beside kube-proxy's nftables, on this machine's kernel (root; 2 minutes; part of make bench)
	$(steering_bench)

bench-scale: preflight packages binaries ## the controller at 5 000 Services and all of Berth at 2 500 beside a bare client, routes of 10 000, hollow clusters of up to 20 nodes; JSON to bin (root)
	mkdir -p bin
	cd e2e && go build -o $(BERTH_CACHE)/bin/bench ./cmd/bench
	$(BERTH_CACHE)/bin/bench -scale 5000 -json bin/bench-scale.json
	$(BERTH_CACHE)/bin/bench -crowd 2500 -json bin/bench-crowd.json
	$(BERTH_CACHE)/bin/bench -routes 10000 -json bin/bench-routes.json
	$(BERTH_CACHE)/bin/bench -hollow 5,10,20 -json bin/bench-hollow.json
	$(BERTH_CACHE)/bin/bench -hollow 3 -hollow-services 10000 -hollow-routed 2000 -json bin/bench-hollow-many.json

bench-ipvs: preflight fetch binaries ## Berth's IPVS and steering beside kube-proxy's nftables on Debian's kernel in QEMU, changes of virtual servers on user-mode-linux (root; no part of CI)
	cd e2e && BERTH_VM_KIND=qemu BERTH_VM_MEMORY=2G BERTH_VM_TIMEOUT=40m go test -tags qemu -count=1 -timeout 40m -run '^$$' -bench . -exec $(VM) ./vm/rate
	cd e2e && BERTH_VM_TIMEOUT=10m go test -tags vm -count=1 -timeout 10m -run '^$$' -bench . -exec $(VM) ./vm/ipvs

FUZZTIME ?= 30s
fuzz: ## each fuzz target for FUZZTIME (their seeds are part of every test run)
	@for file in $$(grep -rl '^func Fuzz' --include='*_test.go' . --exclude-dir=.cache); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$file); do \
	    echo "$$target in $$(dirname $$file)"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$(dirname $$file) || exit 1; \
	  done; \
	done

##@ For changing Berth.

build: ## the programs: bin/berth, bin/berth-heart, bin/berth-bgp, and the plugin bin/kubectl-berth
	go build -ldflags '-s -w' -o bin/ ./cmd/berth ./cmd/berth-heart ./cmd/berth-bgp ./cmd/kubectl-berth

image: ## bin/image: the container image for amd64 and arm64 as archives, with SBOMs (Go only)
	cd tools && go run ./dist -C .. -o ../bin/image image

image-push: ## the same into REGISTRY (such as registry.example.com/infra), and bin/image/berth-registry.yaml that takes it from there
	cd tools && go run ./dist -C .. -o ../bin/image -registry '$(REGISTRY)' -tag '$(TAG)' push

dist: ## bin/dist: all that a release publishes; for images in REGISTRY, of version TAG if they are given
	cd tools && go run ./dist -C .. -o ../bin/dist -registry '$(REGISTRY)' -tag '$(TAG)' release

generate: $(TOOLS)/controller-gen $(TOOLS)/kustomize ## deep copies, CRDs, manifests/berth.yaml, the chart, docs/reference/api.md, the tables of tested versions and BGP daemons, alerts and dashboards
	$(TOOLS)/controller-gen object paths=./config/v1alpha1
	rm -f manifests/crds/*.yaml
	$(TOOLS)/controller-gen crd paths=./config/v1alpha1 output:crd:artifacts:config=manifests/crds
	@# A null value of a label reaches the rule that refuses it; a marker for values of maps does not exist.
	sed -i -E 's/^( *)additionalProperties:$$/&\n\1  nullable: true/' manifests/crds/*.yaml
	$(TOOLS)/kustomize build manifests -o manifests/berth.yaml
	cd tools && go run ./chart ..
	mkdir -p docs/reference
	cd tools && go run ./apidocs ../manifests/crds ../docs/reference/examples ../config/v1alpha1/names.go > ../docs/reference/api.md
	cd tools && go run ./minors ../e2e/cmd/minors/results.json ../docs/reference/versions.md
	cd tools && go run ./interop ../manifests/crds ../e2e/interop/testdata ../docs/reference/interop.md
	cd tools/monitoring && go run . ../../manifests/monitoring

bpf: ## the BPF programs' objects, by a clang that is downloaded and unpacked to .cache (root)
	cd e2e && go run ./cmd/bpf

verify: ## generated files are fresh, Go is formatted, go.mod files are tidy; sizes of packages, words, columns, links
	@tools/verify

walls: ## packages and their sizes, circles of files that need each other, longest functions
	@cd tools && go run ./walls -C ..

lint: $(TOOLS)/golangci-lint ## golangci-lint on the product and on e2e
	@failed=0; for module in . e2e; do \
	  echo "golangci-lint in $$module"; \
	  (cd $$module && $(TOOLS)/golangci-lint run --allow-serial-runners ./...) || failed=1; \
	done; exit $$failed

vuln: $(TOOLS)/govulncheck ## known vulnerabilities in what is shipped
	@tools/vuln $(TOOLS)/govulncheck

clean: ## remove bin and .cache
	@! compgen -G '$(BERTH_CACHE)/lab/*' >/dev/null || { echo 'clean: a lab is up: $(LAB) down' >&2; exit 1; }
	rm -rf bin $(BERTH_CACHE)

# go build itself knows what is fresh.
$(LAB): FORCE
	@cd e2e && go build -o $@ ./cmd/lab
$(VM): FORCE
	@cd e2e && go build -o $@ ./vm/exec

# Tools have modules of their own, apart from the product's; the linter one more, because its
# analyzers want exactly the versions it was released with.
$(TOOLS)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	cd tools/lint && go build -o $@ sigs.k8s.io/kube-api-linter/cmd/golangci-lint-kube-api-linter
$(TOOLS)/controller-gen: tools/go.mod tools/go.sum
	cd tools && go build -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen
$(TOOLS)/kustomize: tools/go.mod tools/go.sum
	cd tools && go build -o $@ sigs.k8s.io/kustomize/kustomize/v5
$(TOOLS)/govulncheck: tools/go.mod tools/go.sum
	cd tools && go build -o $@ golang.org/x/vuln/cmd/govulncheck

FORCE:
.PHONY: help demo test test-release soak test-minors interop preflight fetch packages binaries unit root-tests l2-tests route-tests side-by-side vm-test e2e api-tests rack-tests bench bench-scale bench-steering bench-ipvs fuzz build image image-push dist generate verify walls lint vuln clean FORCE
