//! If `prove` misses a way in, a node is called closed that is open; if it does more than look, it does the attacker's work.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use fakes::kubelet::{ClientCa, FakeKubelet, Fault, RecordedRequest};
use kubelet_gate::adopt::prove::{
    self, Options, PROBES, Port, Ports, ProbeAnswer, ProbeCredential, ProbeOutcome, ProbeReport, ProbeToken,
    ProveError, SideKind, Verified,
};
use kubelet_gate::host::as_user;
use serde_json::Value;

use crate::inspecting::{assert_valid, sarif_schema, schema};
use crate::node::{Node, on_a_node, options, shell};
use crate::patience::eventually;
use crate::program::{code, kubelet_gate, stderr};
use crate::world::{PKI, World};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn ports(secure: SocketAddr, read_only: SocketAddr) -> Ports {
    Ports {
        secure: secure.port(),
        read_only: read_only.port(),
        // Nobody has it.
        healthz: 1,
    }
}

async fn proven(options: Options) -> ProbeReport {
    tokio::task::spawn_blocking(move || prove::prove(&options, &mut |_| {}))
        .await
        .unwrap()
        .unwrap()
}

fn on_loopback(ports: Ports) -> Options {
    Options {
        ports,
        addresses: vec![LOCALHOST],
        sides: vec![SideKind::Loopback],
        token: Some(ProbeToken::new("proxy-get-token").unwrap()),
        interval: Duration::ZERO,
        ..Options::default()
    }
}

fn through(report: &ProbeReport) -> BTreeSet<&str> {
    report.exposures().map(|outcome| outcome.probe.as_str()).collect()
}

/// What is not served by any kubelet of today, or not by the lab's; and paths that a kubelet tidies by a redirect.
const CLOSED_ANYWAY: [&str; 9] = [
    "stats",
    "spec",
    "double-slash",
    "dot-segments",
    "encoded-slashes",
    "trailing-dot",
    "read-only-spec",
    "read-only-pprof",
    "read-only-checkpoint",
];

async fn read_only(world: &World) -> SocketAddr {
    world.kubelet.read_only_address().unwrap()
}

async fn world() -> World {
    World::builder()
        .kubelet(|options| options.read_only_port = true)
        .start()
        .await
}

/// Seen red: with 404 taken for a refusal, exec, run, attach, port-forward and checkpoint were called closed.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_kubelet_is_open_to_every_probe_and_the_gate_to_none() {
    let world = world().await;
    let open = ports(world.kubelet.address(), read_only(&world).await);
    let report = proven(on_loopback(open)).await;
    let all: BTreeSet<&str> = PROBES
        .iter()
        .filter(|probe| probe.port != Port::Healthz && !CLOSED_ANYWAY.contains(&probe.id))
        .map(|probe| probe.id)
        .collect();
    assert_eq!(through(&report), all);
    assert!(all.len() >= 12);
    assert!(report.faults().is_empty());
    world.kubelet.clear();
    // Through the gate nothing; past it, which only the seal closes, everything still.
    let gated = ports(world.address, world.read_only);
    let report = proven(on_loopback(gated)).await;
    assert_eq!(through(&report), BTreeSet::new(), "{report:#?}");
    let answers: BTreeSet<&ProbeAnswer> = report.results.iter().map(|outcome| &outcome.answer).collect();
    let expected = [400, 401, 403, 410].map(ProbeAnswer::Status);
    assert_eq!(answers, expected.iter().chain([&ProbeAnswer::Refused]).collect());
    world.assert_nothing_forwarded();
    assert!(
        through(&proven(on_loopback(open)).await).contains("pods"),
        "loopback is still open"
    );
    world.stop().await;
}

/// Every request of the table, byte for byte, and no other; nothing is sent that could change anything.
///
/// Seen red: with a body, and with PUT to the flags.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_documented_requests_are_sent() {
    let world = world().await;
    let report = proven(on_loopback(ports(
        world.kubelet.address(),
        read_only(&world).await,
    )))
    .await;
    let line = |seen: &RecordedRequest| (seen.read_only, seen.method.clone(), seen.target.clone());
    let seen = world.kubelet.requests();
    let sent: Vec<_> = seen.iter().map(line).collect();
    let documented: Vec<_> = PROBES
        .iter()
        .filter(|probe| probe.port != Port::Healthz)
        .map(|probe| {
            (
                probe.port == Port::ReadOnly,
                probe.method.to_owned(),
                probe.path.to_owned(),
            )
        })
        .collect();
    assert_eq!(sent, documented);
    for (seen, probe) in seen.iter().zip(PROBES) {
        assert_eq!(seen.body_len, 0, "{}", probe.id);
        assert!(matches!(seen.method.as_str(), "GET" | "POST"), "{}", probe.id);
        assert_eq!(seen.upgrade, probe.websocket, "{}", probe.id);
        let shown = seen.header("authorization");
        let expected = match probe.credential {
            ProbeCredential::GarbageToken | ProbeCredential::Token => shown.is_some(),
            _ => shown.is_none(),
        };
        assert!(expected, "{}: {shown:?}", probe.id);
        assert_eq!(
            seen.header("host").unwrap(),
            world.kubelet.address().to_string().replace(
                &world.kubelet.address().port().to_string(),
                &if seen.read_only {
                    read_only(&world).await.port()
                } else {
                    world.kubelet.address().port()
                }
                .to_string(),
            )
        );
        // POST only where a pod is named that cannot be.
        assert!(
            probe.method == "GET" || probe.path.contains("/kubelet-gate-prove/Does_Not_Exist"),
            "{}",
            probe.id
        );
    }
    assert_eq!(report.results.len(), PROBES.len());
    world.stop().await;
}

/// A kubelet that asks who is there lets nothing through, though it redirects untidy paths before it asks; and is no gate.
///
/// Seen red: with redirects taken for the kubelet's own word, four paths were called open on a kubelet that is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_verifies_by_itself_is_not_called_open() {
    let world = world().await;
    let ca = ClientCa {
        roots: vec![PKI.ca.certificate().clone()],
        mandatory: false,
    };
    world.kubelet.require_client_certificates(Some(ca)).unwrap();
    world.kubelet.clear();
    // An endpoint that this kubelet does not have is a 404 before it asks who is there.
    world.kubelet.fail("/checkpoint", Fault::status(404));
    let mut options = on_loopback(ports(world.kubelet.address(), world.read_only));
    let report = proven(options.clone()).await;
    assert_eq!(through(&report), BTreeSet::new());
    let status = |outcome: &ProbeOutcome| match outcome.answer {
        ProbeAnswer::Status(status) => Some(status),
        _ => None,
    };
    // To the foreign certificate it is an alert.
    let answers: BTreeSet<u16> = report.results.iter().filter_map(status).collect();
    assert_eq!(answers, BTreeSet::from([301, 401, 404, 410]));
    // As seen from the node's address as well.
    let from_both = |report: &ProbeReport| {
        let mut both = report.clone();
        for outcome in &report.results {
            both.results.push(ProbeOutcome {
                side: SideKind::NodeAddress,
                ..outcome.clone()
            });
        }
        both
    };
    for cis in ["4.2.1", "4.2.3", "4.2.15"] {
        assert_eq!(from_both(&report).verified(cis), Verified::NoGate, "{cis}");
    }
    options.ports.secure = world.address.port();
    let gated = from_both(&proven(options).await);
    for cis in ["4.2.1", "4.2.3", "4.2.15", "4.2.4"] {
        assert_eq!(gated.verified(cis), Verified::Closed, "{cis}");
    }
    world.stop().await;
}

/// Seen red: with one answer that did not come taken for a closed port, exec and all that followed were called closed.
#[tokio::test(flavor = "multi_thread")]
async fn who_answers_one_request_late_is_asked_the_others() {
    let world = world().await;
    world.kubelet.fail("/stats/summary", Fault::Hang);
    let options = Options {
        answer_within: Duration::from_secs(3),
        ..on_loopback(ports(world.kubelet.address(), world.read_only))
    };
    let report = proven(options).await;
    assert!(through(&report).contains("exec") && !report.faults().is_empty());
    let unknown: Vec<&str> = report.unknown().map(|outcome| outcome.probe.as_str()).collect();
    assert_eq!(unknown, ["stats-summary"]);
    world.stop().await;
}

/// A port that takes connections and says nothing is not proven closed, and is not waited for all day.
#[tokio::test]
async fn what_says_nothing_proves_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let report = proven(Options {
        answer_within: Duration::from_millis(100),
        ..on_loopback(ports(address, nobody))
    })
    .await;
    assert!(!report.faults().is_empty() && report.exposures().next().is_none());
    silent.set_nonblocking(true).unwrap();
    let dialled = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(dialled, 3, "and then it is given up");
    let secure = report.results.iter().filter(|outcome| outcome.address == address);
    for outcome in secure {
        assert!(matches!(outcome.answer, ProbeAnswer::Unknown(_)), "{outcome:?}");
    }
}

/// Where nobody is, everything is closed; that it is closed to the API server as well is said.
#[test]
fn a_port_that_nobody_has_is_told_from_one_that_a_gate_has() {
    let output = kubelet_gate()
        .args(["prove", "--address", "127.0.0.1", "--from", "loopback"])
        .args(["--port", "1", "--read-only-port", "1", "--healthz-port", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 1, "{said}");
    assert!(
        said.contains("nothing listens on port 1") && !said.contains("nothing got through:"),
        "{said}"
    );
}

/// Seen red: with what is not there at first taken for closed, and with an overloaded kubelet taken for one that refuses.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_open_is_not_called_closed() {
    // A kubelet that is being started again: not there for the first address, and there when the second one is tried.
    // Of no range from which ports are given to others meanwhile.
    let address: SocketAddr = "127.0.0.1:28417".parse().unwrap();
    let options = Options {
        addresses: vec![LOCALHOST, Ipv6Addr::LOCALHOST.into()],
        answer_within: Duration::from_millis(100),
        ..on_loopback(ports(address, "127.0.0.1:1".parse().unwrap()))
    };
    let mut started = None;
    let mut done = None;
    let report = tokio::task::spawn_blocking(move || {
        prove::prove(&options, &mut |progress| {
            // Each probe counts once, and only after it was answered.
            assert!(progress.done < progress.total && done < Some(progress.done));
            done = Some(progress.done);
            if progress.address == Ipv6Addr::LOCALHOST && started.is_none() {
                started = Some(std::net::TcpListener::bind(address).unwrap());
            }
        })
    });
    let report = report.await.unwrap().unwrap();
    let mut late = report.results.iter().filter(|outcome| outcome.address == address);
    assert!(
        late.all(|outcome| matches!(outcome.answer, ProbeAnswer::Unknown(_))),
        "{:#?}",
        report.results
    );
    assert!(!report.faults().is_empty());

    // One that goes away after its first answer.
    let going = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = going.local_addr().unwrap();
    let answered = std::thread::spawn(move || {
        let (mut stream, _) = going.accept().unwrap();
        drop(going);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
    });
    let nobody = "127.0.0.1:1".parse().unwrap();
    let report = proven(on_loopback(ports(nobody, address))).await;
    answered.join().unwrap();
    let gone: Vec<&ProbeOutcome> = report
        .results
        .iter()
        .filter(|outcome| outcome.address == address)
        .collect();
    assert_eq!(gone[0].answer, ProbeAnswer::Status(404));
    assert!(
        gone[1..]
            .iter()
            .all(|outcome| matches!(outcome.answer, ProbeAnswer::Unknown(_))),
        "{gone:#?}"
    );

    // One that cannot ask whether it may, or has too much to do.
    let world = world().await;
    for status in [500, 503, 429] {
        world.kubelet.fail("/configz", Fault::status(status));
        let report = proven(on_loopback(ports(world.kubelet.address(), world.read_only))).await;
        let unknown: Vec<&str> = report.unknown().map(|outcome| outcome.probe.as_str()).collect();
        assert_eq!(
            (unknown, report.faults().is_empty()),
            (vec!["configz"], false),
            "{status}"
        );
    }
    world.stop().await;
}

/// A gate that wants a certificate in the handshake refuses by an alert; who just hangs up, or speaks no TLS, has refused nothing.
///
/// Seen red: with every failed handshake taken for a refusal.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_is_told_from_one_that_fails() {
    let world = World::builder()
        .set("authentication.x509.clientCertificates", "Require")
        .start()
        .await;
    let report = proven(on_loopback(ports(world.address, world.read_only))).await;
    assert!(
        report.faults().is_empty() && report.exposures().next().is_none(),
        "{report:#?}"
    );
    let odd = proven(on_loopback(ports(world.read_only, world.read_only))).await;
    let secure: Vec<&ProbeOutcome> = odd
        .results
        .iter()
        .filter(|outcome| outcome.probe == "pods" || outcome.probe == "exec")
        .collect();
    assert!(
        secure
            .iter()
            .all(|outcome| matches!(outcome.answer, ProbeAnswer::Unknown(_))),
        "{secure:#?}"
    );
    world.stop().await;
}

/// What is kept is a report of this program, whole, for its owner; what is read back cannot steer a terminal.
#[test]
fn a_report_is_kept_whole_and_compared_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let mut command = kubelet_gate();
        command.current_dir(&folder);
        command.args(["prove", "--address=127.0.0.1", "--from=loopback"]);
        command.args(["--port=1", "--read-only-port=1", "--healthz-port=1"]);
        command.args(words).output().unwrap()
    };
    let nowhere = run(&["--save", "nowhere/report.json"]);
    assert_eq!(
        (code(&nowhere), nowhere.stdout.len()),
        (64, 0),
        "before anything is sent"
    );
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
    let compared = run(&["--compare", "report.json"]);
    let said = String::from_utf8_lossy(&compared.stdout);
    assert!(
        said.contains("0 closed, 0 still open, 0 newly open, 1 not shown this time"),
        "{said}"
    );
    assert!(
        !said.contains('\u{1b}') && said.contains("that was on elsewhere"),
        "{said}"
    );
    report["apiVersion"] = "kubelet-gate.dev/v9".into();
    fs::write(&path, report.to_string()).unwrap();
    for bad in ["report.json", "/dev/zero", "."] {
        let refused = run(&["--compare", bad]);
        assert_eq!(code(&refused), 64, "{bad}");
    }
    assert_eq!(code(&run(&["--compare", "report.json", "-o", "sarif"])), 64);
    for bad in ["/dev/zero", ".", "/dev/null", "nowhere"] {
        assert_eq!(code(&run(&["--token-file", bad])), 64, "{bad}");
    }
    let before = fs::read_dir(&folder).unwrap().count();
    let foreign = run(&["--address=198.51.100.7", "--save", "other.json"]);
    assert_eq!(
        (code(&foreign), fs::read_dir(&folder).unwrap().count()),
        (64, before),
        "no half report"
    );
}

/// A token is not given away to a local user who holds the port, from whichever side. Seen red: with the listeners of the namespace
/// looked at, where there are none.
#[test]
fn a_token_is_not_shown_to_whoever_has_taken_the_port() {
    on_a_node(async |node: Node| {
        let runtime = tokio::runtime::Handle::current();
        let taken = as_user(1000, || {
            runtime.block_on(FakeKubelet::start(options(20250, true)))
        });
        let taken = taken.unwrap().unwrap();
        let report = proven(Options {
            ports: Ports {
                secure: 20250,
                ..Ports::default()
            },
            token: Some(ProbeToken::new("secret").unwrap()),
            interval: Duration::ZERO,
            ..Options::default()
        })
        .await;
        let tokens: BTreeSet<Option<String>> = taken
            .requests()
            .iter()
            .map(|seen| seen.header("authorization").map(str::to_owned))
            .collect();
        assert!(
            tokens.len() == 2,
            "none, and the one that is nobody's: {tokens:?}"
        );
        assert!(!tokens.contains(&Some("Bearer secret".to_owned())), "{tokens:?}");
        let mut withheld = report
            .results
            .iter()
            .filter(|outcome| outcome.probe == "token-exec-websocket");
        assert!(withheld.all(|outcome| matches!(outcome.answer, ProbeAnswer::Unknown(_))));
        drop(taken);
        node.stop().await;
    });
}

/// An operator whose terminal is gone leaves nothing behind. Seen red: without SIGHUP, the wire stayed.
#[test]
fn whatever_ends_it_its_network_is_taken_away() {
    on_a_node(async |node: Node| {
        let links = shell("ip -o link | cut -d: -f2");
        for signal in ["HUP", "TERM", "INT", "QUIT"] {
            let mut command = kubelet_gate();
            command.args(["prove", "--from=namespace"]).args(PORTS);
            let mut running = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let pid = running.id();
            eventually("it is at it", || {
                shell("ip -o link").contains(&format!("kgp{pid}@"))
            })
            .await;
            shell(&format!("kill -{signal} {pid}"));
            assert_eq!(running.wait().unwrap().code(), Some(1), "{signal}");
            // The kernel takes a network apart in its own time.
            eventually("nothing is left", || shell("ip -o link | cut -d: -f2") == links).await;
        }
        node.stop().await;
    });
}

#[test]
fn nothing_but_this_nodes_own_addresses_is_probed() {
    for foreign in ["198.51.100.7", "2001:db8:ffff::7", "8.8.8.8"] {
        let options = Options {
            addresses: vec![LOCALHOST, foreign.parse().unwrap()],
            ..Options::default()
        };
        let refused = prove::prove(&options, &mut |_| panic!("nothing may be tried"));
        assert!(matches!(refused, Err(ProveError::NotLocal(..))), "{foreign}");
        let output = kubelet_gate()
            .args(["prove", "--address", foreign])
            .args(PORTS)
            .output()
            .unwrap();
        assert_eq!(code(&output), 64);
        assert!(stderr(&output).contains(foreign), "{}", stderr(&output));
    }
}

/// Five requests a second: by the kubelet's own clock, and never faster, however slow this machine is.
///
/// Seen red: without the wait, 32 requests in 0.1 s.
#[tokio::test(flavor = "multi_thread")]
async fn the_pace_is_kept() {
    let world = world().await;
    let began = Instant::now();
    let options = Options {
        interval: prove::INTERVAL,
        ..on_loopback(ports(world.kubelet.address(), read_only(&world).await))
    };
    let report = proven(options).await;
    let requests = u32::try_from(world.kubelet.requests().len()).unwrap();
    assert!(requests > 30);
    assert!(
        began.elapsed() >= prove::INTERVAL * (requests - 1),
        "{:?}",
        began.elapsed()
    );
    assert_ne!(report.started, report.finished);
    world.stop().await;
}

const PORTS: [&str; 3] = ["--port=10250", "--read-only-port=10255", "--healthz-port=10248"];

fn prove_on(node: &Node, words: &str) -> Output {
    let mut command = kubelet_gate();
    // The ports are named, for other tests have processes that are called kubelet.
    command.current_dir(node.file("run")).arg("prove").args(PORTS);
    command.args(words.split_whitespace()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn what_got_through_before_the_seal_does_not_afterwards() {
    on_a_node(async |mut node: Node| {
        let links = shell("ip -o link | cut -d: -f2");
        let everywhere = Options {
            interval: Duration::ZERO,
            ..Options::default()
        };
        let report = proven(everywhere.clone()).await;
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
        let before = prove_on(
            &node,
            "--address 127.0.0.1 --from loopback --save before.json -o sarif",
        );
        assert_eq!(code(&before), 2, "{}", stderr(&before));
        assert_valid(&sarif_schema(), &json(&before));
        let saved = fs::read(node.file("run").join("before.json")).unwrap();
        let saved: Value = serde_json::from_slice(&saved).unwrap();
        assert_valid(&schema("probe-report.json"), &saved);
        let again = prove_on(&node, "--save before.json");
        assert_eq!(
            (code(&again), stderr(&again).contains("already there")),
            (64, true)
        );
        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        node.firewall_exits(0, "confirm");
        let report = proven(everywhere).await;
        let open: Vec<_> = report.exposures().collect();
        assert!(open.is_empty(), "{open:#?}");
        let sides: BTreeSet<SideKind> = report.results.iter().map(|outcome| outcome.side).collect();
        assert_eq!(sides.len(), 3, "{:?}", report.skipped);
        let after = prove_on(&node, &format!("{few} --compare before.json -o json"));
        assert_eq!(code(&after), 0, "{}", String::from_utf8_lossy(&after.stdout));
        let after = json(&after);
        assert_valid(&schema("probe-report.json"), &after);
        let compared = &after["comparedWith"];
        assert!(compared["closed"].as_array().unwrap().len() >= 12, "{compared}");
        assert_eq!(compared["stillOpen"], serde_json::json!([]));
        // A side that cannot be looked from proves nothing, though nothing got through from the others.
        let mut blind = kubelet_gate();
        blind
            .args([
                "prove",
                "--address=192.0.2.10",
                "--address=127.0.0.1",
                "--from=loopback,namespace",
            ])
            .args(PORTS)
            .env("PATH", "");
        let blind = blind.output().unwrap();
        assert_eq!(code(&blind), 1, "{blind:?}");
        let said = String::from_utf8_lossy(&blind.stdout);
        assert!(said.contains("iproute2"), "{said}");
        // Nor one from which no packet comes back. Seen red: with the silence taken for the seal's.
        shell("ip route add unreachable default table 100; ip rule add from 192.0.2.10 lookup 100");
        let lost = prove_on(&node, "--address 192.0.2.10 --from namespace");
        shell("ip rule del from 192.0.2.10 lookup 100; ip route flush table 100");
        assert_eq!(code(&lost), 1, "{lost:?}");
        let said = String::from_utf8_lossy(&lost.stdout);
        assert!(
            said.contains("could not be tried: network namespace to 192.0.2.10"),
            "{said}"
        );
        // Nothing is left of the network that was made for it.
        assert_eq!(shell("ip -o link | cut -d: -f2"), links);
        let ours = format!("-{}", std::process::id());
        let left = shell("ip netns list");
        let is_left =
            |line: &str| line.starts_with("kgwire-") && line.split(' ').next().unwrap().ends_with(&ours);
        assert!(!left.lines().any(is_left), "{left}");
        node.stop().await;
    });
}

/// What people read names every exposure, from where, and what it gives.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_names_what_got_through() {
    let world = world().await;
    let address = world.kubelet.address();
    let read_only = read_only(&world).await;
    let output = tokio::task::spawn_blocking(move || {
        kubelet_gate()
            .args(["prove", "--address", "127.0.0.1", "--healthz-port", "1"])
            .args(["--port", &address.port().to_string()])
            .args(["--read-only-port", &read_only.port().to_string()])
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), 2, "{said}");
    for probe in PROBES
        .iter()
        .filter(|probe| probe.port != Port::Healthz && !CLOSED_ANYWAY.contains(&probe.id))
    {
        if probe.credential != ProbeCredential::Token {
            let line = said
                .lines()
                .find(|line| line.split_whitespace().next() == Some(probe.id));
            let line = line.unwrap_or_else(|| panic!("{}: {said}", probe.id));
            assert!(
                line.contains(probe.gives) && line.contains("loopback 127.0.0.1"),
                "{line}"
            );
        }
    }
    assert!(
        said.contains("no --token-file") && said.contains("probes got through"),
        "{said}"
    );
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
