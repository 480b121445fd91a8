//! Two processes about one seal. If they judged it by different rules, an operator would read "NOT SEALED"
//! where the gate is content; if one took another's trial for its own, a plan would be
//! confirmed that was never verified.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use kubelet_gate::seal::{Confirmed, Standing, State};
use serde_json::{Value, json};

use crate::node::{Node, on_every_backend, server_at};
use crate::patience::{eventually, eventually_answers};
use crate::world::API_SERVER;

/// Seen red: with the gate's note of the new listing not looked at.
#[test]
fn rules_that_the_gate_loaded_again_are_the_confirmed_ones_to_every_command() {
    on_every_backend(async |mut node: Node| {
        // iptables-legacy wants a lock that is root's: there the gate loads nothing.
        if node.backend == "iptables-legacy" {
            return node.stop().await;
        }
        node.require();
        node.seal().await;
        node.kill_gate();
        let file = node.file("state/confirmed.json");
        let mut confirmed: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        confirmed["tool"] = "another version".into();
        confirmed["fingerprint"] = "as it lists the rules".into();
        fs::write(&file, confirmed.to_string()).unwrap();
        let said = node.firewall_exits(2, "status --no-namespace");
        assert!(said.contains("were confirmed with another version"), "{said}");
        let said = node.firewall_exits(1, "confirm");
        assert!(said.contains("were confirmed with another version"), "{said}");
        node.start_gate().await;
        node.eventually_seal_is("sealed").await;
        // The state belongs to root, so that the gate has noted the listing in its own directory.
        assert!(node.file("run/listed.json").exists());
        let said = node.firewall_exits(0, "status --no-namespace");
        assert!(said.starts_with("sealed\n"), "{said}");
        let said = node.firewall_exits(0, "confirm");
        assert!(said.starts_with("already confirmed, and in force"), "{said}");
        // A note is about the rules that were loaded, and about no others, ...
        node.kill_gate();
        node.shell(match node.backend {
            "nftables" => "nft flush chain inet kubelet_gate in_confirmed",
            _ => "iptables-nft -F KG-IN-CONF",
        });
        node.firewall_exits(2, "status --no-namespace");
        // ... and only another version than the one that confirmed them lists them in another way.
        let state = State::new(&node.file("state"));
        let standing = Standing::judge(&state, &node.file("run")).unwrap().unwrap();
        let note = Confirmed {
            fingerprint: standing.rules.fingerprint().unwrap(),
            ..standing.confirmed.unwrap()
        };
        fs::write(node.file("run/listed.json"), serde_json::to_vec(&note).unwrap()).unwrap();
        node.firewall_exits(2, "status --no-namespace");
        node.flush_rules();
        node.firewall_exits(2, "status --no-namespace");
        node.stop().await;
    });
}

/// Seen red: without the plan that was applied compared, the second trial was confirmed by the first command.
#[test]
fn an_apply_confirms_no_trial_of_another_one() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let first = node
            .firewall("apply --confirm-within 60s --confirm-when-verified")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("the first is on trial", || node.file("state/trial.json").exists()).await;
        node.eventually_seal_is("trial").await;
        // The second brings 10255 nowhere.
        node.configuration(|configuration| configuration["readOnlyPort"]["listen"] = json!([]));
        node.firewall_exits(0, "apply --confirm-within 60s --close-health-checkers");
        let client = node.client(API_SERVER, "127.0.0.1:10250".parse().unwrap());
        let verifying = tokio::task::spawn_blocking(move || first.wait_with_output().unwrap());
        eventually_answers("the first ends", async || {
            let _ = client.get("/containerLogs/default/web/nginx").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            verifying.is_finished()
        })
        .await;
        let output = verifying.await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("another apply has taken the place of this trial"),
            "{said}"
        );
        assert!(node.firewall_prints("status --no-namespace").contains("on trial"));
        assert_eq!(server_at("127.0.0.1:10255").await, "none");
        node.firewall_exits(0, "confirm");
        node.firewall_exits(0, "status --no-namespace");
        node.stop().await;
    });
}
