#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::convert::Infallible;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertifiedKey;
use rustls::{AlertDescription, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that answers the next connections over HTTP/2 with what it understood.
async fn h2_server() -> (SocketAddr, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["gate.lab".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(tls) = acceptor.accept(tcp).await else {
                continue;
            };
            let service = service_fn(|request: Request<Incoming>| async move {
                let text = format!("{:?} {}", request.version(), request.uri());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(tls), service));
        }
    });
    (address, cert.der().clone())
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_asked_for() {
    let (address, root) = h2_server().await;
    let tls = ClientTls {
        roots: Some(vec![root]),
        alpn: Alpn::H2,
        server_name: "gate.lab".into(),
        ..ClientTls::default()
    };
    let client = Client::new(address, tls).unwrap();
    let mut connection = client.connect().await.unwrap();
    let expected = format!("HTTP/2.0 https://gate.lab:{}/pods?a=b", address.port());
    for _ in 0..2 {
        assert_eq!(connection.get("/pods?a=b").await.unwrap().body(), &expected);
    }
    assert!(!connection.is_closed());
    let handshake = client.handshake().await.unwrap();
    assert_eq!(handshake.alpn.as_deref(), Some(b"h2".as_slice()));
    // An upgrade is HTTP/1.1, which this server does not offer.
    let refused = client.websocket("/exec/a/b/c", &[], &[]).await.unwrap_err();
    assert_eq!(
        refused.alert(),
        Some(AlertDescription::NoApplicationProtocol),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_believed_is_refused() {
    let (address, _) = h2_server().await;
    let (_, other) = h2_server().await;
    let tls = ClientTls {
        roots: Some(vec![other]),
        alpn: Alpn::H2,
        server_name: "gate.lab".into(),
        ..ClientTls::default()
    };
    let refused = Client::new(address, tls).unwrap().get("/").await.unwrap_err();
    assert!(
        matches!(refused, ClientError::Tls(rustls::Error::InvalidCertificate(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_silent_server_and_no_server_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::plain(address).with_deadline(Duration::from_millis(50));
    assert!(matches!(client.get("/").await, Err(ClientError::Timeout(_))));
    drop(listener);
    assert!(matches!(client.get("/").await, Err(ClientError::Refused)));
}

#[tokio::test]
async fn the_source_address_can_be_chosen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::plain(listener.local_addr().unwrap()).with_source("127.0.0.7".parse().unwrap());
    let (_stream, accepted) = tokio::join!(client.stream(), listener.accept());
    assert_eq!(accepted.unwrap().1.ip().to_string(), "127.0.0.7");
}
