//! The API server decides every request. If its failure, or a server that impersonates it, opened the gate,
//! an outage would be a break-in.

use std::fs;
use std::time::{Duration, Instant};

use fakes::apiserver::{Api, Behaviour};
use fakes::pki::{CertificateSpec, Pair};
use serde_json::{Value, json};
use time::Duration as Span;
use tokio::task::JoinSet;

use crate::answers_failures::{NO_ACCESS_REVIEW, NO_TOKEN_REVIEW};
use crate::patience::stretched;
use crate::program::{Installation, code, stderr};
use crate::world::{PKI, Status as _, World, assert_answer, header};

pub(crate) fn client_pair(name: &str) -> Pair {
    PKI.client(name, &CertificateSpec::client(name).group("admins"))
        .unwrap()
}

/// How often the gate may ask for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Once,
    /// At least twice: contract §1.7.
    Again,
}

/// T22. Seen red: with a review that failed taken for an allow, the first row; with `allowed` and `denied` at
/// once, or `authenticated` and `error`, not refused, that row; with every 503 retried, that row; with lists
/// read as objects, the rows with lists.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_api_server_answers_wrongly_nothing_gets_through() {
    let world = World::builder()
        .without_caches()
        .set("limits.reviewTimeout", "2s")
        .start()
        .await;
    let raw = |code: u16, body: &str| Behaviour::Raw(code, body.to_owned());
    let status = Behaviour::status;
    let access = r#""kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1""#;
    let token = r#""kind":"TokenReview","apiVersion":"authentication.k8s.io/v1""#;
    let user = json!({"authenticated": true, "user": {"username": "admin", "groups": ["admins"]}});
    let mut user_with_error = user.clone();
    user_with_error["error"] = json!("or not");
    let both = [
        (Behaviour::Fail(500), Asked::Again),
        (Behaviour::Fail(504), Asked::Again),
        (Behaviour::Fail(503), Asked::Once),
        (Behaviour::Fail(401), Asked::Once),
        (Behaviour::Fail(403), Asked::Once),
        (Behaviour::Fail(404), Asked::Once),
        (Behaviour::Throttle(1), Asked::Again),
        // Longer than the review may take.
        (Behaviour::Throttle(60), Asked::Once),
        (Behaviour::Hang, Asked::Once),
        (Behaviour::Close, Asked::Once),
        (Behaviour::Break, Asked::Once),
        (Behaviour::Drip(Duration::from_millis(100)), Asked::Once),
        (Behaviour::Garbage, Asked::Once),
        (Behaviour::Huge(2 << 20), Asked::Once),
        (raw(200, ""), Asked::Once),
        (raw(200, "null"), Asked::Once),
        (raw(200, "[true]"), Asked::Once),
        (raw(200, "<html>please log in</html>"), Asked::Once),
        (raw(201, &format!("{{{access}}}")), Asked::Once),
        (raw(201, &format!("{{{token}}}")), Asked::Once),
        (raw(201, r#"{"kind":"Status","status":"Success"}"#), Asked::Once),
        (raw(204, ""), Asked::Once),
        (raw(302, ""), Asked::Once),
        (
            raw(202, &format!(r#"{{{access},"status":{{"allowed":true}}}}"#)),
            Asked::Once,
        ),
    ];
    let only_access = [
        raw(201, &format!(r#"{{{token},"status":{{"allowed":true}}}}"#)),
        raw(201, r#"{"status":{"allowed":true}}"#),
        raw(201, &format!(r#"{{{access},"status":{{"allowed":"true"}}}}"#)),
        status(json!({"allowed": true, "denied": true})),
        status(json!({"allowed": 1})),
        status(json!({"reason": "no word on it"})),
        status(json!([true])),
        status(json!([true, false, ""])),
        raw(
            201,
            r#"["SubjectAccessReview","authorization.k8s.io/v1",{"allowed":true}]"#,
        ),
        raw(
            201,
            r#"{"kind":"SubjectAccessReview","apiVersion":"v1","status":{"allowed":true}}"#,
        ),
        raw(
            201,
            &format!(r#"{{{access},"status":{{"allowed":false,"allowed":true}}}}"#),
        ),
        raw(201, &format!(r#"{{{access},"status":{{"allowed":true}}}}{{}}"#)),
    ];
    let only_token = [
        raw(201, &format!(r#"{{{access},"status":{user}}}"#)),
        raw(201, &format!(r#"{{"status":{user}}}"#)),
        status(json!({"authenticated": "true", "user": {"username": "admin"}})),
        status(json!({"authenticated": true, "user": {"groups": ["system:masters"]}})),
        status(json!({"authenticated": true})),
        status(user_with_error),
        status(json!([true, {"username": "admin"}])),
        status(json!({"authenticated": true, "user": ["admin", "", ["admins"]]})),
        status(json!({"authenticated": true, "user": {"username": "admin", "extra": ["k"]}})),
        raw(
            201,
            &format!(r#"["TokenReview","authentication.k8s.io/v1",{user}]"#),
        ),
        raw(
            201,
            &format!(r#"{{"kind":"TokenReview","apiVersion":"v1","status":{user}}}"#),
        ),
        raw(201, &format!(r#"{{{token},"status":{{}},"status":{user}}}"#)),
    ];
    let once = |behaviours: [Behaviour; 12]| behaviours.map(|behaviour| (behaviour, Asked::Once));
    let rows = both.clone().into_iter().chain(once(only_access));
    let rows = rows.map(|row| (Api::Access, row));
    let rows = rows.chain(
        both.into_iter()
            .chain(once(only_token))
            .map(|row| (Api::Token, row)),
    );

    for (number, (api, (behaviour, asked))) in rows.enumerate() {
        world.api.heal();
        world.api.behave(api, behaviour);
        world.api.clear_reviews();
        // A user of its own: a failure is remembered for a second.
        let name = format!("user-{number}");
        let (answer, body) = match api {
            Api::Access => {
                let answer = world.client_with(&client_pair(&name)).get("/pods").await;
                (answer.unwrap(), NO_ACCESS_REVIEW)
            }
            Api::Token => (
                world.token_client(&name).get("/pods").await.unwrap(),
                NO_TOKEN_REVIEW,
            ),
        };
        let row = format!("row {number} {api:?}");
        assert_eq!(answer.status(), 503, "{row}: {answer:?}");
        assert_answer(&answer, 503, body);
        assert_ne!(header(&answer, "retry-after"), "", "{row}");
        match asked {
            Asked::Once => assert_eq!(world.api.count(api), 1, "{row}"),
            Asked::Again => assert!(world.api.count(api) > 1, "{row}"),
        }
    }
    world.assert_nothing_forwarded();
    world.api.heal();
    let answer = world
        .client_with(&client_pair("healed"))
        .get("/pods")
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    world.stop().await;
}

/// Contract §1.7: a failure that is over within the deadline is not seen by the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_failure_of_the_api_server_is_not_seen_by_the_client() {
    let world = World::builder().without_caches().start().await;
    // Leaves a connection for the next review.
    assert_eq!(world.client("bob").status("/healthz").await, 200);
    for (name, behaviours) in [
        ("throttled", vec![Behaviour::Throttle(1)]),
        ("failing", vec![Behaviour::Fail(500), Behaviour::Fail(504)]),
        // On a kept connection, which the server may have closed as idle.
        ("closed", vec![Behaviour::Close]),
    ] {
        world.api.clear_reviews();
        let expected = behaviours.len() + 1;
        world.api.behave_next(Api::Access, behaviours);
        let answer = world
            .client_with(&client_pair(name))
            .get("/healthz")
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(world.api.count(Api::Access), expected, "{name}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_api_server_is_503_at_once_and_reported() {
    let world = World::start().await;
    world.api.down().await.unwrap();
    let answer = world.client("bob").get("/pods").await.unwrap();
    assert_answer(&answer, 503, NO_ACCESS_REVIEW);
    let answer = world.token_client("t").get("/pods").await.unwrap();
    assert_answer(&answer, 503, NO_TOKEN_REVIEW);
    world.assert_nothing_forwarded();
    let said = async || {
        let report = world.admin_client().get("/readyz?verbose").await.unwrap();
        assert_eq!(report.status(), 200);
        String::from_utf8_lossy(report.body()).into_owned()
    };
    let failing = said().await;
    let why = format!(": TokenReview failed: cannot connect to {}", world.api.address());
    assert!(
        failing.contains("\n[!] api-server: failing since 20"),
        "{failing}"
    );
    assert!(failing.contains(&why), "{failing}");
    world.api.up().await.unwrap();
    assert_eq!(world.client("bob").status("/metrics").await, 200);
    assert!(said().await.contains("\n[+] api-server ok\n"));
    world.stop().await;
}

/// T23. Seen red: with a verifier that believes every certificate, the first row is answered 200.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_impersonates_the_api_server_receives_nothing() {
    let names = ["127.0.0.1", "::1", "localhost"];
    let good = CertificateSpec::server("kube-apiserver", &names);
    for (pair, why) in [
        (PKI.untrusted_ca.issue("x", &good).unwrap(), "BadSignature"),
        (PKI.rotated_ca.issue("x", &good).unwrap(), "UnknownIssuer"),
        (
            PKI.client(
                "x",
                &CertificateSpec::server("kube-apiserver", &["other.example"]),
            )
            .unwrap(),
            "not valid for name",
        ),
        (
            PKI.client("x", &good.clone().valid(-Span::days(2), -Span::DAY))
                .unwrap(),
            "expired",
        ),
        (
            PKI.client("x", &good.clone().valid(Span::DAY, Span::days(2)))
                .unwrap(),
            "not valid yet",
        ),
        // A client of the cluster, such as another node, is not its API server.
        (
            PKI.client("x", &CertificateSpec::client("system:node:worker-2"))
                .unwrap(),
            "certificate",
        ),
    ] {
        let world = World::start().await;
        world.api.set_serving(&pair).unwrap();
        let answer = world.client("bob").get("/pods").await.unwrap();
        assert_answer(&answer, 503, NO_ACCESS_REVIEW);
        let answer = world.token_client("secret").get("/pods").await.unwrap();
        assert_answer(&answer, 503, NO_TOKEN_REVIEW);
        world.assert_nothing_forwarded();
        assert_eq!(world.api.reviews(), []);
        assert_eq!(
            world.api.credentials(),
            Vec::<String>::new(),
            "the gate showed its credential"
        );
        let report = world.admin_client().get("/readyz?verbose").await.unwrap();
        let said = String::from_utf8_lossy(report.body()).into_owned();
        assert!(said.contains("TLS handshake with"), "{said}");
        assert!(said.contains(why), "{why:?} is not in {said}");
        assert!(said.contains("certificate-authority, tls-server-name"), "{said}");
        world.stop().await;
    }
}

/// T23: a kubeconfig by which the gate would trust any server.
#[test]
fn a_kubeconfig_that_verifies_no_server_is_refused_at_start() {
    let node = Installation::new();
    let kubeconfig: Value = serde_json::from_slice(&fs::read(node.path("kubeconfig")).unwrap()).unwrap();
    for (key, value, way_out) in [
        (
            "insecure-skip-tls-verify",
            json!(true),
            "remove it and give certificate-authority",
        ),
        (
            "proxy-url",
            json!("http://192.0.2.1:3128"),
            "remove it and give a server in direct reach",
        ),
        (
            "certificate-authority",
            Value::Null,
            "give the cluster's CA bundle",
        ),
        ("server", json!("http://127.0.0.1:1"), "not https://"),
    ] {
        let mut changed = kubeconfig.clone();
        changed["clusters"][0]["cluster"][key] = value;
        fs::write(node.path("kubeconfig"), changed.to_string()).unwrap();
        let checked = node.check(&[]);
        let said = stderr(&checked);
        assert_eq!(code(&checked), 64, "{said}");
        assert!(said.contains(&format!("clusters[c].cluster.{key}: ")), "{said}");
        assert!(said.contains(way_out), "{said}");
    }
}

/// A hundred scrapes of a node whose API server is dead cause one review each for user and token, and all end
/// by its deadline.
///
/// Seen red: with a running review not joined, the API server is asked 50 times.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_waiters_on_a_dead_api_server_are_answered_within_one_deadline() {
    let world = World::builder().set("limits.reviewTimeout", "3s").start().await;
    world.api.behave_all(Behaviour::Hang);
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for number in 0..100 {
        let (bob, token) = (world.client("bob"), world.token_client("token"));
        waiting.spawn(async move {
            match number % 2 {
                0 => bob.status("/pods").await,
                _ => token.status("/pods").await,
            }
        });
    }
    for status in waiting.join_all().await {
        assert_eq!(status, 503);
    }
    let (took, deadline) = (began.elapsed(), Duration::from_secs(3));
    assert!(took >= deadline && took < stretched(3 * deadline), "{took:?}");
    assert_eq!(
        (world.api.count(Api::Access), world.api.count(Api::Token)),
        (1, 1)
    );
    world.assert_nothing_forwarded();
    world.stop().await;
}
