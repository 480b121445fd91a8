use super::*;

#[tokio::test]
async fn knobs_make_it_slow_silent_or_wrong() {
    let Lab { kubelet, client } = Lab::start().await;
    let client = client.with_deadline(Duration::from_millis(300));

    kubelet.adjust(|knobs| knobs.latency = Duration::from_millis(50));
    let started = Instant::now();
    client.get("/healthz").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(50));
    kubelet.adjust(|knobs| knobs.latency = Duration::ZERO);

    kubelet.fail("/exec/", Fault::status(403));
    let exec = client
        .websocket("/exec/default/web/nginx?output=1", &["v4.channel.k8s.io"], &[])
        .await
        .unwrap();
    assert_eq!(exec.refused().unwrap().body(), "the lab says 403\n");
    assert_eq!(client.get("/healthz").await.unwrap().status(), 200);

    kubelet.fail("/pods", Fault::Hang);
    assert!(matches!(client.get("/pods").await, Err(ClientError::Timeout(_))));
    eventually("the cut", || kubelet.cut_seen() == 1).await;

    kubelet.fail("/pods", Fault::Close);
    assert!(matches!(client.get("/pods").await, Err(ClientError::Closed(_))));

    kubelet.fail("/pods", Fault::CutBody { after: 100 });
    assert!(matches!(client.get("/pods").await, Err(ClientError::Closed(_))));

    kubelet.fail(
        "/healthz",
        Fault::Drip {
            bytes: 1,
            interval: Duration::from_millis(20),
        },
    );
    let mut dripping = client
        .open(Request::get("/healthz").body(Bytes::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(dripping.body_mut().next().await.unwrap().unwrap(), "o");
    assert_eq!(dripping.body_mut().next().await.unwrap().unwrap(), "k");

    let both = Bytes::from("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx");
    kubelet.fail(
        "/healthz",
        Fault::Raw {
            bytes: both.clone(),
            close: true,
        },
    );
    assert_eq!(
        client
            .raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap(),
        both
    );
    assert!(matches!(
        client.get("/healthz").await,
        Err(ClientError::Protocol(_))
    ));

    kubelet.heal();
    assert_eq!(client.get("/pods").await.unwrap().status(), 200);
    kubelet.shutdown().await;
}

#[tokio::test]
async fn an_early_answer_leaves_the_body_unread() {
    let lab = Lab::start().await;
    lab.kubelet.fail(
        "/lab/echo",
        Fault::Early {
            status: 413,
            hold: Duration::from_secs(60),
        },
    );
    let mut stream = lab.client.stream().await.unwrap();
    stream
        .write_all(b"POST /lab/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
    // Nobody reads: sooner or later the sockets are full and writing stands still.
    let piece = vec![b'x'; 64 * 1024];
    let flood = async { while stream.write_all(&piece).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), flood).await.is_err());
    assert_eq!(lab.kubelet.requests()[0].body_len, 0);
    lab.kubelet.shutdown().await;
}

#[tokio::test]
async fn the_kubelet_can_authenticate_its_clients() {
    let lab = Lab::start().await;
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, &ca_key);
    let leaf_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let certificate = Some((
        vec![leaf.der().clone()],
        PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap(),
    ));
    let tls = ClientTls {
        certificate,
        ..ClientTls::default()
    };
    let known = Client::new(lab.kubelet.address(), tls).unwrap();

    let roots = vec![ca.der().clone()];
    let client_ca = ClientCa {
        roots: roots.clone(),
        mandatory: false,
    };
    lab.kubelet.require_client_certificates(Some(client_ca)).unwrap();
    let (status, body) = lab.text("/pods").await;
    assert_eq!((status.as_u16(), body.as_str()), (401, "Unauthorized"));
    assert_eq!(known.get("/pods").await.unwrap().status(), 200);
    assert_eq!(
        lab.kubelet.requests().pop().unwrap().peer_certificate.unwrap(),
        leaf.der().as_ref()
    );

    lab.kubelet
        .adjust(|knobs| knobs.required_token = Some("secret".into()));
    let with_token = lab
        .client
        .call("GET", "/pods", &[("authorization", "Bearer secret")], "")
        .await
        .unwrap();
    assert_eq!(with_token.status(), 200);

    lab.kubelet
        .require_client_certificates(Some(ClientCa {
            roots,
            mandatory: true,
        }))
        .unwrap();
    let refused = lab.client.get("/pods").await.unwrap_err();
    assert_eq!(
        refused.alert(),
        Some(AlertDescription::CertificateRequired),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_rotated_certificate_is_shown_to_the_next_client() {
    let lab = Lab::start().await;
    let before = lab.client.handshake().await.unwrap().server_certificate;
    let (chain, key) = serving();
    let expected = chain[0].to_vec();
    assert_ne!(before.as_deref(), Some(expected.as_slice()));
    lab.kubelet.rotate_certificate(chain, key).unwrap();
    assert_eq!(
        lab.client.handshake().await.unwrap().server_certificate,
        Some(expected)
    );
}
