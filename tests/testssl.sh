#!/usr/bin/env bash
# Has Debian's testssl.sh judge the TLS of a gate in the lab, on loopback. docs/testssl.md must have a row for
# each finding that is not OK; a finding without one fails. Everything that testssl.sh says stays in
# target/testssl.txt and target/testssl.json.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in testssl openssl python3; do
    if ! command -v "$tool" >/dev/null; then
        echo "testssl: $tool is missing; get it with: apt-get install testssl.sh openssl python3" >&2
        exit 1
    fi
done
cargo build --locked --release
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
folder=$(mktemp -d)
target/release/kubelet-gate lab --dir "$folder" --port "$port" >"$folder/lab.log" 2>&1 &
lab=$!
trap 'kill "$lab" 2>/dev/null || true; rm -rf "$folder"' EXIT
for _ in $(seq 100); do
    openssl s_client -connect "127.0.0.1:$port" </dev/null >/dev/null 2>&1 && break
    sleep 0.2
done

rm -f target/testssl.json target/testssl.txt
# Its exit code counts findings and failures of its own; what counts here are the findings.
timeout 1200 testssl --quiet --color 0 --warnings off --nodns none --ip 127.0.0.1 --wide \
    --add-ca "$folder/ca.crt" --jsonfile target/testssl.json "localhost:$port" >target/testssl.txt || true

python3 - target/testssl.json docs/testssl.md <<'END'
import json, sys

findings = json.load(open(sys.argv[1]))
document = open(sys.argv[2]).read()
print(f"{len(findings)} findings")
if len(findings) < 100:
    sys.exit("testssl.sh did not end: see target/testssl.txt")
unexplained = 0
for finding in findings:
    if finding["severity"] in ("OK", "INFO", "DEBUG"):
        continue
    explained = f"`{finding['id']}`" in document
    unexplained += not explained
    print(finding["severity"], finding["id"], finding["finding"], "" if explained else "NOT EXPLAINED", sep="\t")
if unexplained:
    sys.exit(f"docs/testssl.md has no row for {unexplained} of them")
END
