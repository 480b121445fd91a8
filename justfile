# Every recipe is a plain command: without `just`, read it here and type it. CI runs .ci/run.

set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes.
default:
    @just --list

# The shortest loop: formatting, lints of library and program, unit tests.
quick: fmt
    cargo clippy --locked --lib --bins -- -D warnings
    cargo test --locked --lib

# What to run before a commit: formatting, lints, documentation, tests.
check: fmt clippy doc test

# Is everything formatted? (`cargo fmt` does it.)
fmt:
    cargo fmt --check

# Lints, with the lab and without it.
clippy:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --no-default-features --lib --bins -- -D warnings

# The API documentation, warnings refused.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

# Every test; with a name, those whose path contains it: `just test authn`.
test *name:
    cargo test --locked {{ name }}

# Unit tests whose path contains the name: `just unit authn`.
unit *name:
    cargo test --locked --lib -- {{ name }}

# Socket tests whose path contains the name: `just it seal_trial`.
it *name:
    cargo test --locked --test it -- {{ name }}

# What CI runs, stage by stage, each with its seconds; with names, these stages alone: `just ci keys width`.
ci *stage:
    bash .ci/run {{ stage }}

# Let git run .githooks/pre-commit before each commit (`git config --unset core.hooksPath` ends it).
hook:
    git config core.hooksPath .githooks

# Play every attack against an open kubelet and then through the gate, as a table.
demo:
    cargo run --release --locked -- lab --demo

# The lab, left running, with curl lines to paste.
lab:
    cargo run --release --locked -- lab

# Each fuzz target for so many seconds (a nightly toolchain, and `cargo install --locked cargo-fuzz`).
fuzz seconds="60":
    bash fuzz/run {{ seconds }}

# CPU per request beside nginx and beside the floor, each with mutual TLS on both legs.
bench:
    bash benches/compare.sh

# Write a development PKI into certs-dev/ (never committed).
certs:
    cargo run --locked -- certs --dir certs-dev

# Which checks does a request need? `just explain GET /pods -o json`
explain *request:
    cargo run --quiet --locked -- explain {{ request }}

# Advisories, bans, licences and sources of the dependencies (`cargo install --locked cargo-deny`).
deny:
    cargo deny --locked check
