//! Steps that end halfway. If the kernel's rules and the files on the disk described two different seals, the
//! next command, or the watch, would take the one for the other, and the node would be open.

use std::fs;

use serde_json::{Value, json};

use crate::node::{Node, on_every_backend, server_at, server_seen_from};
use crate::patience::eventually_answers;

const KUBELET: &str = "192.0.2.10:10250";

/// Seen red: with std's `println!` it panicked between the kernel's step and its own.
#[test]
fn a_confirmation_that_cannot_print_is_one() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = node
            .firewall("confirm")
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0), "{}", node.backend);
        node.eventually_seal_is("sealed").await;
        assert_eq!(server_seen_from(&node.neighbour, KUBELET), "gate");
        node.stop().await;
    });
}

/// Seen red: with a watch that takes a confirmation that was not written down for a trial that ended, the
/// neighbour reached the kubelet.
#[test]
fn a_confirmation_that_cannot_be_kept_leaves_the_seal_and_can_be_finished() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "apply --confirm-within 60s");
        let blocked = node.file("state/confirmed.new");
        fs::create_dir(&blocked).unwrap();
        let said = node.firewall_exits(1, "confirm");
        assert!(!said.contains("confirmed, and in force"), "{said}");
        node.eventually_seal_is("open").await;
        // The time is counted at the watch's second look.
        eventually_answers("the watch looks again", async || {
            node.metric("seal_open_seconds_total", &[]).await > 0.0
        })
        .await;
        let server = server_seen_from(&node.neighbour, KUBELET);
        assert_eq!(server, "gate", "{}", node.backend);
        let (_, seal) = node.admin("/seal").await.unwrap();
        assert!(seal.contains("firewall confirm"), "{seal}");
        // No other plan can be tried meanwhile.
        let said = node.firewall_exits(2, "apply --accept-foreign-rules --close-health-checkers");
        assert!(said.contains("did not finish"), "{said}");
        fs::remove_dir(&blocked).unwrap();
        let said = node.firewall_exits(0, "confirm");
        assert!(said.contains("confirmed, and in force"), "{said}");
        node.eventually_seal_is("sealed").await;
        node.firewall_exits(0, "status");
        node.stop().await;
    });
}

/// Seen red: with the earlier trial's file not put back; and with any trial that runs being good enough.
#[test]
fn only_the_plan_that_was_tried_is_confirmed() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        // Plan A redirects 10255 to the tombstone, plan B nowhere.
        node.firewall_exits(0, "apply --confirm-within 60s");
        node.configuration(|configuration| configuration["readOnlyPort"]["listen"] = json!([]));
        node.firewall_exits_without_loading(1, "apply --close-health-checkers");
        if node.backend == "nftables" {
            node.firewall_exits(0, "confirm");
            assert_eq!(server_at("127.0.0.1:10255").await, "gate", "plan A");
        } else {
            // The first step of a second trial ends the one before.
            let said = node.firewall_exits(1, "confirm");
            assert!(said.contains("too late"), "{said}");
        }
        node.firewall_exits(0, "remove");

        // A plan that was written down and never loaded.
        node.configuration(|_| ());
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        let file = node.file("state/trial.json");
        let mut trial: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        trial["ports"][2]["redirectIpv4"] = Value::Null;
        fs::write(&file, trial.to_string()).unwrap();
        let said = node.firewall_exits(1, "confirm");
        assert!(said.contains("is not the plan"), "{said}");
        node.stop().await;
    });
}

/// Seen red: with state and unit removed although the rules were not.
#[test]
fn a_seal_that_cannot_be_removed_is_not_forgotten() {
    on_every_backend(async |mut node: Node| {
        let confirmed = |node: &Node| node.file("state/confirmed.json").exists();
        let unit = |node: &Node| node.file("kubelet-gate-firewall.service").exists();
        node.seal().await;
        node.firewall_exits_without_loading(1, "remove");
        assert!(confirmed(&node) && unit(&node), "{}", node.backend);
        node.kill_gate();
        node.start_gate().await;
        node.admitted().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "status");
        // Nor if the state cannot be read.
        fs::write(node.file("state/confirmed.json"), "{").unwrap();
        node.firewall_exits_without_loading(1, "remove");
        assert!(unit(&node), "{}", node.backend);
        node.firewall_exits(0, "remove");
        assert!(!confirmed(&node), "{}", node.backend);
        assert_eq!(server_seen_from(&node.neighbour, KUBELET), "kubelet");
        node.stop().await;
    });
}
