//! Which clients pass the handshake, and how their chains are judged afterwards.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use base64::Engine;
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rustls::SignatureScheme;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::server::ServerSessionMemoryCache;

use super::*;

#[tokio::test]
async fn possession_is_proven_with_every_kind_of_key() {
    let authority = Authority::new("ca", |_| ());
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    for key in [
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        rsa,
    ] {
        let leaf = authority.issue_for(key, |_| ());
        shown_and_judged(&authority, &leaf).await.unwrap();
    }
}

#[tokio::test]
async fn a_key_that_is_not_the_certificates_fails_the_handshake() {
    let authority = Authority::new("ca", |_| ());
    let trust = authority.trust();
    let server = gate(&authority, Some(&trust), ClientCertificates::Request);
    let certificate = authority.issue(|_| ()).certificate;
    let thief = config::provider()
        .key_provider
        .load_private_key(private_key(&KeyPair::generate().unwrap()))
        .unwrap();
    let pair = Arc::new(CertifiedKey::new(vec![certificate], thief));
    for version in VERSIONS {
        let client = Arc::new(client_config(version, &authority, shows(Arc::clone(&pair))));
        let (error, _) = handshake(&server, &client).await.unwrap_err();
        assert!(error.to_string().contains("BadSignature"), "{error}");
    }
}

#[tokio::test]
async fn a_version_1_leaf_passes_the_handshake_and_is_refused_after_it() {
    let authority = Authority::new("ca", |_| ());
    let leaf = authority.issue(|_| ()).into_version1(&authority);
    let refusal = shown_and_judged(&authority, &leaf).await.unwrap_err();
    assert_eq!(refusal, Refusal::Version1);
    // In the bundle itself it is accepted: then only the signature of the handshake matters.
    let pinned = Trust::new(vec![leaf.certificate.clone()], 1).unwrap();
    pinned.verdict(&[leaf.certificate], SystemTime::now()).unwrap();
}

#[tokio::test]
async fn the_extended_key_usage_must_allow_clients_or_be_absent() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, Other, ServerAuth};
    let authority = Authority::new("ca", |_| ());
    for good in [vec![ClientAuth], vec![ServerAuth, ClientAuth], vec![Any], vec![]] {
        let leaf = authority.issue(|params| params.extended_key_usages = good);
        shown_and_judged(&authority, &leaf).await.unwrap();
    }
    for bad in [vec![ServerAuth], vec![Other(vec![1, 2, 3])]] {
        let leaf = authority.issue(|params| params.extended_key_usages = bad);
        assert_eq!(shown_and_judged(&authority, &leaf).await, Err(Refusal::BadUsage));
    }
}

#[tokio::test]
async fn dates_count_of_leaf_and_anchor() {
    let authority = Authority::new("ca", |params| params.not_after = date_time_ymd(2999, 1, 1));
    let expired = authority.issue(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        shown_and_judged(&authority, &expired).await,
        Err(Refusal::Expired)
    );
    let early = authority.issue(|params| params.not_before = date_time_ymd(2998, 1, 1));
    assert_eq!(
        shown_and_judged(&authority, &early).await,
        Err(Refusal::NotYetValid)
    );

    let old = Authority::new("old ca", |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        old.trust()
            .verdict(&[old.issue(|_| ()).certificate], SystemTime::now()),
        Err(Refusal::AnchorExpired)
    );
    let new = Authority::new("new ca", |params| params.not_before = date_time_ymd(2998, 1, 1));
    assert_eq!(
        new.trust()
            .verdict(&[new.issue(|_| ()).certificate], SystemTime::now()),
        Err(Refusal::AnchorNotYetValid)
    );
}

/// Seen red with rustls' own list, which has ML-DSA; with `Require` alone as well.
#[tokio::test]
async fn clients_are_asked_only_for_signatures_that_kubelets_support() {
    #[derive(Debug, Default)]
    struct Offered(Mutex<Vec<SignatureScheme>>);
    impl ResolvesClientCert for Offered {
        fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            *self.0.lock().unwrap() = schemes.to_vec();
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }
    let ca = Authority::new("ca", |_| ());
    for mode in [ClientCertificates::Request, ClientCertificates::Require] {
        for version in VERSIONS {
            let offered = Arc::new(Offered::default());
            let resolver: Arc<dyn ResolvesClientCert> = Arc::<Offered>::clone(&offered);
            let client = Arc::new(client_config(version, &ca, Some(resolver)));
            // With `Require` this fails, after the request for a certificate.
            let _ = handshake(&gate(&ca, Some(&ca.trust()), mode), &client).await;
            let offered = offered.0.lock().unwrap();
            assert!(offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256));
            let is_unknown = |scheme: &SignatureScheme| format!("{scheme:?}").contains("ML_DSA");
            assert!(
                !offered.iter().any(is_unknown),
                "{mode:?} {version:?}: {offered:?}"
            );
        }
    }
}

#[tokio::test]
async fn clients_are_asked_with_the_names_of_the_cas_and_not_at_all_without_a_bundle() {
    #[derive(Debug, Default)]
    struct Asked(Mutex<Option<Vec<Vec<u8>>>>);
    impl ResolvesClientCert for Asked {
        fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            *self.0.lock().unwrap() = Some(hints.iter().map(|hint| hint.to_vec()).collect());
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }
    let (one, two) = (Authority::new("one", |_| ()), Authority::new("two", |_| ()));
    let bundle = vec![one.certificate.clone(), two.certificate.clone()];
    let trust = Arc::new(Trust::new(bundle, 1).unwrap());
    for version in VERSIONS {
        for trust in [Some(&trust), None] {
            let asked = Arc::new(Asked::default());
            let resolver: Arc<dyn ResolvesClientCert> = Arc::<Asked>::clone(&asked);
            let client = Arc::new(client_config(version, &one, Some(resolver)));
            let met = handshake(&gate(&one, trust, ClientCertificates::Request), &client)
                .await
                .unwrap();
            assert!(met.chain.is_empty());
            let hints = asked.0.lock().unwrap().take();
            let expected =
                trust.map(|trust| trust.hints().iter().map(|hint| hint.as_ref().to_vec()).collect());
            assert_eq!(hints, expected);
        }
    }
    assert!(trust.hints()[1].as_ref().ends_with(b"two"));
}

#[tokio::test]
async fn require_fails_the_handshake_of_a_client_with_an_unknown_ca() {
    let authority = Authority::new("ca", |_| ());
    let trust = authority.trust();
    let server = gate(&authority, Some(&trust), ClientCertificates::Require);
    let stranger = Authority::new("stranger", |_| ()).issue(|_| ());
    let known = authority.issue(|_| ());
    for version in VERSIONS {
        let attempt = async |resolver| {
            handshake(&server, &Arc::new(client_config(version, &authority, resolver))).await
        };
        attempt(None).await.unwrap_err();
        attempt(shows(stranger.pair())).await.unwrap_err();
        assert_eq!(attempt(shows(known.pair())).await.unwrap().chain.len(), 1);
    }
    let without = server_config(
        known.pair(),
        None,
        ClientCertificates::Require,
        TlsVersion::Tls12,
        &[],
    );
    assert!(matches!(without, Err(TlsError::RequireWithoutTrust)));
}

#[tokio::test]
async fn a_session_is_never_resumed() {
    let authority = Authority::new("ca", |_| ());
    let trust = authority.trust();
    let server = gate(&authority, Some(&trust), ClientCertificates::Request);
    // The same with resumption, to show that this client supports it.
    let mut eager = ServerConfig::clone(&server);
    eager.session_storage = ServerSessionMemoryCache::new(8);
    eager.send_tls13_tickets = 2;
    let pair = authority.issue(|_| ()).pair();
    for version in VERSIONS {
        for (server, second) in [
            (&server, HandshakeKind::Full),
            (&Arc::new(eager.clone()), HandshakeKind::Resumed),
        ] {
            let mut client = client_config(version, &authority, shows(Arc::clone(&pair)));
            client.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
            let client = Arc::new(client);
            assert_ne!(
                handshake(server, &client).await.unwrap().kind,
                HandshakeKind::Resumed
            );
            let kind = handshake(server, &client).await.unwrap().kind;
            assert_eq!(
                kind == HandshakeKind::Resumed,
                second == HandshakeKind::Resumed,
                "{version:?}"
            );
        }
    }
}

fn offered(name: &str) -> CipherSuite {
    match cipher_suite(name) {
        SuiteName::Offered(suite) => suite,
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
async fn versions_suites_and_protocols_are_as_configured() {
    let authority = Authority::new("ca", |_| ());
    let pair = serving(&authority).pair();
    let connect = async |min_version, suites: &[&str], version, protocols: &[&[u8]]| {
        let suites = suites.iter().map(|name| offered(name)).collect::<Vec<_>>();
        let request = ClientCertificates::Request;
        let server = server_config(Arc::clone(&pair), None, request, min_version, &suites).unwrap();
        let mut client = client_config(version, &authority, None);
        client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        handshake(&server, &Arc::new(client)).await
    };
    let (tls12, tls13) = (TlsVersion::Tls12, TlsVersion::Tls13);
    connect(tls13, &[], &TLS12, &[]).await.unwrap_err();
    connect(tls13, &[], &TLS13, &[]).await.unwrap();
    connect(tls12, &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], &TLS12, &[])
        .await
        .unwrap_err();
    connect(tls12, &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], &TLS13, &[])
        .await
        .unwrap();
    connect(tls12, &["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], &TLS12, &[])
        .await
        .unwrap();
    connect(tls12, &["TLS_AES_128_GCM_SHA256"], &TLS12, &[])
        .await
        .unwrap_err();
    for (offered, chosen) in [
        (&[&b"h2"[..], b"http/1.1"][..], "h2"),
        (&[b"http/1.1"], "http/1.1"),
    ] {
        let met = connect(tls12, &[], &TLS13, offered).await.unwrap();
        assert_eq!(met.alpn.as_deref(), Some(chosen.as_bytes()));
    }
}

/// The variable cannot be set in this process, so the test runs another one in a child process that has it.
#[test]
fn keys_are_not_logged() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("keys");
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tls::tests::handshakes::possession_is_proven_with_every_kind_of_key",
        ])
        .env("SSLKEYLOGFILE", &log)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
    assert!(!log.exists());
}

#[tokio::test]
async fn the_kubelet_is_recognised_by_its_pinned_key_alone() {
    let expired = Authority::new("kubelet", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let other = Authority::new("kubelet", |_| ());
    for version in VERSIONS {
        let kubelet = |authority: &Authority| {
            ServerConfig::builder_with_provider(Arc::new(config::provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![authority.certificate.clone()], private_key(&authority.key))
                .map(Arc::new)
                .unwrap()
        };
        let pin = UpstreamVerification::Pinned(vec![expired.certificate.clone(), other.certificate.clone()]);
        let pinned = upstream_config(&pin, None).unwrap();
        assert_eq!(handshake(&kubelet(&expired), &pinned).await.unwrap().alpn, None);
        let (_, error) = handshake(&kubelet(&other), &pinned).await.unwrap_err();
        assert!(is_pin_mismatch(&error), "{error}");

        // The pinned certificate without its key: no mismatch, but the handshake fails.
        let key = config::provider()
            .key_provider
            .load_private_key(private_key(&other.key))
            .unwrap();
        let mut impostor = ServerConfig::clone(&kubelet(&other));
        let pair = Arc::new(CertifiedKey::new(vec![expired.certificate.clone()], key));
        impostor.cert_resolver = Arc::new(SingleCertAndKey::from(pair));
        let (_, error) = handshake(&Arc::new(impostor), &pinned).await.unwrap_err();
        assert!(
            !is_pin_mismatch(&error) && error.to_string().contains("BadSignature"),
            "{error}"
        );
    }
    assert!(upstream_config(&UpstreamVerification::Pinned(Vec::new()), None).is_err());
}

#[tokio::test]
async fn the_kubelet_may_be_verified_by_a_ca_and_receives_the_gates_certificate() {
    let authority = Authority::new("ca", |_| ());
    let trust = authority.trust();
    let client = authority.issue(|_| ());
    let server = gate(&authority, Some(&trust), ClientCertificates::Require);
    let by = |authority: &Authority| {
        let roots = vec![authority.certificate.clone()];
        upstream_config(&UpstreamVerification::Ca { roots }, Some(client.pair())).unwrap()
    };
    assert_eq!(
        handshake(&server, &by(&authority)).await.unwrap().chain,
        std::slice::from_ref(&client.certificate)
    );
    let (_, error) = handshake(&server, &by(&Authority::new("ca", |_| ())))
        .await
        .unwrap_err();
    assert!(!is_pin_mismatch(&error));
}

#[test]
fn a_pair_must_belong_together_and_the_error_names_both_files() {
    let authority = Authority::new("ca", |_| ());
    let (one, two) = (authority.issue(|_| ()), authority.issue(|_| ()));
    let pem = |leaf: &Leaf| {
        let base64 = base64::engine::general_purpose::STANDARD.encode(&leaf.certificate);
        format!(
            "-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n{}",
            leaf.key.serialize_pem()
        )
    };
    let (one, two) = (pem(&one), pem(&two));
    let (certificate, key) = (Path::new("/pki/kubelet.crt"), Path::new("/pki/kubelet.key"));
    certified_key_from_pem((certificate, one.as_bytes()), (certificate, one.as_bytes())).unwrap();
    let error = certified_key_from_pem((certificate, one.as_bytes()), (key, two.as_bytes()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/pki/kubelet.crt") && error.contains("/pki/kubelet.key"),
        "{error}"
    );
    let version1 = authority.issue(|_| ()).into_version1(&authority);
    assert_eq!(
        version1.pair().cert.len(),
        1,
        "a v1 certificate is good enough to serve with"
    );
}
