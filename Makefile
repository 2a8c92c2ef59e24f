# Two commands matter: `make up` and `make test`. Packages are installed only where they are missing.

PACKAGES_BUILD := gcc binutils make pkg-config libpcap-dev
PACKAGES_TEST  := e2fsprogs qemu-utils iproute2 mmdebstrap busybox-static tcpdump iputils-ping curl chromium chromium-driver nmap sshpass openssh-client qemu-system-x86 python3-venv sysdig

PACKAGES_RUN   := iproute2 mmdebstrap e2fsprogs busybox-static kmod
# The peer, what compiles the bench's guest, and the clients.
PACKAGES_BENCH := qemu-system-x86 qemu-utils libc6-dev iperf3 iputils-ping sshpass openssh-client
BENCHES_GUEST  := bench-boot bench-guest bench-net bench-disk bench-introspect bench-smp bench-snapshot bench-clone bench-migrate

# libFuzzer is C++.
PACKAGES_FUZZ  := g++

.PHONY: up down test proof fuzz packages-build packages-test packages-run packages-bench packages-fuzz lint $(BENCHES_GUEST)

packages-build:
	@scripts/packages $(PACKAGES_BUILD)

packages-test: packages-build
	@scripts/packages $(PACKAGES_TEST)
	@scripts/volatility >/dev/null

packages-fuzz: packages-build
	@scripts/packages $(PACKAGES_FUZZ)

packages-run: packages-build
	@scripts/packages $(PACKAGES_RUN)

packages-bench: packages-run
	@scripts/packages $(PACKAGES_BENCH)

# Builds, then brings the decoys of honeynet.toml up; target/release/honeynet is the program.
up: packages-run
	cargo build --release -p honeynet
	target/release/honeynet up

down:
	target/release/honeynet down

test: packages-test
	cargo test --workspace

# The long form of tests/proof: every checksum through so many snapshots, restores, clones and migrations, and so many attackers while processes are killed.
PROOF_ROUNDS ?= 200
proof: packages-test
	HONEYNET_PROOF_ROUNDS=$(PROOF_ROUNDS) cargo test -p honeynet --test proof -- --nocapture --test-threads 1

# Ours and its peer (QEMU's TCG; strace and auditd; fewer vcpus) by turns: prints a table, writes target/bench/NAME.json.
$(BENCHES_GUEST): bench-%: packages-bench
	cargo build --release -p honeynet -p bench
	target/release/bench $*

# Runs every fuzz target for FUZZ_SECONDS; `make test` has no time for that.
FUZZ_SECONDS ?= 60
fuzz: packages-fuzz
	scripts/fuzz $(FUZZ_SECONDS)

lint: packages-build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets
