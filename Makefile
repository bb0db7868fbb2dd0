# Targets are the steps of CI, by the same names; .ci/run calls `make test` and nothing else.
# GNU make and a Rust toolchain are enough to start: `setup` installs the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# Passed on to demo, bench, soak, lab and wan: make bench ARGS="--quick --only relay"
ARGS ?=
# Time for each target of `make fuzz`.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(sort $(basename $(notdir $(wildcard tests/fuzz/fuzz_targets/*.rs))))

.PHONY: help setup build demo test check fmt clippy doc deny bench soak fuzz lab wan clean

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: ## Install what is missing (Debian and Ubuntu; root or sudo); quick and quiet when nothing is
	@.ci/setup

build: setup ## Release build
	$(CARGO) build --release

demo: build ## Both ends on this machine over an emulated bad link
	target/release/ghostwire demo $(ARGS)

test: setup ## Every check and test, ended by one total
	@.ci/test

check: fmt clippy doc ## Formatting, lints, documentation

fmt:
	$(CARGO) fmt --all -- --check

# Without libpcap as well: what is left of raw links has to build.
clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --all-targets --no-default-features -- -D warnings

# Private items are documented too, so links to them lead somewhere.
doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

deny: ## Licences, advisories, duplicate crates (builds cargo-deny the first time: minutes)
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check --hide-inclusion-graph

bench: setup ## Measure against a plain relay, side by side; tables in target/bench
	$(CARGO) bench --bench bench -- $(ARGS)

soak: setup ## Hours of mixed load with links cut; fails on growth, resets or wrong bytes
	$(CARGO) bench --bench bench -- soak $(ARGS)

lab: build ## A network to play in: make lab ARGS="up ar-nl"
	netem/lab $(ARGS)

wan: build ## Every scenario on emulated bad links (root; over an hour); table in target/scenarios/table.md
	netem/scenarios/run --long $(ARGS)

# Coverage-guided fuzzing with libFuzzer on the stable toolchain: the instrumentation is asked of LLVM directly. No
# address sanitizer, which safe code does not need; `cargo +nightly fuzz run --fuzz-dir tests/fuzz NAME` has it.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on \
	-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares

fuzz: setup ## Grow the corpora, FUZZ_SECONDS (60) for each of FUZZ_TARGETS (all)
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --target "$$(rustc -vV | sed -n 's/^host: //p')" \
		--manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz/corpus/$$target target/fuzz/artifacts; \
		echo "== $$target"; \
		target/fuzz/$$(rustc -vV | sed -n 's/^host: //p')/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
			-rss_limit_mb=1024 -max_len=70000 -print_final_stats=1 -artifact_prefix=target/fuzz/artifacts/$$target- \
			target/fuzz/corpus/$$target tests/fuzz/corpus/$$target 2>&1 | tail -n 12; \
	done

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf tests/fuzz/target
