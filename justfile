# Every recipe is a plain command. Without `just`, read it here and type it. CI runs .ci/run.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes.
default:
    @just --list

# Run the shortest loop: formatting, lints of library and program, unit tests.
quick: fmt
    cargo clippy --locked --lib --bins -- -D warnings
    cargo test --locked --lib

# Run before a commit: formatting, lints, documentation, tests.
check: fmt clippy doc test

# Check the formatting (`cargo fmt --all` repairs it).
fmt:
    cargo fmt --all --check

# Run the lints, with the lab and without it.
clippy:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked -p kubelet-gate --no-default-features --lib --bins -- -D warnings

# Build the API documentation; a warning is an error.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

# Run every test, or those whose path contains a name: `just test authn`.
test *name:
    cargo test --locked {{ name }}

# Run the unit tests whose path contains the name: `just unit authn`.
unit *name:
    cargo test --locked --lib -- {{ name }}

# Run the socket tests whose path contains the name: `just it seal_trial`.
it *name:
    cargo test --locked --test it -- {{ name }}

# Play every attack of tests/it/floods in full, or one of them: `just floods admin_port`. Some minutes; two
# idle cores and root. The table is printed, and stays in target/floods.md.
floods *name:
    rm -f target/floods.md
    cargo test --locked --release --test it --no-run
    code=0; KUBELET_GATE_FLOODS=full KUBELET_GATE_TEST_PATIENCE=3 cargo test --locked --release --test it -- \
        floods::{{ name }} --skip audit_floods --skip http2_floods --test-threads=1 || code=$?; \
        cat target/floods.md; exit $code

# Replace the gate under load, twenty times in each way, or in one of them: `just upgrade by_hand_over`. Some
# minutes; root for the sealed nodes. The table is printed, and stays in target/upgrades.md.
upgrade *name:
    rm -f target/upgrades.md
    cargo test --locked --release --test it --no-run
    code=0; KUBELET_GATE_UPGRADES=full KUBELET_GATE_TEST_PATIENCE=3 cargo test --locked --release --test it -- \
        never_away::{{ name }} --nocapture --test-threads=1 || code=$?; cat target/upgrades.md; exit $code

# Play mixed load, reloads, upgrades and outages for so many seconds. The summary stays in target/soak.md.
soak seconds="1800":
    cargo test --locked --release --test it --no-run
    KUBELET_GATE_SOAK={{ seconds }} KUBELET_GATE_TEST_PATIENCE=3 cargo test --locked --release --test it -- \
        soak:: --nocapture

# Have testssl.sh judge the gate's TLS (needs Debian's package testssl.sh; ten minutes).
testssl:
    bash tests/testssl.sh

# Compare how odd units are read with how Debian's systemd reads them (needs root; installs systemd if missing).
# `just systemd-oracle record` writes its readings, which `cargo test` compares with.
systemd-oracle mode="compare":
    bash tests/systemd/oracle.sh {{ mode }}

# Run what CI runs, each stage with its seconds; or only the stages that are named: `just ci keys width`.
ci *stage:
    bash .ci/run {{ stage }}

# Let git run .githooks/pre-commit before each commit (`git config --unset core.hooksPath` ends it).
hook:
    git config core.hooksPath .githooks

# Play every attack against an open kubelet and then through the gate; print a table.
demo:
    cargo run --release --locked -- lab --demo

# Run the lab until Ctrl-C, with curl lines to paste.
lab:
    cargo run --release --locked -- lab

# Run each fuzz target for ten minutes, or for so many seconds (needs a C++ compiler).
fuzz seconds="600":
    bash fuzz/run {{ seconds }}

# Measure CPU per request beside nginx and a bare proxy, each with mutual TLS on both legs.
bench:
    bash benches/compare.sh

# Write a development PKI into certs-dev/ (never committed).
certs:
    cargo run --locked -- certs --dir certs-dev

# Say which checks a request needs: `just explain GET /pods -o json`
explain *request:
    cargo run --quiet --locked -- explain {{ request }}

# Check advisories, bans, licences and sources of dependencies (needs `cargo install --locked cargo-deny`).
deny:
    cargo deny --locked check
