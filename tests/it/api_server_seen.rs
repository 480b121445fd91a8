//! Sealing a node whose gate the API server has never got through would end that node's logs, exec and
//! metrics. The gate therefore remembers whether the API server did, and must not take another client for it.

use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN};
use fakes::client::Client;
use fakes::kubelet::Fault;
use serde_json::{Value, json};

use crate::patience::eventually_answers;
use crate::world::{API_SERVER, Status as _, World, header};

const LOG: &str = "/containerLogs/default/web/nginx";

async fn seal(world: &World) -> Value {
    let answer = world.admin_client().get("/seal").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type"), "application/json");
    let seal: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(seal["seal"], json!({"state": "unwatched"}), "only serve watches");
    assert_eq!(seal.as_object().unwrap().len(), 2, "{seal}");
    seal["apiServer"].clone()
}

async fn get(client: &Client, target: &str, status: u16) {
    assert_eq!(client.status(target).await, status, "{target}");
}

/// Seen red: with any credential accepted, the admin's token was the API server; with any subresource, a
/// reader of /pods; with the kubelet's answer not looked at, a gate whose kubelet refuses it could be sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_allowed_nodes_proxy_is_the_api_server() {
    let world = World::start().await;
    assert_eq!(seal(&world).await, Value::Null);
    // Refused; allowed another subresource; allowed by a token; unauthenticated.
    get(&world.client("alice"), LOG, 403).await;
    get(&world.client("bob"), "/pods", 200).await;
    assert_eq!(world.token_client(ADMIN_TOKEN).status(LOG).await, 200);
    get(&world.stranger(), LOG, 401).await;
    assert_eq!(seal(&world).await, Value::Null);
    // Allowed, and then refused by the kubelet, which does not accept the gate's credential.
    for status in [401, 403] {
        world.kubelet.fail(LOG, Fault::status(status));
        get(&world.client(API_SERVER), LOG, status).await;
        assert_eq!(seal(&world).await, Value::Null, "{status}");
    }
    world.kubelet.heal();

    get(&world.client(API_SERVER), LOG, 200).await;
    let seen = seal(&world).await;
    assert_eq!(seen["user"], "kube-apiserver-kubelet-client");
    assert_eq!(seen["first"], seen["last"]);
    let text = seen["first"].as_str().unwrap();
    assert!(
        text.len() == "2026-01-02T03:04:05Z".len() && text.ends_with('Z'),
        "{text}"
    );

    eventually_answers("the last time moves, the first stays", async || {
        get(&world.client(API_SERVER), LOG, 200).await;
        let now = seal(&world).await;
        assert_eq!((&now["user"], &now["first"]), (&seen["user"], &seen["first"]));
        now["last"].as_str() > seen["last"].as_str()
    })
    .await;
    world.stop().await;
}

/// Seen red: with the list ignored, bob was the API server.
#[tokio::test(flavor = "multi_thread")]
async fn where_the_api_servers_users_are_named_no_other_user_counts() {
    const METRICS: &str = "system:serviceaccount:monitoring:metrics";
    let world = World::builder()
        .set(
            "firewall.apiServerUsers",
            json!([METRICS, "alice", "system:anonymous"]),
        )
        .anonymous()
        .start()
        .await;
    get(&world.client("bob"), LOG, 200).await;
    get(&world.client(API_SERVER), LOG, 200).await;
    get(&world.client("alice"), "/pods", 403).await;
    assert_eq!(seal(&world).await, Value::Null);
    // With a token, and for any request.
    let metrics = world.token_client(METRICS_TOKEN);
    assert_eq!(metrics.status("/metrics").await, 200);
    assert_eq!(seal(&world).await["user"], METRICS);
    world.stop().await;
}

/// Seen red: with anonymous requests not left out, every client was the API server.
#[tokio::test(flavor = "multi_thread")]
async fn the_anonymous_user_is_never_the_api_server() {
    let world = World::builder()
        .set("firewall.apiServerUsers", json!(["system:anonymous"]))
        .anonymous()
        .always_allow()
        .start()
        .await;
    get(&world.stranger(), LOG, 200).await;
    assert_eq!(seal(&world).await, Value::Null);
    world.stop().await;
}
