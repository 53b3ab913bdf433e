#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER of `make fuzz`: builds our own crates with coverage counters for libFuzzer.
# Their dependencies stay as `make test` has built them. Stable Rust is enough.
exec "$@" -Ccodegen-units=1 -Cpasses=sancov-module \
	-Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
