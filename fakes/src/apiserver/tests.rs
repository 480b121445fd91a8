//! What `tests/it` would not notice, since the gate there has good credentials and sends good reviews.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::json;

use super::*;
use crate::client::{Client, ClientTls};
use crate::pki::CertificateSpec;

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

fn client(server: &FakeApiServer, pki: &Pki, pair: Option<&Pair>) -> Client {
    let tls = ClientTls {
        roots: Some(vec![pki.ca.certificate().clone()]),
        certificate: pair.map(|pair| (pair.chain.clone(), pair.key.clone_key())),
        ..ClientTls::default()
    };
    Client::new(server.address(), tls).unwrap()
}

fn token_review(token: &str) -> Value {
    json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "spec": {"token": token},
    })
}

#[tokio::test]
async fn callers_are_authenticated_and_authorized() {
    let pki = Pki::generate().unwrap();
    let server = FakeApiServer::start(&pki).await.unwrap();
    let no_usage = CertificateSpec::client("frank").usages(&[]);
    let no_usage = pki.client("no-usage", &no_usage).unwrap();
    let post = async |pair, authorization: String| {
        let headers = [("authorization", authorization.as_str())];
        let review = token_review(METRICS_TOKEN).to_string();
        let answer = client(&server, &pki, pair)
            .call("POST", TOKENS, &headers, review)
            .await;
        answer.unwrap().status().as_u16()
    };
    for (pair, expected) in [
        (&pki.expired, 401),
        (&pki.wrong_ca, 401),
        (&pki.wrong_usage, 401),
        (&pki.no_cn, 401),
        (&pki.alice, 403),
        (&no_usage, 403),
        (&pki.apiserver_client, 201),
        (&pki.gate, 201),
    ] {
        assert_eq!(post(Some(pair), String::new()).await, expected, "{pair:?}");
    }
    for (token, expected) in [(GATE_TOKEN, 201), (METRICS_TOKEN, 403), ("unknown", 401)] {
        assert_eq!(post(None, format!("Bearer {token}")).await, expected, "{token}");
    }
}

#[tokio::test]
async fn a_malformed_review_is_refused_and_not_recorded() {
    let pki = Pki::generate().unwrap();
    let server = FakeApiServer::start(&pki).await.unwrap();
    let gate = client(&server, &pki, Some(&pki.gate));
    let mut other_kind = token_review("t");
    other_kind["kind"] = json!("SubjectAccessReview");
    let no_subject = json!({
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "spec": {"user": "", "groups": [], "resourceAttributes": {"verb": "get", "resource": "nodes"}},
    });
    for (path, body, expected) in [
        (TOKENS, json!("no review"), 400),
        (TOKENS, other_kind, 400),
        (TOKENS, token_review(""), 400),
        (ACCESS, no_subject, 422),
    ] {
        let answer = gate.call("POST", path, &[], body.to_string()).await;
        assert_eq!(answer.unwrap().status(), expected, "{body}");
    }
    let protobuf = [("content-type", "application/vnd.kubernetes.protobuf")];
    assert_eq!(
        gate.call("POST", TOKENS, &protobuf, "").await.unwrap().status(),
        415
    );
    assert_eq!(server.reviews(), []);
}
