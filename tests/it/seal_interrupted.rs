//! A step that ended in the middle. If what the kernel has and what stands on the disk told of two different seals, the next
//! step, or the watch, would take the one for the other, and the node would be open.

use std::fs;

use serde_json::{Value, json};

use crate::node::{Node, on_every_backend, who_answers};

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
