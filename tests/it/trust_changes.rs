//! Trust is withdrawn while connections are open. If only new connections noticed, a revoked client would
//! keep its open one, and with it the node, for as long as it likes.

use std::fs;
use std::sync::{Arc, Mutex};

use fakes::client::{Alpn, Connection};
use fakes::pki::{Ca, CertificateSpec, Pair};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::HandshakeKind;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use time::{Duration as Span, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::patience::{eventually, eventually_answers};
use crate::world::{PKI, Status as _, World, WorldBuilder, assert_answer};

async fn status(connection: &mut Connection) -> u16 {
    connection.status("/healthz").await
}

fn write_bundle(world: &World, cas: &[String]) {
    fs::write(world.file("ca.crt"), cas.concat()).unwrap();
}

fn reloads(world: &World, what: &str, result: &str) -> f64 {
    world.metric("reloads_total", &[("what", what), ("result", result)])
}

/// Seen red: with `Presented::judge` not comparing the generation: carol stays in.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_removed_from_the_bundle_counts_on_open_connections_and_can_come_back() {
    let world = World::start().await;
    let both = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()];
    write_bundle(&world, &both);
    world.gate.reload();
    for alpn in [Alpn::H1, Alpn::H2] {
        let mut carol = world.tls_client(Some(&PKI.carol), alpn).connect().await.unwrap();
        let mut bob = world.tls_client(Some(&PKI.bob), alpn).connect().await.unwrap();
        assert_eq!((status(&mut carol).await, status(&mut bob).await), (200, 200));

        write_bundle(&world, &both[..1]);
        world.gate.reload();
        world.kubelet.clear();
        assert_eq!(status(&mut carol).await, 401, "{alpn:?}");
        world.assert_nothing_forwarded();
        assert_eq!(status(&mut bob).await, 200, "{alpn:?}");

        write_bundle(&world, &both);
        world.gate.reload();
        assert_eq!(status(&mut carol).await, 200, "{alpn:?}");
        assert!(!carol.is_closed() && !bob.is_closed());
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_get_a_new_serving_pair_and_old_ones_go_on() {
    let world = World::start().await;
    let mut open = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut open).await, 200);
    let shown = async || {
        world
            .stranger()
            .handshake()
            .await
            .unwrap()
            .server_certificate
            .unwrap()
    };
    assert_eq!(shown().await, PKI.gate_serving.chain[0].to_vec());

    let renewed = serving_pair();
    renewed.write(world.file("").as_path()).unwrap();
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "ok"), 1.0);
    assert_eq!(shown().await, renewed.chain[0].to_vec());
    assert_eq!(status(&mut open).await, 200, "on the old connection");
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "ok"), 1.0, "nothing changed");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_files_leave_the_last_good_ones_in_force() {
    let world = World::start().await;
    let mut open = world.client("bob").connect().await.unwrap();
    let other = serving_pair();
    let half = PKI.ca.certificate_pem();
    let half = &half[..half.len() / 2];
    let bad: [(&str, &str, &str); 7] = [
        ("half a certificate", "gate-serving.crt", half),
        ("an empty certificate", "gate-serving.crt", ""),
        (
            "a certificate of another key",
            "gate-serving.crt",
            &other.certificate_pem(),
        ),
        (
            "a key of another certificate",
            "gate-serving.key",
            &other.key_pem(),
        ),
        ("no key", "gate-serving.key", "# soon\n"),
        ("half a CA", "ca.crt", half),
        ("no CA", "ca.crt", ""),
    ];
    for (count, (what, file, content)) in bad.into_iter().enumerate() {
        let path = world.file(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        world.gate.reload();
        assert_eq!(reloads(&world, "serving", "error"), (count + 1) as f64, "{what}");
        assert_eq!(reloads(&world, "serving", "ok"), 0.0, "{what}");
        assert_eq!(status(&mut open).await, 200, "{what}");
        let handshake = world.stranger().handshake().await.unwrap();
        assert_eq!(
            handshake.server_certificate.unwrap(),
            PKI.gate_serving.chain[0].to_vec()
        );
        let mut fresh = world.client("bob").connect().await.unwrap();
        assert_eq!(status(&mut fresh).await, 200, "{what}");
        fs::write(&path, good).unwrap();
    }
    // A missing file is an error as well: the last good trust stays.
    fs::remove_file(world.file("ca.crt")).unwrap();
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "error"), 8.0);
    assert_eq!(status(&mut open).await, 200);
    let answer = world.client("wrong-ca").get("/healthz").await.unwrap();
    assert_answer(&answer, 401, "Unauthorized");
    world.stop().await;
}

/// Seen red: with judgements that never end.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_while_its_connection_is_open_is_refused() {
    let world = World::start().await;
    let spec = CertificateSpec::client("dora")
        .group("admins")
        .valid(-Span::HOUR, Span::seconds(5));
    let pair = PKI.client("dora", &spec).unwrap();
    let mut connection = world.client_with(&pair).connect().await.unwrap();
    assert_eq!(status(&mut connection).await, 200);
    eventually_answers("the certificate has expired", async || {
        connection.status("/healthz").await != 200
    })
    .await;
    assert_eq!(status(&mut connection).await, 401);
    assert!(!connection.is_closed(), "the same connection");
    assert!(world.metric("authentication_failures_total", &[("reason", "expired")]) >= 1.0);
    world.stop().await;
}

// --- revocation lists ---

/// A world whose CA has revoked these, in `ca.crl`.
pub(crate) fn revoking(pairs: &[&Pair]) -> WorldBuilder {
    let list = revocation_list(&PKI.ca, pairs, Span::DAY);
    World::builder().configure(move |configuration, folder| {
        fs::write(folder.join("ca.crl"), list).unwrap();
        configuration["authentication"]["x509"]["crlFiles"] = json!(["ca.crl"]);
    })
}

/// The list of a CA whose name is `kubernetes`, in PEM.
pub(crate) fn revocation_list(ca: &Ca, pairs: &[&Pair], life: Span) -> String {
    named_list(ca, "kubernetes", pairs, life)
}

/// The list of a CA with this name, in PEM.
pub(crate) fn named_list(ca: &Ca, name: &str, pairs: &[&Pair], life: Span) -> String {
    aged_list(ca, name, pairs, Span::HOUR, life)
}

/// The list of a CA with this name, issued so long ago.
pub(crate) fn aged_list(ca: &Ca, name: &str, pairs: &[&Pair], age: Span, life: Span) -> String {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let revoked = pairs.iter().map(|pair| {
        let (_, certificate) = X509Certificate::from_der(&pair.chain[0]).unwrap();
        RevokedCertParams {
            serial_number: SerialNumber::from_slice(certificate.raw_serial()),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }
    });
    CertificateRevocationListParams {
        this_update: now - age,
        next_update: now + life,
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(&Issuer::new(params, KeyPair::from_pem(&ca.key_pem()).unwrap()))
    .unwrap()
    .pem()
    .unwrap()
}

/// Seen red: with `crlFiles` left out of what is compared on a reload, and with the lists not asked at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_client_is_refused_at_its_next_request_on_an_open_connection() {
    let world = revoking(&[]).start().await;
    for alpn in [Alpn::H1, Alpn::H2] {
        let mut bob = world.tls_client(Some(&PKI.bob), alpn).connect().await.unwrap();
        let mut alice = world.tls_client(Some(&PKI.alice), alpn).connect().await.unwrap();
        assert_eq!((status(&mut bob).await, status(&mut alice).await), (200, 403));

        fs::write(
            world.file("ca.crl"),
            revocation_list(&PKI.ca, &[&PKI.bob], Span::DAY),
        )
        .unwrap();
        world.gate.reload();
        world.kubelet.clear();
        assert_eq!(status(&mut bob).await, 401, "{alpn:?}");
        world.assert_nothing_forwarded();
        assert_eq!(
            status(&mut alice).await,
            403,
            "{alpn:?}: alice is still authenticated"
        );
        assert!(!bob.is_closed());
        let answer = world.client("bob").get("/healthz").await.unwrap();
        assert_answer(&answer, 401, "Unauthorized");

        let expires = world.metric(
            "certificate_expiry_timestamp_seconds",
            &[("certificate", "revocation_lists")],
        );
        let tomorrow = (OffsetDateTime::now_utc() + Span::DAY).unix_timestamp() as f64;
        assert!(
            (expires - tomorrow).abs() < 60.0,
            "{expires} is not about {tomorrow}"
        );

        // In DER, as many CAs publish lists.
        let list = revocation_list(&PKI.ca, &[], Span::DAY);
        let (_, pem) = x509_parser::pem::parse_x509_pem(list.as_bytes()).unwrap();
        fs::write(world.file("ca.crl"), pem.contents).unwrap();
        world.gate.reload();
        assert_eq!(status(&mut bob).await, 200, "{alpn:?}");
    }
    assert!(world.metric("authentication_failures_total", &[("reason", "revoked")]) >= 4.0);
    assert_eq!(reloads(&world, "serving", "error"), 0.0);
    world.stop().await;
}

/// Seen red: with the signature on a list not verified, and with an unusable list skipped: bob is back. With
/// a list that has ended taken, alice is refused as well.
#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_list_leaves_the_last_good_one_in_force() {
    let world = revoking(&[&PKI.bob]).start().await;
    let good = fs::read_to_string(world.file("ca.crl")).unwrap();
    let bad = [
        ("half a list", good[..good.len() / 2].to_owned()),
        ("none", String::new()),
        ("a certificate", PKI.ca.certificate_pem()),
        (
            "a stranger's of the same name",
            revocation_list(&PKI.untrusted_ca, &[], Span::DAY),
        ),
        ("one that has ended", revocation_list(&PKI.ca, &[], -Span::MINUTE)),
    ];
    let mut bob = world.client("bob").connect().await.unwrap();
    let mut alice = world.client("alice").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 401);
    for (count, (what, content)) in bad.into_iter().enumerate() {
        fs::write(world.file("ca.crl"), content).unwrap();
        world.gate.reload();
        assert_eq!(reloads(&world, "serving", "error"), (count + 1) as f64, "{what}");
        assert_eq!(status(&mut bob).await, 401, "{what}");
        // An ended list would refuse every client.
        assert_eq!(status(&mut alice).await, 403, "{what}");
    }
    fs::remove_file(world.file("ca.crl")).unwrap();
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "error"), 6.0);
    assert_eq!(status(&mut bob).await, 401);
    assert_eq!(reloads(&world, "serving", "ok"), 0.0);
    world.stop().await;
}

/// A CA whose key was stolen must be removed at once, even while a list is unusable.
///
/// Seen red: with nothing published while a list is unusable, and with a missing list treated as another kind
/// of error, alice was still authenticated (403); with a list accepted that the new CA has not signed, its
/// client was.
#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_list_keeps_no_removed_ca_in_force() {
    for list in ["that of the old CA", "none", "no file"] {
        let world = revoking(&[]).start().await;
        let mut alice = world.client("alice").connect().await.unwrap();
        assert_eq!(status(&mut alice).await, 403);
        match list {
            "none" => fs::write(world.file("ca.crl"), "").unwrap(),
            "no file" => fs::remove_file(world.file("ca.crl")).unwrap(),
            _ => {}
        }
        // Another key under the same name.
        write_bundle(&world, &[PKI.untrusted_ca.certificate_pem()]);
        world.gate.reload();
        assert_eq!(reloads(&world, "serving", "error"), 1.0, "{list}");
        assert_eq!(status(&mut alice).await, 401, "{list}");
        let unlisted = world.client("wrong-ca").get("/healthz").await.unwrap();
        assert_answer(&unlisted, 401, "Unauthorized");
        let failures = |reason| world.metric("authentication_failures_total", &[("reason", reason)]);
        assert_eq!(failures("revocation_unknown"), 1.0, "{list}");

        fs::write(
            world.file("ca.crl"),
            revocation_list(&PKI.untrusted_ca, &[], Span::DAY),
        )
        .unwrap();
        world.gate.reload();
        let listed = world.client("wrong-ca").get("/healthz").await.unwrap();
        assert_ne!(listed.status(), 401, "{list}");
        assert_eq!(status(&mut alice).await, 401, "{list}");
        world.stop().await;
    }
}

/// Seen red: with a judgement that outlives the list.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_list_expires_its_issuers_certificates_are_refused_until_there_is_a_new_one() {
    let world = revoking(&[]).start().await;
    write_bundle(
        &world,
        &[PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()],
    );
    fs::write(
        world.file("ca.crl"),
        revocation_list(&PKI.ca, &[], Span::seconds(3)),
    )
    .unwrap();
    world.gate.reload();
    let mut bob = world.client("bob").connect().await.unwrap();
    let mut carol = world.client("carol").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 200);
    eventually_answers("the list is over", async || status(&mut bob).await == 401).await;
    assert!(
        world.metric(
            "authentication_failures_total",
            &[("reason", "revocation_unknown")]
        ) >= 1.0
    );
    assert_eq!(status(&mut carol).await, 200, "her CA has no list");

    fs::write(world.file("ca.crl"), revocation_list(&PKI.ca, &[], Span::DAY)).unwrap();
    world.gate.reload();
    assert_eq!(status(&mut bob).await, 200);
    world.stop().await;
}

// --- the handshake ---

/// Shows its certificate only to a server that names its CA, as Go's client does.
#[derive(Debug)]
struct Picky {
    pair: Pair,
    hints: Mutex<Vec<Vec<u8>>>,
}

impl ResolvesClientCert for Picky {
    fn resolve(&self, hints: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.hints.lock().unwrap() = hints.iter().map(|hint| hint.to_vec()).collect();
        let (_, certificate) = X509Certificate::from_der(&self.pair.chain[0]).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider
            .key_provider
            .load_private_key(self.pair.key.clone_key())
            .unwrap();
        hints
            .contains(&certificate.issuer().as_raw())
            .then(|| Arc::new(CertifiedKey::new(self.pair.chain.clone(), key)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Seen red: with the `ServerConfig` of the start kept over a reload.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_choose_a_certificate_by_the_named_cas_find_a_new_ca_after_the_reload() {
    let world = World::start().await;
    let carol = Arc::new(Picky {
        pair: PKI.carol.clone(),
        hints: Mutex::default(),
    });
    let ask = async |version| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(PKI.ca.certificate().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(carol.clone());
        let socket = tokio::net::TcpStream::connect(world.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
        let request = "GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let hints = || carol.hints.lock().unwrap().clone();
    let name = |ca: &Ca| {
        let (_, certificate) = X509Certificate::from_der(ca.certificate()).unwrap();
        certificate.subject().as_raw().to_vec()
    };
    for version in [&TLS13, &TLS12] {
        assert_eq!(ask(version).await, "401", "she shows nothing");
        assert_eq!(hints(), [name(&PKI.ca)]);
        write_bundle(
            &world,
            &[PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()],
        );
        world.gate.reload();
        assert_eq!(ask(version).await, "200");
        assert_eq!(hints(), [name(&PKI.ca), name(&PKI.rotated_ca)]);
        write_bundle(&world, &[PKI.ca.certificate_pem()]);
        world.gate.reload();
    }
    world.stop().await;
}

/// Seen red: with `Require` treated as `Request`, and with the lists not looked at, bob goes on.
#[tokio::test(flavor = "multi_thread")]
async fn require_refuses_strangers_in_the_handshake_and_judges_the_other_clients_as_always() {
    let world = revoking(&[])
        .set("authentication.x509.clientCertificates", "Require")
        .start()
        .await;
    for stranger in [
        world.stranger(),
        world.client("wrong-ca"),
        world.client("expired"),
        world.client("wrong-usage"),
    ] {
        stranger.get("/healthz").await.unwrap_err();
    }
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 200);
    // A revocation list is not part of the handshake: this is a 401.
    fs::write(
        world.file("ca.crl"),
        revocation_list(&PKI.ca, &[&PKI.bob], Span::DAY),
    )
    .unwrap();
    world.gate.reload();
    assert_eq!(status(&mut bob).await, 401);
    assert_eq!(world.client("bob").status("/healthz").await, 401);
    // On open connections a new CA counts at once, and a removed one no more.
    fs::write(world.file("ca.crl"), revocation_list(&PKI.ca, &[], Span::DAY)).unwrap();
    write_bundle(
        &world,
        &[PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()],
    );
    world.gate.reload();
    assert_eq!(world.client("carol").status("/healthz").await, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intermediates_must_be_sent_or_known_and_a_new_ca_may_have_the_old_ones_name() {
    let world = World::start().await;
    let issuer = PKI.ca.intermediate("issuer").unwrap();
    let sent = issuer
        .issue("erin", &CertificateSpec::client("erin").group("admins"))
        .unwrap();
    assert_eq!(sent.chain.len(), 2);
    let mut alone = sent.clone();
    alone.chain.truncate(1);
    let status = async |pair: &Pair| {
        let answer = world.client_with(pair).get("/healthz").await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!((status(&sent).await, status(&alone).await), (200, 401));
    write_bundle(&world, &[issuer.certificate_pem()]);
    world.gate.reload();
    assert_eq!((status(&sent).await, status(&alone).await), (200, 200));
    assert_eq!(status(&PKI.bob).await, 401, "of an issuer, not of its CA");

    // The names are the same and the keys are not: each certificate is verified by its own, in either order.
    let (old, new) = (PKI.ca.certificate_pem(), PKI.untrusted_ca.certificate_pem());
    for bundle in [[old.clone(), new.clone()], [new.clone(), old]] {
        write_bundle(&world, &bundle);
        world.gate.reload();
        assert_eq!((status(&PKI.bob).await, status(&sent).await), (200, 200));
        assert_eq!(status(&PKI.wrong_ca).await, 200, "no longer the wrong one");
    }
    write_bundle(&world, &[new]);
    world.gate.reload();
    assert_eq!((status(&PKI.bob).await, status(&PKI.wrong_ca).await), (401, 200));
    world.stop().await;
}

/// Sessions are not resumed, or a certificate that was shown once would count for as long as the client
/// likes. Seen red: with tickets and a session store, the second handshake is a resumed one.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_connection_is_a_new_handshake_and_a_removed_ca_counts_at_once() {
    let world = World::start().await;
    let bob = world.client("bob");
    for _ in 0..3 {
        assert_eq!(bob.status("/healthz").await, 200);
        assert_eq!(bob.handshake().await.unwrap().kind, Some(HandshakeKind::Full));
    }
    write_bundle(&world, &[PKI.rotated_ca.certificate_pem()]);
    world.gate.reload();
    assert_eq!(bob.status("/healthz").await, 401);
    assert_eq!(bob.handshake().await.unwrap().kind, Some(HandshakeKind::Full));
    world.stop().await;
}

// --- the kubelet ---

/// Seen red: with `connect` not reading the pin again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_kubelet_certificate_is_followed_at_once_if_its_file_was_written() {
    let world = World::start().await;
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 200);
    let rotated = kubelet_pair();
    rotate_kubelet(&world, &rotated).await;
    rotated.write(world.file("").as_path()).unwrap();
    // Without a signal to the gate.
    assert_eq!(status(&mut bob).await, 200);
    assert_eq!(reloads(&world, "upstream", "ok"), 1.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_key_than_the_pinned_one_receives_nothing() {
    let world = World::start().await;
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 200);
    rotate_kubelet(&world, &kubelet_pair()).await;
    world.kubelet.clear();
    for _ in 0..2 {
        let answer = bob.get("/pods").await.unwrap();
        assert_answer(&answer, 502, "the kubelet's certificate is not the pinned one\n");
    }
    world.assert_nothing_forwarded();
    eventually("both refusals are written", || {
        let refused = |event: &serde_json::Value| {
            event["responseStatus"]["code"] == 502 && event["requestURI"] == "/pods"
        };
        world.audit().iter().filter(|event| refused(event)).count() == 2
    })
    .await;
    let events = world.audit();
    let error = events[events.len() - 1]["annotations"]["kubelet-gate.dev/error"]
        .as_str()
        .unwrap();
    assert!(error.contains("upstream.certificateFile"), "{error}");
    world.stop().await;
}

pub(crate) fn serving_pair() -> Pair {
    PKI.client(
        "gate-serving",
        &CertificateSpec::server("gate", &["localhost", "127.0.0.1"]),
    )
    .unwrap()
}

fn kubelet_pair() -> Pair {
    PKI.client(
        "kubelet-serving",
        &CertificateSpec::server("worker-1@1", &["worker-1"]),
    )
    .unwrap()
}

/// The kubelet uses this pair from now on, and closes its old connections.
async fn rotate_kubelet(world: &World, pair: &Pair) {
    world
        .kubelet
        .rotate_certificate(pair.chain.clone(), pair.key.clone_key())
        .unwrap();
    world.kubelet.fail("/healthz", fakes::kubelet::Fault::Close);
    while world.kubelet.open_connections() > 0 {
        // Each ends one of the pool's connections.
        world.client("bob").get("/healthz").await.unwrap();
    }
    world.kubelet.heal();
    eventually("the kubelet has no connection left", || {
        world.kubelet.open_connections() == 0
    })
    .await;
}
