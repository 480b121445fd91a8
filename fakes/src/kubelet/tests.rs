//! What `tests/it` would not notice: with these broken, some of its tests could no longer fail.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::client::{Client, ClientTls};
use crate::pki::Pki;

async fn start(pki: &Pki) -> (FakeKubelet, Client) {
    let pair = &pki.kubelet_serving;
    let options = FakeKubeletOptions {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        ..FakeKubeletOptions::default()
    };
    let kubelet = FakeKubelet::start(options).await.unwrap();
    let client = Client::new(kubelet.address(), ClientTls::default()).unwrap();
    (kubelet, client)
}

#[tokio::test]
async fn a_request_is_recorded_as_it_was_sent() {
    let (kubelet, client) = start(&Pki::generate().unwrap()).await;
    let sent = b"POST /lab/echo?x=%20 HTTP/1.1\r\nhOst: a\r\nX-Two: 1\r\nx-two:  2 \r\n\
        Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = String::from_utf8(client.raw(sent).await.unwrap()).unwrap();
    assert!(
        answer.ends_with("\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        "{answer}"
    );
    let request = kubelet.requests().pop().unwrap();
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/lab/echo?x=%20")
    );
    let header = |(name, value): &(String, String)| format!("{name}={value}");
    let headers = request.headers[..3].iter().map(header).collect::<Vec<_>>();
    assert_eq!(headers, ["hOst=a", "X-Two=1", "x-two=2"]);
    assert_eq!(
        (request.body_len, request.body.as_slice()),
        (5, b"abcde".as_slice())
    );
}

/// Seen red: with the rest of the bound taken by a plain subtraction, the connection's task panics.
#[tokio::test]
async fn a_huge_head_is_answered_431() {
    let (_kubelet, client) = start(&Pki::generate().unwrap()).await;
    let sent = format!(
        "GET /healthz HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(500_000)
    );
    let mut stream = client.stream().await.unwrap();
    // It may stop reading before everything is sent.
    let _ = stream.write_all(sent.as_bytes()).await;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 431");
}

#[tokio::test]
async fn an_early_answer_leaves_the_body_unread() {
    let (kubelet, client) = start(&Pki::generate().unwrap()).await;
    let hold = Duration::from_secs(60);
    kubelet.fail("/lab/echo", Fault::Early { status: 413, hold });
    let mut stream = client.stream().await.unwrap();
    let head = b"POST /lab/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    // The kubelet does not read, so that the sockets fill up and writing stops.
    let piece = vec![b'x'; 64 * 1024];
    let flood = async { while stream.write_all(&piece).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), flood).await.is_err());
    assert_eq!(kubelet.requests()[0].body_len, 0);
}

#[tokio::test]
async fn a_kubelet_that_authenticates_refuses_other_clients() {
    let pki = Pki::generate().unwrap();
    let (kubelet, client) = start(&pki).await;
    let certificate = |pair: &crate::pki::Pair| ClientTls {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        ..ClientTls::default()
    };
    let mut client_ca = ClientCa {
        roots: vec![pki.ca.certificate().clone()],
        mandatory: false,
    };
    kubelet
        .require_client_certificates(Some(client_ca.clone()))
        .unwrap();
    kubelet.adjust(|knobs| knobs.required_token = Some("secret".to_owned()));
    for (authorization, status) in [
        ("Basic secret", 401),
        ("Bearer other", 401),
        ("Bearer secret", 200),
    ] {
        let answer = client
            .call("GET", "/pods", &[("authorization", authorization)], "")
            .await;
        assert_eq!(answer.unwrap().status(), status, "{authorization}");
    }
    let known = Client::new(kubelet.address(), certificate(&pki.gate)).unwrap();
    assert_eq!(known.get("/pods").await.unwrap().status(), 200);
    let recorded = kubelet.requests().pop().unwrap();
    assert_eq!(
        recorded.peer_certificate.as_deref(),
        Some(pki.gate.chain[0].as_ref())
    );
    let unknown = Client::new(kubelet.address(), certificate(&pki.wrong_ca)).unwrap();
    assert!(unknown.get("/pods").await.is_err());

    client_ca.mandatory = true;
    kubelet.require_client_certificates(Some(client_ca)).unwrap();
    assert!(client.get("/pods").await.is_err());
}
