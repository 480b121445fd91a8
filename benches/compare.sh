#!/usr/bin/env bash
# Compares the gate with nginx and with the floor, a bare proxy over the same libraries: CPU per request,
# memory, start. It needs two cores, nginx, and an otherwise idle machine.
#
#   BENCH_ROUNDS=7           interleaved rounds: each front once in every round
#   BENCH_REQUESTS=100000    small requests a round (a tenth of them big, a fiftieth of them handshakes)
#   BENCH_ONLY=kubelet-gate  only this front: to profile it
#   BENCH_OTHER_GATE=FILE    another build of the gate, measured in the same rounds
#   BENCH_OTHER_AUDIT=KEYS   its keys of audit; empty for a build that has no audit.strangers
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v nginx >/dev/null; then
    echo "compare: nginx is missing; get it with: apt-get install nginx-light" >&2
    exit 1
fi
if [ "$(nproc)" -lt 2 ]; then
    echo "compare: two cores are needed, one for the fronts and one for load and backend" >&2
    exit 1
fi

nginx -v
cargo bench --locked --bench compare --no-run
# Load and backend run on core 1; the program itself puts the fronts on core 0.
exec taskset -c 1 cargo bench --locked --bench compare
