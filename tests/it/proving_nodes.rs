//! `prove` on a node with interfaces: from every side, before and after the seal. It must leave nothing
//! behind.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fakes::kubelet::FakeKubelet;
use kubelet_gate::adopt::prove::{Options, Ports, ProbeAnswer, ProbeReport, ProbeToken, SideKind};
use kubelet_gate::host::as_user;
use tokio::sync::{Mutex, MutexGuard};

use crate::node::{Node, on_a_node, options, shell};
use crate::patience::eventually;
use crate::program::{assert_says, code, json_of, kubelet_gate, kubelet_program, stderr, stdout};
use crate::proving::proven;
use crate::schemas::{assert_valid, sarif_schema, schema};

/// The ports are named, since the machine may have processes that are called kubelet.
const PORTS: [&str; 3] = ["--port=10250", "--read-only-port=10255", "--healthz-port=10248"];

/// A process has one wire to a network of its own at a time.
async fn only_wire() -> MutexGuard<'static, ()> {
    static WIRE: Mutex<()> = Mutex::const_new(());
    WIRE.lock().await
}

async fn proven_from_every_side(options: Options) -> ProbeReport {
    let _wire = only_wire().await;
    proven(Options {
        interval: Duration::ZERO,
        ..options
    })
    .await
}

/// The interfaces of this thread's network.
fn links() -> String {
    shell("ip -o link | cut -d: -f2")
}

/// A token is not given away to a local user who has taken the port, from whichever side. Seen red: with the
/// listeners looked for in the other namespace, where there are none.
#[test]
fn a_token_is_not_shown_to_another_users_server() {
    on_a_node(async |node: Node| {
        let runtime = tokio::runtime::Handle::current();
        let taken = as_user(1000, || {
            runtime.block_on(FakeKubelet::start(options(20250, true)))
        });
        let taken = taken.unwrap().unwrap();
        let report = proven_from_every_side(Options {
            ports: Ports {
                secure: 20250,
                ..Ports::default()
            },
            token: Some(ProbeToken::new("secret").unwrap()),
            ..Options::default()
        })
        .await;
        let tokens: BTreeSet<Option<String>> = taken
            .requests()
            .iter()
            .map(|seen| seen.header("authorization").map(str::to_owned))
            .collect();
        assert_eq!(tokens.len(), 2, "none, and a made-up one: {tokens:?}");
        assert!(!tokens.contains(&Some("Bearer secret".to_owned())), "{tokens:?}");
        for outcome in &report.results {
            let withheld = matches!(outcome.answer, ProbeAnswer::Unknown(_));
            assert!(outcome.probe != "token-exec-websocket" || withheld, "{outcome:?}");
        }
        drop(taken);
        node.stop().await;
    });
}

/// An operator whose terminal is gone leaves nothing behind. Seen red: without SIGHUP, the wire stayed.
#[test]
fn however_prove_is_ended_it_removes_its_network() {
    on_a_node(async |node: Node| {
        let before = links();
        for signal in ["HUP", "TERM", "INT", "QUIT"] {
            let mut command = kubelet_gate();
            command.args(["prove", "--from=namespace"]).args(PORTS);
            let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut running = quiet.spawn().unwrap();
            let pid = running.id();
            eventually("it has made its wire", || links().contains(&format!("kgp{pid}@"))).await;
            shell(&format!("kill -{signal} {pid}"));
            assert_eq!(running.wait().unwrap().code(), Some(1), "{signal}");
            // The kernel removes a network in its own time.
            eventually("nothing is left", || links() == before).await;
        }
        node.stop().await;
    });
}

/// A kubelet in a container has a network and process ids of its own. It is probed there, and every number of
/// a run agrees with the others and with those of the next run. Seen red: with probes sent from here.
#[test]
fn a_kubelet_in_a_container_is_probed_there_and_counted_alike_each_time() {
    on_a_node(async |node: Node| {
        let container = &node.neighbour;
        let before = container.run(links).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let kubelet = container
            .run(|| runtime.block_on(FakeKubelet::start(options(20250, true))))
            .unwrap()
            .unwrap();
        let mut command = Command::new("unshare");
        // The first process of a process namespace cannot stop itself.
        command
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                &kubelet_program(),
                "-c",
                "read x",
            ])
            .args(["--port=20250", "--read-only-port=20255", "--healthz-port=20248"])
            .stdin(Stdio::piped());
        let mut process = container.run(|| command.spawn()).unwrap().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", process.id());
        let inside = || {
            fs::read_to_string(&children)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        eventually("the process is a kubelet's", || {
            let command = fs::read_to_string(format!("/proc/{}/cmdline", inside())).unwrap_or_default();
            command.contains("--port=20250") && !command.starts_with("unshare")
        })
        .await;
        let pid = inside();
        let folder = node.file("run");
        let prove = |arguments: &str| -> Output {
            let mut command = kubelet_gate();
            command.current_dir(&folder).args(["prove", "--pid", &pid]);
            command.args([
                "--from=loopback,namespace",
                "--address=192.0.2.20",
                "--address=127.0.0.1",
            ]);
            command.args(arguments.split(' ')).output().unwrap()
        };
        let first = prove("--save first.json");
        assert_eq!(code(&first), 2, "{}{}", stdout(&first), stderr(&first));
        assert_says(&stderr(&first), &["in its own network namespace"]);
        let saved: ProbeReport =
            serde_json::from_slice(&fs::read(folder.join("first.json")).unwrap()).unwrap();
        for (side, address) in [
            (SideKind::Loopback, "127.0.0.1:20250"),
            (SideKind::Namespace, "192.0.2.20:20250"),
        ] {
            let mut exposures = saved.exposures();
            let open = exposures.any(|open| open.side == side && open.address == address.parse().unwrap());
            assert!(open, "{side:?} to {address}: {:#?}", saved.results);
        }
        let second = prove("--compare first.json");
        let line = |output: &Output| {
            let said = stdout(output);
            let line = said.lines().find(|line| line.contains("probes got through"));
            line.unwrap_or_else(|| panic!("{said}")).to_owned()
        };
        let numbers: Vec<usize> = line(&first)
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .take(4)
            .collect();
        let [probes, tried, requests, sent] = numbers[..] else {
            panic!("{numbers:?}")
        };
        let counts = format!("{probes} of {tried} probes got through ({requests} of {sent} requests)");
        assert_says(&line(&second), &[&counts]);
        let said = stdout(&second).replace('\n', " ");
        let said: Vec<&str> = said.split_whitespace().collect();
        assert_says(
            &said.join(" "),
            &[
                &format!("in probes: 0 closed, {probes} still open, 0 newly open, 0 not shown this time"),
                &format!("in requests: 0 closed, {requests} still open, 0 newly open, 0 not shown this time"),
            ],
        );
        assert_eq!((requests, sent), (saved.exposures().count(), saved.results.len()));
        // Of the node itself nothing was probed.
        assert!(
            saved
                .results
                .iter()
                .all(|outcome| outcome.address.port() >= 20000),
            "{:?}",
            saved.ports
        );
        process.kill().unwrap();
        process.wait().unwrap();
        eventually("nothing is left of its network", || {
            container.run(links).unwrap() == before
        })
        .await;
        drop(kubelet);
        node.stop().await;
    });
}

/// Seen red: with the silence of a side from which no packet comes back taken for the seal's.
#[test]
fn what_got_through_before_the_seal_does_not_afterwards() {
    on_a_node(async |mut node: Node| {
        let folder = node.file("run");
        let prove = |arguments: &str| -> Output {
            let mut command = kubelet_gate();
            command.current_dir(&folder).arg("prove").args(PORTS);
            command.args(arguments.split(' ')).output().unwrap()
        };
        let before = links();
        let report = proven_from_every_side(Options::default()).await;
        for (side, address) in [
            (SideKind::NodeAddress, "192.0.2.10:10250"),
            (SideKind::NodeAddress, "[2001:db8::10]:10250"),
            (SideKind::Loopback, "127.0.0.1:10250"),
            (SideKind::Loopback, "[::1]:10255"),
            (SideKind::Namespace, "192.0.2.10:10250"),
            (SideKind::Namespace, "[2001:db8::10]:10255"),
            (SideKind::Namespace, "10.88.0.1:10248"),
        ] {
            let open = report
                .exposures()
                .any(|outcome| outcome.side == side && outcome.address == address.parse().unwrap());
            assert!(open, "{side:?} to {address}: {:#?}", report.results);
        }
        let few = "--address 127.0.0.1 --from loopback";
        let first = prove(&format!("{few} --save before.json -o sarif"));
        assert_eq!(code(&first), 2, "{}", stderr(&first));
        assert_valid(&sarif_schema(), &json_of(&first));
        let saved = fs::read(folder.join("before.json")).unwrap();
        let saved = serde_json::from_slice(&saved).unwrap();
        assert_valid(&schema("probe-report.json"), &saved);
        let again = prove("--save before.json");
        assert_eq!(code(&again), 64);
        assert_says(&stderr(&again), &["already there"]);

        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        node.firewall_exits(0, "confirm");
        let report = proven_from_every_side(Options::default()).await;
        let open: Vec<_> = report.exposures().collect();
        assert!(open.is_empty(), "{open:#?}");
        let sides: BTreeSet<SideKind> = report.results.iter().map(|outcome| outcome.side).collect();
        assert_eq!(sides.len(), 3, "{:?}", report.skipped);
        let after = prove(&format!("{few} --compare before.json -o json"));
        assert_eq!(code(&after), 0, "{}", stdout(&after));
        let after = json_of(&after);
        assert_valid(&schema("probe-report.json"), &after);
        let compared = &after["comparedWith"];
        assert!(compared["closed"].as_array().unwrap().len() >= 12, "{compared}");
        assert_eq!(compared["stillOpen"], serde_json::json!([]));

        // A side from which nothing can be tried proves nothing, though nothing got through from the others.
        let blind = kubelet_gate()
            .args(["prove", "--address=192.0.2.10", "--address=127.0.0.1"])
            .arg("--from=loopback,namespace")
            .args(PORTS)
            .env("PATH", "")
            .output()
            .unwrap();
        assert_eq!(code(&blind), 1, "{blind:?}");
        assert_says(&stdout(&blind), &["iproute2"]);
        // Nor does one from which no packet comes back.
        shell("ip route add unreachable default table 100; ip rule add from 192.0.2.10 lookup 100");
        let lost = prove("--address 192.0.2.10 --from namespace");
        shell("ip rule del from 192.0.2.10 lookup 100; ip route flush table 100");
        assert_eq!(code(&lost), 1, "{lost:?}");
        let untried = "could not be tried: network namespace to 192.0.2.10";
        assert_says(&stdout(&lost), &[untried]);

        eventually("nothing is left of its networks", || links() == before).await;
        let _wire = only_wire().await;
        let ours = format!("-{}", std::process::id());
        let left = shell("ip netns list");
        let is_ours =
            |line: &str| line.starts_with("kgwire-") && line.split(' ').next().unwrap().ends_with(&ours);
        assert!(!left.lines().any(is_ours), "{left}");
        node.stop().await;
    });
}
