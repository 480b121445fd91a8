//! If an answer of the gate differs from the kubelet's by a byte, clients that match on it break in ways no operator can
//! explain; if it says too much, strangers learn from it.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use kubelet_gate::lab::client::{Alpn, Client};
use kubelet_gate::lab::fake_apiserver::{Api, Behaviour, METRICS_TOKEN};
use kubelet_gate::lab::fake_kubelet::Fault;
use kubelet_gate::lab::pki::{Attribute, Ca, CertificateSpec, KeyKind};

use crate::world::{API_SERVER, PKI, World, assert_answer, eventually, header};

/// An HTTP/1.1 answer as bytes, with the date, which changes, taken out.
async fn raw(client: &Client, request: &str) -> String {
    let answer = client.raw(request.as_bytes()).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let date = text
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("date: "))
        .unwrap_or_else(|| panic!("there is no Date in {text:?}"))
        .to_owned();
    assert!(date.ends_with(" GMT") && date.len() == "date: Thu, 01 Jan 1970 00:00:00 GMT".len());
    text.replacen(&format!("{date}\r\n"), "", 1)
}

fn is_plain_text(answer: &Response<Bytes>) -> bool {
    header(answer, "content-type") == "text/plain; charset=utf-8"
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthorized_is_the_kubelets_answer_byte_for_byte() {
    let world = World::start().await;
    let answer = raw(
        &world.stranger(),
        "GET /pods HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(
        answer,
        "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
         content-length: 12\r\n\r\nUnauthorized"
    );
    world.assert_nothing_forwarded();
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}
