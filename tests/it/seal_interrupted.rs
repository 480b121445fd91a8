//! A step that ended in the middle. If what the kernel has and what stands on the disk told of two different seals, the next
//! step, or the watch, would take the one for the other, and the node would be open.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::{Node, on_every_backend, who_answers, who_answers_in};
use crate::world::eventually_answers;

/// Waits until the watch has found the seal like this.
async fn found(node: &Node, state: &str) {
    eventually_answers(&format!("{}: {state}", node.backend), async || {
        node.seal_is().await == state
    })
    .await;
}

/// Seen red: with std's `println!` it panicked between the kernel's step and its own.
#[test]
fn a_confirmation_that_nobody_listens_to_is_one() {
    on_every_backend("confirm | true", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        node.firewall_ends(0, "apply --confirm-within 60s");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = node
            .firewall_command("confirm")
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(0), "{}", node.backend);
        found(&node, "sealed").await;
        assert_eq!(who_answers_in(&node.neighbour, "192.0.2.10:10250"), "gate");
        node.stop().await;
    });
}

/// Seen red: with a watch that takes whatever was not kept for a trial that ended, the neighbour reached the kubelet.
#[test]
fn a_confirmation_that_cannot_be_kept_leaves_the_seal_and_can_be_finished() {
    on_every_backend("confirmed, not kept", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        node.firewall_ends(0, "apply --confirm-within 60s");
        let blocked = node.file("state/confirmed.new");
        fs::create_dir(&blocked).unwrap();
        let said = node.firewall_ends(1, "confirm");
        // More than one look of the watch, which took it for a trial that ended.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(
            who_answers_in(&node.neighbour, "192.0.2.10:10250"),
            "gate",
            "{}",
            node.backend
        );
        assert!(!said.contains("confirmed, and in force"), "{said}");
        found(&node, "open").await;
        let (_, seal) = node.admin("/seal").await.unwrap();
        assert!(seal.contains("firewall confirm"), "{seal}");
        // It is nobody's to try something else on.
        let said = node.firewall_ends(2, "apply --accept-foreign-rules --close-health-checkers");
        assert!(said.contains("did not finish"), "{said}");
        fs::remove_dir(&blocked).unwrap();
        let said = node.firewall_ends(0, "confirm");
        assert!(said.contains("confirmed, and in force"), "{said}");
        found(&node, "sealed").await;
        node.firewall_ends(0, "status");
        node.stop().await;
    });
}

/// Seen red: with the earlier trial's file not put back; and with any trial that runs being good enough.
#[test]
fn only_the_plan_that_was_tried_is_confirmed() {
    on_every_backend("another plan", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        // Plan A brings 10255 to the tombstone, plan B nowhere.
        node.firewall_ends(0, "apply --confirm-within 60s");
        node.configuration(|configuration| configuration["readOnlyPort"]["listen"] = json!([]));
        node.firewall_ends_where_nothing_is_loaded(1, "apply --close-health-checkers");
        if node.backend == "nftables" {
            node.firewall_ends(0, "confirm");
            assert_eq!(who_answers("127.0.0.1:10255").await, "gate", "plan A");
        } else {
            // Its first step ends the trial before.
            let said = node.firewall_ends(1, "confirm");
            assert!(said.contains("too late"), "{said}");
        }
        node.firewall_ends(0, "remove");

        // Whatever was written where, and never loaded.
        node.configuration(|_| ());
        node.firewall_ends(0, "apply --confirm-within 60s --close-health-checkers");
        let file = node.file("state/trial.json");
        let mut trial: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        trial["ports"][2]["redirectIpv4"] = Value::Null;
        fs::write(&file, trial.to_string()).unwrap();
        let said = node.firewall_ends(1, "confirm");
        assert!(said.contains("is not the plan"), "{said}");
        node.stop().await;
    });
}

/// Seen red: with state and unit taken away whatever became of the rules.
#[test]
fn a_seal_that_cannot_be_taken_away_is_not_forgotten() {
    on_every_backend("not removed", async |mut node: Node| {
        node.seal().await;
        node.firewall_ends_where_nothing_is_loaded(1, "remove");
        assert!(node.file("state/confirmed.json").exists(), "{}", node.backend);
        assert!(
            node.file("kubelet-gate-firewall.service").exists(),
            "{}",
            node.backend
        );
        node.kill_gate();
        node.start_gate().await;
        node.admitted().await;
        node.api_server_comes().await;
        node.firewall_ends(0, "status");
        // Nor if it cannot be read whose rules there are.
        fs::write(node.file("state/confirmed.json"), "{").unwrap();
        node.firewall_ends_where_nothing_is_loaded(1, "remove");
        assert!(
            node.file("kubelet-gate-firewall.service").exists(),
            "{}",
            node.backend
        );
        node.firewall_ends(0, "remove");
        assert!(!node.file("state/confirmed.json").exists(), "{}", node.backend);
        assert_eq!(who_answers_in(&node.neighbour, "192.0.2.10:10250"), "kubelet");
        node.stop().await;
    });
}
