# The commands of this project. `make help` lists them with their descriptions.

CARGO ?= cargo
# The folder that cargo builds into. A relative CARGO_TARGET_DIR counts from this folder, as for cargo.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Uses `cargo nextest` if it is installed, otherwise `cargo test`.
NEXTEST := $(shell command -v cargo-nextest >/dev/null 2>&1 && echo yes)
TESTS := $(if $(NEXTEST),nextest run,test --all-targets)
# Targets build only the programs that they run. With --workspace the packages have the same features
# in every build, so nothing is compiled twice.
PRODUCT := --workspace --bin posthorn-ingest --bin posthorn-dispatcher

.DEFAULT_GOAL := help
.PHONY: help deps run test cluster-test upgrade-test check openapi schemathesis clients-test fuzz chaos compose-test bench clean

help: ## Print this list.
	@echo 'make TARGET, with TARGET one of:'
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r target what; do \
		printf '  %-13s %s\n' "$$target" "$$what"; done

deps: ## Install missing packages: RabbitMQ, PostgreSQL, the tests' tools (with apt; sudo unless root).
	@deploy/deps.sh tests

# The last command must be a program alone, without a shell around it, so that
# a signal to make reaches it.
run: ## Start everything on this machine, show events arriving, stay up until Ctrl-C. ARGS=--once: don't stay up.
	@deploy/deps.sh servers
	@echo 'run: building (the first time five to ten minutes on two cores)'
	@$(CARGO) build $(PRODUCT) --bin demo
	@$(TARGET)/debug/demo $(ARGS)

# On other servers only the tests that need nothing of npm's and PyPI's.
test: ## Run all tests, with a private RabbitMQ and PostgreSQL. SERVERS=trixie: RabbitMQ 4.0 and PostgreSQL 17.
	@deploy/deps.sh tests
	$(CARGO) build --workspace --all-targets
ifeq ($(SERVERS),trixie)
	@deploy/deps.sh containers
	$(CARGO) metadata --format-version 1 > $(TARGET)/packages.json
	$(CARGO) nextest list --workspace --list-type binaries-only --message-format json > $(TARGET)/binaries.json
	tests/trixie.sh $(TARGET)/debug/with_servers cargo-nextest nextest run \
		--cargo-metadata $(TARGET)/packages.json --binaries-metadata $(TARGET)/binaries.json \
		-E 'package(posthorn-tests) - binary(examples) - binary(receiver_libraries) - binary(dashboards)' $(ARGS)
else
	$(TARGET)/debug/with_servers $(CARGO) $(TESTS) --workspace
	$(CARGO) test --workspace --doc
endif

cluster-test: ## Kill nodes of a RabbitMQ cluster and fail PostgreSQL over, under load (five minutes).
	@deploy/deps.sh servers
	$(CARGO) build $(PRODUCT) --test cluster
	$(CARGO) nextest run --workspace --test cluster --run-ignored only --test-threads 1 --no-capture $(ARGS)

upgrade-test: ## Run old binaries beside these, both ways, under load. OLD=folder with posthorn-ingest and posthorn-dispatcher.
	@deploy/deps.sh servers
	$(CARGO) build $(PRODUCT) --test upgrade
	POSTHORN_OLD=$(abspath $(OLD)) $(CARGO) nextest run --workspace --test upgrade --run-ignored only --no-capture

check: ## Check formatting, clippy and rustdoc, with warnings denied, and rules, dashboards and manifests, as CI does.
	@deploy/deps.sh tests
	deploy/check.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items

openapi: ## Write the API's description to tests/openapi.json. Run this after changing the API.
	$(CARGO) build $(PRODUCT)
	$(TARGET)/debug/posthorn-ingest openapi > $(TARGET)/openapi.json
	mv $(TARGET)/openapi.json tests/openapi.json

schemathesis: ## Send generated requests to the API, valid and invalid ones. ARGS=…: arguments for schemathesis.
	@deploy/deps.sh tests
	$(CARGO) build $(PRODUCT) --bin schemathesis
	$(TARGET)/debug/schemathesis $(ARGS)

clients-test: ## Generate clients from the API's description (TypeScript, Python, Go, Java) and let them use the API.
	@deploy/deps.sh tests
	$(CARGO) build $(PRODUCT) --bin clients
	$(TARGET)/debug/clients

# The workspace's own crates are built again with instrumentation; their dependencies aren't.
fuzz: ## Fuzz the code that reads input from outside (a minute per target). TARGETS=event, SECONDS=600.
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/fuzz/coverage.sh \
		$(CARGO) build --workspace --bin fuzz --features posthorn-fuzz/libfuzzer
	tests/fuzz/run.sh $(TARGET)/debug/fuzz $(TARGET)/fuzz $(or $(SECONDS),60) \
		$(or $(TARGETS),$(notdir $(wildcard tests/fuzz/corpus/*)))

chaos: ## Inject faults everywhere under load and check that nothing was lost (5 minutes). ARGS=--help: options.
	@deploy/deps.sh servers
	$(CARGO) build $(PRODUCT) --bin chaos
	$(TARGET)/debug/chaos $(ARGS)

compose-test: ## Run docker-compose.yml with podman: deliver, scale, kill, upgrade, stop (as root; Debian).
	@deploy/deps.sh containers
	$(CARGO) build $(PRODUCT)
	TARGET=$(TARGET) tests/compose/run.sh

bench: ## Measure throughput and latency on this machine (about ten minutes). ARGS=--help: other benchmarks.
	@deploy/deps.sh servers
	$(CARGO) build --release $(PRODUCT) --bin bench
	$(TARGET)/release/bench $(ARGS)

clean: ## Delete everything that was built, and the data of `make run`.
	@deploy/forget.sh
	$(CARGO) clean
