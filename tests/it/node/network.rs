//! Where a node's test runs: network namespaces for the node, a neighbour and a pod, once for each packet
//! filter, side by side.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, Once};

use kubelet_gate::host::Namespace;

use super::Node;
use crate::skipped::skip_test;

/// Runs `test` on nodes of its own, one for each packet filter, all at the same time.
pub(crate) fn on_every_backend<T: AsyncFn(Node) + Sync>(test: T) {
    on(&["nftables", "iptables-nft", "iptables-legacy"], &test);
}

/// Runs `test` on a node of its own with nftables, where the packet filter makes no difference.
pub(crate) fn on_a_node<T: AsyncFn(Node) + Sync>(test: T) {
    on(&["nftables"], &test);
}

fn on<T: AsyncFn(Node) + Sync>(backends: &[&'static str], test: &T) {
    // "it::module::test::{{closure}}": libtest's thread has the test's name only if there are several.
    let name = std::any::type_name::<T>();
    let name = name.trim_start_matches("it::").trim_end_matches("::{{closure}}");
    let record = std::env::var_os("KUBELET_GATE_NAMESPACES");
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for backend in backends {
            if let Some(why) = missing(backend) {
                assert!(
                    record.is_none(),
                    "{name} on {backend} must not be skipped here: {why}"
                );
                skip_test(name, &why);
                continue;
            }
            let thread = std::thread::Builder::new().name(format!("{name} on {backend}"));
            let run = || on_node(backend, test);
            running.push((backend, thread.spawn_scoped(scope, run).unwrap()));
        }
        for (backend, thread) in running {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Some(record) = &record {
                let mut record = fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(record)
                    .unwrap();
                writeln!(record, "{backend} {name}").unwrap();
            }
        }
    });
}

fn on_node<T: AsyncFn(Node) + Sync>(backend: &'static str, test: &T) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Relaxed);
    let (node, neighbour, pod) = network(number);
    node.run(|| {
        // The kubelet must answer while the test waits for a thread in another namespace, so it needs a
        // thread of its own. A new thread is in its parent's namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = Node::start(backend, number, neighbour, pod).await;
            test(node).await;
        });
    })
    .unwrap();
}

/// The kernel takes one change of a network at a time anyway, and `ip` prepares /run/netns at first use.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static SWEEP: Once = Once::new();

/// A namespace for a flood.
///
/// # Errors
/// This is not root, or `ip` is missing.
pub(crate) fn namespace_for_a_flood(number: u32) -> std::io::Result<Namespace> {
    SWEEP.call_once(sweep);
    let _one = ONE_AT_A_TIME.lock();
    Namespace::new(&format!("{}{number}", NAMES[4]))
}

/// Node and neighbour on one network, the pod behind the node.
fn network(number: u32) -> (Namespace, Namespace, Namespace) {
    SWEEP.call_once(sweep);
    let _one = ONE_AT_A_TIME.lock();
    let namespace = |what: &str| Namespace::new(&format!("{what}{number}")).unwrap();
    // Every look at /proc/net/tcp walks through the kernel's whole hash table of connections,
    // which is as large as the machine's memory allows. A namespace made in this one has a small
    // table of its own (Linux 6.1).
    let maker = namespace(NAMES[3]);
    let make = || {
        let _ = fs::write("/proc/sys/net/ipv4/tcp_child_ehash_entries", "256");
        (namespace(NAMES[0]), namespace(NAMES[1]), namespace(NAMES[2]))
    };
    let (node, neighbour, pod) = maker.run(make).unwrap();
    let lines = format!(
        "link add eth0 type veth peer name eth0 netns {}
         link set eth0 up
         addr add 192.0.2.10/24 dev eth0
         addr add 2001:db8::10/64 dev eth0 nodad
         link add pod0 type veth peer name eth0 netns {}
         link set pod0 up
         addr add 10.88.0.1/24 dev pod0",
        neighbour.name(),
        pod.name()
    );
    ip(&node, &lines);
    ip(
        &neighbour,
        "link set eth0 up
         addr add 192.0.2.20/24 dev eth0
         addr add 2001:db8::20/64 dev eth0 nodad",
    );
    ip(
        &pod,
        "link set eth0 up
         addr add 10.88.0.2/24 dev eth0
         route add default via 10.88.0.1",
    );
    node.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap())
        .unwrap();
    (node, neighbour, pod)
}

/// Whether this thread's network namespace accepts packets for an IPv6 address. The kernel lists an address
/// at once, and adds its local route later: until then packets are dropped, among them answers about
/// neighbours, and asking again takes a second.
pub(crate) fn is_local(address: &str) -> bool {
    super::shell("ip -6 route show table local").contains(&format!("local {address} dev"))
}

/// Gives `ip` these lines, all at once.
fn ip(namespace: &Namespace, lines: &str) {
    let mut ip = Command::new("ip")
        .args(["-n", namespace.name(), "-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "{lines}");
}

/// What the namespaces are called, up to a number and the process id.
const NAMES: [&str; 5] = ["kgnode", "kgout", "kgpod", "kgmake", "kgflood"];

/// Removes the namespaces that killed test runs left behind.
fn sweep() {
    let dead = |name: &str| {
        let pid = name.rsplit('-').next().and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if NAMES.iter().any(|ours| name.starts_with(ours)) && dead(&name) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// What keeps these tests from running here.
fn missing(backend: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".into());
    }
    let tools: &[&str] = match backend {
        "nftables" => &["nft", "iptables-nft"],
        "iptables-nft" => &["iptables-nft", "ip6tables-nft", "ipset"],
        _ => &["iptables-legacy", "ip6tables-legacy", "ipset"],
    };
    let absent = ["ip", "setpriv", "ss", "python3"]
        .iter()
        .chain(tools)
        .find(|tool| !is_installed(tool))?;
    Some(format!("{absent} is missing"))
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(administrators);
    places.any(|place| place.join(tool).exists())
}
