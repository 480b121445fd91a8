//! What must not be sealed yet. An operator who is locked out, or a fleet without logs, would have been
//! better off with an open kubelet and a clear message.

use serde_json::json;

use crate::node::{Node, on_a_node, server_at, server_seen_from};
use crate::program::assert_says;

#[test]
fn a_node_that_is_not_ready_is_not_sealed_and_every_reason_is_named() {
    on_a_node(async |mut node: Node| {
        let refused = |node: &Node, why: &[&str]| assert_says(&node.firewall_exits(2, "apply"), why);
        node.configuration(|_| ());
        refused(&node, &["no gate runs on this node"]);

        node.start_gate_as(0, |configuration| configuration["audit"]["path"] = "".into())
            .await;
        // All reasons at once.
        refused(
            &node,
            &["the gate runs as root", "has not served the API server yet"],
        );
        node.kill_gate();
        refused(&node, &["and that is gone"]);

        node.start_gate().await;
        refused(&node, &["has not served the API server yet"]);
        node.api_server_calls_gate().await;

        // Another process of the gate's user.
        let uid = format!("--reuid={}", node.gate_uid);
        let mut other = node.command("setpriv");
        let mut other = other
            .args([&uid, "--clear-groups", "sleep", "600"])
            .spawn()
            .unwrap();
        // setpriv becomes `sleep` in its own time.
        crate::patience::eventually("another process runs as the gate's user", || {
            node.firewall_prints("apply").contains("(sleep)")
        })
        .await;
        refused(&node, &["is not its own: process", "(sleep)"]);
        other.kill().unwrap();
        other.wait().unwrap();

        // Rules of other programs: one takes a port away, one lets it pass, one uses the mark's bits.
        let mask = node.running_gate()["exemption"]["mark"]["mask"].as_u64().unwrap();
        node.shell(&format!(
            "nft 'table ip theirs {{ chain in {{ type filter hook input priority 0; tcp dport 10250 accept; \
             ip saddr 192.0.2.99 tcp dport 10250 drop; meta mark & {mask:#x} == 1 accept; }}; }}'"
        ));
        refused(
            &node,
            &[
                "nft: table ip theirs, chain in): ip saddr 192.0.2.99 tcp dport 10250 drop",
                "of the packet mark are used by other rules",
            ],
        );
        let said = node.firewall_exits(2, "apply");
        assert!(!said.contains("chain in): tcp dport 10250 accept"), "{said}");
        node.firewall_exits(0, "apply --accept-foreign-rules");
        node.firewall_exits(0, "remove");
        node.shell("nft delete table ip theirs");

        // A health check.
        assert_eq!(server_at("127.0.0.1:10255").await, "kubelet");
        refused(&node, &["something on this node calls the read-only port 10255"]);

        // A gate that no other node would reach.
        node.configuration(|configuration| configuration["listen"] = json!(["127.0.0.1:19443"]));
        refused(&node, &["listen: 127.0.0.1:19443 is neither"]);
        assert_eq!(node.rules(), "", "no attempt loaded a rule");
        node.stop().await;
    });
}

#[test]
fn callers_of_the_ports_are_observed_without_a_rule() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let calls = async {
            loop {
                server_at("127.0.0.1:10255").await;
                server_seen_from(&node.neighbour, "192.0.2.10:10250");
            }
        };
        let said = tokio::select! {
            said = node.firewall_succeeds("observe --for 3s") => said,
            () = calls => unreachable!(),
        };
        for parts in [
            &["10255", "127.0.0.1", "uid 0", "readOnlyPort.healthz"][..],
            &["10250", "192.0.2.20", "another node or a pod"],
        ] {
            let has_all = |line: &str| parts.iter().all(|part| line.contains(part));
            assert!(said.lines().any(has_all), "{parts:?}: {said}");
        }
        assert_eq!(node.rules(), "", "no rule was loaded");
        let said = node.firewall_exits(2, "apply");
        assert_says(&said, &["on this node called the read-only port 10255"]);
        node.stop().await;
    });
}
