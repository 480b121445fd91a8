//! On a sealed node the rules name the gate. A new process that the seal does not know reaches no kubelet,
//! and one that has the rules changed first cuts off the old one.

use fakes::client::Alpn;
use serde_json::json;

use super::{LOG, client};
use crate::node::{GATE, Node, on_every_backend};
use crate::world::request;

/// (Not seen red.)
#[test]
fn no_rule_changes_and_both_processes_reach_the_kubelet() {
    on_every_backend(async |mut node: Node| {
        node.require();
        node.seal().await;
        node.eventually_ready().await;
        let (rules, before) = (node.rules(), node.running_gate());
        let gate = client(([127, 0, 0, 1], GATE).into(), Alpn::H1);
        let mut log = gate.open(request("GET", LOG, &[])).await.unwrap();
        let mut kept = gate.connect().await.unwrap();
        assert_eq!(kept.get("/pods").await.unwrap().status(), 200);

        node.upgrade_gate().await;
        let now = node.running_gate();
        assert_ne!(now["pid"], before["pid"]);
        assert!(now["exemption"] == before["exemption"], "the mark is another one");
        assert_eq!(node.rules(), rules);
        // The seal is not unwatched for a moment.
        let (status, said) = node.admin("/readyz").await.unwrap();
        assert_eq!(status, 200, "{said}");
        node.api_server_calls_gate().await;
        node.api_server_calls_kubelet().await;
        // These are the old process'.
        assert_eq!(kept.get("/pods").await.unwrap().status(), 200);
        assert!(!log.body_mut().next().await.unwrap().unwrap().is_empty());
        node.eventually_seal_is("sealed").await;
        assert_eq!(node.rules(), rules);

        // A new process that cannot start changes none either.
        node.configuration(|configuration| configuration["listen"] = json!(["[::]:10248"]));
        node.upgrade_of_gate_fails().await;
        assert_eq!((node.rules(), node.running_gate()), (rules, now));
        node.api_server_calls_kubelet().await;
        drop(log);
        node.stop().await;
    });
}
