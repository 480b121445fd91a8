//! If `prove` misses a way in, it calls an open node closed; if it does more than look, it does the
//! attacker's work.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use fakes::kubelet::{ClientCa, Fault, RecordedRequest};
use kubelet_gate::adopt::prove::{
    self, Options, PROBES, Port, Ports, ProbeAnswer, ProbeCredential, ProbeOutcome, ProbeReport, ProbeToken,
    SideKind, Verified,
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::patience::patience;
use crate::world::{PKI, World};

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// No server has this port.
const NO_SERVER: SocketAddr = SocketAddr::new(LOCALHOST, 1);

fn ports(secure: SocketAddr, read_only: SocketAddr) -> Ports {
    Ports {
        secure: secure.port(),
        read_only: read_only.port(),
        healthz: NO_SERVER.port(),
    }
}

pub(crate) async fn proven(options: Options) -> ProbeReport {
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
        answer_within: patience(),
    }
}

/// The probes that got through.
fn through(report: &ProbeReport) -> BTreeSet<&str> {
    report.exposures().map(|outcome| outcome.probe.as_str()).collect()
}

/// The probes without a certain answer.
fn unknown(report: &ProbeReport) -> Vec<&str> {
    report.unknown().map(|outcome| outcome.probe.as_str()).collect()
}

/// The outcomes at one address.
fn at(report: &ProbeReport, address: SocketAddr) -> Vec<&ProbeOutcome> {
    let of_it = |outcome: &&ProbeOutcome| outcome.address == address;
    report.results.iter().filter(of_it).collect()
}

fn is_unknown(outcome: &ProbeOutcome) -> bool {
    matches!(outcome.answer, ProbeAnswer::Unknown(_))
}

/// A port that answers each request with these bytes, and then sends nothing more. It keeps its connections
/// open if `keeps` is set.
fn answering(answer: &'static str, keeps: bool) -> SocketAddr {
    let listener = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
            if keeps {
                kept.push(stream);
            }
        }
    });
    address
}

const METRICS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n# HELP a b\na 1\n\
                       kubernetes_build_info{git_version=\"v1.20.15\",go_version=\"go1.15.15\"} 1\n";

/// The listing of known weaknesses takes versions from there.
#[tokio::test]
async fn a_kubelets_metrics_say_which_version_runs() {
    let read_only = answering(METRICS, false);
    let report = proven(on_loopback(ports(NO_SERVER, read_only))).await;
    let build = report.build.unwrap();
    assert_eq!(
        (build.address, build.kubernetes.as_str()),
        (read_only, "v1.20.15")
    );
    assert_eq!(build.go, "go1.15.15");
}

/// An answer that never ends has its status all the same. (Not seen red.)
#[tokio::test]
async fn what_follows_a_status_does_not_change_it() {
    let read_only = answering("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\na 1\n", true);
    let options = Options {
        answer_within: Duration::from_secs(2),
        ..on_loopback(ports(NO_SERVER, read_only))
    };
    let report = proven(options).await;
    assert_eq!(report.build, None);
    let metrics = report
        .results
        .iter()
        .find(|outcome| outcome.probe == "read-only-metrics");
    assert_eq!(metrics.unwrap().answer, ProbeAnswer::Status(200));
}

/// Probes that get through a wide-open kubelet of the lab. The others are of pages that no kubelet serves any
/// more, or the lab's does not; or of paths that a kubelet tidies by a redirect.
pub(crate) fn open_probes() -> impl Iterator<Item = &'static prove::Probe> {
    const CLOSED: [&str; 9] = [
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
    PROBES
        .iter()
        .filter(|probe| probe.port != Port::Healthz && !CLOSED.contains(&probe.id))
}

/// A world whose kubelet has a read-only port, and the ports of that kubelet.
pub(crate) async fn world() -> (World, Ports) {
    let world = World::builder()
        .kubelet(|options| options.read_only_port = true)
        .start()
        .await;
    let read_only = world.kubelet.read_only_address().unwrap();
    let ports = ports(world.kubelet.address(), read_only);
    (world, ports)
}

/// Seen red: with 404 taken for a refusal, exec, run, attach, port-forward and checkpoint were called closed.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_kubelet_is_open_to_every_probe_and_the_gate_to_none() {
    let (world, open) = world().await;
    let report = proven(on_loopback(open)).await;
    let all: BTreeSet<&str> = open_probes().map(|probe| probe.id).collect();
    assert_eq!(through(&report), all);
    assert!(all.len() >= 12);
    assert!(report.faults().is_empty());
    world.kubelet.clear();
    let gated = ports(world.address, world.read_only);
    let report = proven(on_loopback(gated)).await;
    assert_eq!(through(&report), BTreeSet::new(), "{report:#?}");
    let answers: BTreeSet<&ProbeAnswer> = report.results.iter().map(|outcome| &outcome.answer).collect();
    let expected = [400, 401, 403, 410].map(ProbeAnswer::Status);
    assert_eq!(answers, expected.iter().chain([&ProbeAnswer::Refused]).collect());
    world.assert_nothing_forwarded();
    // Only the seal closes the way past the gate.
    let past = proven(on_loopback(open)).await;
    assert!(through(&past).contains("pods"), "loopback is still open");
    world.stop().await;
}

/// Every request of the table, byte for byte, and no other; none of them could change anything.
///
/// Seen red: with a body, and with PUT to the flags.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_documented_requests_are_sent() {
    let (world, open) = world().await;
    let report = proven(on_loopback(open)).await;
    let line = |seen: &RecordedRequest| (seen.read_only, seen.method.clone(), seen.target.clone());
    let documented = |probe: &prove::Probe| {
        let read_only = probe.port == Port::ReadOnly;
        (read_only, probe.method.to_owned(), probe.path.to_owned())
    };
    let seen = world.kubelet.requests();
    let probes = || PROBES.iter().filter(|probe| probe.port != Port::Healthz);
    let sent: Vec<_> = seen.iter().map(line).collect();
    assert_eq!(sent, probes().map(documented).collect::<Vec<_>>());
    for (seen, probe) in seen.iter().zip(probes()) {
        assert_eq!(seen.body_len, 0, "{}", probe.id);
        assert!(matches!(seen.method.as_str(), "GET" | "POST"), "{}", probe.id);
        assert_eq!(seen.upgrade, probe.websocket, "{}", probe.id);
        let shown = seen.header("authorization");
        let with_token = matches!(
            probe.credential,
            ProbeCredential::GarbageToken | ProbeCredential::Token
        );
        assert_eq!(shown.is_some(), with_token, "{}: {shown:?}", probe.id);
        let port = if seen.read_only {
            open.read_only
        } else {
            open.secure
        };
        let host = SocketAddr::new(LOCALHOST, port).to_string();
        assert_eq!(seen.header("host"), Some(host.as_str()));
        // POST names a pod that cannot be.
        let is_impossible = probe.path.contains("/kubelet-gate-prove/Does_Not_Exist");
        assert!(probe.method == "GET" || is_impossible, "{}", probe.id);
    }
    assert_eq!(report.results.len(), PROBES.len());
    world.stop().await;
}

/// A kubelet that authenticates lets nothing through, though it redirects untidy paths before it
/// authenticates; and it is no gate.
///
/// Seen red: with redirects taken for the kubelet's own answer, four paths were called open on a kubelet that
/// is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_authenticates_is_neither_open_nor_a_gate() {
    let (world, open) = world().await;
    let ca = ClientCa {
        roots: vec![PKI.ca.certificate().clone()],
        mandatory: false,
    };
    world.kubelet.require_client_certificates(Some(ca)).unwrap();
    world.kubelet.clear();
    // An endpoint that this kubelet does not have is a 404 before it authenticates.
    world.kubelet.fail("/checkpoint", Fault::status(404));
    let mut options = on_loopback(Ports {
        read_only: world.read_only.port(),
        ..open
    });
    let report = proven(options.clone()).await;
    assert_eq!(through(&report), BTreeSet::new());
    let status = |outcome: &ProbeOutcome| match outcome.answer {
        ProbeAnswer::Status(status) => Some(status),
        _ => None,
    };
    // To the foreign certificate the answer is an alert.
    let answers: BTreeSet<u16> = report.results.iter().filter_map(status).collect();
    assert_eq!(answers, BTreeSet::from([301, 401, 404, 410]));
    // As if seen from the node's address as well.
    let from_both = |mut report: ProbeReport| {
        for mut outcome in report.results.clone() {
            outcome.side = SideKind::NodeAddress;
            report.results.push(outcome);
        }
        report
    };
    let report = from_both(report);
    for cis in ["4.2.1", "4.2.3", "4.2.15"] {
        assert_eq!(report.verified(cis), Verified::NoGate, "{cis}");
    }
    options.ports.secure = world.address.port();
    let gated = from_both(proven(options).await);
    for cis in ["4.2.1", "4.2.3", "4.2.15", "4.2.4"] {
        assert_eq!(gated.verified(cis), Verified::Closed, "{cis}");
    }
    world.stop().await;
}

/// Seen red: with one answer that did not come taken for a closed port, exec and all later probes were called
/// closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_leaves_one_request_unanswered_is_asked_the_others() {
    let (world, open) = world().await;
    world.kubelet.fail("/stats/summary", Fault::Hang);
    let options = Options {
        answer_within: crate::patience::stretched(Duration::from_secs(3)),
        ..on_loopback(Ports {
            read_only: world.read_only.port(),
            ..open
        })
    };
    let report = proven(options).await;
    assert!(through(&report).contains("exec") && !report.faults().is_empty());
    assert_eq!(unknown(&report), ["stats-summary"]);
    world.stop().await;
}

/// A port that takes connections and never answers is not proven closed, and does not hold up everything
/// else.
#[tokio::test]
async fn a_silent_port_proves_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let report = proven(Options {
        answer_within: Duration::from_millis(100),
        ..on_loopback(ports(address, NO_SERVER))
    })
    .await;
    assert!(!report.faults().is_empty() && report.exposures().next().is_none());
    silent.set_nonblocking(true).unwrap();
    let dialled = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(dialled, 3, "then it is given up");
    for outcome in at(&report, address) {
        assert!(is_unknown(outcome), "{outcome:?}");
    }
}

/// Seen red: with a port that was closed at first taken for closed, and with an overloaded kubelet taken for
/// one that refuses.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_open_is_not_called_closed() {
    // A kubelet that restarts: its port is closed at the first address, and open when the second one is
    // tried.
    let restarting = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    restarting.bind(&SocketAddr::new(LOCALHOST, 0).into()).unwrap();
    let address = restarting.local_addr().unwrap().as_socket().unwrap();
    let options = Options {
        addresses: vec![LOCALHOST, Ipv6Addr::LOCALHOST.into()],
        answer_within: Duration::from_millis(100),
        ..on_loopback(ports(address, NO_SERVER))
    };
    let report = tokio::task::spawn_blocking(move || {
        let mut done = None;
        prove::prove(&options, &mut |progress| {
            assert!(progress.done < progress.total && done < Some(progress.done));
            done = Some(progress.done);
            if progress.address == Ipv6Addr::LOCALHOST {
                restarting.listen(64).unwrap();
            }
        })
    });
    let report = report.await.unwrap().unwrap();
    let of_it = at(&report, address);
    assert!(of_it.iter().all(|outcome| is_unknown(outcome)), "{of_it:#?}");
    assert!(!report.faults().is_empty());

    // A kubelet that goes away after its first answer.
    let going = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = going.local_addr().unwrap();
    let answered = std::thread::spawn(move || {
        let (mut stream, _) = going.accept().unwrap();
        // A process that another test starts may have a copy of the listener for a moment: closing it would
        // not suffice.
        SockRef::from(&going).shutdown(Shutdown::Both).unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
    });
    let report = proven(on_loopback(ports(NO_SERVER, address))).await;
    answered.join().unwrap();
    let gone = at(&report, address);
    assert_eq!(gone[0].answer, ProbeAnswer::Status(404));
    assert!(gone[1..].iter().all(|outcome| is_unknown(outcome)), "{gone:#?}");

    // A kubelet that cannot ask for authorization, or has too much to do.
    let (world, open) = world().await;
    for status in [500, 503, 429] {
        world.kubelet.fail("/configz", Fault::status(status));
        let report = proven(on_loopback(Ports {
            read_only: world.read_only.port(),
            ..open
        }))
        .await;
        assert_eq!(unknown(&report), ["configz"], "{status}");
        assert!(!report.faults().is_empty(), "{status}");
    }
    world.stop().await;
}

/// A gate that requires a certificate refuses by an alert in the handshake. A server that hangs up, or speaks
/// no TLS, has refused nothing.
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
    for outcome in &odd.results {
        let secure = outcome.probe == "pods" || outcome.probe == "exec";
        assert!(!secure || is_unknown(outcome), "{outcome:?}");
    }
    world.stop().await;
}

/// Five requests a second by the kubelet's own clock, and never more, however slow this machine is.
///
/// Seen red: without the wait, 32 requests in 0.1 s.
#[tokio::test(flavor = "multi_thread")]
async fn the_pace_is_kept() {
    let (world, open) = world().await;
    let began = Instant::now();
    let options = Options {
        interval: prove::INTERVAL,
        ..on_loopback(open)
    };
    let report = proven(options).await;
    let took = began.elapsed();
    let requests = u32::try_from(world.kubelet.requests().len()).unwrap();
    assert!(requests > 30);
    assert!(took >= prove::INTERVAL * (requests - 1), "{took:?}");
    assert_ne!(report.started, report.finished);
    world.stop().await;
}
