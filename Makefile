# `make help` lists what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run development-serve build images images.multi compose.test k8s.test k8s.up k8s.down test test.unit test.integration test.deep test.coverage \
	verify verify.static verify.format verify.vet verify.lint verify.generated bench bench.quick bench.growth bench.allocs bench.allocs.update scale.demo fmt clean

GO ?= go
# More arguments for `saldo dev` or `saldo bench`, as in: make run ARGS='--shards 5'
ARGS ?=
# More flags for go test, as in: make test TESTFLAGS='-run Audit -v'
TESTFLAGS ?=
TEST = $(GO) test -race -timeout 30m $(TESTFLAGS)

# The folder of the Postgres server programs, found or installed; exported to a
# recipe's shell, which fails with the script's words if there are none.
POSTGRES = SALDO_POSTGRES_BIN="$$(scripts/ensure-postgres)" && export SALDO_POSTGRES_BIN

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile


run: ## run a whole cluster on this machine (SALDO_HTTP, SALDO_DATA, SALDO_SHARDS; ARGS='--shards 5')
	@$(POSTGRES) && $(GO) build -o bin/saldo ./cmd/saldo && exec bin/saldo dev $(ARGS)

development-serve: ## run a whole cluster by Docker Compose, in the background: serves on port 8080
	@scripts/compose-serve

build: ## build bin/saldo, bin/router, bin/coordinator and bin/operator
	$(GO) build -o bin/ ./cmd/...

images: ## build the container images, tagged with the version and with dev (SALDO_TAG, SALDO_IMAGES, GO_IMAGE)
	@scripts/images

images.multi: ## build the container images for amd64 and for arm64, by docker's buildx
	@scripts/images --multi

compose.test: ## prove docker-compose.yml with a real engine: shards killed, cut off, added (6 minutes)
	@scripts/compose-test

k8s.test: ## prove deploy/k8s on a real Kubernetes: scaled, killed, drained, updated under load (10 minutes, the first time 20; as root)
	@scripts/k8s-test

k8s.up: ## bring up the Kubernetes that k8s.test uses, and give it the images
	@scripts/k8s-up && scripts/k8s-images

k8s.down: ## remove it
	@scripts/k8s-down


test: ## run all tests, with the race detector
	@$(POSTGRES) && $(TEST) ./...

test.unit: ## run the tests that need no Postgres and no etcd
	$(TEST) -short ./...

test.integration: ## run the tests that need Postgres, etcd or the built programs
	@$(POSTGRES) && $(TEST) $$(scripts/integration-packages)

test.deep: ## run the long versions of those tests that make short of something (an hour, and gigabytes of memory)
	@$(POSTGRES) && export SALDO_SIM_DEEP=1 SALDO_OPERATOR_CRASHES=all SALDO_E2E_SECONDS="$${SALDO_E2E_SECONDS:-120}" && \
		$(GO) test -count=1 -timeout 60m ./internal/simtest && \
		$(GO) test -count=1 -timeout 60m ./internal/rebalance/... ./internal/audit ./internal/operator/... && \
		$(GO) test -count=1 -timeout 60m -run '^TestKills$$' -v ./internal/e2e

test.coverage: ## run all tests, write coverage.html and open it in a browser if there is one
	@$(POSTGRES) && $(TEST) -coverpkg=./... -coverprofile=coverage.out ./...
	$(GO) tool cover -html=coverage.out -o coverage.html
	@$(GO) tool cover -func=coverage.out | tail -n 1
	@if [ -z "$$CI" ]; then \
		for open in xdg-open open; do \
			if command -v $$open >/dev/null; then $$open coverage.html >/dev/null 2>&1 & exit 0; fi; \
		done; \
	fi; echo "see coverage.html"

verify: verify.static bench.allocs test ## run what CI runs: format, vet, lint, generated files, allocations, all tests

verify.static: verify.format verify.vet verify.lint verify.generated ## run what needs no server

verify.format: ## check that gofmt would change nothing
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change (make fmt does it):"; echo "$$unformatted"; exit 1; fi

verify.vet: ## run go vet
	$(GO) vet ./...

verify.lint: ## run staticcheck, at the version of go.mod
	$(GO) tool staticcheck ./...

verify.generated: ## check that generated files are up to date
	scripts/check-generated


bench: ## measure Saldo against what else there is, and write docs/PERFORMANCE.md's tables and plots (10 minutes)
	@$(GO) build -o bin/ ./cmd/... && $(POSTGRES) && bin/saldo bench compare --full --out docs/bench/results.json && bin/saldo bench report

bench.quick: ## measure what Saldo must reach, a line of JSON each (3 minutes; ARGS='--only hot')
	@$(GO) build -o bin/ ./cmd/... && $(POSTGRES) && bin/saldo bench compare --quick $(ARGS)

bench.growth: ## measure how cost grows, and write its tables and plots (15 minutes, as root; ARGS='--shards=')
	@$(GO) build -o bin/ ./cmd/... && $(POSTGRES) && bin/saldo bench growth --out docs/bench/growth.json $(ARGS) && bin/saldo bench report

bench.allocs: ## check that no benchmark allocates grossly more than docs/bench/allocs.txt says
	@$(POSTGRES) && scripts/check-allocations

bench.allocs.update: ## write docs/bench/allocs.txt anew
	@$(POSTGRES) && scripts/check-allocations --update

scale.demo: ## have 2 shards become 5 and 2 again under load, in peace and while parts are killed (6 minutes; SALDO_SCALE_SECONDS)
	@$(POSTGRES) && export SALDO_SCALE_SECONDS="$${SALDO_SCALE_SECONDS:-120}" SALDO_SCALE_REPORT="$(CURDIR)/docs/bench/scale.json" && \
		$(GO) test -count=1 -timeout 30m -run '^TestScale' -v ./internal/e2e


fmt: ## format the code
	gofmt -w .

clean: ## remove what the targets above made
	rm -rf bin coverage.out coverage.html
