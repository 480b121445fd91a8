//! If credentials were combined in another order than the kubelet's, a client would be taken for another
//! user, or a stranger with a broken credential for the anonymous user.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fakes::apiserver::{ADMIN_TOKEN, Api, Behaviour, METRICS_TOKEN, Review, User, token_hash};
use fakes::client::{Alpn, Client, ClientTls};
use fakes::pki::{Attribute, CertificateSpec, Pair};
use serde_json::{Value, json};

use crate::patience::eventually;
use crate::world::{PKI, Status as _, World, WorldBuilder, assert_answer};

/// The user that the gate sees in a request, which it asks the API server about; `None` for 401.
async fn user_of(
    world: &World,
    pair: Option<&str>,
    authorization: &[&str],
    protocols: &[&str],
) -> Option<String> {
    world.api.clear_reviews();
    let client = world.tls_client(pair.map(|name| PKI.pair(name).unwrap()), Alpn::H1);
    let headers: Vec<_> = authorization
        .iter()
        .map(|value| ("authorization", *value))
        .collect();
    let status = if protocols.is_empty() {
        client
            .call("GET", "/metrics", &headers, "")
            .await
            .unwrap()
            .status()
    } else {
        let exec = "/exec/default/web/nginx?command=id&output=1";
        client
            .websocket(exec, protocols, &headers)
            .await
            .unwrap()
            .status()
    };
    let asked = world.api.access_specs();
    if status == 401 {
        assert_eq!(
            asked,
            Vec::<Value>::new(),
            "an unauthenticated request was authorized"
        );
        return None;
    }
    Some(
        asked.last().expect("no review was asked")["user"]
            .as_str()
            .unwrap()
            .to_owned(),
    )
}

fn protocol(token: &str) -> String {
    format!(
        "base64url.bearer.authorization.k8s.io.{}",
        URL_SAFE_NO_PAD.encode(token)
    )
}

const METRICS: &str = "system:serviceaccount:monitoring:metrics";
const ANONYMOUS: &str = "system:anonymous";
const V5: &str = "v5.channel.k8s.io";

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_combined_as_the_kubelet_combines_them() {
    let good = format!("Bearer {METRICS_TOKEN}");
    let ignored_rest = format!("  bEARER {METRICS_TOKEN} and more ");
    let (two_spaces, tab) = (
        format!("Bearer  {METRICS_TOKEN}"),
        format!("Bearer\t{METRICS_TOKEN}"),
    );
    let protocol_good = protocol(METRICS_TOKEN);
    let (bad_encoding, not_utf8) = (
        "base64url.bearer.authorization.k8s.io.a=b",
        format!(
            "base64url.bearer.authorization.k8s.io.{}",
            URL_SAFE_NO_PAD.encode([0xff])
        ),
    );
    let (only_token, nothing_in_it) = ([protocol_good.as_str()], protocol(""));
    let two_tokens = [protocol_good.as_str(), protocol_good.as_str(), V5];
    // Certificate, Authorization headers, subprotocols; the user, with anonymous requests off and on.
    type Row<'a> = (
        Option<&'a str>,
        &'a [&'a str],
        &'a [&'a str],
        [Option<&'a str>; 2],
    );
    let both = |user| [Some(user), Some(user)];
    let no_credential = [None, Some(ANONYMOUS)];
    let refused = [None, None];
    let rows: &[Row<'_>] = &[
        (None, &[], &[], no_credential),
        (Some("alice"), &[], &[], both("alice")),
        // A good certificate decides: the token is not looked at.
        (Some("alice"), &[&good], &[], both("alice")),
        (Some("alice"), &["Bearer unknown"], &[], both("alice")),
        (Some("alice"), &["Bearer"], &[], both("alice")),
        // With a bad certificate a token still counts; without one it is 401, even where anonymous requests
        // are allowed.
        (Some("wrong-ca"), &[], &[], refused),
        (Some("expired"), &[], &[], refused),
        (Some("not-yet-valid"), &[], &[], refused),
        (Some("wrong-usage"), &[], &[], refused),
        (Some("wrong-ca"), &[&good], &[], both(METRICS)),
        (Some("expired"), &[&good], &[], both(METRICS)),
        (Some("wrong-ca"), &["Bearer unknown"], &[], refused),
        // A certificate without a common name names no user.
        (Some("no-cn"), &[], &[], no_credential),
        (Some("no-cn"), &[&good], &[], both(METRICS)),
        (None, &[&good], &[], both(METRICS)),
        (None, &[&ignored_rest], &[], both(METRICS)),
        (None, &["Bearer unknown"], &[], refused),
        // A header that is no bearer token counts as none.
        (None, &["Basic Ym9iOmJvYg=="], &[], no_credential),
        (None, &["Bearer"], &[], no_credential),
        (None, &[""], &[], no_credential),
        (None, &[&two_spaces], &[], no_credential),
        (None, &[&tab], &[], no_credential),
        // Only the first header is read.
        (None, &[&good, "Bearer unknown"], &[], both(METRICS)),
        (None, &["Basic Ym9iOmJvYg==", &good], &[], no_credential),
        // The token of a WebSocket's subprotocol.
        (None, &[], &[&protocol_good, V5], both(METRICS)),
        (None, &["Bearer unknown"], &[&protocol_good, V5], both(METRICS)),
        (None, &[], &[V5], no_credential),
        (None, &[], &only_token, refused),
        (None, &[], &two_tokens, refused),
        (None, &[], &[bad_encoding, V5], refused),
        (None, &[], &[&not_utf8, V5], refused),
        (None, &[], &[&nothing_in_it, V5], no_credential),
        (Some("alice"), &[], &only_token, both("alice")),
    ];
    for (column, anonymous) in [false, true].into_iter().enumerate() {
        let world = World::builder()
            .without_caches()
            .set("authentication.anonymous.enabled", anonymous)
            .start()
            .await;
        for (pair, authorization, protocols, expected) in rows {
            let found = user_of(&world, *pair, authorization, protocols).await;
            assert_eq!(
                found.as_deref(),
                expected[column],
                "anonymous: {anonymous}, {pair:?}, {authorization:?}, {protocols:?}"
            );
            if *pair == Some("alice") {
                assert_eq!(world.api.count(Api::Token), 0, "a token was reviewed for nothing");
            }
        }
        world.assert_nothing_forwarded_but("/metrics");
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_count_while_webhook_authentication_is_off() {
    let world = World::builder()
        .set("authentication.webhook.enabled", false)
        .anonymous()
        .without_caches()
        .start()
        .await;
    let good = format!("Bearer {METRICS_TOKEN}");
    assert_eq!(
        user_of(&world, None, &[&good], &[]).await.as_deref(),
        Some(ANONYMOUS)
    );
    let protocols = [&protocol(METRICS_TOKEN), V5];
    assert_eq!(
        user_of(&world, None, &[], &protocols).await.as_deref(),
        Some(ANONYMOUS)
    );
    assert_eq!(
        user_of(&world, Some("alice"), &[&good], &[]).await.as_deref(),
        Some("alice")
    );
    assert_eq!(world.api.count(Api::Token), 0);
    world.stop().await;
}

/// A token in a subprotocol counts in a WebSocket upgrade alone; elsewhere the header is an ordinary one.
#[tokio::test(flavor = "multi_thread")]
async fn a_subprotocol_token_needs_a_websocket_upgrade() {
    let world = World::start().await;
    let protocols = format!("{}, {V5}", protocol(METRICS_TOKEN));
    let plain = [("sec-websocket-protocol", protocols.as_str())];
    let spdy = [plain[0], ("connection", "upgrade"), ("upgrade", "SPDY/3.1")];
    for headers in [&plain[..], &spdy] {
        let answer = world
            .stranger()
            .call("GET", "/metrics", headers, "")
            .await
            .unwrap();
        assert_answer(&answer, 401, "Unauthorized");
    }
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_query_does_not_count() {
    let world = World::start().await;
    for query in ["access_token", "token", "authorization"] {
        let target = format!("/metrics?{query}={METRICS_TOKEN}");
        assert_answer(&world.stranger().get(&target).await.unwrap(), 401, "Unauthorized");
    }
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificates_user_has_name_uid_groups_and_credential_id() {
    let world = World::start().await;
    let spec = CertificateSpec::client("carl")
        .group("b")
        .group("a")
        .attribute(Attribute::Uid, "42-carl");
    let carl = PKI.client("carl", &spec).unwrap();
    assert_eq!(world.client_with(&carl).status("/metrics").await, 403);

    let fingerprint = digest(&SHA256, &carl.chain[0]);
    let fingerprint = fingerprint
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    assert_eq!(
        world.api.access_specs(),
        [json!({
            "resourceAttributes": {
                "verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics",
                "name": "worker-1",
            },
            "user": "carl",
            "uid": "42-carl",
            "groups": ["b", "a", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/credential-id": [format!("X509SHA256={fingerprint}")]},
        })]
    );
    world.stop().await;
}

/// A proxy that passes groups on in one header separates them by a character, and a group that has it becomes
/// two. Here a group stays one, in the review and in the audit.
///
/// Seen red: with the groups joined by "|" and split again before the review.
#[tokio::test(flavor = "multi_thread")]
async fn a_separator_in_a_group_makes_no_second_group() {
    let world = World::start().await;
    let long = "x".repeat(4096);
    let groups = [
        "a|system:masters",
        "b,system:masters",
        "c\r\nX-Remote-Group: system:masters",
        "d\0system:masters",
        "\"],\"groups\":[\"system:masters",
        &long,
    ];
    let spec = groups
        .iter()
        .fold(CertificateSpec::client("carl"), |spec, group| spec.group(group));
    let carl = PKI.client("carl", &spec).unwrap();
    assert_eq!(world.client_with(&carl).status("/metrics").await, 403);
    let expected: Vec<&str> = groups.into_iter().chain(["system:authenticated"]).collect();
    assert_eq!(world.api.access_specs()[0]["groups"], json!(expected));
    assert_eq!(world.audit_events(1).await[0]["user"]["groups"], json!(expected));
    world.stop().await;
}

/// A certificate names its user by its subject. What another proxy would read of the certificate, or of a
/// header that such a proxy sets, is no identity here.
///
/// Seen red: with the DNS name taken where there is no common name.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_a_common_name_names_no_user_whatever_the_headers_say() {
    let world = World::start().await;
    let spec = CertificateSpec {
        names: vec!["admin.example".to_owned()],
        ..CertificateSpec::client("")
    };
    let client = world.client_with(&PKI.client("unnamed", &spec).unwrap());
    for (name, value) in [
        ("x-remote-user", "admin"),
        ("x-remote-group", "system:masters"),
        ("x-forwarded-client-cert", "Subject=\"CN=admin\""),
        ("x-ssl-client-dn", "CN=admin"),
    ] {
        let answer = client
            .call("GET", "/metrics", &[(name, value)], "")
            .await
            .unwrap();
        assert_answer(&answer, 401, "Unauthorized");
    }
    assert_eq!(world.api.reviews(), []);
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_says_unauthenticated_is_not_made_authenticated() {
    let world = World::start().await;
    let spec = CertificateSpec::client("odd").group("system:unauthenticated");
    let odd = PKI.client("odd", &spec).unwrap();
    world.client_with(&odd).get("/metrics").await.unwrap();
    assert_eq!(
        world.api.access_specs()[0]["groups"],
        json!(["system:unauthenticated"])
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_two_uids_or_an_empty_one_is_refused() {
    let world = World::builder().anonymous().start().await;
    for uids in [&["1", "2"][..], &[""], &["1", "1"]] {
        let spec = uids.iter().fold(CertificateSpec::client("carl"), |spec, uid| {
            spec.attribute(Attribute::Uid, uid)
        });
        let carl = PKI.client("carl", &spec).unwrap();
        let answer = world.client_with(&carl).get("/metrics").await.unwrap();
        assert_answer(&answer, 401, "Unauthorized");
    }
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}

/// A certificate proves nothing without its key, which the handshake must verify.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_another_key_fails_the_handshake() {
    let world = World::start().await;
    let (bob, alice) = (PKI.pair("bob").unwrap(), PKI.pair("alice").unwrap());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let versions: &'static [_] = Box::leak(Box::new([version]));
        let tls = |key: &Pair| ClientTls {
            certificate: Some((bob.chain.clone(), key.key.clone_key())),
            versions,
            ..ClientTls::default()
        };
        let thief = Client::new(world.address, tls(alice)).unwrap();
        thief.get("/pods").await.unwrap_err();
        let owner = Client::new(world.address, tls(bob)).unwrap();
        assert_eq!(owner.status("/pods").await, 200);
    }
    assert_eq!(world.kubelet.request_count(), 2);
    world.stop().await;
}

/// With `Require` a client without a good certificate gets no 401 but an alert; a token alone is not enough.
#[tokio::test(flavor = "multi_thread")]
async fn where_certificates_are_required_no_handshake_succeeds_without_a_good_one() {
    let world = World::builder()
        .set("authentication.x509.clientCertificates", "Require")
        .start()
        .await;
    world.stranger().get("/pods").await.unwrap_err();
    world.token_client(ADMIN_TOKEN).get("/pods").await.unwrap_err();
    for bad in ["wrong-ca", "expired", "not-yet-valid", "wrong-usage"] {
        world.client(bad).get("/pods").await.unwrap_err();
    }
    assert_eq!(world.client("bob").status("/pods").await, 200);
    assert_eq!(world.kubelet.request_count(), 1);
    world.stop().await;
}

// === tokens ===

/// A behaviour that records each `spec` and answers with this `status`.
fn recorded(status: Value) -> (Behaviour, Arc<Mutex<Vec<Value>>>) {
    let specs = Arc::new(Mutex::new(Vec::new()));
    let record = specs.clone();
    let behaviour = Behaviour::Answer(Arc::new(move |spec: &Value| {
        record.lock().unwrap().push(spec.clone());
        status.clone()
    }));
    (behaviour, specs)
}

async fn world_with_audience() -> World {
    let builder: WorldBuilder = World::builder();
    builder
        .set(
            "authentication.webhook.audiences",
            json!(["kubelet-gate", "kubelet"]),
        )
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_review_asks_about_the_token_and_nothing_else() {
    let world = World::start().await;
    let user = json!({"username": "zoe", "uid": "7", "groups": ["z"], "extra": {"k": ["v", "w"]}});
    let (behaviour, specs) = recorded(json!({"authenticated": true, "user": user}));
    world.api.behave(Api::Token, behaviour);
    assert_eq!(world.token_client("to.ken+/=~").status("/metrics").await, 403);
    assert_eq!(*specs.lock().unwrap(), [json!({"token": "to.ken+/=~"})]);

    // The access review has the user as it is, and the group of all authenticated users.
    let spec = &world.api.access_specs()[0];
    assert_eq!(
        (&spec["user"], &spec["uid"], &spec["groups"], &spec["extra"]),
        (
            &json!("zoe"),
            &json!("7"),
            &json!(["z", "system:authenticated"]),
            &json!({"k": ["v", "w"]})
        )
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_another_audience_is_refused() {
    let world = world_with_audience().await;
    let user = json!({"username": "zoe"});
    for (number, (audiences, status)) in [
        (json!(["kubelet"]), 403),
        (json!(["other", "kubelet-gate"]), 403),
        (json!(["other"]), 401),
        // An API server that ignores audiences: the token is for the API server, not for the gate.
        (json!([]), 401),
        (Value::Null, 401),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = json!({"authenticated": true, "user": user, "audiences": audiences});
        let (behaviour, specs) = recorded(answer);
        world.api.behave(Api::Token, behaviour);
        let token = format!("token-{number}");
        let answer = world.token_client(&token).get("/metrics").await.unwrap();
        assert_eq!(answer.status(), status, "{audiences}");
        let asked = json!({"token": token, "audiences": ["kubelet-gate", "kubelet"]});
        assert_eq!(*specs.lock().unwrap(), [asked]);
    }
    // In a real look-up: the lab's own tokens are for the API server.
    world.api.heal();
    assert_eq!(world.token_client(ADMIN_TOKEN).status("/pods").await, 401);
    world
        .api
        .add_token("ours", User::new("admin", &["admins"]).audiences(&["kubelet"]));
    assert_eq!(world.token_client("ours").status("/pods").await, 200);
    world.stop().await;
}

/// A contradictory answer must not be read in the client's favour.
#[tokio::test(flavor = "multi_thread")]
async fn a_contradictory_token_review_is_refused() {
    let world = World::start().await;
    for (number, (status, code)) in [
        (
            json!({"authenticated": true, "user": {"username": "bob"}, "error": "boom"}),
            503,
        ),
        (json!({"authenticated": true, "user": {}}), 503),
        (json!({"authenticated": true}), 503),
        (
            json!({"authenticated": false, "user": {"username": "bob", "groups": ["admins"]}}),
            401,
        ),
        (json!({"user": {"username": "bob", "groups": ["admins"]}}), 401),
        (json!({"authenticated": "true", "user": {"username": "bob"}}), 503),
    ]
    .into_iter()
    .enumerate()
    {
        world.api.behave(Api::Token, Behaviour::status(status.clone()));
        let answer = world
            .token_client(&format!("token-{number}"))
            .get("/pods")
            .await
            .unwrap();
        assert_eq!(answer.status(), code, "{status}");
    }
    assert_eq!(world.api.count(Api::Access), 0);
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_reviewed_once_for_all_connections() {
    let world = World::start().await;
    let mut kept = world.stranger().connect().await.unwrap();
    let authorization = format!("Bearer {METRICS_TOKEN}");
    for _ in 0..3 {
        let request = crate::world::request("GET", "/metrics", &[("authorization", &authorization)]);
        assert_eq!(kept.send(request).await.unwrap().status(), 200);
        assert_eq!(world.token_client(METRICS_TOKEN).status("/metrics").await, 200);
    }
    let review = Review::Token {
        sha256: token_hash(METRICS_TOKEN),
        length: METRICS_TOKEN.len(),
        audiences: vec![],
    };
    let asked = world.api.reviews();
    assert_eq!(
        asked
            .iter()
            .filter(|review| review.api() == Api::Token)
            .collect::<Vec<_>>(),
        [&review]
    );

    // What a connection remembers of its last token does not count for another one.
    for token in ["unknown", "metrics-tokem", "metrics-toke"] {
        let bearer = format!("Bearer {token}");
        let request = crate::world::request("GET", "/metrics", &[("authorization", &bearer)]);
        assert_eq!(kept.send(request).await.unwrap().status(), 401);
    }
    drop(kept);
    world.stop().await;
}

/// Many requests with the same bad token must not cause many reviews.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_is_not_reviewed_again_at_once() {
    let world = World::start().await;
    for _ in 0..5 {
        let answer = world.token_client("unknown").get("/metrics").await.unwrap();
        assert_answer(&answer, 401, "Unauthorized");
    }
    assert_eq!(world.api.count(Api::Token), 1);
    world.stop().await;
}

/// A remembered answer must not outlive the token.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_reviewed_again_once_it_has_expired() {
    let world = World::start().await;
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_millis(1300);
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": soon.as_secs_f64()}).to_string());
    let token = format!("e30.{claims}.sig");
    world
        .api
        .add_token(&token, User::service_account("monitoring", "metrics"));
    let mut connection = world.stranger().connect().await.unwrap();
    let bearer = format!("Bearer {token}");
    let request = || crate::world::request("GET", "/metrics", &[("authorization", &bearer)]);
    assert_eq!(connection.send(request()).await.unwrap().status(), 200);
    assert_eq!(connection.send(request()).await.unwrap().status(), 200);
    assert_eq!(world.api.count(Api::Token), 1);

    world.api.revoke_token(&token);
    eventually("the token has expired", || {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() > soon
    })
    .await;
    assert_eq!(
        connection.send(request()).await.unwrap().status(),
        401,
        "on the same connection"
    );
    assert_eq!(world.token_client(&token).status("/metrics").await, 401);
    drop(connection);
    world.stop().await;
}
