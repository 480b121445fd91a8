use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::server::{ALLOWED, Act, JANE, Server, ServerAuthority, client, eventually, reload};
use crate::apiserver::client::ClientLimits;
use crate::apiserver::failure::Cause;
use crate::apiserver::reachability::Reachability;
use crate::apiserver::reviews::AnswerError;
use crate::apiserver::{AccessAnswer, AccessSpec, ApiServer, Kubeconfig, ReviewError, TokenAnswer, UserInfo};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn jane() -> UserInfo {
    UserInfo {
        username: "jane".into(),
        uid: "42".into(),
        groups: vec!["z".into(), "a".into()],
        extra: BTreeMap::from([("example.org/key".into(), vec!["v".into()])]),
    }
}

async fn may_get_metrics(client: &ApiServer) -> Result<AccessAnswer, ReviewError> {
    let user = jane();
    client
        .review_access(AccessSpec {
            user: &user,
            verb: "get",
            subresource: "metrics",
            name: "worker-1",
        })
        .await
}

#[tokio::test]
async fn reviews_are_requested_as_the_kubelet_does() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    assert_eq!(
        may_get_metrics(&client).await.unwrap(),
        AccessAnswer {
            allowed: true,
            denied: false,
            reason: "because".into()
        }
    );
    let tom = UserInfo {
        username: "tom".into(),
        ..UserInfo::default()
    };
    client
        .review_access(AccessSpec {
            user: &tom,
            verb: "",
            subresource: "proxy",
            name: "worker-1",
        })
        .await
        .unwrap();
    let answer = client.review_token("tok\"en", &[]).await.unwrap();
    let user = UserInfo {
        username: "jane".into(),
        groups: vec!["a".into(), "b".into()],
        ..UserInfo::default()
    };
    assert_eq!(
        answer,
        TokenAnswer::Authenticated {
            user,
            audiences: vec![]
        }
    );
    client.review_token("t", &["gate".into()]).await.unwrap();

    let seen = server.seen();
    assert_eq!(seen[0].method, "POST");
    assert_eq!(
        seen[0].target,
        "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    );
    assert_eq!(
        seen[0].body,
        json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
            "spec": {
            "resourceAttributes":
                {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "metrics",
                    "name": "worker-1"},
            "user": "jane", "groups": ["z", "a"], "uid": "42", "extra": {"example.org/key": ["v"]}}})
    );
    assert_eq!(
        seen[1].body["spec"],
        json!({"resourceAttributes": {"version": "v1", "resource": "nodes", "subresource": "proxy",
            "name": "worker-1"},
            "user": "tom"})
    );
    assert_eq!(seen[2].target, "/apis/authentication.k8s.io/v1/tokenreviews");
    assert_eq!(
        seen[2].body,
        json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
            "spec": {"token": "tok\"en"}, "status": {"user": {}}})
    );
    assert_eq!(seen[3].body["spec"], json!({"token": "t", "audiences": ["gate"]}));
    for seen in &seen {
        assert_eq!(seen.headers["authorization"], "Bearer gate-token");
        assert_eq!(
            seen.headers["user-agent"],
            concat!("kubelet-gate/", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(seen.headers["content-type"], "application/json");
        assert_eq!(seen.headers["host"], server.address.to_string());
        assert_eq!(seen.certificate, None);
    }
    assert_eq!(server.accepted(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_path_in_the_server_url_comes_before_the_apis_path() {
    let server = Server::start(vec![]).await;
    server.kubeconfig("", "token: t");
    let url = format!("https://{}", server.address);
    let text = std::fs::read_to_string(server.path("kubeconfig")).unwrap();
    server.write(
        "kubeconfig",
        &text.replace(&url, &format!("{url}/k8s/clusters/c-1/")),
    );
    let kubeconfig = Kubeconfig::load(&server.path("kubeconfig")).unwrap();
    let client = client(kubeconfig, SECONDS(20));
    may_get_metrics(&client).await.unwrap();
    assert_eq!(
        server.seen()[0].target,
        "/k8s/clusters/c-1/apis/authorization.k8s.io/v1/subjectaccessreviews"
    );
}

#[tokio::test]
async fn concurrent_reviews_are_bounded() {
    let server = Server::start((0..4).map(|_| Act::Hang).collect()).await;
    let client = server.client();
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { may_get_metrics(&client).await })
    };
    let hanging: Vec<_> = (0..4).map(|_| ask()).collect();
    eventually("four calls", || server.calls() == 4).await;
    let mut fifth = ask();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut fifth)
            .await
            .is_err(),
        "must wait for a slot"
    );
    assert_eq!((server.calls(), server.accepted()), (4, 4));
    // A review that is dropped frees its slot and closes its connection.
    hanging[0].abort();
    assert!(fifth.await.unwrap().unwrap().allowed);
    assert_eq!((server.calls(), server.accepted()), (5, 5));
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
    eventually("only the fifth connection is left", || server.open() == 1).await;
}

/// Clients whose reviews hang must not keep the gate from learning which machine its Node is, and a Node that
/// is read slowly must not keep a review waiting.
///
/// Seen red: with a slot for the Node, it is not read.
#[tokio::test]
async fn a_node_is_read_without_a_slot() {
    const WORKER: &str =
        r#"{"kind": "Node", "apiVersion": "v1", "status": {"nodeInfo": {"machineID": "m"}}}"#;
    let hang = (0..4).map(|_| Act::Hang);
    let server = Server::start(hang.chain([Act::Answer(200, WORKER)]).collect()).await;
    let client = server.client_within(Duration::from_secs(2));
    let ask = || {
        let client = client.clone();
        tokio::spawn(async move { may_get_metrics(&client).await })
    };
    let hanging: Vec<_> = (0..4).map(|_| ask()).collect();
    eventually("four calls", || server.calls() == 4).await;
    let info = client.node("worker-1", Duration::from_secs(20)).await.unwrap();
    assert_eq!(info.machine_id, "m");
    for hung in hanging {
        assert!(hung.await.unwrap().unwrap_err().is_outage());
    }
    assert!(matches!(
        client.reachability(),
        Reachability::Failing { is_outage: true, .. }
    ));
}

#[tokio::test]
async fn an_internal_error_is_retried_and_a_bare_503_is_not() {
    let server = Server::start(vec![Act::Answer(500, ""), Act::Answer(201, ALLOWED)]).await;
    let client = server.client();
    let start = Instant::now();
    assert!(may_get_metrics(&client).await.unwrap().allowed);
    assert!(
        start.elapsed() >= Duration::from_millis(500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(server.calls(), 2);

    for (code, body) in [
        (503, r#"{"kind":"Status","message":"down\nfor repairs"}"#),
        (403, r#"{"message":"no"}"#),
        (401, ""),
        (404, "<html>"),
        (302, ""),
        (202, ALLOWED),
    ] {
        let before = server.calls();
        server.then(Act::Answer(code, body));
        let error = may_get_metrics(&client).await.unwrap_err();
        assert_eq!(error.status().map(|code| code.as_u16()), Some(code));
        assert_eq!(server.calls(), before + 1, "{code}");
        if code == 503 {
            let text = "SubjectAccessReview failed: the API server answered 503 Service Unavailable: \
                        down\\nfor repairs";
            assert_eq!(error.to_string(), text);
        }
    }
}

#[tokio::test]
async fn retries_stop_after_five_attempts() {
    let server = Server::start((0..9).map(|_| Act::Answer(504, "")).collect()).await;
    let error = may_get_metrics(&server.client()).await.unwrap_err();
    assert_eq!(error.status().map(|code| code.as_u16()), Some(504));
    assert_eq!(server.calls(), 5);
}

#[tokio::test]
async fn retry_after_is_honoured_within_the_deadline() {
    let wait_1 = &[("Retry-After", "1")];
    let server = Server::start(vec![Act::AnswerWith(503, wait_1, vec![])]).await;
    let start = Instant::now();
    assert!(may_get_metrics(&server.client()).await.unwrap().allowed);
    assert!(start.elapsed() >= SECONDS(1));
    assert_eq!(server.calls(), 2);

    let wait_long = &[("Retry-After", "18446744073709551615")];
    server.then(Act::AnswerWith(429, wait_long, vec![]));
    let start = Instant::now();
    let error = may_get_metrics(&server.client()).await.unwrap_err();
    assert_eq!(error.status().map(|code| code.as_u16()), Some(429));
    assert!(start.elapsed() < SECONDS(5));
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn a_hang_ends_at_the_deadline_and_closes_the_connection() {
    let server = Server::start(vec![Act::Hang]).await;
    let client = server.client_within(Duration::from_millis(700));
    let start = Instant::now();
    let error = client.review_token("secret", &[]).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::Deadline { last: None, .. }),
        "{error}"
    );
    assert!(start.elapsed() < SECONDS(5));
    assert_eq!(error.to_string(), "TokenReview failed: no answer within 700ms");
    eventually("closed", || server.open() == 0).await;
    client.review_token("secret", &[]).await.unwrap();
}

#[tokio::test]
async fn a_stale_connection_is_replaced_at_once() {
    // The second request reaches the old connection, which closes on it.
    let server = Server::start(vec![
        Act::Answer(201, ALLOWED),
        Act::Cut,
        Act::Answer(201, ALLOWED),
    ])
    .await;
    let client = server.client();
    may_get_metrics(&client).await.unwrap();
    let start = Instant::now();
    may_get_metrics(&client).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_millis(450),
        "no pause: {:?}",
        start.elapsed()
    );
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1]);

    // If it was closed before the request, it must not be tried.
    server.close_connections();
    eventually("closed", || server.open() == 0).await;
    may_get_metrics(&client).await.unwrap();
    assert_eq!(server.calls(), 4);
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn a_fresh_connection_that_is_cut_is_not_retried_but_a_reset_one_is() {
    let server = Server::start(vec![Act::Cut]).await;
    let error = may_get_metrics(&server.client()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Exchange(_)), "{error}");
    assert_eq!(server.calls(), 1);

    let server = Server::start(vec![Act::Reset]).await;
    assert!(may_get_metrics(&server.client()).await.unwrap().allowed);
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn an_answer_with_connection_close_is_read_and_the_connection_not_reused() {
    let close = &[("Connection", "close")];
    let server = Server::start(vec![Act::AnswerWith(201, close, ALLOWED.into())]).await;
    let client = server.client();
    may_get_metrics(&client).await.unwrap();
    may_get_metrics(&client).await.unwrap();
    assert_eq!((server.calls(), server.accepted()), (2, 2));
}

#[tokio::test]
async fn a_refused_connection_is_one_attempt() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(vec![]).await;
    server.kubeconfig("", "token: t");
    let text = std::fs::read_to_string(server.path("kubeconfig")).unwrap();
    let free = listener.local_addr().unwrap();
    drop(listener);
    server.write(
        "kubeconfig",
        &text.replace(&server.address.to_string(), &free.to_string()),
    );
    let kubeconfig = Kubeconfig::load(&server.path("kubeconfig")).unwrap();
    let start = Instant::now();
    let error = may_get_metrics(&client(kubeconfig, SECONDS(20)))
        .await
        .unwrap_err();
    assert!(matches!(error.cause, Cause::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    assert!(start.elapsed() < Duration::from_millis(450));
}

#[tokio::test]
async fn answers_that_cannot_be_used_fail_at_once() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    server.then(Act::Answer(201, "no JSON"));
    let error = may_get_metrics(&client).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::Answer(AnswerError::Json(_))),
        "{error}"
    );

    let both = r#"{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true,"denied":true}}"#;
    server.then(Act::Answer(201, both));
    let error = may_get_metrics(&client).await.unwrap_err();
    assert!(
        matches!(error.cause, Cause::Answer(AnswerError::AllowedAndDenied)),
        "{error}"
    );

    server.then(Act::Answer(201, JANE));
    let error = may_get_metrics(&client).await.unwrap_err();
    assert!(
        matches!(
            error.cause,
            Cause::Answer(AnswerError::Kind { .. } | AnswerError::Json(_))
        ),
        "{error}"
    );
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let with_length = |length: usize| {
        let mut body = ALLOWED.as_bytes().to_vec();
        body.resize(length, b' ');
        Act::AnswerWith(201, &[], body)
    };
    let server = Server::start(vec![with_length(1 << 20), with_length((1 << 20) + 1)]).await;
    let client = server.client();
    assert!(may_get_metrics(&client).await.unwrap().allowed);
    let error = may_get_metrics(&client).await.unwrap_err();
    assert!(matches!(error.cause, Cause::TooLarge { .. }), "{error}");
    assert_eq!(server.calls(), 2);
    may_get_metrics(&client).await.unwrap();
    assert_eq!(
        server.accepted(),
        2,
        "what is left of the large answer is not waited for"
    );
}

#[tokio::test]
async fn the_servers_certificate_must_be_of_the_ca_and_the_name() {
    let server = Server::start_as(&["kubernetes.default.svc"], vec![]).await;
    let wrong_name = client(server.kubeconfig("", "token: t"), SECONDS(20));
    let error = may_get_metrics(&wrong_name).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Handshake { .. }), "{error}");
    assert!(error.to_string().contains("tls-server-name"), "{error}");

    let named = client(
        server.kubeconfig("tls-server-name: kubernetes.default.svc", "token: t"),
        SECONDS(20),
    );
    may_get_metrics(&named).await.unwrap();

    server.write("ca.crt", &ServerAuthority::new("test-ca").pem());
    assert!(reload(&named).unwrap());
    let error = may_get_metrics(&named).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Handshake { .. }), "{error}");
    assert_eq!(server.calls(), 1, "nothing is sent to a stranger");
}

/// Go refuses a server whose CA has expired; webpki alone would accept it.
///
/// Seen red with every anchor treated as valid: the first review is answered.
#[tokio::test]
async fn a_server_of_an_expired_ca_is_refused() {
    let server = Server::start_by(ServerAuthority::expired("test-ca"), &["127.0.0.1"], vec![]).await;
    let client = server.client();
    let error = may_get_metrics(&client).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Handshake { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("that have expired or are not valid yet"), "{said}");
    assert!(said.contains("ca.crt"), "{said}");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn no_token_in_errors_or_debug_output() {
    let leaky = r#"{"kind":"Status","message":"what is user-token?"}"#;
    let server = Server::start(vec![Act::Answer(403, leaky)]).await;
    let kubeconfig = server.kubeconfig("", "token: gate-token");
    assert!(!format!("{kubeconfig:?}").contains("gate-token"));
    let client = server.client();
    assert!(!format!("{client:?}").contains("gate-token"));
    let error = client.review_token("user-token", &[]).await.unwrap_err();
    assert!(error.to_string().contains("what is [token]?"), "{error}");
    assert!(!format!("{error:?}").contains("user-token"));
}

#[test]
fn a_review_may_run_on_any_thread() {
    fn assert_send<T: Send>(_: T) {}
    fn assert_send_sync<T: Send + Sync + Clone>() {}
    assert_send_sync::<ApiServer>();
    assert_send_sync::<ClientLimits>();
    #[expect(dead_code, reason = "compiling is the test")]
    fn futures(client: &ApiServer) {
        assert_send(may_get_metrics(client));
        assert_send(client.review_token("t", &[]));
    }
}
