# Two commands matter: `make up` and `make test`. Packages are installed only where they are missing.

PACKAGES_BUILD := gcc binutils make pkg-config libpcap-dev
PACKAGES_TEST  := e2fsprogs qemu-utils iproute2 mmdebstrap busybox-static tcpdump iputils-ping curl chromium chromium-driver nmap sshpass openssh-client

PACKAGES_RUN   := iproute2 mmdebstrap e2fsprogs busybox-static kmod

# libFuzzer is C++.
PACKAGES_FUZZ  := g++

.PHONY: up down test fuzz packages-build packages-test packages-run packages-fuzz lint

packages-build:
	@scripts/packages $(PACKAGES_BUILD)

packages-test: packages-build
	@scripts/packages $(PACKAGES_TEST)

packages-fuzz: packages-build
	@scripts/packages $(PACKAGES_FUZZ)

packages-run: packages-build
	@scripts/packages $(PACKAGES_RUN)

# Builds, then brings the decoys of honeynet.toml up; target/release/honeynet is the program.
up: packages-run
	cargo build --release -p honeynet
	target/release/honeynet up

down:
	target/release/honeynet down

test: packages-test
	cargo test --workspace

# Runs every fuzz target for FUZZ_SECONDS; `make test` has no time for that.
FUZZ_SECONDS ?= 60
fuzz: packages-fuzz
	scripts/fuzz $(FUZZ_SECONDS)

lint: packages-build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets
