//! A static rule allows without a review. If it allowed more than measurements, or reached clients that it
//! does not name, an operator who wants graphs in an outage would have opened the node.

use fakes::apiserver::{Api, METRICS_TOKEN, PROXY_GET_TOKEN, User};
use fakes::client::Alpn;
use fakes::pki::{CertificateSpec, Pair};
use serde_json::{Value, json};

use crate::answers_failures::{NO_ACCESS_REVIEW, NO_TOKEN_REVIEW};
use crate::program::{Installation, assert_says, code, stderr};
use crate::world::{PKI, Status as _, World, WorldBuilder, assert_answer};

/// A world with these static rules.
fn with_rules(rules: Value) -> WorldBuilder {
    World::builder().set("authorization.static", rules)
}

fn rule(subject: &str, name: &str, subresources: &[&str]) -> Value {
    json!({subject: [name], "verbs": ["get"], "subresources": subresources})
}

fn scraper(name: &str, group: &str) -> Pair {
    PKI.client(name, &CertificateSpec::client(name).group(group))
        .unwrap()
}

/// The audit's reason for the last event.
async fn last_reason(world: &World, events: usize) -> String {
    let events = world.audit_events(events).await;
    let annotations = &events.last().unwrap()["annotations"];
    annotations["authorization.k8s.io/reason"]
        .as_str()
        .unwrap_or("")
        .to_owned()
}

/// Seen red: with the rule's subresources not compared, `/stats/summary` is answered 200; with its verb not
/// compared, the POST.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_allows_a_get_of_what_it_names_and_nothing_else() {
    let world = with_rules(json!([
        rule("users", "other", &["metrics"]),
        rule("users", "prometheus", &["metrics", "healthz"]),
    ]))
    .start()
    .await;
    let prometheus = world.client_with(&scraper("prometheus", "none"));
    assert_eq!(prometheus.status("/metrics").await, 200);
    assert_eq!(last_reason(&world, 1).await, "static rule 2");
    for path in [
        "/metrics/cadvisor",
        "/metrics/resource",
        "/healthz",
        "/healthz/log",
    ] {
        assert_eq!(prometheus.status(path).await, 200, "{path}");
    }
    let head = prometheus.call("HEAD", "/metrics", &[], "").await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(world.api.reviews(), []);
    world.kubelet.clear();
    let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
    for (method, path, headers) in [
        ("GET", "/stats/summary", &[][..]),
        ("GET", "/pods", &[]),
        ("GET", "/configz", &[]),
        ("GET", "/logs/", &[]),
        ("GET", "/containerLogs/a/b/c", &[]),
        ("GET", "/metricsx", &[]),
        ("GET", "/", &[]),
        ("POST", "/metrics", &[]),
        ("PUT", "/healthz", &[]),
        ("DELETE", "/metrics", &[]),
        ("GET", "/exec/a/b/c?command=id", &websocket[..]),
        ("POST", "/run/a/b/c?cmd=id", &[]),
    ] {
        let answer = prometheus.call(method, path, headers, "").await.unwrap();
        assert_eq!(answer.status(), 403, "{method} {path}");
    }
    world.assert_nothing_forwarded();
    // A group has a rule as a user has one, and a name is not a group.
    for (pair, expected) in [
        (scraper("x", "prometheus"), 403),
        (scraper("prometheus2", "none"), 403),
        (scraper("Prometheus", "none"), 403),
    ] {
        assert_eq!(world.client_with(&pair).status("/metrics").await, expected);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_replaces_no_authentication() {
    let monitoring = "system:serviceaccounts:monitoring";
    let world = with_rules(json!([rule("groups", monitoring, &["metrics", "stats"])]))
        .anonymous()
        .start()
        .await;
    // The token is reviewed, and what it asks for is not: its user has no right to metrics.
    let reader = world.token_client(PROXY_GET_TOKEN);
    assert_eq!(reader.status("/metrics").await, 200);
    assert_eq!(last_reason(&world, 1).await, "static rule 1");
    assert_eq!(
        (world.api.count(Api::Token), world.api.count(Api::Access)),
        (1, 0)
    );
    assert_eq!(world.token_client("unknown").status("/metrics").await, 401);
    world
        .api
        .add_token("other", User::service_account("default", "app"));
    assert_eq!(world.token_client("other").status("/metrics").await, 403);
    assert_eq!(world.stranger().status("/metrics").await, 403, "anonymous");
    // A certificate may name the anonymous user; the rule does not.
    let anonymous = scraper("system:anonymous", "system:unauthenticated");
    assert_eq!(world.client_with(&anonymous).status("/metrics").await, 403);
    world.stop().await;
}

/// Seen red: with rules judged before `paths.deny`.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_path_is_denied_whatever_the_rules_say() {
    let world = with_rules(json!([rule("users", "prometheus", &["metrics"])]))
        .set("authorization.paths.deny", json!(["/metrics/cadvisor"]))
        .start()
        .await;
    let prometheus = world.client_with(&scraper("prometheus", "none"));
    assert_eq!(prometheus.status("/metrics").await, 200);
    assert_eq!(prometheus.status("/metrics/cadvisor").await, 403);
    world.stop().await;
}

/// The checks are made in order: a rule on `healthz` suffices for `[healthz proxy]`.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_leaves_certificates_with_a_rule_and_tokens_that_are_remembered() {
    let metrics = "system:serviceaccount:monitoring:metrics";
    let world = with_rules(json!([
        rule("users", "prometheus", &["metrics", "healthz"]),
        rule("users", metrics, &["metrics"]),
    ]))
    .start()
    .await;
    assert_eq!(world.token_client(METRICS_TOKEN).status("/metrics").await, 200);
    world.api.down().await.unwrap();
    for alpn in [Alpn::H1, Alpn::H2] {
        let prometheus = world.tls_client(Some(&scraper("prometheus", "none")), alpn);
        for path in ["/metrics", "/healthz"] {
            assert_eq!(prometheus.status(path).await, 200, "{path}");
        }
        let answer = prometheus.get("/stats/summary").await.unwrap();
        assert_answer(&answer, 503, NO_ACCESS_REVIEW);
    }
    assert_eq!(world.token_client(METRICS_TOKEN).status("/metrics").await, 200);
    let answer = world.token_client(PROXY_GET_TOKEN).get("/metrics").await.unwrap();
    assert_answer(&answer, 503, NO_TOKEN_REVIEW);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_that_a_rule_hides_an_authorizers_deny() {
    let installation = Installation::new();
    installation.configure(|configuration| {
        configuration["authorization"]["static"] = json!([rule("users", "prometheus", &["metrics"])]);
    });
    let checked = installation.check(&["--offline"]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    assert_says(
        &stderr(&checked),
        &[
            "authorization.static",
            "if an authorizer of the API server denies it",
        ],
    );
    installation.configure(|configuration| {
        configuration["authorization"]["static"] =
            json!([rule("groups", "system:authenticated", &["metrics"])]);
    });
    let checked = installation.check(&["--offline"]);
    assert_eq!(code(&checked), 64);
    assert_says(
        &stderr(&checked),
        &["authorization.static[0].groups[0]", "system:authenticated"],
    );
}
