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
# SERVERS=trixie runs tests on the servers of a Debian 13 root; there is no cargo in it, so nextest gets cargo's answers in files.
ifeq ($(SERVERS),trixie)
ON := tests/trixie.sh
SERVER_DEPS := containers
THERE := cargo-nextest nextest run --cargo-metadata $(TARGET)/packages.json --binaries-metadata $(TARGET)/binaries.json
else
SERVER_DEPS := servers
endif
# $(call list,TARGETS): writes those files.
define list
$(CARGO) metadata --format-version 1 > $(TARGET)/packages.json
$(CARGO) nextest list --workspace $(1) --list-type binaries-only --message-format json > $(TARGET)/binaries.json
endef
# The console's pages don't depend on the servers' versions. The other two need this machine's Go, Java and packages.
NOT_THERE := console examples receiver_libraries

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

test: ## Run all tests, with a private RabbitMQ and PostgreSQL. SERVERS=trixie: RabbitMQ 4.0 and PostgreSQL 17.
	@deploy/deps.sh tests
	$(CARGO) build --workspace --all-targets
ifeq ($(SERVERS),trixie)
	@deploy/deps.sh containers
	$(call list,)
	@echo 'test: NOT run on these servers: $(NOT_THERE). The console needs a browser, and its pages do not depend'
	@echo 'test: on the servers; the others need Go, Java and packages that the root does not have. `make test` runs them.'
	$(ON) $(TARGET)/debug/with_servers $(THERE) -E 'package(posthorn-tests)$(foreach one,$(NOT_THERE), - binary($(one)))' $(ARGS)
else
	$(TARGET)/debug/with_servers $(CARGO) $(TESTS) --workspace
	$(CARGO) test --workspace --doc
endif

cluster-test: ## Kill nodes of a RabbitMQ cluster and fail PostgreSQL over, under load (five minutes). SERVERS=trixie.
	@deploy/deps.sh $(SERVER_DEPS)
	$(CARGO) build $(PRODUCT) --test cluster
ifeq ($(SERVERS),trixie)
	$(call list,--test cluster)
	$(ON) $(THERE) --run-ignored only --test-threads 1 --no-capture $(ARGS)
else
	$(CARGO) nextest run --workspace --test cluster --run-ignored only --test-threads 1 --no-capture $(ARGS)
endif

upgrade-test: ## Run old binaries beside these, both ways, under load. OLD=folder of binaries, or what to build: a tag (the last), a commit.
	@deploy/deps.sh servers
	$(CARGO) build $(PRODUCT) --test upgrade
	POSTHORN_OLD=$$(CARGO='$(CARGO)' tests/release.sh $(OLD)) && export POSTHORN_OLD && \
		$(CARGO) nextest run --workspace --test upgrade --run-ignored only --no-capture

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

chaos: ## Inject faults everywhere under load and check that nothing was lost (5 minutes). SERVERS=trixie; ARGS=--help: options.
	@deploy/deps.sh $(SERVER_DEPS)
	$(CARGO) build $(PRODUCT) --bin chaos
	$(ON) $(TARGET)/debug/chaos $(ARGS)

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
