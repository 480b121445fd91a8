//! A request without an event cannot be investigated. An event with a token or a command in it leaks that
//! into every system that receives the log.

use std::fs;
use std::time::Duration;

use fakes::apiserver::{ADMIN_TOKEN, Api, Behaviour, METRICS_TOKEN};
use fakes::client::UpgradeAnswer;
use fakes::kubelet::Fault;
use serde_json::{Value, json};

use crate::patience::eventually;
use crate::world::{PKI, Status as _, World, header, request};

/// What no line may have, whatever is requested and however it ends.
const SECRETS: [&str; 5] = [
    ADMIN_TOKEN,
    METRICS_TOKEN,
    "hunter2",
    "Bearer",
    "base64url.bearer",
];

fn annotation<'a>(event: &'a Value, name: &str) -> &'a Value {
    &event["annotations"][name]
}

fn decision(event: &Value) -> &Value {
    annotation(event, "authorization.k8s.io/decision")
}

/// Checks what every event has, and that nothing secret is in the file.
fn check_file(world: &World) {
    let text = fs::read_to_string(world.file("audit.log")).unwrap();
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret:?} is in {text}");
    }
    for event in world.audit() {
        assert_eq!(event["kind"], "Event");
        assert_eq!(event["apiVersion"], "audit.k8s.io/v1");
        assert_eq!(event["level"], "Metadata");
        assert_eq!(event["sourceIPs"], json!(["127.0.0.1"]));
        assert_eq!(event["auditID"].as_str().unwrap().len(), 36);
        for time in ["requestReceivedTimestamp", "stageTimestamp"] {
            let time = event[time].as_str().unwrap();
            assert!(
                time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len(),
                "{time}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_request_has_exactly_one_event() {
    let world = World::start().await;
    let bob = world.client("bob");
    let alice = world.client("alice");
    let mut expected = Vec::new();
    let mut count = 0;
    macro_rules! then {
        ($code:expr, $decision:expr, $user:expr, $subresource:expr) => {
            count += 1;
            let events = world.audit_events(count).await;
            let event = &events[count - 1];
            let found = (
                &event["responseStatus"]["code"],
                decision(event),
                &event["user"]["username"],
                &event["objectRef"]["subresource"],
            );
            assert_eq!(
                found,
                (
                    &json!($code),
                    &json!($decision),
                    &json!($user),
                    &json!($subresource)
                ),
                "{event:#}"
            );
            assert_eq!(event["stage"], "ResponseComplete");
            expected.push(event.clone());
        };
    }

    assert_eq!(bob.status("/pods?limit=1").await, 200);
    then!(200, "allow", "bob", "pods");
    assert_eq!(expected[0]["requestURI"], "/pods?limit=1");
    assert_eq!(expected[0]["verb"], "get");
    assert_eq!(
        expected[0]["objectRef"],
        json!({"resource": "nodes", "name": "worker-1", "apiVersion": "v1", "subresource": "pods"})
    );
    assert_eq!(
        expected[0]["user"]["groups"],
        json!(["admins", "system:authenticated"])
    );
    let reason = annotation(&expected[0], "authorization.k8s.io/reason")
        .as_str()
        .unwrap();
    assert!(reason.contains("node-admin"), "{reason}");

    assert_eq!(alice.status("/metrics").await, 403);
    then!(403, "forbid", "alice", "metrics");
    assert_eq!(annotation(&expected[1], "kubelet-gate.dev/station"), "authz");

    assert_eq!(world.stranger().status("/pods").await, 401);
    then!(401, Value::Null, Value::Null, "pods");
    assert_eq!(annotation(&expected[2], "kubelet-gate.dev/station"), "authn");

    let answer = world.token_client("hunter2").get("/pods").await.unwrap();
    assert_eq!(answer.status(), 401);
    then!(401, Value::Null, Value::Null, "pods");

    let answer = world
        .token_client(ADMIN_TOKEN)
        .get("/stats/summary")
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    then!(200, "allow", "admin", "stats");

    assert_eq!(bob.status("/pods/%2e%2e/metrics").await, 400);
    then!(400, Value::Null, Value::Null, Value::Null);
    assert_eq!(annotation(&expected[5], "kubelet-gate.dev/station"), "attributes");

    let answer = bob.call("OPTIONS", "/pods", &[], "").await.unwrap();
    assert_eq!(answer.status(), 405);
    then!(405, Value::Null, Value::Null, Value::Null);

    world.kubelet.fail("/healthz", Fault::Close);
    assert_eq!(bob.status("/healthz").await, 502);
    then!(502, "allow", "bob", "healthz");
    assert_eq!(annotation(&expected[7], "kubelet-gate.dev/station"), "forward");

    world.api.behave(Api::Access, Behaviour::Fail(500));
    assert_eq!(bob.status("/configz").await, 503);
    then!(503, Value::Null, "bob", "configz");
    world.api.heal();

    let answer = bob
        .call("POST", "/run/default/web/nginx?cmd=echo+hunter2", &[], "")
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    then!(200, "allow", "bob", "proxy");
    assert_eq!(expected[9]["verb"], "create");
    let uri = expected[9]["requestURI"].as_str().unwrap();
    assert!(uri.starts_with("/run/default/web/nginx?cmd="), "{uri}");

    // An error of the kubelet is its answer to an allowed request.
    world.kubelet.fail("/metrics", Fault::status(500));
    assert_eq!(bob.status("/metrics").await, 500);
    then!(500, "allow", "bob", "metrics");

    let mut ids: Vec<&str> = expected
        .iter()
        .map(|event| event["auditID"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "every request has an id of its own");
    check_file(&world);
    world.stop().await;
}

/// Seen red with `Record::drop` writing no event.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_before_its_answer_has_an_event_without_a_status() {
    let world = World::start().await;
    world.kubelet.fail("/pods", Fault::Hang);
    for client in [world.client("bob"), world.h2_client("bob")] {
        let mut connection = client.connect().await.unwrap();
        world.kubelet.clear();
        let before = world.audit().len();
        let asking = tokio::spawn(async move { connection.get("/pods").await });
        eventually("the kubelet has the request", || {
            world.kubelet.request_count() == 1
        })
        .await;
        asking.abort();
        let events = world.audit_events(before + 1).await;
        let event = &events[before];
        assert_eq!(event["responseStatus"], Value::Null, "{event:#}");
        assert_eq!(event["stage"], "ResponseComplete");
        assert_eq!(
            (decision(event), &event["user"]["username"]),
            (&json!("allow"), &json!("bob"))
        );
    }
    world.stop().await;
}

/// Seen red with `Record::drop` writing no event.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_during_its_review_has_an_event_without_a_decision() {
    let world = World::start().await;
    world.api.behave(Api::Access, Behaviour::Hang);
    let mut connection = world.client("bob").connect().await.unwrap();
    let asking = tokio::spawn(async move { connection.get("/pods").await });
    eventually("the review is asked", || world.api.count(Api::Access) == 1).await;
    asking.abort();
    let events = world.audit_events(1).await;
    assert_eq!(events[0]["responseStatus"], Value::Null);
    assert_eq!(events[0]["annotations"], Value::Null, "{:#}", events[0]);
    world.assert_nothing_forwarded();
    world.api.heal();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_two_events_with_one_id_and_its_bytes() {
    let world = World::start().await;
    let target = "/exec/default/web/nginx?command=echo&command=hunter2&output=1&error=1";
    let answer = world
        .client("bob")
        .websocket(target, &["v5.channel.k8s.io"], &[])
        .await
        .unwrap();
    let UpgradeAnswer::Switched(_, mut session) = answer else {
        panic!("no stream");
    };
    let output = session.exec_read().await.unwrap();
    assert!(output.stdout_text().contains("hunter2"));
    drop(session);
    let events = world.audit_events(2).await;
    let [begun, ended] = &events[..] else { panic!() };
    assert_eq!(begun["auditID"], ended["auditID"]);
    assert_eq!(
        (&begun["stage"], &ended["stage"]),
        (&json!("ResponseStarted"), &json!("ResponseComplete"))
    );
    for event in [begun, ended] {
        assert_eq!(event["responseStatus"]["code"], 101);
        assert_eq!(
            (decision(event), &event["verb"]),
            (&json!("allow"), &json!("create"))
        );
        assert_eq!(event["user"]["username"], "bob");
    }
    let bytes = |name: &str| -> u64 {
        let text = annotation(ended, name).as_str().unwrap();
        text.parse().unwrap()
    };
    assert!(bytes("kubelet-gate.dev/bytes-sent") > 8, "{ended:#}");
    bytes("kubelet-gate.dev/bytes-received");
    assert!(annotation(ended, "kubelet-gate.dev/ended-by").is_string());
    assert_eq!(annotation(begun, "kubelet-gate.dev/bytes-sent"), &Value::Null);
    check_file(&world);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_websocket_protocol_is_not_logged() {
    let world = World::start().await;
    // ADMIN_TOKEN, as kubectl's browser clients send it.
    let protocol = "base64url.bearer.authorization.k8s.io.YWRtaW4tdG9rZW4";
    let answer = world
        .stranger()
        .websocket(
            "/exec/default/web/nginx?command=id&output=1",
            &["v4.channel.k8s.io", protocol],
            &[],
        )
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    drop(answer);
    world.audit_events(2).await;
    let text = fs::read_to_string(world.file("audit.log")).unwrap();
    assert!(!text.contains("YWRtaW4tdG9rZW4"), "{text}");
    check_file(&world);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_hashed_omitted_or_shown_as_configured() {
    let uri = async |mode: &'static str| {
        let world = World::builder().set("audit.commands", mode).start().await;
        let target = "/run/default/web/nginx?cmd=echo%20hunter2&container=c";
        world.client("bob").call("POST", target, &[], "").await.unwrap();
        let events = world.audit_events(1).await;
        world.stop().await;
        events[0]["requestURI"].as_str().unwrap().to_owned()
    };
    let (hashed, omitted, shown) = (uri("hash").await, uri("omit").await, uri("show").await);
    assert!(
        !hashed.contains("hunter2") && hashed.contains("cmd=") && hashed.ends_with("&container=c"),
        "{hashed}"
    );
    assert!(
        !omitted.contains("hunter2") && omitted.contains("container=c"),
        "{omitted}"
    );
    assert!(shown.contains("hunter2"), "{shown}");
    assert_ne!(hashed, omitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_audit_id_is_recorded_and_not_adopted() {
    let world = World::start().await;
    let id = "00000000-0000-4000-8000-000000000000";
    let answer = world
        .client("bob")
        .call(
            "GET",
            "/pods",
            &[("Audit-ID", id), ("User-Agent", "kubectl \"x\"")],
            "",
        )
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_ne!(header(&answer, "audit-id"), id);
    let events = world.audit_events(1).await;
    let event = &events[0];
    assert_ne!(event["auditID"], id);
    assert_eq!(annotation(event, "kubelet-gate.dev/client-audit-id"), id);
    assert_eq!(event["userAgent"], "kubectl \"x\"");
    world.stop().await;
}

/// Seen red with `Facts::write` not waiting for the writer.
#[tokio::test(flavor = "multi_thread")]
async fn in_blocking_mode_the_event_is_in_the_file_before_the_answer() {
    let world = World::builder().set("audit.mode", "blocking").start().await;
    let mut bob = world.client("bob").connect().await.unwrap();
    for count in 1..=50 {
        bob.open(request("GET", "/healthz", &[]))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        // Read without waiting.
        assert_eq!(world.audit().len(), count);
    }
    assert_eq!(world.client("alice").status("/pods").await, 403);
    assert_eq!(world.audit().len(), 51);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_have_one_event_each() {
    let world = World::start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.latency = Duration::from_millis(5));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..40 {
        let client = world.tls_client(Some(&PKI.bob), fakes::client::Alpn::H2);
        asking.spawn(async move { client.status(&format!("/pods?n={number}")).await });
    }
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let events = world.audit_events(40).await;
    let mut uris: Vec<&str> = events
        .iter()
        .map(|event| event["requestURI"].as_str().unwrap())
        .collect();
    uris.sort_unstable();
    uris.dedup();
    assert_eq!(uris.len(), 40);
    assert_eq!(world.metric("audit_events_total", &[("reason", "dropped")]), 0.0);
    world.stop().await;
}
