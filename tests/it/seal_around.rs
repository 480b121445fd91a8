//! The ways around the gate. If one of them stays open, a process on the node or beside it has everything
//! that the gate should guard.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kubelet_gate::seal::{Confirmed, Firewall, Plan, PortKind, RunningGate, SealedPort, State};
use kubelet_gate::settings::Backend;
use rustix::process::{Pid, Signal, kill_process};

use crate::node::{
    GATEWAY, NODE, Node, is_local, on_a_node, on_every_backend, server_at, server_seen_from, shell,
};
use crate::patience::eventually;
use crate::program::assert_says;

/// Asserts which server answers on every way to the kubelet that does not lead through the gate.
async fn assert_every_way_leads_to(expected: &str, node: &Node, when: &str) {
    for port in [10250, 10255] {
        for address in ["127.0.0.1", "127.0.0.2", "[::1]", NODE[0], NODE[1], GATEWAY] {
            let address = format!("{address}:{port}");
            assert_eq!(server_at(&address).await, expected, "{when}: node to {address}");
        }
        for (name, namespace, addresses) in [
            ("neighbour", &node.neighbour, NODE),
            ("pod", &node.pod, [GATEWAY, NODE[0]]),
        ] {
            for address in addresses.map(|address| format!("{address}:{port}")) {
                let server = server_seen_from(namespace, &address);
                assert_eq!(server, expected, "{when}: {name} to {address}");
            }
        }
    }
}

/// Seen red: without either of the nat chains no server answered where the gate should.
#[test]
fn without_the_seal_every_way_leads_to_the_kubelet_and_with_it_to_the_gate() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        assert_every_way_leads_to("kubelet", &node, "before").await;
        for address in ["127.0.0.1:10248", "[::1]:10248"] {
            assert_eq!(server_at(address).await, "kubelet", "{address}");
        }
        let before = node.rules();
        // The calls above are like those of a health check.
        let said = node.firewall_exits(2, "apply");
        assert_says(&said, &["calls the read-only port 10255"]);
        let said = node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        assert_says(&said, &["10250", "19443"]);
        assert_every_way_leads_to("gate", &node, "on trial").await;
        node.firewall_exits(0, "confirm");
        assert_every_way_leads_to("gate", &node, "sealed").await;
        // The port for health checks is for this node alone.
        assert_eq!(server_at("127.0.0.1:10248").await, "kubelet");
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10248"), "none");
        assert_eq!(server_seen_from(&node.pod, "10.88.0.1:10248"), "none");
        // The gate itself gets through, with requests that it permits.
        node.api_server_calls_gate().await;
        node.api_server_calls_kubelet().await;
        let said = node.firewall_exits(0, "status");
        assert_says(&said, &["another network"]);
        assert!(said.starts_with("sealed\n") && !said.contains("BYPASS"), "{said}");
        node.firewall_exits(0, "remove");
        assert_eq!(node.rules(), before, "the other rules are as they were");
        assert_every_way_leads_to("kubelet", &node, "removed").await;
        assert!(node.firewall_exits(2, "status").starts_with("NOT SEALED"));
        node.stop().await;
    });
}

/// As Calico wires pods: routes to each, and no address on the node's side. Seen red: with `redirect` in
/// prerouting, which takes the incoming interface's address, the pod's connections were dropped.
#[test]
fn a_pod_behind_an_interface_without_an_address_is_redirected_to_the_gate() {
    on_every_backend(async |mut node: Node| {
        // Without proxy_delay=0, which Calico sets as well, the kernel answers for another host after up to
        // 0.8 s.
        node.shell(
            "ip addr flush dev pod0; ip -6 addr add fe80::1/64 dev pod0 nodad
            echo 1 > /proc/sys/net/ipv4/conf/pod0/proxy_arp; echo 0 > /proc/sys/net/ipv4/neigh/pod0/proxy_delay
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
        eventually("the kernel accepts packets for the IPv6 addresses", || {
            let in_pod = || is_local("fd00:88::2") && is_local("fe80::2");
            is_local("fe80::1") && node.pod.run(in_pod).unwrap()
        })
        .await;
        let ways = NODE.map(|address| [10250, 10255].map(|port| format!("{address}:{port}")));
        for way in ways.as_flattened() {
            assert_eq!(server_seen_from(&node.pod, way), "kubelet", "{way}, before");
        }
        node.seal().await;
        for way in ways.as_flattened() {
            let server = server_seen_from(&node.pod, way);
            assert_eq!(server, "gate", "{}: {way}", node.backend);
        }
        assert!(node.firewall_exits(0, "status").starts_with("sealed\n"));
        node.stop().await;
    });
}

/// Seen red: with the uid left out of the exemption (root in the gate's cgroup), and the cgroup.
#[test]
fn neither_root_nor_a_process_that_knows_uid_and_mark_gets_through() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        let gate = node.running_gate();
        let uid = node.gate_uid;
        let mark = gate["exemption"]["mark"]["value"].as_u64().unwrap();
        let cgroup = node.backend == "nftables" && !gate["exemption"]["cgroup"].is_null();
        let said = node.firewall_exits(0, "status");
        assert_eq!(said.contains("by its uid and mark alone"), !cgroup, "{said}");
        let v4 = "127.0.0.1";
        // All at the same time: a dropped packet is waited for.
        let mut dialled = Vec::new();
        for (process, uid, mark, reaches) in [
            ("root with the mark", 0, mark, false),
            ("the gate's user without a mark", uid, 0, false),
            ("the gate's user with a wrong mark", uid, mark ^ 1, false),
            // Where the cgroup does not count this is the limit, and `status` says so.
            ("CAP_NET_RAW and CAP_SETUID with uid and mark", uid, mark, !cgroup),
        ] {
            for address in [v4, "::1", "192.0.2.10"] {
                let dialling = dial(&node, None, address, uid, mark);
                dialled.push((format!("{process} to {address}"), dialling, reaches));
            }
        }
        if let Some(cgroup) = &node.cgroup {
            for (process, uid, mark, reaches) in [
                ("a process like the gate", uid, mark, true),
                ("root with the mark", 0, mark, false),
                ("the gate's user with a wrong mark", uid, mark ^ 1, false),
            ] {
                let dialling = dial(&node, Some(cgroup), v4, uid, mark);
                dialled.push((format!("in the cgroup, {process}"), dialling, reaches));
            }
        }
        for (process, dialling, reaches) in dialled {
            let reached = printed(dialling) == "kubelet";
            assert_eq!(reached, reaches, "{}: {process}", node.backend);
        }
        node.stop().await;
    });
}

/// Dials as this user, with this mark, and with no more than `CAP_NET_RAW` and `CAP_SETUID`. Prints which
/// server takes the connection: it asks for pods to find out.
fn dial(node: &Node, cgroup: Option<&Path>, address: &str, uid: u32, mark: u64) -> Child {
    let family = if address.contains(':') {
        "AF_INET6"
    } else {
        "AF_INET"
    };
    let script = format!(
        "import os, socket, ssl, sys\n\
         os.setgid({uid}); os.setresuid({uid}, {uid}, 0)\n\
         s = socket.socket(socket.{family}, socket.SOCK_STREAM); s.settimeout(2)\n\
         os.seteuid(0)\n\
         {mark} and s.setsockopt(socket.SOL_SOCKET, 36, {mark})\n\
         try:\n s.connect(('{address}', 10250))\nexcept OSError: print('none'); sys.exit()\n\
         s.settimeout(60)\n\
         c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE\n\
         t = c.wrap_socket(s)\n\
         t.sendall(b'GET /pods HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n')\n\
         print('kubelet' if b' 200 ' in t.recv(64) else 'gate')\n"
    );
    let mut command = node.command_in(cgroup, "setpriv");
    command.args([
        "--inh-caps=-all,+net_raw,+setuid,+setgid",
        "--bounding-set=-all,+net_raw,+setuid,+setgid",
    ]);
    python(command.arg("python3"), &script)
}

/// Starts this script.
fn python(python: &mut Command, script: &str) -> Child {
    let python = python.args(["-c", script]);
    python
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a script prints, without the end of the line.
fn printed(script: Child) -> String {
    let output = script.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Seen red: without the raw chain's second rule the neighbour reached the gate, where loopback must not lead
/// either.
#[test]
fn a_neighbour_does_not_reach_loopback_even_if_the_node_routes_it() {
    on_every_backend(async |mut node: Node| {
        node.shell(
            "for i in all eth0 lo; do echo 1 > /proc/sys/net/ipv4/conf/$i/route_localnet; echo 1 > \
             /proc/sys/net/ipv4/conf/$i/accept_local; done",
        );
        node.neighbour
            .run(|| {
                shell(
                    "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; echo 1 > \
                    /proc/sys/net/ipv4/conf/eth0/route_localnet",
                );
                shell(
                    "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 192.0.2.10 dev eth0 src \
                    192.0.2.20",
                );
            })
            .unwrap();
        let before = server_seen_from(&node.neighbour, "127.0.0.1:10250");
        assert_eq!(before, "kubelet", "this node has the hole");
        node.seal().await;
        for address in ["127.0.0.1:10250", "127.0.0.1:10255"] {
            assert_eq!(server_seen_from(&node.neighbour, address), "none", "{address}");
        }
        node.stop().await;
    });
}

/// Seen red: with output and input filters only, a SYN put on lo behind the output hook was answered.
#[test]
fn a_packet_put_on_lo_by_hand_is_not_answered() {
    on_every_backend(async |mut node: Node| {
        node.shell(
            "for i in all lo; do echo 1 > /proc/sys/net/ipv4/conf/$i/route_localnet; echo 1 > \
             /proc/sys/net/ipv4/conf/$i/accept_local; done",
        );
        assert!(injected_syn_is_answered(), "this node has the hole");
        node.seal().await;
        assert!(!injected_syn_is_answered(), "{}", node.backend);
        node.stop().await;
    });
}

/// Sends a SYN from ::1 to [::1]:10255 through a packet socket, and looks for a SYN-ACK for a second.
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
    printed(python(&mut Command::new("python3"), script)) == "True"
}

/// Seen red: with the gate recognised by its port alone, `status` said "sealed", and "the gate".
#[test]
fn a_process_that_takes_the_port_of_a_gate_that_is_gone_is_not_taken_for_it() {
    on_a_node(async |mut node: Node| {
        node.seal().await;
        node.kill_gate();
        // It listens on both of the gate's ports and answers nothing.
        let script = "import os, signal, socket\n\
                      signal.alarm(600)\n\
                      os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
                      taken = []\n\
                      for port in (19443, 19255):\n s = socket.socket(socket.AF_INET6); s.bind(('::', \
                      port)); s.listen(64); taken.append(s)\n\
                      while True: taken.append(s.accept())\n";
        let mut squatter = Command::new("python3").args(["-c", script]).spawn().unwrap();
        eventually("the ports are taken", || {
            std::net::TcpStream::connect("127.0.0.1:19255").is_ok()
        })
        .await;
        let said = node.firewall_exits(2, "status");
        squatter.kill().unwrap();
        squatter.wait().unwrap();
        for port in [10250, 10255] {
            let address = format!("192.0.2.10:{port}");
            let line = said.lines().find(|line| line.contains(&address));
            assert_says(line.unwrap_or(&said), &["not the gate, on its port", "BYPASS"]);
        }
        assert!(!said.contains("the gate  "), "{said}");
        // Without the squatter connections are refused: nothing gets around, and nothing gets through.
        let said = node.firewall_exits(2, "status");
        assert_says(&said, &["nothing  ", "no gate runs"]);
        assert!(!said.contains("BYPASS"), "{said}");
        node.stop().await;
    });
}

/// This test plays the gate: a real one takes no address that the kubelet may want while it sees any kubelet
/// process whose addresses it does not know. Seen red: with the gate's own addresses left out, `status` said
/// "sealed".
#[test]
fn a_kubelet_on_the_gates_own_address_is_found() {
    on_a_node(async |mut node: Node| {
        let ours = SocketAddr::from(([192, 0, 2, 10], 10250));
        node.move_kubelet("127.0.0.1:10250").await;
        node.configuration(|configuration| configuration["listen"] = serde_json::json!([ours]));
        let firewall = Firewall::of(Backend::Nftables);
        let plan = Plan {
            sources: Vec::new(),
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

        let assert_reached = |node: &Node, code: i32, server: &str| {
            let said = node.firewall_exits(code, "status");
            let line = |line: &&str| line.starts_with("another network") && line.contains(&ours.to_string());
            assert_says(said.lines().find(line).unwrap_or(&said), &[server]);
        };
        let listening = std::net::TcpListener::bind(ours).unwrap();
        // A gate that runs as root is not exempted.
        assert_reached(&node, 2, " the gate ");
        drop(listening);
        std::fs::remove_file(node.file("run/exemption.json")).unwrap();
        assert_reached(&node, 2, " nothing ");
        node.move_kubelet("0.0.0.0:10250").await;
        let server = server_seen_from(&node.neighbour, "192.0.2.10:10250");
        assert_eq!(server, "kubelet");
        assert_reached(&node, 2, " the kubelet ");
        node.stop().await;
    });
}

/// `status` makes a wire to a network of its own, and dials from there. Seen red: with one address for every
/// wire, "nobody" and "ok" from another network while the wire of a killed run, or of another run, was there;
/// without the control connection the same where no packet comes over the wire.
#[test]
fn a_leftover_wire_or_a_rule_that_drops_on_the_wire_is_not_taken_for_a_seal() {
    on_a_node(async |mut node: Node| {
        node.seal().await;
        node.shell("nft delete table inet kubelet_gate");
        let routes = || std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
        let has_wire = || routes().contains("\nkg");
        let starts_until_wired = |node: &Node| -> Child {
            let mut status = node.firewall_starts("status");
            while !has_wire() {
                assert!(status.try_wait().unwrap().is_none(), "it never had a wire");
            }
            status
        };
        let assert_open = |said: &str| {
            for address in ["192.0.2.10:10250", "[2001:db8::10]:10250", "10.88.0.1:10255"] {
                let from = |line: &&str| line.starts_with("another network") && line.contains(address);
                let line = said.lines().find(from).unwrap_or(said);
                assert_says(line, &["the kubelet", "BYPASS"]);
            }
        };
        let mut killed = starts_until_wired(&node);
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(has_wire(), "left behind");
        assert_open(&node.firewall_exits(2, "status"));
        assert!(!has_wire(), "removed by the next run");

        let mut other = starts_until_wired(&node);
        let pid = Pid::from_child(&other);
        kill_process(pid, Signal::STOP).unwrap();
        let said = node.firewall_exits(2, "status");
        kill_process(pid, Signal::CONT).unwrap();
        other.wait().unwrap();
        assert_open(&said);
        assert!(
            !said.contains("198.18."),
            "addresses of wires are not the node's: {said}"
        );

        node.shell(
            "nft 'table inet theirs \
             { chain in { type filter hook input priority 0; iifname \"kg*\" drop; }; }'",
        );
        let said = node.firewall_exits(2, "status");
        assert_says(&said, &["not tried from another network to 192.0.2.10"]);
        assert!(!said.contains("\nanother network"), "{said}");
        node.stop().await;
    });
}

#[test]
fn the_gate_sees_the_address_of_every_client() {
    on_a_node(async |mut node: Node| {
        node.seal().await;
        for (namespace, address) in [
            (&node.neighbour, NODE[0]),
            (&node.neighbour, NODE[1]),
            (&node.pod, GATEWAY),
        ] {
            let server = server_seen_from(namespace, &format!("{address}:10250"));
            assert_eq!(server, "gate", "{address}");
        }
        assert_eq!(server_at("127.0.0.1:10250").await, "gate");
        for address in ["192.0.2.20", "2001:db8::20", "10.88.0.2", "127.0.0.1"] {
            let seen = format!("\"sourceIPs\":[\"{address}\"]");
            let audit = || std::fs::read_to_string(node.file("audit/audit.log")).unwrap();
            eventually(address, || audit().contains(&seen)).await;
        }
        node.stop().await;
    });
}
