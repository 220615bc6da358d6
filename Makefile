# Everything there is to do with mailslot. `make help` lists it; CI calls `lint` and `test`.

HOST = $(shell rustc -vV | sed -n 's/^host: //p')
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# The date of everything in a release: that of the commit, so that the same commit gives the same files.
EPOCH = $(shell git log -1 --format=%ct)
UNITS := $(wildcard packaging/*.service packaging/*.socket packaging/*.timer)
PACKAGE := target/package
RELEASE = mailslot-$(VERSION)-$(HOST)
BINARY = target/$(HOST)/release/mailslot
CARGO_HOME ?= $(HOME)/.cargo
RUST := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# For trying things out on this machine only.
DEVELOPMENT_SECRET := testsecret
LISTEN ?= 127.0.0.1:8000
FUZZ_SECONDS ?= 60
# A format of date(1): a message that is sent now.
SAMPLE := {"message_id":"sample-%s","from":"+919876543210","to":"+14155550100","ts":"%Y-%m-%dT%H:%M:%SZ","text":"Hello"}

export LISTEN

.DEFAULT_GOAL := help
.PHONY: help tools run test snapshots test-page browser lint-page test-api test-providers test-systemd fuzz lint bench bench-overload bench-scale static package deb release test-release test-deb up down logs image
.PHONY: postgres test-postgres test-failover bench-postgres

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

tools:
	@missing=; \
	command -v cc > /dev/null || missing="$$missing gcc"; \
	echo '#include <stdlib.h>' | cc -E - > /dev/null 2>&1 || missing="$$missing libc6-dev"; \
	command -v curl > /dev/null || missing="$$missing curl ca-certificates"; \
	rust=$$(cargo --version 2> /dev/null | cut -d ' ' -f 2); \
	oldest=$$(printf '%s\n' $(RUST) "$$rust" | sort -V | head -n 1); \
	test -z "$$missing" || echo "Missing here. On Debian, as root: apt-get install -y$$missing" >&2; \
	test "$$oldest" = $(RUST) || { \
		echo "Rust $(RUST) or newer is needed, found: $${rust:-none}. Install it with" >&2; \
		echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env" >&2; \
		echo "or, where rustup is there, update it: rustup update stable" >&2; }; \
	test -z "$$missing" && test "$$oldest" = $(RUST)

run: export WEBHOOK_SECRET := $(or $(WEBHOOK_SECRET),$(DEVELOPMENT_SECRET))
run: export SAMPLE := $(SAMPLE)
run: tools ## Build and start an inbox here, with a development secret, and print what to open and to paste
	cargo build --release --locked --bin mailslot
	@echo; echo "The page of this inbox, whose messages go to $${DATABASE_URL:-mailslot.db}:"; echo
	@echo "  http://$(LISTEN)/"; echo
	@test "$$WEBHOOK_SECRET" != "$(DEVELOPMENT_SECRET)" || \
		echo "It uses the development secret, which everybody knows. Set WEBHOOK_SECRET to use another."
	@echo "In another terminal, in this directory, this sends 100 signed messages, and curl sends one:"; echo
	@known=$$(test "$$WEBHOOK_SECRET" = "$(DEVELOPMENT_SECRET)" && echo $(DEVELOPMENT_SECRET)); \
		echo "  WEBHOOK_SECRET=$${known:-...} LISTEN=$(LISTEN) ./target/release/mailslot send --count 100"
	@sample=$$(date -u "+$$SAMPLE") && \
		signature=$$(printf %s "$$sample" | ./target/release/mailslot sign -) && \
		echo "  curl -i http://$(LISTEN)/webhook -H 'X-Signature: $$signature' -d '$$sample'"
	@echo; echo "Ctrl-C stops the inbox. Its log:"; echo
	@exec ./target/release/mailslot

# Most tests wait for a process or a deadline: more threads than processors end in half the time.
test: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
test: tools ## Run every test: units, and the real binary from outside
	cargo test --locked --no-fail-fast

browser: ## Install Chromium for the page's tests, where it is missing (Debian, as root)
	@command -v chromium chromedriver > /dev/null || { apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends chromium chromium-driver; } > /dev/null

snapshots: ## Write the texts of tests/it/snapshots again, where a change of them is meant
	RENEW_SNAPSHOTS=1 cargo test --locked --test it snapshots

# On Debian a new package `postgresql` creates and starts a server of its own, which no test needs.
postgres: ## Install PostgreSQL and pgbouncer for their tests, where they are missing (Debian, as root)
	@{ ls /usr/lib/postgresql/*/bin/initdb && command -v psql pgbouncer; } > /dev/null 2>&1 || { \
		mkdir -p /etc/postgresql-common/createcluster.d && \
		echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/none.conf && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
			--no-install-recommends postgresql pgbouncer; } > /dev/null

test-postgres: export TEST_ENGINE := postgres
test-postgres: export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
test-postgres: tools postgres ## Run the tests on a private PostgreSQL, and those of several nodes
	cargo test --locked --no-fail-fast --test it -- $$(sed '/^#/d;s/^./--skip &/' tests/postgres/sqlite_only.txt)
	cargo test --locked --no-fail-fast --test postgres -- --ignored

test-failover: tools postgres ## Kill the primary of a Patroni cluster five times under load (Debian, as root; minutes)
	@command -v patroni etcd haproxy > /dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends patroni etcd-server haproxy; } > /dev/null
	cargo build --release --locked --bin mailslot
	python3 tests/postgres/failover.py

test-page: browser lint-page ## Test the pages in Chromium (PAGE_BROWSER=firefox: in Firefox, by geckodriver)
	cargo test --locked --test page -- --ignored

test-api: ## Hold the API against its own document, by schemathesis (from PyPI)
	cargo build --locked --bin mailslot
	python3 tests/api/run.py

test-providers: ## Deliver what the libraries of Twilio, Svix and Standard Webhooks sign (from PyPI)
	cargo build --locked --bin mailslot
	python3 tests/providers/run.py

test-systemd: static ## Boot a small Debian with the unit files of packaging/ and check them (Debian, as root)
	tests/systemd/run.sh inside.sh $(BINARY) $(UNITS)

fuzz: ## Try each target of fuzz/ for a minute (FUZZ_SECONDS=600: longer)
	@command -v cargo-fuzz > /dev/null || { echo "cargo-fuzz is not installed: cargo install --locked cargo-fuzz" >&2; exit 2; }
	@command -v c++ > /dev/null || { echo "libFuzzer needs a C++ compiler: apt-get install g++" >&2; exit 2; }
	@# RUSTC_BOOTSTRAP: sanitizers are in the stable toolchain, and reserved for nightly.
	for target in $$(cargo fuzz list); do \
		mkdir -p fuzz/corpus/$$target && \
		RUSTFLAGS= RUSTC_BOOTSTRAP=1 cargo fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target \
			-- -max_total_time=$(FUZZ_SECONDS) -timeout=10 || exit 1; \
	done

lint: ## Check formatting and lints, warnings denied
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

lint-page: ## Check the pages' scripts and styles, by tools from npm (Node.js)
	@command -v npm > /dev/null || { echo "npm is not installed: apt-get install npm" >&2; exit 2; }
	cd tests/page && npm ci --silent --no-audit --no-fund && npm run --silent lint

bench: ## Measure against a bare tiny_http in the same run (BASELINE=1: and the FastAPI seed)
	@command -v wrk > /dev/null || { echo "wrk is not installed: apt-get install wrk" >&2; exit 2; }
	cargo build --release --locked --bin mailslot --example bare --example readers
	python3 tests/bench/bench.py
	python3 tests/bench/providers.py

bench-overload: ## Measure what happens under four times the searches that can be answered
	cargo build --release --locked --bin mailslot
	python3 tests/bench/overload.py

bench-scale: ## Measure what reading costs as the table grows (ROWS=10000000: to ten million)
	cargo build --release --locked --bin mailslot
	python3 tests/bench/scale.py

bench-postgres: tools postgres ## Measure PostgreSQL: one node and two, beside SQLite and the FastAPI seed
	cargo build --release --locked --bin mailslot
	python3 tests/bench/postgres.py

# The remapped prefixes keep the folders of the building machine out of the binary, which is then the same
# wherever it is built. A panic's position is cargo/registry/src/.../tiny_http-0.12.0/src/lib.rs.
static: export RUSTFLAGS := -C target-feature=+crt-static \
	--remap-path-prefix=$(CURDIR)=mailslot --remap-path-prefix=$(CARGO_HOME)=cargo
static: export CFLAGS := -ffile-prefix-map=$(CURDIR)=mailslot -ffile-prefix-map=$(CARGO_HOME)=cargo
static: ## Build one static binary and check that it is static
	cargo build --release --locked --bin mailslot --target $(HOST)
	@ldd $(BINARY) 2>&1 | grep -qE 'statically linked|not a dynamic executable' \
		|| { echo "not static:"; ldd $(BINARY); exit 1; }
	@ls -l $(BINARY)

# What the package and the tarball have beside the binary. The units run it from a folder of its own.
package: static
	@rm -rf $(PACKAGE) && mkdir -p $(PACKAGE)/units
	@cp $(BINARY) packaging/mailslot.env.example $(PACKAGE)/
	@mv $(PACKAGE)/mailslot.env.example $(PACKAGE)/mailslot.env
	@gzip -9n < CHANGELOG.md > $(PACKAGE)/changelog.gz
	@$(BINARY) man | gzip -9n > $(PACKAGE)/mailslot.1.gz
	@for shell in bash zsh fish; do $(BINARY) completions $$shell > $(PACKAGE)/mailslot.$$shell || exit 1; done
	@cp $(UNITS) $(PACKAGE)/units/
	@sed -i 's,/usr/local/bin,/usr/lib/mailslot,' $(PACKAGE)/units/*

deb: package ## Build a Debian package (needs cargo-deb)
	@cargo deb --version > /dev/null 2>&1 || { echo "cargo-deb is not installed: cargo install --locked cargo-deb" >&2; exit 2; }
	@rm -rf target/deb
	SOURCE_DATE_EPOCH=$(EPOCH) cargo deb --quiet --no-build --no-strip --output target/deb/

# The same commit gives the same files wherever it is built: docs/RELEASE.md.
release: deb ## Build the files of a release: tarball, Debian package, SBOM, SHA256SUMS (needs cargo-deb, cargo-cyclonedx)
	@cargo cyclonedx --version > /dev/null 2>&1 || \
		{ echo "cargo-cyclonedx is not installed: cargo install --locked cargo-cyclonedx" >&2; exit 2; }
	@rm -rf target/dist && mkdir -p target/dist/$(RELEASE)
	@cp -r $(BINARY) $(PACKAGE)/mailslot.1.gz $(PACKAGE)/mailslot.bash $(PACKAGE)/mailslot.zsh $(PACKAGE)/mailslot.fish \
		packaging docs README.md CHANGELOG.md SECURITY.md LICENSE LICENSE-MIT LICENSE-APACHE target/dist/$(RELEASE)/
	@tar --sort=name --mtime=@$(EPOCH) --owner=0 --group=0 --numeric-owner --mode=u+rw,go=rX -C target/dist -c $(RELEASE) \
		| gzip -9n > target/dist/$(RELEASE).tar.gz
	@rm -r target/dist/$(RELEASE)
	@cp target/deb/mailslot_*.deb target/dist/
	@SOURCE_DATE_EPOCH=$(EPOCH) cargo cyclonedx --quiet --format json --spec-version 1.5 --target $(HOST) --override-filename sbom.tmp
	@# Cargo leaves the name out of an id if the folder has the same one.
	@sed -E 's,path\+file://$(CURDIR)#(mailslot@)?,mailslot@,' sbom.tmp.json > target/dist/$(RELEASE).cdx.json && rm sbom.tmp.json
	@cd target/dist && sha256sum mailslot* > SHA256SUMS && cat SHA256SUMS

test-release: release ## Build the release of the last commit in another folder, and compare every file
	tests/packaging/reproducible.sh

test-deb: deb ## Boot a small Debian, and install, upgrade, remove and purge the package there (Debian, as root)
	SOURCE_DATE_EPOCH=$(EPOCH) cargo deb --quiet --no-build --no-strip --deb-revision 2 --output target/deb/next/
	tests/systemd/run.sh inside-deb.sh target/deb/*.deb target/deb/next/*.deb

up: ## Start it with Docker Compose on http://localhost:8000
	docker compose up -d --build
	@echo; echo "The page is http://localhost:8000/. In this terminal, this sends 100 signed messages:"; echo
	@echo "  docker compose exec api /mailslot send --count 100"

# Compose demands every required variable for every command, but these two do not use the secret.
down logs: export WEBHOOK_SECRET := $(or $(WEBHOOK_SECRET),unused)
down: ## Stop it and delete its volume with every message
	@echo "This deletes the volume with every message in it; 'docker compose down' would keep it."
	docker compose down -v

logs: ## Follow its log
	docker compose logs -f api

image: ## Build the Docker image mailslot
	docker build -t mailslot .
