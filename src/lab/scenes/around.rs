//! Scene 13: a local user that connects to the kubelet directly, and every probe of `prove`, without the seal
//! and with it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::caller::{Caller, Reply};
use super::marks::{PODS, UNAUTHORIZED};
use super::{Attempt, Demo, exposed, refused};
use crate::adopt::prove::{self, Ports, SideKind};
use crate::host::{Namespace, as_user};
use crate::lab::{Lab, LabOptions};
use crate::seal::{Firewall, Plan, PortKind, SealedPort};
use crate::settings::Backend;
use fakes::client::ClientTls;

/// The user `nobody`, which has no rights, as a process that has escaped from a container.
const UNPRIVILEGED_USER: u32 = 65534;

/// Starts a second lab in a network namespace, and tries the ways around its gate before and after they are
/// sealed. Yields the reason if the scene cannot be played.
pub(super) async fn local_user(demo: &mut Demo<'_>) -> Option<String> {
    const SCENE: &str = "13  a local user bypasses the gate: skipped";
    if !rustix::process::geteuid().is_root() {
        return Some(format!("{SCENE}: it needs root and network namespaces"));
    }
    let played = tokio::task::spawn_blocking(|| {
        let namespace = Namespace::new("kubelet-gate-lab")?;
        namespace.run(in_a_namespace)?
    });
    let (local, proven) = match played.await {
        Ok(Ok(played)) => played,
        Ok(Err(why)) => return Some(format!("{SCENE}: {why}")),
        Err(panic) => return Some(format!("{SCENE}: {panic}")),
    };
    demo.next_scene();
    let attempt = Attempt {
        caller: &Caller::anonymous("a local user"),
        request: "GET https://127.0.0.1/pods, past the gate",
        open: exposed(200, PODS, "all pods, with their secrets"),
        gate: refused(401, UNAUTHORIZED, UNAUTHORIZED),
        why: "the seal redirects connections to the kubelet to the gate",
    };
    demo.add_row(attempt, &local.open, &local.gate, local.passed);
    let attempt = Attempt {
        caller: &Caller::anonymous("attackers' tools"),
        request: "kubelet-gate prove",
        open: exposed(2, "got through", "probes get through"),
        gate: refused(0, "nothing got through", "nothing gets through"),
        why: "exit codes: 2 is an exposure, 0 is none",
    };
    demo.add_row(attempt, &proven.open, &proven.gate, proven.passed);
    None
}

/// The replies without the seal and with it, and how many requests the kubelet received with it.
struct BeforeAndAfter {
    open: Reply,
    gate: Reply,
    passed: u64,
}

/// The replies to a local user, and the reports of `prove`.
fn in_a_namespace() -> io::Result<(BeforeAndAfter, BeforeAndAfter)> {
    // The lab has a thread of its own, since the thread of the user blocks.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let lab = runtime
        .block_on(Lab::start(LabOptions::default()))
        .map_err(io::Error::other)?;
    let kubelet = lab.kubelet.address();
    let (open, proven_open) = (request(kubelet)?, prove(&lab)?);
    let firewall = Firewall::of(Backend::Nftables);
    firewall
        .load(Some(&plan(&lab)), None, None)
        .map_err(io::Error::other)?;
    let passed = |before| lab.kubelet.request_count() - before;
    let before = lab.kubelet.request_count();
    let local = BeforeAndAfter {
        open,
        gate: request(kubelet)?,
        passed: passed(before),
    };
    let before = lab.kubelet.request_count();
    let proven = BeforeAndAfter {
        open: proven_open,
        gate: prove(&lab)?,
        passed: passed(before),
    };
    runtime.block_on(lab.stop()).map_err(io::Error::other)?;
    Ok((local, proven))
}

/// The exit code of `prove`, and how many probes got through.
fn prove(lab: &Lab) -> io::Result<Reply> {
    let options = prove::Options {
        ports: Ports {
            secure: lab.kubelet.address().port(),
            read_only: lab.read_only().port(),
            ..Ports::default()
        },
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        sides: vec![SideKind::Loopback],
        // No pause between probes: the kubelet is the lab's.
        interval: Duration::ZERO,
        ..prove::Options::default()
    };
    let report = prove::prove(&options, &mut |_| {}).map_err(io::Error::other)?;
    let through = report.exposures().count();
    Ok(if through == 0 {
        Reply {
            status: Some(if report.faults().is_empty() { 0 } else { 1 }),
            text: "nothing got through".to_owned(),
        }
    } else {
        Reply {
            status: Some(2),
            text: format!("{through} got through"),
        }
    })
}

/// The kubelet's pods, requested by an unprivileged user.
fn request(address: SocketAddr) -> io::Result<Reply> {
    as_user(UNPRIVILEGED_USER, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let session = Caller::anonymous("a local user")
            .session(address, ClientTls::default())
            .map_err(io::Error::other)?;
        Ok(runtime.block_on(session.get("/pods")))
    })?
}

/// Seals the ports of the lab's kubelet.
fn plan(lab: &Lab) -> Plan {
    let sealed = |port: SocketAddr, kind, to: SocketAddr| SealedPort {
        port: port.port(),
        kind,
        redirect_ipv4: Some(to.port()),
        redirect_ipv6: None,
        gate_addresses: Vec::<IpAddr>::new(),
    };
    let mut ports = vec![
        sealed(lab.kubelet.address(), PortKind::Secure, lab.address()),
        sealed(lab.read_only(), PortKind::ReadOnly, lab.tombstone()),
    ];
    ports.sort_by_key(|port| port.port);
    Plan {
        backend: Backend::Nftables,
        ports,
        sources: Vec::new(),
    }
}
