#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::*;
use crate::pki::{CertificateSpec, Pair};

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection of a client to the server.
struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(server: &FakeApiServer, pki: &Pki, pair: Option<&Pair>) -> Result<Self, Failure> {
        let connector = TlsConnector::from(Arc::new(pki.client_config(pair)?));
        let tcp = TcpStream::connect(server.address()).await?;
        let tls = connector
            .connect(ServerName::from(server.address().ip()), tcp)
            .await?;
        let (sender, connection) = handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Vec<u8>), Failure> {
        let (head, body) = self.0.send_request(request).await?.into_parts();
        Ok((head.status, body.collect().await?.to_bytes().to_vec()))
    }

    async fn get(&mut self, path: &str) -> (StatusCode, String) {
        let (code, body) = self
            .send(Request::get(path).body(Full::default()).unwrap())
            .await
            .unwrap();
        (code, String::from_utf8(body).unwrap())
    }

    async fn try_post(&mut self, path: &str, body: &Value) -> Result<(StatusCode, Value), Failure> {
        let request = Request::post(path).header("content-type", "application/json");
        let (code, body) = self.send(request.body(body.to_string().into()).unwrap()).await?;
        Ok((code, serde_json::from_slice(&body)?))
    }

    async fn post(&mut self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.try_post(path, body).await.unwrap()
    }

    /// The whole answer to a token and its `status`.
    async fn token(&mut self, token: &str, audiences: &[&str]) -> Value {
        let (code, answer) = self.post(TOKENS, &token_review(token, audiences)).await;
        assert_eq!(code, 201, "{answer}");
        answer["status"].clone()
    }

    /// The `status` for a user and groups who ask for `verb/subresource` on worker-1.
    async fn may(&mut self, user: &str, groups: &[&str], check: &str) -> Value {
        let (code, answer) = self.post(ACCESS, &access_review(user, groups, check)).await;
        assert_eq!(code, 201, "{answer}");
        answer["status"].clone()
    }
}

fn token_review(token: &str, audiences: &[&str]) -> Value {
    let spec = match audiences {
        [] => json!({"token": token}),
        _ => json!({"token": token, "audiences": audiences}),
    };
    json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": spec})
}

fn access_review(user: &str, groups: &[&str], check: &str) -> Value {
    let (verb, subresource) = check.split_once('/').unwrap();
    json!({
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {
            "user": user,
            "groups": groups,
            "resourceAttributes": {
                "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": "worker-1",
            },
        },
    })
}

async fn start() -> (Pki, FakeApiServer, Client) {
    let pki = Pki::generate().unwrap();
    let server = FakeApiServer::start(&pki).await.unwrap();
    let client = Client::connect(&server, &pki, Some(&pki.gate)).await.unwrap();
    (pki, server, client)
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn callers_are_authenticated_and_authorized() {
    let (pki, server, mut gate) = start().await;
    assert_eq!(gate.get("/livez").await, (StatusCode::OK, "ok".to_owned()));
    assert!(gate.get("/version").await.1.contains("\"major\":\"1\""));
    let (code, body) = gate.get("/api/v1/pods").await;
    assert_eq!(code, 404);
    assert!(body.contains(r#""kind":"Status""#), "{body}");
    assert_eq!(gate.get(TOKENS).await.0, 405);

    // Bad certificates are a matter of HTTP, not of TLS.
    let no_usage = pki
        .client("no-usage", &CertificateSpec::client("someone").usages(&[]))
        .unwrap();
    for (pair, expected) in [
        (None, 401),
        (Some(&pki.expired), 401),
        (Some(&pki.wrong_ca), 401),
        (Some(&pki.wrong_usage), 401),
        (Some(&pki.no_cn), 401),
        (Some(&pki.alice), 403),
        (Some(&no_usage), 403),
        (Some(&pki.apiserver_client), 201),
    ] {
        let mut client = Client::connect(&server, &pki, pair).await.unwrap();
        let (code, body) = client.post(TOKENS, &token_review(METRICS_TOKEN, &[])).await;
        assert_eq!(code, expected, "{pair:?}");
        if expected != 201 {
            assert_eq!(
                (&body["kind"], &body["code"]),
                (&json!("Status"), &json!(expected))
            );
        }
    }

    let mut anybody = Client::connect(&server, &pki, None).await.unwrap();
    for (token, expected) in [(GATE_TOKEN, 201), (METRICS_TOKEN, 403), ("unknown", 401)] {
        let request = Request::post(TOKENS).header("authorization", format!("Bearer {token}"));
        let request = request
            .body(token_review(METRICS_TOKEN, &[]).to_string().into())
            .unwrap();
        assert_eq!(anybody.send(request).await.unwrap().0, expected, "{token}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_no_review_is_refused_and_not_recorded() {
    let (_pki, server, mut gate) = start().await;
    let nobody = access_review("", &[], "get/pods");
    let mut other_kind = token_review("t", &[]);
    other_kind["kind"] = json!("SubjectAccessReview");
    for (path, body, expected) in [
        (TOKENS, json!("no review"), 400),
        (TOKENS, other_kind, 400),
        (TOKENS, token_review("", &[]), 400),
        (ACCESS, nobody, 422),
    ] {
        assert_eq!(gate.post(path, &body).await.0, expected, "{body}");
    }
    let protobuf = Request::post(TOKENS).header("content-type", "application/vnd.kubernetes.protobuf");
    assert_eq!(
        gate.send(protobuf.body(Full::default()).unwrap())
            .await
            .unwrap()
            .0,
        415
    );
    assert_eq!(server.reviews(), []);
}

#[tokio::test]
async fn tokens_are_reviewed() {
    let (_pki, server, mut gate) = start().await;
    let (_, answer) = gate.post(TOKENS, &token_review(METRICS_TOKEN, &[])).await;
    assert_eq!(answer["kind"], "TokenReview");
    assert_eq!(answer["spec"]["token"], METRICS_TOKEN);
    let status = &answer["status"];
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!([DEFAULT_AUDIENCE]));
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:monitoring:metrics"
    );
    let groups = [
        "system:serviceaccounts",
        "system:serviceaccounts:monitoring",
        "system:authenticated",
    ];
    assert_eq!(status["user"]["groups"], json!(groups));
    let id = status["user"]["extra"]["authentication.kubernetes.io/credential-id"][0]
        .as_str()
        .unwrap();
    assert!(id.starts_with("JTI="), "{id}");

    assert_eq!(
        gate.token("unknown", &[]).await,
        json!({"user": {}, "error": "invalid bearer token"})
    );
    server.add_token(
        "mine",
        User::new("dave", &["staff"]).audiences(&["gate", "other"]),
    );
    let status = gate.token("mine", &["nobody", "gate"]).await;
    assert_eq!(status["audiences"], json!(["gate"]));
    assert_eq!(
        status["user"],
        json!({"username": "dave", "groups": ["staff", "system:authenticated"]})
    );
    for asked in [&[][..], &["nobody"][..]] {
        let status = gate.token("mine", asked).await;
        assert_ne!(status["authenticated"], true);
        assert!(
            status["error"]
                .as_str()
                .unwrap()
                .contains("is invalid for the target audiences"),
            "{status}"
        );
    }

    server.reject_token("mine", "token has been invalidated");
    assert_eq!(
        gate.token("mine", &["gate"]).await["error"],
        "token has been invalidated"
    );
    server.reject_token("mine", "");
    assert_eq!(gate.token("mine", &["gate"]).await, json!({"user": {}}));
    server.revoke_token(METRICS_TOKEN);
    assert_eq!(
        gate.token(METRICS_TOKEN, &[]).await["error"],
        "invalid bearer token"
    );

    let reviews = server.reviews();
    assert_eq!(reviews.len(), server.count(Api::Token));
    let expected = Review::Token {
        sha256: token_hash("mine"),
        length: 4,
        audiences: vec!["gate".to_owned()],
    };
    assert_eq!(reviews[reviews.len() - 2], expected);
    assert!(!format!("{reviews:?}").contains(METRICS_TOKEN));
}

#[tokio::test]
async fn rules_decide() {
    let (_pki, server, mut gate) = start().await;
    let metrics = "system:serviceaccount:monitoring:metrics";
    let reader = "system:serviceaccount:monitoring:reader";
    for (user, groups, check, allowed) in [
        (
            "alice",
            &["developers", "system:authenticated"][..],
            "get/pods",
            false,
        ),
        ("bob", &["admins"][..], "delete/proxy", true),
        ("root", &["system:masters"][..], "create/proxy", true),
        ("kube-apiserver-kubelet-client", &[][..], "create/proxy", true),
        ("anything", &["kubeadm:cluster-admins"][..], "/metrics", true),
        (metrics, &[][..], "get/metrics", true),
        (metrics, &[][..], "get/stats", true),
        (metrics, &[][..], "get/pods", false),
        (metrics, &[][..], "/metrics", false),
        (reader, &[][..], "get/proxy", true),
        (reader, &[][..], "create/proxy", false),
    ] {
        let status = gate.may(user, groups, check).await;
        assert_eq!(status["allowed"], allowed, "{user} {check}: {status}");
        assert_eq!(status.get("denied"), None);
    }
    assert_eq!(
        gate.may(metrics, &[], "get/metrics").await["reason"],
        "RBAC: allowed by ClusterRoleBinding \"node-metrics\" of ClusterRole \"node-metrics\" to ServiceAccount \
         \"metrics/monitoring\""
    );

    let mut pods = access_review("bob", &["admins"], "get/proxy");
    pods["spec"]["resourceAttributes"]["resource"] = json!("pods");
    assert_eq!(
        gate.post(ACCESS, &pods).await.1["status"],
        json!({"allowed": false})
    );

    server.clear_reviews();
    server.set_rules(vec![
        Rule::allow(Subject::user("alice"), &["get"], &["*"]).on_node("worker-1"),
    ]);
    assert_eq!(gate.may("alice", &[], "get/pods").await["allowed"], true);
    server.set_rules(vec![
        Rule::allow(Subject::user("alice"), &["get"], &["*"]).on_node("worker-2"),
    ]);
    assert_eq!(gate.may("alice", &[], "get/pods").await["allowed"], false);
    server.set_rules(vec![Rule::allow(Subject::user("alice"), &["get"], &["*"])]);
    server.add_rule(Rule::deny(Subject::group("developers"), &["*"], &["pods"]).role("no-pods"));
    let status = gate.may("alice", &["developers"], "get/pods").await;
    assert_eq!(
        (&status["allowed"], &status["denied"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        gate.may("alice", &["developers"], "get/proxy").await["allowed"],
        true
    );
    server.remove_rules(&Subject::user("alice"));
    assert_eq!(gate.may("alice", &[], "get/proxy").await["allowed"], false);

    assert_eq!(
        server.checks(),
        ["get/pods", "get/pods", "get/pods", "get/proxy", "get/proxy"]
    );
    assert_eq!(
        server.access_specs()[0],
        access_review("alice", &[], "get/pods")["spec"]
    );
    assert_eq!((server.count(Api::Access), server.count(Api::Token)), (5, 0));
    assert_eq!(server.rules().len(), 1);
}

#[tokio::test]
async fn each_behaviour_is_played_and_healed() {
    let (pki, server, mut gate) = start().await;
    let ask = access_review("bob", &["admins"], "get/pods");

    server.behave(Api::Access, Behaviour::Fail(503));
    let (code, body) = gate.post(ACCESS, &ask).await;
    assert_eq!(
        (code.as_u16(), &body["reason"]),
        (503, &json!("ServiceUnavailable"))
    );
    assert_eq!(
        gate.token(ADMIN_TOKEN, &[]).await["authenticated"],
        true,
        "the other API is not touched"
    );

    server.behave_all(Behaviour::Throttle(7));
    for path in [ACCESS, TOKENS] {
        let body = if path == ACCESS {
            ask.clone()
        } else {
            token_review("t", &[])
        };
        let request = Request::post(path).body(Full::from(body.to_string())).unwrap();
        let response = gate.0.send_request(request).await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["retry-after"].to_str().unwrap()
            ),
            (429, "7")
        );
        response.collect().await.unwrap();
    }

    server.behave_all(Behaviour::Garbage);
    let request = Request::post(ACCESS).body(ask.to_string().into()).unwrap();
    let (code, body) = gate.send(request).await.unwrap();
    assert_eq!(code, 201);
    assert!(!body.is_empty() && serde_json::from_slice::<Value>(&body).is_err());

    server.behave(Api::Access, Behaviour::Huge(5 << 20));
    let (_, answer) = gate.post(ACCESS, &ask).await;
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        answer["metadata"]["annotations"]["padding"]
            .as_str()
            .unwrap()
            .len(),
        5 << 20
    );

    server.behave(Api::Access, Behaviour::Raw(200, "[]".to_owned()));
    assert_eq!(gate.post(ACCESS, &ask).await, (StatusCode::OK, json!([])));

    server.behave(
        Api::Access,
        Behaviour::status(json!({"allowed": true, "denied": true})),
    );
    assert_eq!(
        gate.post(ACCESS, &ask).await.1["status"],
        json!({"allowed": true, "denied": true})
    );
    let echo: AnswerFn = Arc::new(|spec| json!({"authenticated": true, "error": spec["token"]}));
    server.behave(Api::Token, Behaviour::Answer(echo));
    assert_eq!(
        gate.token("abc", &[]).await,
        json!({"authenticated": true, "error": "abc"})
    );

    // What is next goes before what is set.
    server.behave_next(Api::Access, [Behaviour::Fail(500), Behaviour::Normal]);
    assert_eq!(gate.post(ACCESS, &ask).await.0, 500);
    assert!(gate.may("bob", &["admins"], "get/pods").await["reason"].is_string());
    assert_eq!(gate.post(ACCESS, &ask).await.1["status"]["denied"], true);

    server.behave(Api::Access, Behaviour::Hang);
    let before = server.count(Api::Access);
    assert!(
        timeout(Duration::from_millis(200), gate.post(ACCESS, &ask))
            .await
            .is_err()
    );
    assert_eq!(server.count(Api::Access), before + 1, "it did arrive");
    drop(gate);
    eventually(|| server.connections() == 0).await;

    let mut gate = Client::connect(&server, &pki, Some(&pki.gate)).await.unwrap();
    server.behave(Api::Access, Behaviour::Close);
    assert!(gate.try_post(ACCESS, &ask).await.is_err());
    eventually(|| server.connections() == 0).await;

    server.heal();
    let mut gate = Client::connect(&server, &pki, Some(&pki.gate)).await.unwrap();
    assert_eq!(gate.may("bob", &["admins"], "get/pods").await["allowed"], true);
    server.set_latency(Duration::from_millis(150));
    let asked = Instant::now();
    assert_eq!(gate.may("bob", &["admins"], "get/pods").await["allowed"], true);
    assert!(asked.elapsed() >= Duration::from_millis(150));
    assert_eq!(server.connections_accepted(), 3);
    server.shutdown().await;
}

#[tokio::test]
async fn it_goes_down_and_comes_back_on_its_port() {
    let (pki, server, mut gate) = start().await;
    let ask = access_review("bob", &["admins"], "get/pods");
    server.behave(Api::Access, Behaviour::Hang);
    // One connection idle, one in the middle of a request, one in the middle of its handshake.
    let mut busy = Client::connect(&server, &pki, Some(&pki.gate)).await.unwrap();
    let mut raw = TcpStream::connect(server.address()).await.unwrap();
    let waiting = tokio::spawn({
        let ask = ask.clone();
        async move { busy.try_post(ACCESS, &ask).await.map(drop) }
    });
    eventually(|| server.count(Api::Access) == 1 && server.connections() == 3).await;

    server.down().await.unwrap();
    server.down().await.unwrap();
    assert!(waiting.await.unwrap().is_err());
    assert_eq!(server.connections(), 0);
    let read = tokio::io::AsyncReadExt::read(&mut raw, &mut [0; 16]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(gate.try_post(ACCESS, &ask).await.is_err());
    let refused = TcpStream::connect(server.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    server.heal();
    for _ in 0..3 {
        server.up().await.unwrap();
        server.up().await.unwrap();
        let mut gate = Client::connect(&server, &pki, Some(&pki.gate)).await.unwrap();
        assert_eq!(gate.may("bob", &["admins"], "get/pods").await["allowed"], true);
        server.down().await.unwrap();
    }
    let address = server.address();
    server.shutdown().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn dropping_it_ends_everything() {
    let (_pki, server, mut gate) = start().await;
    let (address, connections) = (server.address(), server.connections.clone());
    drop(server);
    eventually(|| connections.is_empty()).await;
    assert!(gate.try_post(TOKENS, &token_review("t", &[])).await.is_err());
    eventually(|| std::net::TcpStream::connect(address).is_err()).await;
}
