#!/usr/bin/env bash
# Compares how kubelet-gate reads the units of tests/it/data/systemd/units.yaml with how the systemd of this machine
# reads them: argument list, environment, and the lines that it ignores. Any difference is an error. With `record` the
# readings of systemd are written to tests/it/data/systemd/readings.json, which `cargo test` compares with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
((EUID == 0)) || { echo 'systemd-oracle needs root, for its namespaces'; exit 1; }
if [[ ! -x /usr/lib/systemd/systemd ]]; then
    # RUNLEVEL=1 keeps the package from starting its services.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get -y -q update
    apt-get -y -q install --no-install-recommends systemd
fi
/usr/lib/systemd/systemd --version | head -n 1
mkdir -p target/systemd
rustc --edition=2024 -O tests/systemd/started.rs -o target/systemd/started
KUBELET_GATE_SYSTEMD=${1:-compare} cargo test --locked -p kubelet-gate --lib -- systemd::recorded --nocapture --test-threads=1
