# Two commands matter: `make up` and `make test`. Packages are installed only where they are missing.

PACKAGES_BUILD := gcc binutils make pkg-config libpcap-dev
PACKAGES_TEST  := e2fsprogs qemu-utils iproute2 mmdebstrap busybox-static tcpdump iputils-ping

.PHONY: test packages-build packages-test lint

packages-build:
	@scripts/packages $(PACKAGES_BUILD)

packages-test: packages-build
	@scripts/packages $(PACKAGES_TEST)

test: packages-test
	cargo test --workspace

lint: packages-build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets
