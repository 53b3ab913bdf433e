# What one does with Posthorn. Each target says what it does in `make help`.

CARGO ?= cargo
# Where cargo builds; a relative CARGO_TARGET_DIR counts from here, as for cargo.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# `cargo nextest` where it is installed; `cargo test` does as well.
NEXTEST := $(shell command -v cargo-nextest >/dev/null 2>&1 && echo yes)
TESTS := $(if $(NEXTEST),nextest run,test --all-targets)
# Only the programs that a target runs. With --workspace, so that the parts have the same features
# in every build and nothing is compiled twice.
PRODUCT := --workspace --bin posthorn-ingest --bin posthorn-dispatcher

.DEFAULT_GOAL := help
.PHONY: help deps run test check openapi schemathesis fuzz chaos compose-test bench clean

help: ## Say this.
	@echo 'make TARGET, with TARGET one of:'
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r target what; do \
		printf '  %-13s %s\n' "$$target" "$$what"; done

deps: ## Install what is missing: RabbitMQ, PostgreSQL, what the tests need (apt, sudo unless root).
	@deploy/deps.sh tests

# The last command must be a program alone, without a shell around it, so that
# a signal to make reaches it.
run: ## Start everything on this machine, show events arriving, stay up until Ctrl-C. ARGS=--once: stop then.
	@deploy/deps.sh servers
	@echo 'run: building (the first time about five minutes on two cores)'
	@$(CARGO) build $(PRODUCT) --bin demo
	@$(TARGET)/debug/demo $(ARGS)

test: ## Run all tests, with a private RabbitMQ and PostgreSQL.
	@deploy/deps.sh tests
	$(CARGO) build --workspace --all-targets
	$(TARGET)/debug/with_servers $(CARGO) $(TESTS) --workspace
	$(CARGO) test --workspace --doc

check: ## What CI checks besides: formatting, clippy and rustdoc, warnings denied; rules and dashboards.
	@deploy/deps.sh tests
	deploy/check.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items

openapi: ## Write the API's description to tests/openapi.json: do so when the API changes.
	$(CARGO) build $(PRODUCT)
	$(TARGET)/debug/posthorn-ingest openapi > $(TARGET)/openapi.json
	mv $(TARGET)/openapi.json tests/openapi.json

schemathesis: ## Ask the API for all that its description allows, and more. ARGS=…: to schemathesis.
	@deploy/deps.sh tests
	$(CARGO) build $(PRODUCT) --bin schemathesis
	$(TARGET)/debug/schemathesis $(ARGS)

# Its own crates are built again, instrumented; their dependencies aren't.
fuzz: ## Search for input from outside that breaks what reads it (a minute each). TARGETS=event, SECONDS=600.
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/fuzz/coverage.sh \
		$(CARGO) build --workspace --bin fuzz --features posthorn-fuzz/libfuzzer
	tests/fuzz/run.sh $(TARGET)/debug/fuzz $(TARGET)/fuzz $(or $(SECONDS),60) \
		$(or $(TARGETS),$(notdir $(wildcard tests/fuzz/corpus/*)))

chaos: ## Break everything under load, and judge that nothing was lost (5 minutes). ARGS=…: --help says.
	@deploy/deps.sh servers
	$(CARGO) build $(PRODUCT) --bin chaos
	$(TARGET)/debug/chaos $(ARGS)

compose-test: ## Run docker-compose.yml with podman: deliver, scale, kill, upgrade, stop (as root; Debian).
	@deploy/deps.sh containers
	$(CARGO) build $(PRODUCT)
	TARGET=$(TARGET) tests/compose/run.sh

bench: ## Measure throughput and latency on this machine.
	@deploy/deps.sh servers
	$(CARGO) build --release $(PRODUCT) --bin bench
	$(TARGET)/release/bench $(ARGS)

clean: ## Delete what was built, and the data of `make run`.
	@deploy/forget.sh
	$(CARGO) clean
