//! A node whose own firewall opens the kubelet's port and no other. The redirect changes the port before that
//! firewall sees a packet: under a seal every caller would get nothing, and a seal that keeps every caller
//! out must not be called one.

use std::fs;

use crate::node::{NODE, Node, on_a_node, on_every_backend, server_at, server_seen_from};
use crate::patience::{eventually, eventually_answers};
use crate::program::assert_says;

/// The node's own firewall, which opens these ports and refuses the rest, to other machines.
fn open_alone(node: &Node, ports: &str) {
    if node.backend == "nftables" {
        node.shell(&format!(
            "nft 'table inet hostfw; delete table inet hostfw; table inet hostfw {{ chain input {{
                type filter hook input priority filter + 10; policy drop;
                ct state established,related accept; iif lo accept; meta l4proto ipv6-icmp accept;
                tcp dport {{ {ports} }} accept; reject with icmpx admin-prohibited; }}; }}'"
        ));
        return;
    }
    let iptables = node.iptables();
    for (program, icmp, refusal) in [
        (iptables.to_owned(), "icmp", "icmp-admin-prohibited"),
        (iptables.replace("ip", "ip6"), "ipv6-icmp", "icmp6-adm-prohibited"),
    ] {
        node.shell(&format!(
            "i={program}; $i -N HOSTFW 2>/dev/null || $i -F HOSTFW
            $i -A HOSTFW -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
            $i -A HOSTFW -i lo -j ACCEPT; $i -A HOSTFW -p {icmp} -j ACCEPT
            $i -A HOSTFW -p tcp -m multiport --dports {ports} -j ACCEPT
            $i -A HOSTFW -j REJECT --reject-with {refusal}
            $i -C INPUT -j HOSTFW 2>/dev/null || $i -A INPUT -j HOSTFW"
        ));
    }
}

fn place(node: &Node) -> &'static str {
    match node.backend {
        "nftables" => "nft: table inet hostfw, chain input",
        "iptables-nft" => "iptables-nft-save: table filter, chain HOSTFW",
        _ => "iptables-legacy-save: table filter, chain HOSTFW",
    }
}

/// Waits until the gate says the same of the seal wherever it says something.
pub(crate) async fn eventually_all_say(node: &Node, state: &str) {
    node.eventually_seal_is(state).await;
    let (status, said) = node.admin("/readyz?verbose").await.unwrap();
    let is_sealed = state == "sealed";
    assert_eq!(status == 200, is_sealed, "{}: {said}", node.backend);
    assert_eq!(said.contains("[+] seal ok"), is_sealed, "{said}");
    assert_eq!(said.contains("[-] seal: "), !is_sealed, "{said}");
    for other in ["sealed", "trial", "shut", "open", "unknown"] {
        let value = node.metric("seal", &[("state", other)]).await;
        assert_eq!(value == 1.0, other == state, "{}: {other}", node.backend);
    }
    let lines = [
        ("sealed", "sealed: no connection bypasses the gate"),
        ("shut", "the seal keeps callers out"),
        ("trial", "the seal is on trial, and holds"),
        ("open", "NOT SEALED"),
    ];
    let log = node.log();
    let last = log.lines().rev().find_map(|line| {
        let told = lines.iter().find(|(_, text)| line.contains(text));
        told.map(|(told, _)| *told)
    });
    assert_eq!(last, Some(state), "{}: {log}", node.backend);
}

async fn eventually_status(node: &Node, code: i32) -> String {
    let status = || node.firewall("status").output().unwrap();
    eventually(&format!("{}: status exits {code}", node.backend), || {
        status().status.code() == Some(code)
    })
    .await;
    node.firewall_exits(code, "status")
}

/// (Not seen red.)
#[test]
fn a_firewall_that_opens_the_kubelets_port_alone_is_named_before_a_seal_is_tried() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        open_alone(&node, "22,10250");
        let before = node.rules();
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10250"), "kubelet");
        for arguments in ["apply", "apply --accept-foreign-rules"] {
            let said = node.firewall_exits(2, arguments).replace("\n    ", " ");
            assert_says(
                &said,
                &[
                    "callers reach 10250 (",
                    "over the wire, but not the gate's ports 19443, 19255",
                    "open TCP 19443, 19255 in the host's firewall",
                    place(&node),
                ],
            );
            assert!(
                !said.contains("another rule"),
                "an accept rule is no conflict: {said}"
            );
        }
        assert_eq!(node.rules(), before, "nothing was changed");
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10250"), "kubelet");

        open_alone(&node, "22,10250,19443,19255");
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.firewall_exits(0, "confirm");
        for address in NODE {
            let server = server_seen_from(&node.neighbour, &format!("{address}:10250"));
            assert_eq!(server, "gate", "{}: {address}", node.backend);
        }
        let said = node.firewall_exits(0, "status");
        assert!(said.starts_with("sealed\n"), "{said}");
        node.firewall_exits(0, "remove");
        assert!(!node.file("state/wire.json").exists());
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn a_firewall_that_shuts_the_gates_ports_later_unseals_the_node_to_every_reader() {
    on_every_backend(async |mut node: Node| {
        node.require();
        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 120s");
        open_alone(&node, "22,10250");
        let said = node.firewall_exits(2, "confirm").replace("\n    ", " ");
        assert_says(
            &said,
            &[
                "refused, nothing was changed",
                "callers reached 10250 (",
                "before the seal, and reach nothing there now",
                "open TCP 19443, 19255",
                place(&node),
            ],
        );
        let said = node.firewall_exits(2, "status");
        assert_says(&said, &["NOT SEALED", "on trial", "reach nothing there now"]);
        eventually_all_say(&node, "shut").await;

        open_alone(&node, "22,10250,19443,19255");
        node.firewall_exits(0, "confirm");
        node.firewall_exits(0, "status");
        eventually_all_say(&node, "sealed").await;

        open_alone(&node, "22,10250");
        for arguments in ["status", "status --no-namespace"] {
            let said = node.firewall_exits(2, arguments);
            assert_says(&said, &["NOT SEALED", "reach nothing there now"]);
        }
        eventually_all_say(&node, "shut").await;
        // The ways around the gate are closed all the same.
        assert_eq!(
            node.metric("bypass_sealed", &[("port", "10250"), ("family", "ipv4")])
                .await,
            1.0
        );
        assert_eq!(server_at("127.0.0.1:10250").await, "gate");
        // Another trial remembers what was reached before the first one.
        let said = node.firewall_exits(2, "apply").replace("\n    ", " ");
        assert_says(
            &said,
            &["callers reach 10250 (", "but not the gate's ports 19443, 19255"],
        );

        open_alone(&node, "22,10250,19443,19255");
        let said = node.firewall_exits(0, "status");
        assert!(said.starts_with("sealed\n"), "{said}");
        eventually_all_say(&node, "sealed").await;
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn ports_that_an_operator_gives_up_are_not_missed() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        open_alone(&node, "22,10250");
        node.firewall_exits(0, "apply --confirm-within 60s --accept-dead-ports");
        node.firewall_exits(0, "confirm");
        let said = node.firewall_exits(0, "status");
        assert!(said.starts_with("sealed\n"), "{said}");
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn a_node_without_a_gate_is_not_called_sealed() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        let said = node.firewall_exits(0, "status");
        assert!(said.starts_with("sealed\n"), "{said}");
        node.kill_gate();
        let said = eventually_status(&node, 2).await;
        assert_says(&said, &["NOT SEALED", "no gate runs", "keeps every caller out"]);
        assert!(!said.contains("BYPASS"), "{said}");
        node.start_gate().await;
        node.admitted().await;
        let said = node.firewall_exits(0, "status");
        assert!(said.starts_with("sealed\n"), "{said}");
        node.stop().await;
    });
}

/// A firewall that opens ports to certain callers alone shows nothing to packets from elsewhere.
///
/// (Not seen red.)
#[test]
fn where_no_packet_shows_anything_the_rules_are_read() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let open = |ports: &str| {
            node.shell(&format!(
                "nft 'table inet hostfw; delete table inet hostfw; table inet hostfw {{ chain input {{
                    type filter hook input priority filter; policy drop;
                    ct state established,related accept; iif lo accept; meta l4proto ipv6-icmp accept;
                    ip saddr 192.0.2.0/24 tcp dport {{ {ports} }} accept; }}; }}'"
            ))
        };
        open("22, 10250");
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10250"), "kubelet");
        let said = node.firewall_exits(2, "apply").replace("\n    ", " ");
        assert_says(
            &said,
            &[
                "lets port 10250 pass (nft: table inet hostfw, chain input",
                "no rule names the gate's port 19443",
                "--accept-dead-ports",
            ],
        );
        open("22, 10250, 19443, 19255");
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.firewall_exits(0, "confirm");
        assert_eq!(server_seen_from(&node.neighbour, "192.0.2.10:10250"), "gate");
        node.firewall_exits(0, "status");
        node.stop().await;
    });
}

/// (Not seen red.)
#[test]
fn a_firewall_that_no_listing_shows_is_suspected_and_named() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let said = node.firewall_exits(0, "apply --confirm-within 60s");
        assert!(!said.contains("neither nft nor iptables lists"), "{said}");
        node.firewall_exits(0, "remove");
        node.shell("ip link add cilium_host type veth peer name cilium_net");
        let said = node.firewall_exits(0, "apply --confirm-within 60s");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_says(
            &said,
            &[
                "interface cilium_host of Cilium",
                "A listing proves nothing",
                "Wherever its host policies open TCP 10250, 10255, open TCP 19255, 19443 as well",
                "--confirm-when-verified",
            ],
        );
        node.firewall_exits(0, "confirm");
        let said = node.firewall_exits(0, "status");
        assert!(said.contains("note: not tried from another machine"), "{said}");
        node.stop().await;
    });
}

/// A file that another program wrote must not read as a wire that is fine.
///
/// (Not seen red.)
#[test]
fn a_memory_of_the_wire_that_cannot_be_read_is_an_error() {
    on_a_node(async |mut node: Node| {
        node.require();
        node.seal().await;
        fs::write(node.file("state/wire.json"), "{").unwrap();
        let said = node.firewall_exits(1, "status");
        assert!(said.contains("wire.json"), "{said}");
        node.firewall_exits(1, "confirm");
        eventually_answers("the gate cannot tell", async || {
            node.seal_state().await == "unknown"
        })
        .await;
        node.stop().await;
    });
}
