//! If the admin port called a gate ready that cannot serve, a rollout would go on over dead nodes. If it
//! forwarded requests, it would be an unguarded way to the kubelet.

use std::collections::BTreeSet;

use http::StatusCode;

use crate::patience::eventually;
use crate::world::{World, assert_answer, header};

/// Dashboards and alerts use these names. A change of one changes this list, and is announced.
const FAMILIES: [&str; 21] = [
    "kubelet_gate_audit_events counter",
    "kubelet_gate_authentication_failures counter",
    "kubelet_gate_cache_requests counter",
    "kubelet_gate_certificate_expiry_timestamp_seconds gauge",
    "kubelet_gate_connections gauge",
    "kubelet_gate_handshakes counter",
    "kubelet_gate_panics counter",
    "kubelet_gate_pin_mismatches counter",
    "kubelet_gate_read_only_port_requests counter",
    "kubelet_gate_rejections counter",
    "kubelet_gate_reloads counter",
    "kubelet_gate_request_duration_seconds histogram",
    "kubelet_gate_requests counter",
    "kubelet_gate_requests_in_flight gauge",
    "kubelet_gate_reviews counter",
    "kubelet_gate_seal_open_seconds counter",
    "kubelet_gate_streams gauge",
    "kubelet_gate_unauthenticated_connections gauge",
    "kubelet_gate_ungated_connections gauge",
    "kubelet_gate_upstream_connections counter",
    "kubelet_gate_upstream_idle_connections gauge",
];

async fn get(world: &World, target: &str) -> (StatusCode, String) {
    let answer = world.admin_client().get(target).await.unwrap();
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    (answer.status(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_can_serve_is_live_and_ready() {
    let world = World::start().await;
    assert_eq!(get(&world, "/livez").await, (StatusCode::OK, "ok\n".into()));
    assert_eq!(get(&world, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    let (status, report) = get(&world, "/readyz?verbose").await;
    assert_eq!(status, 200);
    for part in ["listener", "certificate", "kubelet", "audit"] {
        assert!(report.contains(&format!("[+] {part} ok\n")), "{report}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_its_kubelet_is_live_and_not_ready() {
    let world = World::builder()
        .set("upstream.url", "https://127.0.0.1:1")
        .start()
        .await;
    let (status, report) = get(&world, "/readyz?verbose").await;
    assert_eq!(status, 503);
    assert!(
        report.contains("[-] kubelet: the kubelet at 127.0.0.1:1 cannot be reached"),
        "{report}"
    );
    assert!(report.ends_with("not ready\n"), "{report}");
    let answer = world.client("bob").get("/pods").await.unwrap();
    assert_answer(&answer, 502, "the kubelet cannot be reached\n");
    assert_eq!(get(&world, "/livez").await.0, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gate_is_not_ready_and_its_admin_port_still_answers() {
    let world = World::start().await;
    // A followed log keeps the gate from stopping.
    let following = world
        .client("bob")
        .open(crate::world::request("GET", LOG, &[]))
        .await
        .unwrap();
    world.begin_to_stop();
    let report = get(&world, "/readyz").await;
    assert_eq!(
        report,
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "[-] listener: stopping\nnot ready\n".into()
        )
    );
    assert_eq!(get(&world, "/livez").await.0, 200);
    drop(following);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_openmetrics_under_stable_names() {
    let world = World::start().await;
    world.client("bob").get("/pods").await.unwrap();
    world.client("alice").get("/pods").await.unwrap();
    // A family is listed once it has a series: one for each family with labels.
    world.stranger().get("/pods").await.unwrap();
    world.stranger().raw(b"no HTTP\r\n\r\n").await.unwrap();
    std::fs::write(world.file("ca.crt"), "").unwrap();
    world.gate.reload();
    // Bytes that are no HTTP are counted after they are answered.
    eventually("all requests have ended and are counted", || {
        world.metric("requests_in_flight", &[]) == 0.0 && world.metric("rejections_total", &[]) == 1.0
    })
    .await;
    let answer = world.admin_client().get("/metrics").await.unwrap();
    assert_eq!(
        header(&answer, "content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let families: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    assert_eq!(families.into_iter().collect::<Vec<_>>(), FAMILIES);
    let helped = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(helped, FAMILIES.len());
    assert_eq!(
        world.metric(
            "requests_total",
            &[
                ("code", "200"),
                ("decision", "allow"),
                ("subresource", "pods"),
                ("verb", "get")
            ]
        ),
        1.0
    );
    assert_eq!(
        world.metric("requests_total", &[("code", "403"), ("decision", "forbid")]),
        1.0
    );
    for name in ["alice", "bob", "127.0.0.1"] {
        assert!(!text.contains(name), "a label per user would grow without bound");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_forwards_nothing() {
    let world = World::builder().always_allow().anonymous().start().await;
    for path in [
        "/pods",
        "/exec/a/b/c",
        "/livez/../pods",
        "/metrics/cadvisor",
        "//pods",
        "/",
    ] {
        let answer = world
            .admin_client()
            .raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{path}");
    }
    let post = world
        .admin_client()
        .call("POST", "/livez", &[], "x")
        .await
        .unwrap();
    assert_eq!(post.status(), 405);
    assert_eq!(header(&post, "allow"), "GET, HEAD");
    world.assert_nothing_forwarded();
    world.stop().await;
}

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";
