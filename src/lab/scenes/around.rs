//! Scene 13: somebody on the node itself, who does not come to the gate at all; and every probe of `prove`, before and after.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::caller::{Said, Who};
use super::script::{PODS, UNAUTHORIZED};
use super::{Line, Play, gives_in, stops};
use crate::adopt::prove::{self, Ports, SideKind};
use crate::host::{Namespace, as_user};
use crate::lab::{Lab, LabOptions};
use crate::seal::{Firewall, Plan, PortKind, SealedPort};
use crate::settings::Backend;
use fakes::client::ClientTls;

/// A user without any rights, such as a container that escaped as `nobody`.
const SOMEBODY: u32 = 65534;

/// A lab of its own in a network namespace of its own, for real: before and after the ways around the gate are sealed.
/// Says why not where it cannot be played.
pub(super) async fn local_user(play: &mut Play<'_>) -> Option<String> {
    const SCENE: &str = "13  a local user walks around the gate: skipped";
    if !rustix::process::geteuid().is_root() {
        return Some(format!("{SCENE}, it takes root and network namespaces"));
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
    play.scene();
    let line = Line {
        who: &Who::nobody("a local user"),
        request: "GET https://127.0.0.1/pods, past the gate",
        open: gives_in(200, PODS, "all pods, with their secrets"),
        gate: stops(401, UNAUTHORIZED, UNAUTHORIZED),
        why: "the seal brings whoever dials the kubelet to the gate",
    };
    play.row(line, &local.open, &local.gate, local.passed);
    let line = Line {
        who: &Who::nobody("attackers' tools"),
        request: "kubelet-gate prove",
        open: gives_in(2, "got through", "probes get through"),
        gate: stops(0, "nothing got through", "nothing gets through"),
        why: "exit codes: 2 is an exposure, 0 is none",
    };
    play.row(line, &proven.open, &proven.gate, proven.passed);
    None
}

/// What is said without and with the seal, and how often the kubelet heard of it then.
struct Twice {
    open: Said,
    gate: Said,
    passed: u64,
}

/// What a local user is told, and what `prove` reports.
fn in_a_namespace() -> io::Result<(Twice, Twice)> {
    // The lab answers while the user's own thread waits.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let lab = runtime
        .block_on(Lab::start(LabOptions::default()))
        .map_err(io::Error::other)?;
    let kubelet = lab.kubelet.address();
    let (open, proven_open) = (ask(kubelet)?, prove(&lab)?);
    let firewall = Firewall::of(Backend::Nftables);
    firewall
        .load(Some(&plan(&lab)), None, None)
        .map_err(io::Error::other)?;
    let passed = |before| lab.kubelet.request_count() - before;
    let before = lab.kubelet.request_count();
    let local = Twice {
        open,
        gate: ask(kubelet)?,
        passed: passed(before),
    };
    let before = lab.kubelet.request_count();
    let proven = Twice {
        open: proven_open,
        gate: prove(&lab)?,
        passed: passed(before),
    };
    runtime.block_on(lab.stop()).map_err(io::Error::other)?;
    Ok((local, proven))
}

/// Its exit code, and what it counts.
fn prove(lab: &Lab) -> io::Result<Said> {
    let options = prove::Options {
        ports: Ports {
            secure: lab.kubelet.address().port(),
            read_only: lab.read_only().port(),
            ..Ports::default()
        },
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        sides: vec![SideKind::Loopback],
        // It is the lab's own kubelet.
        interval: Duration::ZERO,
        ..prove::Options::default()
    };
    let report = prove::prove(&options, &mut |_| {}).map_err(io::Error::other)?;
    let through = report.exposures().count();
    Ok(if through == 0 {
        Said {
            status: Some(if report.faults().is_empty() { 0 } else { 1 }),
            text: "nothing got through".to_owned(),
        }
    } else {
        Said {
            status: Some(2),
            text: format!("{through} got through"),
        }
    })
}

fn ask(address: SocketAddr) -> io::Result<Said> {
    as_user(SOMEBODY, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let caller = Who::nobody("a local user")
            .at(address, ClientTls::default())
            .map_err(io::Error::other)?;
        Ok(runtime.block_on(caller.get("/pods")))
    })?
}

/// The lab's own ports: both the kubelet's and the gate's are what was free.
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
    }
}
