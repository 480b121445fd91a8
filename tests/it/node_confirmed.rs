//! The API server says beside serving whether the Node is this machine. A gate that waited for it would keep
//! the node's kubelet from being reached; one that served on under another machine's name would admit that
//! Node's users; one that ended whenever a Node is changed could be stopped by a user who may patch Nodes.

use std::fs;

use fakes::apiserver::{Api, FakeApiServer};
use fakes::kubelet::node_info;
use serde_json::json;

use crate::node_name::{another_machine, is_known};
use crate::patience::{eventually, eventually_answers};
use crate::program::{kubelet_gate, kubelet_gate_after};
use crate::reload::Node;
use crate::skipped::skip;
use crate::world::{PKI, Status as _, request};

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";

impl Node {
    async fn is_confirmed(&self, verdict: &str) {
        self.shows("node_confirmed", &[("verdict", verdict)], 1.0).await;
    }

    /// The API server goes away and comes back, and a client's reviews show both. `number` makes the reviews'
    /// questions new.
    async fn outage(&self, number: usize) {
        let paths = ["/healthz", "/metrics", "/pods", "/stats/summary", "/configz"];
        self.api.down().await.unwrap();
        let away = self.client(&PKI.bob).status(paths[2 * number]).await;
        assert_eq!(away, 503);
        self.api.up().await.unwrap();
        let back = self.client(&PKI.bob).status(paths[2 * number + 1]).await;
        assert_eq!(back, 200);
    }
}

/// Seen red: with the answer about the Node awaited before the gate serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_api_server_does_not_keep_the_gate_from_serving() {
    let api = FakeApiServer::start(&PKI).await.unwrap();
    api.set_node("worker-1", node_info());
    api.hold_node(true);
    let node = Node::with_api_server(api, kubelet_gate(), |_, _| {}).await;
    assert_eq!(node.client(&PKI.bob).status("/healthz").await, 200);
    node.is_confirmed("unknown").await;
    assert!(node.admin("/readyz?verbose").await.contains("\n[?] node: "));
    assert_eq!(node.admin("/readyz").await, "ok\n");
    assert_eq!(node.api.nodes_read(), 0, "it has not answered");

    node.api.hold_node(false);
    node.is_confirmed("yes").await;
    assert!(node.admin("/readyz?verbose").await.contains("\n[+] node ok\n"));
    node.says("the Node worker-1 is this machine").await;
    node.stop().await;
}

/// Seen red: with the disproof only logged, and with the connections left `limits.shutdownTimeout`.
#[tokio::test(flavor = "multi_thread")]
async fn a_disproof_at_the_start_ends_the_gate_and_cuts_what_runs() {
    if !is_known() {
        return skip("this machine has no id that outlasts a boot");
    }
    let api = FakeApiServer::start(&PKI).await.unwrap();
    api.set_node("worker-1", another_machine());
    api.hold_node(true);
    let mut node = Node::with_api_server(api, kubelet_gate(), |file, _| {
        file["limits"] = json!({"shutdownTimeout": "10m"});
    })
    .await;
    // Under the wrong name this user is allowed it.
    let following = node
        .client(&PKI.bob)
        .open(request("GET", LOG, &[]))
        .await
        .unwrap();
    node.api.hold_node(false);
    assert_eq!(node.gate.exit().await.code(), Some(64));
    drop(following);
    eventually("it says why", || {
        let said = node.gate.later();
        let mut texts = said.iter().filter_map(|line| line.as_str());
        texts.any(|text| text.contains("the Node worker-1 is another machine"))
    })
    .await;
    let audit = fs::read_to_string(node.path("audit.log")).unwrap();
    assert!(audit.contains("/containerLogs/default/web/nginx"), "{audit}");
}

/// Seen red: with a later disproof ending the process; with the API server not asked again when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_disproof_is_reported_and_requests_are_judged_on_under_the_name() {
    if !is_known() {
        return skip("this machine has no id that outlasts a boot");
    }
    let api = FakeApiServer::start(&PKI).await.unwrap();
    api.set_node("worker-1", node_info());
    let node = Node::with_api_server(api, kubelet_gate(), |_, _| {}).await;
    node.is_confirmed("yes").await;

    node.api.set_node("worker-1", another_machine());
    node.outage(0).await;
    node.is_confirmed("no").await;
    let disproved = "the Node worker-1 is another machine";
    node.says(disproved).await;
    let report = node.admin("/readyz?verbose").await;
    assert!(
        report.contains("\n[!] node: since 20") && report.contains(disproved),
        "{report}"
    );
    assert!(report.ends_with("\nok\n"), "{report}");
    assert_eq!(node.admin("/readyz").await, "ok\n");
    node.outage(1).await;
    let reviews = node.api.access_specs();
    assert!(reviews.len() >= 2 && node.api.count(Api::Access) == reviews.len());
    for review in &reviews {
        assert_eq!(review["resourceAttributes"]["name"], "worker-1");
    }

    // It is asked again by itself.
    let read = node.api.nodes_read();
    eventually("it is asked again", || node.api.nodes_read() > read + 1).await;
    let errors = node.said(disproved);
    assert_eq!(errors.len(), 1, "one line: {errors:?}");
    let is_error = |line: &serde_json::Value| line["level"] == "ERROR";
    assert_eq!(node.gate.later().iter().filter(|line| is_error(line)).count(), 1);
    node.api.set_node("worker-1", node_info());
    node.is_confirmed("yes").await;
    node.says("the Node worker-1 is this machine again").await;
    assert!(node.admin("/readyz?verbose").await.contains("\n[+] node ok\n"));
    node.stop().await;
}

/// Seen red: with the ids read once.
#[tokio::test(flavor = "multi_thread")]
async fn new_ids_of_the_machine_are_compared_with_the_node() {
    const MINE: &str = "0123456789abcdef0123456789abcdef";
    if fs::metadata("/etc/machine-id").is_err() {
        return skip("there is no /etc/machine-id to put another in the place of");
    }
    let folder = tempfile::tempdir().unwrap();
    let ids = folder.path().join("machine-id");
    fs::write(&ids, MINE).unwrap();
    let script = format!("mount --bind '{}' /etc/machine-id\nexec \"$@\"\n", ids.display());
    let Some(command) = kubelet_gate_after(&script) else {
        return;
    };
    let api = FakeApiServer::start(&PKI).await.unwrap();
    let mut info = another_machine();
    info["machineID"] = json!(MINE);
    api.set_node("worker-1", info);
    let node = Node::with_api_server(api, command, |_, _| {}).await;
    node.is_confirmed("yes").await;
    let read = node.api.nodes_read();
    fs::write(&ids, MINE.replace('0', "1")).unwrap();
    eventually_answers("it is asked again", async || node.api.nodes_read() > read).await;
    node.is_confirmed("no").await;
    // And again once they are as they were.
    fs::write(&ids, MINE).unwrap();
    node.is_confirmed("yes").await;
    assert_eq!(node.client(&PKI.bob).status("/healthz").await, 200);
}
