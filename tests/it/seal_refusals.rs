//! What must not be sealed yet. An operator who is locked out, or a fleet whose logs are gone, would have been better
//! off with an open kubelet and a clear word.

use serde_json::json;

use crate::node::{Node, gate_uid, on_a_node, shell, who_answers};

#[test]
fn a_node_that_is_not_ready_for_it_is_not_sealed_and_every_reason_is_named() {
    on_a_node("refusals", async |mut node: Node| {
        node.configuration(|_| ());
        let said = node.firewall_ends(2, "apply");
        assert!(said.contains("no gate runs on this node"), "{said}");

        node.start_gate_as(0, |configuration| {
            configuration["audit"]["path"] = "".into();
        })
        .await;
        let said = node.firewall_ends(2, "apply");
        assert!(said.contains("the gate runs as root"), "{said}");
        assert!(
            said.contains("has not served the API server yet"),
            "all at once: {said}"
        );
        node.kill_gate();
        let said = node.firewall_ends(2, "apply");
        assert!(said.contains("and that is gone"), "{said}");

        node.start_gate().await;
        let said = node.firewall_ends(2, "apply");
        assert!(said.contains("has not served the API server yet"), "{said}");
        node.api_server_comes().await;

        // Somebody else runs as the gate's user.
        let mut other = std::process::Command::new("setpriv")
            .args([
                &format!("--reuid={}", gate_uid()),
                "--clear-groups",
                "sleep",
                "60",
            ])
            .spawn()
            .unwrap();
        let said = node.firewall_ends(2, "apply");
        assert!(
            said.contains("is not its own: process") && said.contains("(sleep)"),
            "{said}"
        );
        other.kill().unwrap();
        other.wait().unwrap();

        // Rules of others: one names a port, one the mark's bits.
        let mask = node.running_gate()["exemption"]["mark"]["mask"].as_u64().unwrap();
        shell(&format!(
            "nft 'table ip theirs {{ chain in {{ type filter hook input priority 0; tcp dport 10250 accept; meta mark & {mask:#x} == 1 accept; }}; }}'"
        ));
        let said = node.firewall_ends(2, "apply");
        assert!(
            said.contains("nft: table ip theirs, chain in): tcp dport 10250 accept"),
            "{said}"
        );
        assert!(
            said.contains("of the packet mark are used by other rules"),
            "{said}"
        );
        node.firewall_ends(0, "apply --accept-foreign-rules");
        node.firewall_ends(0, "remove");
        shell("nft delete table ip theirs");

        // A health check.
        assert_eq!(who_answers("127.0.0.1:10255").await, "kubelet");
        let said = node.firewall_ends(2, "apply");
        assert!(
            said.contains("something on this node calls the read-only port 10255"),
            "{said}"
        );

        // A gate that nobody would reach.
        node.configuration(|configuration| configuration["listen"] = json!(["127.0.0.1:19443"]));
        let said = node.firewall_ends(2, "apply");
        assert!(said.contains("listen: 127.0.0.1:19443 is neither"), "{said}");
        assert_eq!(node.rules(), "", "nothing was loaded by any of it");
        node.stop().await;
    });
}

#[test]
fn whoever_calls_the_ports_is_observed_without_a_rule() {
    on_a_node("observe", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        let calls = async {
            loop {
                who_answers("127.0.0.1:10255").await;
                crate::node::who_answers_in(&node.neighbour, "192.0.2.10:10250");
            }
        };
        let said = tokio::select! {
            said = node.firewall_beside("observe --for 3s") => said,
            () = calls => unreachable!(),
        };
        let line = |words: &[&str]| {
            said.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(
            line(&["10255", "127.0.0.1", "uid 0", "readOnlyPort.healthz"]),
            "{said}"
        );
        assert!(line(&["10250", "192.0.2.20", "another node or a pod"]), "{said}");
        assert_eq!(node.rules(), "", "nothing was loaded");
        let said = node.firewall_ends(2, "apply");
        assert!(
            said.contains("on this node called the read-only port 10255"),
            "{said}"
        );
        node.stop().await;
    });
}
