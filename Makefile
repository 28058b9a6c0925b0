# `make` lists what there is. A newcomer needs two of them: `make demo` and `make test`; both set up
# what they need by themselves.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

NAME    := vault-plugin-secrets-rotation
MODULE  := github.com/intelliflow/$(NAME)
VERSION ?= $(shell scripts/version)

LDFLAGS  = -s -w -X $(MODULE).Version=$(VERSION)

# RACE= switches the race detector off, for a machine without a C compiler.
RACE     ?= -race
# Narrow a run: make test-e2e RUN=TestRollback, make test-unit PACKAGES=./backend/store
RUN      ?= .
PACKAGES ?= $$(go list ./... | grep -v '^$(MODULE)/tests')
FUZZTIME ?= 10s
COUNT    ?= 6
MAJORS   ?= 13 14 15 16 17 18

# The crash enumerations against a real PostgreSQL, and against providers over HTTP, talk to their targets
# thousands of times, which is several times slower under the race detector; so do those beside an
# application that encrypts all the time, and those that wait for rollouts. Their twin in memory, TestCrashAnywhere, drives the same engine
# through the same points under the detector, and each test of a re-encryption runs under it once.
UNRACED = ^Test(PostgreSQL(Data)?CrashAnywhere|CrashAnywhere(OpenAI|HTTP|ByHand|WithDependents)|TransitCrashAnywhere|DataCrashAnywhere.*)$$$$

# What tests and demo start: a vault binary and PostgreSQL's server binaries, found or made.
# (An export of its own, since it would hide the exit code of what it exports.)
servers = PGTEST_BIN="$$(scripts/ensure-postgres)"; VAULT_BINARY="$$(scripts/ensure-vault)"; export PGTEST_BIN VAULT_BINARY

peers = PGBOUNCER_BINARY="$$(scripts/ensure-pgbouncer)"; DATABASE_PLUGIN_BINARY="$$(scripts/ensure-database-plugin)"; export PGBOUNCER_BINARY DATABASE_PLUGIN_BINARY; $(verifiers); $(watchers)

# What tokens are verified with outside Go.
verifiers = NODE_BINARY="$$(scripts/ensure-node)"; JOSE_DIR="$$(scripts/ensure-jose)"; export NODE_BINARY JOSE_DIR

# Who scrapes, and who tells people.
watchers = PROMETHEUS_DIR="$$(scripts/ensure-prometheus)"; export PROMETHEUS_DIR

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { print substr($$0, 5) ":" } /^[a-z0-9-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' Makefile

##@ Two to start with

.PHONY: demo
demo: check-go ## see it work: a real Vault and a real PostgreSQL, every step explained (stops by itself)
	@$(servers); go build -o bin/demo ./scripts/demo; exec bin/demo

.PHONY: test
test: setup test-unit test-e2e ## set-up, unit tests with the race detector, end-to-end tests

##@ The rest

.PHONY: setup
setup: check-go check-race ## find or build what tests need: PostgreSQL, PgBouncer, Vault, Node.js, Prometheus (about 8 minutes, once)
	@$(servers); $(peers); printf '%s\n' "PostgreSQL: $$PGTEST_BIN" "PgBouncer:  $$PGBOUNCER_BINARY" "Vault:      $$VAULT_BINARY" "its plugin: $$DATABASE_PLUGIN_BINARY" "Node.js:    $$NODE_BINARY" "jose:       $$JOSE_DIR" "Prometheus: $$PROMETHEUS_DIR"

.PHONY: build
build: check-go ## bin/vault-plugin-secrets-rotation, static, ready to register
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/$(NAME) ./cmd/$(NAME)
	@printf '%s  %s\n' "$(VERSION)" "$$(sha256sum bin/$(NAME) 2>/dev/null || shasum -a 256 bin/$(NAME))"

.PHONY: test-unit
test-unit: check-go check-race ## tests beside the code (some start a PostgreSQL, or a Vault)
	@$(servers); \
	if [[ '$(RUN)$(origin PACKAGES)' != .file ]]; then \
		go test $(RACE) -timeout 30m -run '$(RUN)' $(PACKAGES); \
	else \
		go test $(RACE) -timeout 30m -skip '$(UNRACED)' $(PACKAGES); \
		go test -timeout 45m -run '$(UNRACED)' ./backend; \
	fi

.PHONY: test-e2e
test-e2e: check-go ## tests/: the plugin as a process in a real Vault, against a real PostgreSQL
	@$(servers); $(peers); go test -count=1 -timeout 25m -run '$(RUN)' $$(go list ./tests/... | grep -v '/tests/kubernetes$$')

.PHONY: test-kubernetes
test-kubernetes: check-go ## tests/kubernetes: what follows a secret on a real Kubernetes control plane (built once, in 8 minutes)
	@$(servers); KUBERNETES_DIR="$$(scripts/ensure-kubernetes)"; export KUBERNETES_DIR; \
	go test -count=1 -timeout 25m -parallel 8 -run '$(RUN)' ./tests/kubernetes

.PHONY: test-postgres-matrix
test-postgres-matrix: check-go ## the PostgreSQL suites against servers of MAJORS (13 to 18), fetched when missing
	@for major in $(MAJORS); do \
		PGTEST_BIN="$$(scripts/ensure-postgres --major $$major)"; export PGTEST_BIN; \
		printf '%s\n' "--- PostgreSQL $$major: $$PGTEST_BIN"; \
		go test -count=1 -timeout 30m -run '$(RUN)' ./backend/postgres ./backend/rotator/postgresql; \
	done

.PHONY: lint
lint: check-go ## linters, import rules, formatting, shell scripts, go.mod
	@scripts/lint-all

.PHONY: fmt
fmt: check-go ## format the Go files
	@"$$(scripts/ensure-golangci-lint)" fmt

.PHONY: generate
generate: check-go ## docs/api.md and the state diagram, from the code
	go generate ./...

.PHONY: check-generated
check-generated: check-go ## fails when a generated file is not what the code says
	@scripts/check-generated

.PHONY: dev
dev: check-go ## the demo's Vault and PostgreSQL, left running until Ctrl-C
	@$(servers); go build -o bin/demo ./scripts/demo; exec bin/demo -keep

.PHONY: bench
bench: check-go ## benchmarks, COUNT times each; compare runs with benchstat
	@$(servers); go test -run '^$$' -bench '$(RUN)' -benchmem -count $(COUNT) -timeout 3h ./...

.PHONY: fuzz
fuzz: check-go ## every fuzz test for FUZZTIME (10s)
	@scripts/fuzz $(FUZZTIME)

.PHONY: clean
clean: ## what builds left in this checkout; tools in the cache stay
	rm -rf bin dist

.PHONY: check-go
check-go:
	@scripts/check-toolchain go

.PHONY: check-race
check-race:
	@[[ -z "$(RACE)" ]] || scripts/check-toolchain race
