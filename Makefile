# Everything a user or developer runs. The targets install what they need, once: see tests/packages.txt.

.PHONY: demo test bench lint build clean
.DEFAULT_GOAL := build

build:
	@tests/prepare build $@
	cargo build --release --locked

# A client, a gateway and a server in namespaces; the traffic of real programs, with figures.
demo:
	@tests/prepare test $@
	@cargo build --release --locked --quiet -p sluice
	@python3 tests/demo

# Unit and property tests, then end-to-end tests; ends with "N passed, N failed".
test:
	@tests/prepare test $@
	@python3 tests/all.py

# Sluice, the kernel and a bare AF_XDP forwarder side by side, in the same namespaces.
bench:
	@tests/prepare test $@
	cargo build --release --locked -p sluice -p sluice-perf
	cargo run --release --locked --quiet -p sluice-perf -- veth

lint:
	@tests/prepare build $@
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; \
	then cargo deny --offline --locked check; \
	else echo "cargo-deny is not installed: licences and advisories were not checked"; fi

clean:
	cargo clean
