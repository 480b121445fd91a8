//! `kubelet-gate prove` on the command line: what it prints, saves and compares, and what it refuses to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kubelet_gate::adopt::prove::{self, Options, PROBES, Port, ProbeCredential, ProveError};
use serde_json::Value;

use crate::program::{assert_says, code, kubelet_gate, stderr, stdout};
use crate::proving::{LOCALHOST, open_probes, world};
use crate::schemas::{assert_valid, schema};

/// Where no server is, everything is closed. That it is closed to the API server as well must be said.
#[test]
fn a_port_without_a_server_is_told_from_one_that_a_gate_has() {
    let output = kubelet_gate()
        .args(["prove", "--address", "127.0.0.1", "--from", "loopback"])
        .args(["--port", "1", "--read-only-port", "1", "--healthz-port", "1"])
        .output()
        .unwrap();
    let said = stdout(&output);
    assert_eq!(code(&output), 1, "{said}");
    assert_says(&said, &["nothing listens on port 1"]);
    assert!(!said.contains("nothing got through:"), "{said}");
}

/// A saved report is one of this program, whole, for its owner alone; what is read back cannot steer a
/// terminal.
#[test]
fn a_report_is_saved_whole_and_compared_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = kubelet_gate();
        command.current_dir(&folder);
        command.args(["prove", "--address=127.0.0.1", "--from=loopback"]);
        command.args(["--port=1", "--read-only-port=1", "--healthz-port=1"]);
        command.args(words).output().unwrap()
    };
    let nowhere = run(&["--save", "nowhere/report.json"]);
    let refused = (code(&nowhere), nowhere.stdout.len());
    assert_eq!(refused, (64, 0), "before a probe is sent");
    assert_eq!(code(&run(&["--save", "report.json"])), 1);
    let path = folder.path().join("report.json");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_valid(&schema("probe-report.json"), &report);
    // What was open and is not tried now is not closed.
    report["started"] = "\u{1b}]0;x\u{7}".into();
    report["host"] = "elsewhere".into();
    report["results"][0]["through"] = true.into();
    report["results"][0]["address"] = "192.0.2.10:10250".into();
    fs::write(&path, report.to_string()).unwrap();
    let said = stdout(&run(&["--compare", "report.json"]));
    let counts = "0 closed, 0 still open, 0 newly open, 1 not shown this time";
    assert_says(&said, &[counts, "that was on elsewhere"]);
    assert!(!said.contains('\u{1b}'), "{said}");
    report["apiVersion"] = "kubelet-gate.dev/v9".into();
    fs::write(&path, report.to_string()).unwrap();
    for bad in ["report.json", "/dev/zero", "."] {
        assert_eq!(code(&run(&["--compare", bad])), 64, "{bad}");
    }
    assert_eq!(code(&run(&["--compare", "report.json", "-o", "sarif"])), 64);
    for bad in ["/dev/zero", ".", "/dev/null", "nowhere"] {
        assert_eq!(code(&run(&["--token-file", bad])), 64, "{bad}");
    }
    let files = || fs::read_dir(&folder).unwrap().count();
    let before = files();
    let foreign = run(&["--address=198.51.100.7", "--save", "other.json"]);
    assert_eq!((code(&foreign), files()), (64, before), "no half report");
}

#[test]
fn only_this_nodes_own_addresses_are_probed() {
    for foreign in ["198.51.100.7", "2001:db8:ffff::7", "8.8.8.8"] {
        let options = Options {
            addresses: vec![LOCALHOST, foreign.parse().unwrap()],
            ..Options::default()
        };
        let refused = prove::prove(&options, &mut |_| panic!("nothing may be tried"));
        assert!(matches!(refused, Err(ProveError::NotLocal(..))), "{foreign}");
        let output = kubelet_gate()
            .args(["prove", "--address", foreign])
            .args(["--port=10250", "--read-only-port=10255", "--healthz-port=10248"])
            .output()
            .unwrap();
        assert_eq!(code(&output), 64);
        assert_says(&stderr(&output), &[foreign]);
    }
}

/// The table names every exposure, from which side, and what it gives.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_names_what_got_through() {
    let (world, open) = world().await;
    let output = tokio::task::spawn_blocking(move || {
        kubelet_gate()
            .args(["prove", "--address", "127.0.0.1", "--healthz-port", "1"])
            .args(["--port", &open.secure.to_string()])
            .args(["--read-only-port", &open.read_only.to_string()])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = stdout(&output);
    assert_eq!(code(&output), 2, "{said}");
    for probe in open_probes().filter(|probe| probe.credential != ProbeCredential::Token) {
        let of_it = |line: &&str| line.split_whitespace().next() == Some(probe.id);
        let line = said.lines().find(of_it);
        let line = line.unwrap_or_else(|| panic!("{}: {said}", probe.id));
        assert_says(line, &[probe.gives, "loopback 127.0.0.1"]);
    }
    assert_says(&said, &["no --token-file", "probes got through"]);
    world.stop().await;
}

/// The page that documents the probes is the table.
#[test]
fn the_documentation_lists_every_probe_as_it_is() {
    let page = include_str!("../../docs/prove.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = PROBES.iter().map(row).collect();
    assert_eq!(rows, expected, "docs/prove.md:\n{}", expected.join("\n"));
}

fn row(probe: &prove::Probe) -> String {
    let port = match probe.port {
        Port::Secure => "10250",
        Port::ReadOnly => "10255",
        Port::Healthz => "10248",
    };
    let shown = match (probe.credential, probe.websocket) {
        (ProbeCredential::None, false) => "nothing",
        (ProbeCredential::None, true) => "nothing, WebSocket",
        (ProbeCredential::ForeignCertificate, _) => "a self-signed certificate",
        (ProbeCredential::GarbageToken, _) => "a made-up token",
        (ProbeCredential::Token, _) => "`--token-file`, WebSocket",
    };
    let reaches: Vec<String> = probe.reaches.iter().map(ToString::to_string).collect();
    format!(
        "| `{}` | {port} | `{} {}` | {shown} | {} | {} |",
        probe.id,
        probe.method,
        probe.path,
        reaches.join(", "),
        probe.gives
    )
}
