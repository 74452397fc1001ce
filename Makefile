# Everything a user or developer runs. The targets install what they need, once: see tests/packages.txt.

# Where `install` puts things; BINARY is what it installs.
PREFIX ?= /usr/local
BINARY ?= target/release/sluice

.PHONY: demo test testbed testbed-down testbed-test image bench bench-peers lint build docs clean install uninstall
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

# Client, gateway, server, Prometheus and Grafana in containers: docker/README.md shows what to do with them.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) -f docker/compose.yaml
testbed testbed-down image: export DOCKER_BUILDKIT = 1
testbed testbed-down image: export COMPOSE_DOCKER_CLI_BUILD = 1

testbed:
	$(COMPOSE) up --detach --build
	@echo 'Grafana: http://127.0.0.1:3000   Prometheus: http://127.0.0.1:9090   the end of it: make testbed-down'

testbed-down:
	$(COMPOSE) down --volumes

image:
	docker build --file docker/Dockerfile --target gateway --tag sluice .

# The testbed brought up, checked from inside, and taken down; with an engine of its own where none runs.
testbed-test:
	@tests/prepare test $@
	@cargo build --release --locked --quiet -p sluice
	@python3 tests/testbed

# The worker in memory, its rules, an idle daemon, and Sluice, the kernel and a bare AF_XDP forwarder side by side: one
# table, and target/bench/results.json. `make bench QUICK=1` for a first impression.
bench:
	@tests/prepare test $@
	cargo build --release --locked -p sluice -p sluice-perf
	target/release/sluice-perf bench $(if $(QUICK),--quick)

# What people use instead, side by side on veth: nftables, Open vSwitch, and what AF_XDP and XDP can do at best.
bench-peers:
	@tests/prepare bench $@
	cargo build --release --locked -p sluice -p sluice-perf
	cargo run --release --locked --quiet -p sluice-perf -- veth --gateways sluice,kernel,kernel-softirq,openvswitch,forwarder,redirect \
		--flows 1,1024,65536,1048576 --output target/bench/peers.json --markdown target/bench/peers.md --plot target/bench/peers.svg

lint:
	@tests/prepare build $@
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then \
	  cargo deny --locked check bans licenses sources && \
	  if cargo deny --locked fetch db >/dev/null 2>&1; then cargo deny --locked check advisories; \
	  else echo "the database of advisories cannot be reached: they were not checked"; fi; \
	else echo "cargo-deny is not installed: licences and advisories were not checked"; fi

# Pages of docs/ that are generated from the code.
docs:
	@tests/prepare build $@
	cargo build --locked --quiet -p sluice
	target/debug/sluice metrics-reference > docs/metrics.md

# Binary, manual, completions, the policy's schema, systemd unit and examples, below $(DESTDIR)$(PREFIX). The policy itself is
# /etc/sluice/sluice.yaml, which is yours: it is neither written nor removed.
MAN = $(DESTDIR)$(PREFIX)/share/man/man1
EXAMPLES = $(DESTDIR)$(PREFIX)/share/doc/sluice/examples
UNIT = $(DESTDIR)$(PREFIX)/lib/systemd/system/sluice.service
BASH = $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sluice
ZSH = $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_sluice
SCHEMA = $(DESTDIR)$(PREFIX)/share/sluice/schema.json
FISH = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/sluice.fish

install:
	@test -x "$(BINARY)" || { echo "$(BINARY) is not there: run make first" >&2; exit 1; }
	install -D -m 755 "$(BINARY)" "$(DESTDIR)$(PREFIX)/bin/sluice"
	install -d "$(MAN)" "$(EXAMPLES)" "$(dir $(UNIT))" "$(dir $(BASH))" "$(dir $(ZSH))" "$(dir $(FISH))" "$(dir $(SCHEMA))"
	"$(BINARY)" man "$(MAN)"
	"$(BINARY)" schema >"$(SCHEMA)"
	"$(BINARY)" completions bash >"$(BASH)"
	"$(BINARY)" completions zsh >"$(ZSH)"
	"$(BINARY)" completions fish >"$(FISH)"
	sed 's,@PREFIX@,$(PREFIX),' control/systemd/sluice.service >"$(UNIT)"
	install -m 644 config/examples/*.yaml "$(EXAMPLES)"

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/bin/sluice" "$(MAN)"/sluice*.1 "$(UNIT)" "$(BASH)" "$(ZSH)" "$(FISH)"
	rm -rf "$(DESTDIR)$(PREFIX)/share/doc/sluice" "$(DESTDIR)$(PREFIX)/share/sluice"

clean:
	cargo clean
