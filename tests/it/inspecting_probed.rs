//! What `inspect` says of a node that was probed. "Compensated" must mean that a probe saw it closed.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};

use kubelet_gate::adopt::inspect::Verdict;
use kubelet_gate::adopt::prove::{Ports, ProbeAnswer, ProbeOutcome, ProbeReport, SideKind};

use crate::inspecting::{check, inspect, inspected};
use crate::inspecting_outputs::kube_bench_results;
use crate::node::{Node, on_a_node};
use crate::program::{assert_says, code, json_of, kubelet_gate, stdout};
use crate::schemas::{assert_valid, schema};

/// A report in which each probe was tried from both sides, a gate answered, and those named got through.
fn report(through: &[&str]) -> ProbeReport {
    let outcome = |probe: &str, side| ProbeOutcome {
        probe: probe.to_owned(),
        side,
        address: "127.0.0.1:10250".parse().unwrap(),
        answer: ProbeAnswer::Status(if probe == "double-slash" { 400 } else { 401 }),
        through: through.contains(&probe),
    };
    let tried = ["pods", "double-slash", "foreign-certificate", "read-only-pods"];
    let sides = [SideKind::NodeAddress, SideKind::Loopback];
    ProbeReport {
        api_version: String::new(),
        kind: String::new(),
        version: String::new(),
        host: String::new(),
        started: String::new(),
        finished: "2026-11-24T12:00:00Z".to_owned(),
        ports: Ports::default(),
        results: tried
            .iter()
            .flat_map(|probe| sides.map(|side| outcome(probe, side)))
            .collect(),
        skipped: Vec::new(),
        untried: Vec::new(),
        build: None,
    }
}

/// A file may have been edited after the kubelet was started. Seen red: with the file believed.
#[test]
fn what_a_probe_gets_through_is_open_whatever_the_files_say() {
    let mut found = inspected("kubeadm");
    assert_eq!(check(&found, "anonymous-auth").verdict, Verdict::Pass);
    found.face(&report(&[]));
    assert_eq!(check(&found, "anonymous-auth").verdict, Verdict::Pass);
    found.face(&report(&["pods"]));
    let open = check(&found, "anonymous-auth");
    assert_eq!(open.verdict, Verdict::Fail);
    assert!(open.with_gate(Some(&report(&["pods"]))).starts_with("open: "));
}

/// Seen red: with what the gate could do taken for done; with every refusal taken for the gate's; with no
/// answer taken for a refusal.
#[test]
fn only_what_a_probe_has_seen_closed_is_called_compensated() {
    let mut found = inspected("flags-only");
    let said = |id: &str, report: Option<&ProbeReport>| check(&found, id).with_gate(report);
    let closed = report(&[]);
    assert_eq!(
        said("read-only-port", Some(&closed)),
        "compensated, verified by probe at 2026-11-24T12:00:00Z"
    );
    assert!(check(&found, "anonymous-auth").is_compensated(Some(&closed)));
    let open = report(&["read-only-pods"]);
    assert!(said("read-only-port", Some(&open)).starts_with("open: a probe got through"));
    assert!(said("anonymous-auth", Some(&open)).starts_with("compensated"));
    assert!(said("anonymous-auth", None).ends_with("not probed"));
    // What no probe bears on, or what a probe shows half of, is never verified.
    assert!(said("token-webhook", Some(&closed)).ends_with("not probed"));
    assert!(said("bind-address", Some(&closed)).ends_with("not probed"));
    assert!(said("ip-address-deny", Some(&closed)).starts_with("compensated"));
    assert_eq!(said("pod-pids-limit", Some(&closed)), "does not compensate");
    // A kubelet without a gate that refuses strangers by itself: a gate has compensated nothing.
    let mut alone = report(&[]);
    for outcome in &mut alone.results {
        if outcome.probe == "double-slash" {
            outcome.answer = ProbeAnswer::Status(307);
        }
    }
    assert!(said("anonymous-auth", Some(&alone)).ends_with("no gate answered"));
    assert!(!check(&found, "anonymous-auth").is_compensated(Some(&alone)));
    assert!(said("read-only-port", Some(&alone)).ends_with("no gate answered"));
    // An answer that never came shows nothing.
    let mut waiting = report(&[]);
    waiting.results[0].answer = ProbeAnswer::Unknown("no answer".to_owned());
    assert!(said("anonymous-auth", Some(&waiting)).ends_with("not probed"));
    // Nor does one side alone.
    let mut half = report(&[]);
    half.results.retain(|outcome| outcome.side == SideKind::Loopback);
    assert!(said("anonymous-auth", Some(&half)).ends_with("not probed"));

    let idle = found
        .checks
        .iter_mut()
        .find(|check| check.id == "streaming-idle-timeout")
        .unwrap();
    idle.verdict = Verdict::Fail;
    assert!(idle.with_gate(Some(&closed)).starts_with("compensates in part: "));
}

/// A process that is called kubelet, with these flags, in this thread's network. It ends when it is dropped.
struct Named(Child);

impl Named {
    fn start(flags: &[&str]) -> Self {
        // The shell waits for the end of its input.
        let child = Command::new("sh")
            .arg0("kubelet")
            .args(["-c", "read _", "--port=10250"])
            .args(flags)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From the kubelet's own network, before and after the seal. Seen red: from a neighbour's network, where no
/// server has the ports, all was called compensated.
#[test]
fn what_the_seal_closes_is_compensated_and_only_where_it_is_seen() {
    on_a_node(async |mut node: Node| {
        // The node's kubelet is in this process; another process has its flags.
        let kubelet = Named::start(&[
            "--anonymous-auth=true",
            "--authorization-mode=AlwaysAllow",
            "--read-only-port=10255",
        ]);
        let pid = kubelet.0.id().to_string();
        let which = ["-o", "json", "--pid", &pid];
        let addresses = ["--prove", "--address=192.0.2.10", "--address=127.0.0.1"];
        let prove = [&addresses[..], &which].concat();
        let token = node.file("token");
        fs::write(&token, "proxy-get-token\n").unwrap();
        let probe = |output: &Output, id: &str| -> String {
            let said = json_of(output);
            assert_valid(&schema("inspection.json"), &said);
            let checks = said["kubelets"][0]["checks"].as_array().unwrap();
            let check = checks.iter().find(|check| check["id"] == id).unwrap();
            check["gate"]["probe"].as_str().unwrap().to_owned()
        };
        let checks = [
            "anonymous-auth",
            "authorization-mode",
            "read-only-port",
            "ip-address-deny",
        ];
        let before = inspect(&prove);
        assert_eq!(code(&before), 2);
        for id in checks {
            assert_eq!(probe(&before, id), "open", "{id}");
        }
        let elsewhere = node.neighbour.run(|| inspect(&prove)).unwrap();
        assert_eq!(code(&elsewhere), 2, "it is probed in its own network namespace");
        for id in checks {
            assert_eq!(probe(&elsewhere, id), "open", "{id}");
        }
        let elsewhere = node.neighbour.run(|| inspect(&which)).unwrap();
        assert_says(&stdout(&elsewhere), &["nsenter"]);

        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        node.firewall_exits(0, "confirm");
        let after = inspect(&[&prove[..], &["--token-file", token.to_str().unwrap()]].concat());
        for id in checks {
            assert_eq!(probe(&after, id), "closed", "{id}");
        }
        // A pipeline sees the kubelet's own status, and beside it what was compensated when.
        let prove_with = |more: &[&str]| inspect(&[&addresses[..], &["--pid", &pid], more].concat());
        let benched = prove_with(&["-o", "kube-bench"]);
        let results = kube_bench_results(&json_of(&benched));
        for number in ["4.2.1", "4.2.4"] {
            let result = results.iter().find(|result| result["test_number"] == number);
            let result = result.unwrap();
            assert_eq!(result["status"], "FAIL", "{result}");
            let reason = result["reason"].as_str().unwrap();
            assert!(
                reason.contains("compensated, verified by probe at 20"),
                "{reason}"
            );
        }
        // Without a token nothing is shown of callers with credentials, and without `ip` a side is missing.
        // Seen red: with a refusal to every caller taken for the authorizer's.
        let mut blind = kubelet_gate();
        let blind = blind.arg("inspect").args(&prove).env("PATH", "").output();
        let blind = blind.unwrap();
        assert_eq!(probe(&blind, "authorization-mode"), "untried");
        assert_eq!(probe(&blind, "anonymous-auth"), "closed");
        let probes = &json_of(&blind)["probes"];
        assert_eq!(probes["untried"].as_array().unwrap().len(), 1, "{probes}");
        node.stop().await;
    });
}
