//! The ways around the gate. If one of them stays open, whoever is on the node or beside it has what the gate was to guard.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use kubelet_gate::seal::{Confirmed, Firewall, Plan, PortKind, RunningGate, SealedPort, State};
use kubelet_gate::settings::Backend;

use crate::node::{GATEWAY, NODE, Node, on_a_node, on_every_backend, shell, who_answers, who_answers_in};
use crate::world::eventually;

/// Every way to the kubelet that does not lead through the gate, and who answers there.
async fn ways(node: &Node) -> Vec<(String, &'static str)> {
    let mut ways = Vec::new();
    for port in [10250, 10255] {
        for address in ["127.0.0.1", "127.0.0.2", "[::1]", NODE[0], NODE[1], GATEWAY] {
            let address = format!("{address}:{port}");
            ways.push((format!("node to {address}"), who_answers(&address).await));
        }
        for address in NODE {
            let address = format!("{address}:{port}");
            ways.push((
                format!("neighbour to {address}"),
                who_answers_in(&node.neighbour, &address),
            ));
        }
        for address in [GATEWAY, NODE[0]] {
            let address = format!("{address}:{port}");
            ways.push((format!("pod to {address}"), who_answers_in(&node.pod, &address)));
        }
    }
    ways
}

/// Seen red: without either of the nat chains nobody answers where the gate should.
#[test]
fn before_the_seal_everybody_gets_to_the_kubelet_and_afterwards_nobody() {
    on_every_backend("before and after", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        for (way, who) in ways(&node).await {
            assert_eq!(who, "kubelet", "{way}, before");
        }
        for from in ["127.0.0.1:10248", "[::1]:10248"] {
            assert_eq!(who_answers(from).await, "kubelet", "{from}");
        }
        let before = node.rules();
        // What this test has just done is what a health check does.
        let said = node.firewall_ends(2, "apply");
        assert!(said.contains("calls the read-only port 10255"), "{said}");
        let said = node.firewall_ends(0, "apply --confirm-within 60s --close-health-checkers");
        assert!(said.contains("10250") && said.contains("19443"), "{said}");
        for (way, who) in ways(&node).await {
            assert_eq!(who, "gate", "{way}, on trial");
        }
        node.firewall_ends(0, "confirm");
        for (way, who) in ways(&node).await {
            assert_eq!(who, "gate", "{way}, sealed");
        }
        // Health checks are from this node only.
        assert_eq!(who_answers("127.0.0.1:10248").await, "kubelet");
        assert_eq!(who_answers_in(&node.neighbour, "192.0.2.10:10248"), "nobody");
        assert_eq!(who_answers_in(&node.pod, "10.88.0.1:10248"), "nobody");
        // The gate itself gets through, for whoever may.
        node.api_server_comes().await;
        node.api_server_comes_to_the_kubelets_port().await;
        let said = node.firewall_ends(0, "status");
        assert!(
            said.starts_with("sealed\n") && said.contains("another network") && !said.contains("BYPASS"),
            "{said}"
        );
        node.firewall_ends(0, "remove");
        assert_eq!(node.rules(), before, "the rest of the rules is as it was");
        for (way, who) in ways(&node).await {
            assert_eq!(who, "kubelet", "{way}, removed");
        }
        assert!(node.firewall_ends(2, "status").starts_with("NOT SEALED"));
        node.stop().await;
    });
}

/// As Calico wires pods: routes to each, and no address on the node's side. Seen red: with `redirect` in prerouting, which
/// takes the incoming interface's address, the pod's connections were dropped.
#[test]
fn a_pod_behind_an_interface_without_an_address_is_brought_to_the_gate() {
    on_every_backend("no address", async |mut node: Node| {
        shell(
            "ip addr flush dev pod0; ip -6 addr add fe80::1/64 dev pod0 nodad; echo 1 > /proc/sys/net/ipv4/conf/pod0/proxy_arp
            ip route add default via 192.0.2.20; ip route add 10.88.0.2 dev pod0; ip route add fd00:88::2 dev pod0",
        );
        node.pod
            .run(|| {
                shell(
                    "ip addr flush dev eth0; ip addr add 10.88.0.2/32 dev eth0; ip -6 addr add fd00:88::2/128 dev eth0 nodad
                    ip -6 addr add fe80::2/64 dev eth0 nodad
                    ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0
                    ip -6 route add default via fe80::1 dev eth0",
                );
            })
            .unwrap();
        let ways = NODE.map(|address| [10250, 10255].map(|port| format!("{address}:{port}")));
        for way in ways.as_flattened() {
            assert_eq!(who_answers_in(&node.pod, way), "kubelet", "{way}, before");
        }
        node.seal().await;
        for way in ways.as_flattened() {
            assert_eq!(who_answers_in(&node.pod, way), "gate", "{}: {way}", node.backend);
        }
        assert!(node.firewall_ends(0, "status").starts_with("sealed\n"));
        node.stop().await;
    });
}

/// Seen red: with the uid left out of the exemption (root in the gate's cgroup), and the cgroup.
#[test]
fn neither_root_nor_whoever_knows_uid_and_mark_walks_through() {
    on_every_backend("forged exemption", async |mut node: Node| {
        node.seal().await;
        let gate = node.running_gate();
        let mark = gate["exemption"]["mark"]["value"].as_u64().unwrap();
        let cgroup = node.backend == "nftables" && !gate["exemption"]["cgroup"].is_null();
        let said = node.firewall_ends(0, "status");
        assert_eq!(said.contains("by its uid and mark alone"), !cgroup, "{said}");
        for (who, uid, mark, through) in [
            ("root with the mark", 0, mark, false),
            (
                "the gate's user without a mark",
                crate::node::gate_uid(),
                0,
                false,
            ),
            (
                "the gate's user with a wrong mark",
                crate::node::gate_uid(),
                mark ^ 1,
                false,
            ),
            // Where the cgroup does not count this is the limit, and `status` says so.
            (
                "CAP_NET_RAW and CAP_SETUID, knowing all",
                crate::node::gate_uid(),
                mark,
                !cgroup,
            ),
        ] {
            for (family, address) in [
                ("AF_INET", "127.0.0.1"),
                ("AF_INET6", "::1"),
                ("AF_INET", "192.0.2.10"),
            ] {
                let reached = dial_marked(None, family, address, uid, mark);
                assert_eq!(reached, through, "{}: {who} to {address}", node.backend);
            }
        }
        if let Some(cgroup) = &node.cgroup {
            let reached = |uid, mark| dial_marked(Some(cgroup), "AF_INET", "127.0.0.1", uid, mark);
            assert!(
                reached(crate::node::gate_uid(), mark),
                "all of it: what the gate itself is"
            );
            assert!(
                !reached(0, mark),
                "{}: root in the gate's cgroup, with the mark",
                node.backend
            );
            assert!(
                !reached(crate::node::gate_uid(), mark ^ 1),
                "{}: another mark",
                node.backend
            );
        }
        node.stop().await;
    });
}

/// Whether a socket with this mark, made by this user with no more than `CAP_NET_RAW` and `CAP_SETUID`, is taken by the
/// kubelet. To find out it speaks TLS and looks at the certificate.
fn dial_marked(cgroup: Option<&Path>, family: &str, address: &str, uid: u32, mark: u64) -> bool {
    let script = format!(
        "import os, socket, ssl, sys\n\
         os.setgid({uid}); os.setresuid({uid}, {uid}, 0)\n\
         s = socket.socket(socket.{family}, socket.SOCK_STREAM); s.settimeout(2)\n\
         os.seteuid(0)\n\
         {mark} and s.setsockopt(socket.SOL_SOCKET, 36, {mark})\n\
         try:\n s.connect(('{address}', 10250))\nexcept OSError: print('nobody'); sys.exit()\n\
         c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE\n\
         t = c.wrap_socket(s)\n\
         t.sendall(b'GET /pods HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
         print('kubelet' if b' 200 ' in t.recv(64) else 'gate')\n"
    );
    // `$0` is the cgroup to go to first, if any.
    let enter = r#"[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec setpriv "$@""#;
    let output = Command::new("sh")
        .args(["-c", enter])
        .arg(cgroup.unwrap_or_else(|| Path::new("")))
        .args([
            "--inh-caps=-all,+net_raw,+setuid,+setgid",
            "--bounding-set=-all,+net_raw,+setuid,+setgid",
        ])
        .args(["python3", "-c", &script])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.trim() == "kubelet"
}

/// Seen red: without the raw chain's second rule the neighbour got to the gate, which loopback is not to lead to either.
#[test]
fn a_neighbour_does_not_reach_loopback_even_if_the_node_routes_it() {
    on_every_backend("route_localnet", async |mut node: Node| {
        shell(
            "for i in all eth0 lo; do echo 1 > /proc/sys/net/ipv4/conf/$i/route_localnet; echo 1 > /proc/sys/net/ipv4/conf/$i/accept_local; done",
        );
        node.neighbour
            .run(|| {
                shell("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet");
                shell("ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 192.0.2.10 dev eth0 src 192.0.2.20");
            })
            .unwrap();
        assert_eq!(
            who_answers_in(&node.neighbour, "127.0.0.1:10250"),
            "kubelet",
            "the hole is there"
        );
        node.seal().await;
        for port in [10250, 10255] {
            assert_eq!(
                who_answers_in(&node.neighbour, &format!("127.0.0.1:{port}")),
                "nobody"
            );
        }
        node.stop().await;
    });
}

/// Seen red: with output and input filters only, a SYN put on lo past the output hook was answered.
#[test]
fn a_packet_put_on_lo_by_hand_is_not_answered() {
    on_every_backend("injected", async |mut node: Node| {
        shell(
            "for i in all lo; do echo 1 > /proc/sys/net/ipv4/conf/$i/route_localnet; echo 1 > /proc/sys/net/ipv4/conf/$i/accept_local; done",
        );
        assert!(injected_syn_is_answered(), "the hole is there");
        node.seal().await;
        assert!(!injected_syn_is_answered(), "{}", node.backend);
        node.stop().await;
    });
}

/// Sends a SYN from ::1 to [::1]:10255 through a packet socket, and looks whether a SYN-ACK comes.
fn injected_syn_is_answered() -> bool {
    let script = "
import socket, struct, time
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
one = socket.inet_pton(socket.AF_INET6, '::1')
port = 30000 + int(time.time() * 1000) % 20000
def tcp(check): return struct.pack('!HHIIBBHHH', port, 10255, 1, 0, 5 << 4, 2, 64240, check, 0)
pseudo = one + one + struct.pack('!IHBB', 20, 0, 0, 6)
segment = tcp(checksum(pseudo + tcp(0)))
packet = struct.pack('!IHBB', 6 << 28, 20, 6, 64) + one + one + segment
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86dd))
s.bind(('lo', 0x86dd)); s.settimeout(0.2)
s.sendto(packet, ('lo', 0x86dd, 0, 0, bytes(6)))
until = time.time() + 1
answered = False
while time.time() < until:
    try: got = s.recv(256)
    except socket.timeout: continue
    if len(got) >= 60 and got[6] == 6 and got[40:44] == struct.pack('!HH', 10255, port) and got[53] & 0x12 == 0x12: answered = True; break
print(answered)
";
    let output = Command::new("python3").args(["-c", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim() == "True"
}

/// Seen red: with the gate told by its port alone, `status` said "sealed", and "the gate".
#[test]
fn whoever_takes_the_gates_port_when_it_is_gone_is_not_taken_for_it() {
    on_a_node("squatter", async |mut node: Node| {
        node.seal().await;
        node.kill_gate();
        // Accepts the second only: both are theirs.
        let script = "import os, signal, socket\n\
                      signal.alarm(30)\n\
                      os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
                      taken = []\n\
                      for port in (19443, 19255):\n \
                      s = socket.socket(socket.AF_INET6); s.bind(('::', port)); s.listen(64); taken.append(s)\n\
                      while True: taken.append(s.accept())\n";
        let mut squatter = Command::new("python3").args(["-c", script]).spawn().unwrap();
        eventually("the port is taken", || {
            std::net::TcpStream::connect("127.0.0.1:19255").is_ok()
        })
        .await;
        let said = node.firewall_ends(2, "status");
        squatter.kill().unwrap();
        squatter.wait().unwrap();
        for port in [10250, 10255] {
            let line = said
                .lines()
                .find(|line| line.contains(&format!("192.0.2.10:{port}")));
            assert!(
                line.is_some_and(
                    |line| line.contains("not the gate, on its port") && line.contains("BYPASS")
                ),
                "{said}"
            );
        }
        assert!(!said.contains("the gate  "), "{said}");
        let said = node.firewall_ends(0, "status");
        assert!(said.contains("nothing  "), "refused, which is sealed: {said}");
        node.stop().await;
    });
}

/// The gate is played: it takes no address of a kubelet as long as any kubelet runs whose addresses it cannot see, such as
/// another test's. Seen red: with the addresses that are the gate's own left out, `status` said "sealed".
#[test]
fn a_kubelet_on_the_gates_own_address_is_found() {
    on_a_node("own address", async |mut node: Node| {
        let ours = SocketAddr::from(([192, 0, 2, 10], 10250));
        node.move_kubelet("127.0.0.1:10250").await;
        node.configuration(|configuration| configuration["listen"] = serde_json::json!([ours]));
        let firewall = Firewall::of(Backend::Nftables);
        let plan = Plan {
            backend: Backend::Nftables,
            ports: vec![SealedPort {
                port: 10250,
                kind: PortKind::Secure,
                redirect_ipv4: None,
                redirect_ipv6: None,
                gate_addresses: vec![ours.ip()],
            }],
        };
        firewall.load(Some(&plan), None, None).unwrap();
        let confirmed = Confirmed {
            fingerprint: firewall.rules().unwrap().fingerprint().unwrap(),
            tool: firewall.version().unwrap(),
            plan: plan.clone(),
        };
        let state = State::new(&node.file("state"));
        std::fs::create_dir(state.directory()).unwrap();
        state.keep_confirmed(Some(&confirmed)).unwrap();
        let gate = RunningGate {
            pid: std::process::id(),
            uid: rustix::process::getuid().as_raw(),
            exemption: None,
            listen: vec![ours],
            read_only_listen: Vec::new(),
            admin: None,
        };
        gate.write(&node.file("run")).unwrap();

        let reached = |node: &Node, code: i32| {
            let said = node.firewall_ends(code, "status");
            let line = |line: &&str| line.starts_with("another network") && line.contains(&ours.to_string());
            said.lines().find(line).unwrap_or(&said).to_owned()
        };
        let listening = std::net::TcpListener::bind(ours).unwrap();
        // A gate that runs as root has no exemption.
        assert!(reached(&node, 2).contains(" the gate "), "{}", reached(&node, 2));
        drop(listening);
        std::fs::remove_file(node.file("run/exemption.json")).unwrap();
        assert!(reached(&node, 0).contains(" nothing "), "{}", reached(&node, 0));
        node.move_kubelet("0.0.0.0:10250").await;
        assert_eq!(who_answers_in(&node.neighbour, "192.0.2.10:10250"), "kubelet");
        assert!(
            reached(&node, 2).contains(" the kubelet "),
            "{}",
            reached(&node, 2)
        );
        node.stop().await;
    });
}

/// Seen red: with one address for every wire, "nobody" and "ok" from another network as long as the killed run's was there, and
/// while another ran; without the control connection the same where no packet comes over the wire.
#[test]
fn what_other_runs_leave_or_rules_drop_on_the_wire_is_not_taken_for_a_seal() {
    on_a_node("leftovers", async |mut node: Node| {
        node.seal().await;
        shell("nft delete table inet kubelet_gate");
        let routes = || std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
        let open = |said: &str| {
            for address in ["192.0.2.10:10250", "[2001:db8::10]:10250", "10.88.0.1:10255"] {
                let from = |line: &&str| line.starts_with("another network") && line.contains(address);
                let line = said.lines().find(from).unwrap_or_default();
                assert!(
                    line.contains("the kubelet") && line.contains("BYPASS"),
                    "{address}: {said}"
                );
            }
        };
        let mut killed = node.firewall_begins("status");
        while !routes().lines().any(|route| route.starts_with("kg")) {
            assert!(killed.try_wait().unwrap().is_none(), "it has a wire for a moment");
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(routes().contains("\nkg"), "left behind");
        open(&node.firewall_ends(2, "status"));
        assert!(!routes().contains("\nkg"), "swept");

        let mut other = node.firewall_begins("status");
        while !routes().lines().any(|route| route.starts_with("kg")) {
            assert!(other.try_wait().unwrap().is_none(), "it has a wire for a moment");
        }
        let pid = rustix::process::Pid::from_child(&other);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let said = node.firewall_ends(2, "status");
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        other.wait().unwrap();
        open(&said);
        assert!(!said.contains("198.18."), "wires are not the node's: {said}");

        shell(
            "nft 'table inet theirs { chain in { type filter hook input priority 0; iifname \"kg*\" drop; }; }'",
        );
        let said = node.firewall_ends(2, "status");
        assert!(
            !said.contains("\nanother network")
                && said.contains("not tried from another network to 192.0.2.10"),
            "{said}"
        );
        node.stop().await;
    });
}

#[test]
fn the_gate_sees_who_asks_wherever_they_come_from() {
    on_a_node("source addresses", async |mut node: Node| {
        node.seal().await;
        for (namespace, to) in [
            (&node.neighbour, NODE[0]),
            (&node.neighbour, NODE[1]),
            (&node.pod, GATEWAY),
        ] {
            assert_eq!(who_answers_in(namespace, &format!("{to}:10250")), "gate");
        }
        assert_eq!(who_answers("127.0.0.1:10250").await, "gate");
        for address in ["192.0.2.20", "2001:db8::20", "10.88.0.2", "127.0.0.1"] {
            let seen = format!("\"sourceIPs\":[\"{address}\"]");
            let audit = || std::fs::read_to_string(node.file("audit/audit.log")).unwrap();
            eventually(address, || audit().contains(&seen)).await;
        }
        node.stop().await;
    });
}
