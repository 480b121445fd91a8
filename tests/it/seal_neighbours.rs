//! Rules of other programs on the node: kube-proxy, a network plugin, a firewall. The seal must work beside
//! them, and they as before.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use kubelet_gate::host::Namespace;
use kubelet_gate::seal::{Firewall, Plan, PortKind, SealedPort};
use kubelet_gate::settings::Backend;

use crate::node::{GATEWAY, Node, on_every_backend, server_at, server_seen_from};
use crate::patience::{eventually, patience, stretched};

/// Connects within a time that suffices for the kernel alone, and says whether that worked.
fn connects(address: &str) -> Option<TcpStream> {
    TcpStream::connect_timeout(&address.parse().unwrap(), stretched(Duration::from_secs(1))).ok()
}

/// Whether the pod's own service answers at this address.
fn service_answers(address: &str) -> bool {
    let Some(mut stream) = connects(address) else {
        return false;
    };
    stream.set_read_timeout(Some(patience())).unwrap();
    let mut answer = String::new();
    stream.write_all(b"?").is_ok() && stream.read_to_string(&mut answer).is_ok() && answer == "service"
}

#[test]
fn node_ports_host_ports_and_default_drop_work_as_before() {
    on_every_backend(async |mut node: Node| {
        let listener = node
            .pod
            .run(|| TcpListener::bind("10.88.0.2:8080").unwrap())
            .unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0]);
                let _ = stream.write_all(b"service");
            }
        });
        let iptables = node.iptables();
        // As kube-proxy writes them: a NodePort, also on localhost, masqueraded by mark 0x4000. As portmap
        // does: a hostPort. And a firewall that accepts what it knows.
        node.shell("for i in all lo eth0 pod0; do echo 1 > /proc/sys/net/ipv4/conf/$i/route_localnet; done");
        node.shell(&format!(
            "i={iptables}
            $i -t nat -N KUBE-MARK-MASQ; $i -t nat -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
            $i -t nat -N KUBE-SERVICES; $i -t nat -A PREROUTING -j KUBE-SERVICES; $i -t nat -A OUTPUT -j KUBE-SERVICES
            $i -t nat -A KUBE-SERVICES -p tcp --dport 30080 -m addrtype --dst-type LOCAL -j KUBE-MARK-MASQ
            $i -t nat -A KUBE-SERVICES -p tcp --dport 30080 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.88.0.2:8080
            $i -t nat -A KUBE-SERVICES -p tcp --dport 8081 -m addrtype --dst-type LOCAL -j KUBE-MARK-MASQ
            $i -t nat -A KUBE-SERVICES -p tcp --dport 8081 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.88.0.2:8080
            $i -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
            $i -A INPUT -i lo -j ACCEPT
            $i -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            $i -A INPUT -p tcp --dport 19443 -j ACCEPT
            $i -P INPUT DROP"
        ));
        let works = |node: &Node, when: &str| {
            for address in ["127.0.0.1:30080", "192.0.2.10:30080", "192.0.2.10:8081"] {
                assert!(service_answers(address), "{when}: node to {address}");
            }
            for address in ["192.0.2.10:30080", "192.0.2.10:8081"] {
                let answers = node.neighbour.run(|| service_answers(address)).unwrap();
                assert!(answers, "{when}: neighbour to {address}");
            }
        };
        works(&node, "before");
        let others = format!("{iptables}-save | grep -v '^[#:*C]'");
        let before = node.shell(&others);
        node.seal().await;
        works(&node, "sealed");
        let server = server_seen_from(&node.neighbour, "192.0.2.10:10250");
        assert_eq!(server, "gate", "the INPUT chain accepts the gate's port");
        let server = server_seen_from(&node.neighbour, "192.0.2.10:10255");
        assert_eq!(server, "none", "it does not accept the tombstone's");
        assert_eq!(server_at("127.0.0.1:10250").await, "gate");
        let beside = node.shell(&format!("{others} | grep -v KG-"));
        assert_eq!(beside, before, "{}", node.backend);
        node.firewall_exits(0, "status");
        node.firewall_exits(0, "remove");
        assert_eq!(node.shell(&others), before);
        works(&node, "removed");
        node.stop().await;
    });
}

/// Seen red: with every chain whose name begins with `KG-` taken for the seal's.
#[test]
fn a_chain_of_another_program_is_left_alone_whatever_its_name() {
    on_every_backend(async |mut node: Node| {
        let iptables = node.iptables();
        node.shell(&format!(
            "for c in KG-CUSTOM KG-OTHER-TRIAL; do {iptables} -N $c; {iptables} -A $c -p tcp --dport 1 -j DROP; done
            {iptables} -A FORWARD -j KG-CUSTOM"
        ));
        let others = format!("{iptables}-save | grep -e CUSTOM -e OTHER");
        let before = node.shell(&others);
        node.seal().await;
        node.firewall_exits(0, "status");
        assert_eq!(node.shell(&others), before, "{}: sealed", node.backend);
        node.firewall_exits(0, "remove");
        assert_eq!(node.shell(&others), before, "{}: removed", node.backend);
        node.stop().await;
    });
}

/// Seen red: with the cgroup in the exemption of iptables, which looks up its path again at each of these
/// changes.
#[test]
fn rules_of_other_programs_can_be_changed_when_the_gates_cgroup_is_gone() {
    on_every_backend(async |mut node: Node| {
        let iptables = node.iptables();
        node.seal().await;
        node.admitted().await;
        node.kill_gate();
        if let Some(cgroup) = &node.cgroup {
            eventually("the cgroup is gone", || std::fs::remove_dir(cgroup).is_ok()).await;
        }
        for table in ["filter", "nat"] {
            node.shell(&format!(
                "{iptables} -t {table} -A OUTPUT -p tcp --dport 9 -j ACCEPT
                saved=$({iptables}-save -t {table}); echo \"$saved\" | {iptables}-restore"
            ));
        }
        assert_eq!(server_at("127.0.0.1:10255").await, "none");
        node.stop().await;
    });
}

/// Seen red: with the redirect alone, and no input filter, the kubelet answered the pod.
#[test]
fn packets_that_miss_the_redirect_do_not_reach_the_kubelet() {
    on_every_backend(async |mut node: Node| {
        let iptables = node.iptables();
        node.shell(&format!(
            "{iptables} -t raw -A PREROUTING -s 10.88.0.0/24 -j NOTRACK"
        ));
        let ports = [10250, 10255].map(|port| format!("{GATEWAY}:{port}"));
        for port in &ports {
            assert_eq!(server_seen_from(&node.pod, port), "kubelet", "{port}, before");
        }
        node.seal().await;
        for port in &ports {
            let server = server_seen_from(&node.pod, port);
            assert_eq!(server, "none", "{}: {port}", node.backend);
        }
        node.stop().await;
    });
}

/// A kubelet on loopback, and the gate on the same port of the node's own address. Seen red: without the
/// output filter the kubelet was reached; without the rule that leaves the gate's addresses alone the gate
/// was not.
#[test]
fn a_gate_that_has_the_port_itself_is_left_alone() {
    on_every_backend(async |node: Node| {
        let backend = match node.backend {
            "nftables" => Backend::Nftables,
            "iptables-nft" => Backend::IptablesNft,
            _ => Backend::IptablesLegacy,
        };
        let plan = Plan {
            sources: Vec::new(),
            backend,
            ports: vec![SealedPort {
                port: 11250,
                kind: PortKind::Secure,
                redirect_ipv4: None,
                redirect_ipv6: None,
                gate_addresses: vec!["192.0.2.10".parse().unwrap()],
            }],
        };
        let _listening = ["127.0.0.1:11250", "192.0.2.10:11250", "10.88.0.1:11250"]
            .map(|address| TcpListener::bind(address).unwrap());
        let here = |address: &str| connects(address).is_some();
        let from = |namespace: &Namespace, address: &str| namespace.run(|| here(address)).unwrap();
        assert!(
            here("127.0.0.1:11250") && from(&node.pod, "10.88.0.1:11250"),
            "before"
        );
        Firewall::of(backend).load(Some(&plan), None, None).unwrap();
        assert!(here("192.0.2.10:11250") && from(&node.neighbour, "192.0.2.10:11250"));
        assert!(!here("127.0.0.1:11250") && !here("10.88.0.1:11250"));
        assert!(!from(&node.pod, "10.88.0.1:11250"));
        Firewall::of(backend).remove().unwrap();
        assert!(here("127.0.0.1:11250"));
        node.stop().await;
    });
}
