use std::time::Duration;

use super::server::{Act, Server, ServerAuthority, client, eventually, reload};
use crate::apiserver::client::ClientLimits;
use crate::apiserver::failure::Cause;
use crate::apiserver::{ApiServer, ApiServerError, Kubeconfig};
use crate::looks::Looks;
use crate::tls::pem;

const DEADLINE: Duration = Duration::from_secs(20);

fn der(pem: &str) -> Vec<u8> {
    pem::certificates("test".as_ref(), pem.as_bytes()).unwrap()[0].to_vec()
}

/// Seen red: without `ApiServerPool::keep_only`, the old connection stays open until the next review.
#[tokio::test]
async fn a_client_certificate_is_shown_and_rotates_with_its_file() {
    let server = Server::start(vec![]).await;
    let (old, new) = (
        server.authority.client("system:node:old"),
        server.authority.client("system:node:new"),
    );
    // One file with both, as the kubelet keeps it.
    server.write("current.pem", &format!("{}{}", old.certificate, old.key));
    let kubeconfig = server.kubeconfig("", "client-certificate: current.pem, client-key: current.pem");
    assert_eq!(
        kubeconfig.client_certificate_common_name().unwrap().as_deref(),
        Some("system:node:old")
    );
    let client = client(kubeconfig, DEADLINE);
    client.review_token("t", &[]).await.unwrap();
    client.review_token("t", &[]).await.unwrap();
    assert!(!reload(&client).unwrap(), "nothing has changed");

    server.write("current.pem", &format!("{}{}", new.certificate, new.key));
    assert!(reload(&client).unwrap());
    eventually("the old connection is closed at once", || server.open() == 0).await;
    client.review_token("t", &[]).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].certificate, Some(der(&old.certificate)));
    assert_eq!(seen[2].certificate, Some(der(&new.certificate)));
    assert_eq!(
        seen.iter().map(|seen| seen.connection).collect::<Vec<_>>(),
        [0, 0, 1]
    );
    assert!(!seen[0].headers.contains_key("authorization"));
    assert_eq!(server.open(), 1);
}

#[tokio::test]
async fn broken_credentials_leave_the_last_good_ones_in_use() {
    let server = Server::start(vec![]).await;
    let (old, other) = (server.authority.client("old"), server.authority.client("other"));
    server.write("crt", &old.certificate);
    server.write("key", &old.key);
    let client = client(
        server.kubeconfig("", "client-certificate: crt, client-key: key"),
        DEADLINE,
    );

    server.write("key", &other.key);
    let error = reload(&client).unwrap_err();
    assert!(matches!(error, ApiServerError::Pair { .. }), "{error}");
    client.review_token("t", &[]).await.unwrap();
    assert_eq!(server.seen()[0].certificate, Some(der(&old.certificate)));

    server.write("crt", "half a certifi");
    assert!(matches!(reload(&client).unwrap_err(), ApiServerError::Pem(_)));
    std::fs::remove_file(server.path("crt")).unwrap();
    assert!(matches!(
        reload(&client).unwrap_err(),
        ApiServerError::Read { .. }
    ));
    server.write("kubeconfig", "{");
    assert!(matches!(
        reload(&client).unwrap_err(),
        ApiServerError::Kubeconfig(_)
    ));
    client.review_token("t", &[]).await.unwrap();
    assert_eq!(
        server.seen()[1].connection,
        0,
        "nothing published, so nothing closed"
    );
}

/// Seen red: with the files read as one.
#[tokio::test]
async fn a_bad_bundle_keeps_no_certificate_out() {
    let server = Server::start(vec![]).await;
    let (old, new) = (server.authority.client("old"), server.authority.client("new"));
    server.write("current.pem", &format!("{}{}", old.certificate, old.key));
    let client = client(
        server.kubeconfig("", "client-certificate: current.pem, client-key: current.pem"),
        DEADLINE,
    );
    assert!(!reload(&client).unwrap());
    server.write("ca.crt", "");
    server.write("current.pem", &format!("{}{}", new.certificate, new.key));
    let reloaded = client.reload(&mut Looks::at_once());
    assert!(reloaded.changed, "{:?}", reloaded.problems);
    assert_eq!(reloaded.problems.len(), 1, "{:?}", reloaded.problems);
    client.review_token("t", &[]).await.unwrap();
    assert_eq!(server.seen()[0].certificate, Some(der(&new.certificate)));
}

#[tokio::test]
async fn a_token_file_rotates_without_a_new_connection() {
    let server = Server::start(vec![]).await;
    server.write("token", "one\n");
    let client = client(server.kubeconfig("", "tokenFile: token, token: loses"), DEADLINE);
    client.review_token("t", &[]).await.unwrap();
    server.write("token", "two");
    client.review_token("t", &[]).await.unwrap();
    assert!(reload(&client).unwrap());
    client.review_token("t", &[]).await.unwrap();
    for useless in ["", " \n", "a\nb"] {
        server.write("token", useless);
        assert!(
            matches!(reload(&client).unwrap_err(), ApiServerError::Token { .. }),
            "{useless:?}"
        );
        client.review_token("t", &[]).await.unwrap();
    }
    let tokens: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.headers["authorization"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        tokens,
        [
            "Bearer one",
            "Bearer one",
            "Bearer two",
            "Bearer two",
            "Bearer two",
            "Bearer two"
        ]
    );
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_an_error_of_one_call() {
    let server = Server::start(vec![]).await;
    let stranger = ServerAuthority::new("other").client("stranger");
    server.write("crt", &stranger.certificate);
    server.write("key", &stranger.key);
    let client = client(
        server.kubeconfig("", "client-certificate: crt, client-key: key"),
        DEADLINE,
    );
    let start = std::time::Instant::now();
    let error = client.review_token("t", &[]).await.unwrap_err();
    // TLS 1.3 tells a client so only after its own handshake is done.
    assert!(
        matches!(error.cause, Cause::Exchange(_) | Cause::Handshake { .. }),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_millis(450));
    assert_eq!((server.calls(), server.accepted()), (0, 1));
}

#[tokio::test]
async fn in_cluster_credentials_work() {
    let server = Server::start(vec![Act::Answer(201, super::server::JANE)]).await;
    server.write("token", "projected");
    let port = server.address.port().to_string();
    let source = Kubeconfig::in_cluster(Some("127.0.0.1"), Some(&port), server.directory.path()).unwrap();
    client(source, DEADLINE).review_token("t", &[]).await.unwrap();
    assert_eq!(server.seen()[0].headers["authorization"], "Bearer projected");
    assert_eq!(server.seen()[0].headers["host"], format!("127.0.0.1:{port}"));
}

#[tokio::test]
async fn a_client_is_not_made_from_broken_credentials() {
    let server = Server::start(vec![]).await;
    let limits = ClientLimits {
        timeout: DEADLINE,
        concurrent: 1,
    };
    let missing = server.kubeconfig("", "tokenFile: missing");
    let error = ApiServer::new(missing, limits).unwrap_err();
    assert!(error.to_string().contains("missing: cannot be read: "), "{error}");
    server.write("ca.crt", "");
    assert!(ApiServer::new(server.kubeconfig("", "token: t"), limits).is_err());
}
