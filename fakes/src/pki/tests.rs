#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt as _;

use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

/// What webpki says of a client certificate under the cluster's CA, now.
fn judged(pki: &Pki, pair: &Pair) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.certificate().clone()).unwrap();
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .build()
        .unwrap()
        .verify_client_cert(&pair.chain[0], &pair.chain[1..], UnixTime::now())
        .map(drop)
        .map_err(|error| error.to_string())
}

fn subject(pair: &Pair) -> Vec<(String, String)> {
    let (rest, certificate) = X509Certificate::from_der(&pair.chain[0]).unwrap();
    assert!(rest.is_empty());
    certificate
        .subject()
        .iter_attributes()
        .map(|attribute| {
            (
                attribute.attr_type().to_id_string(),
                attribute.as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

fn attribute(oid: &str, value: &str) -> (String, String) {
    (oid.to_owned(), value.to_owned())
}

#[test]
fn each_of_the_cast_is_good_or_bad_in_its_own_way() {
    let pki = Pki::generate().unwrap();
    for good in [&pki.apiserver_client, &pki.gate, &pki.alice, &pki.bob, &pki.no_cn] {
        assert_eq!(judged(&pki, good), Ok(()), "{}", good.name);
    }
    for (bad, why) in [
        (&pki.expired, "expired"),
        (&pki.not_yet_valid, "not valid yet"),
        (&pki.wrong_usage, "extended key usage"),
        (&pki.wrong_ca, "BadSignature"),
        (&pki.carol, "UnknownIssuer"),
    ] {
        let verdict = judged(&pki, bad).unwrap_err();
        assert!(verdict.contains(why), "{}: {verdict}", bad.name);
    }
    assert_eq!(subject(&pki.wrong_ca), subject(&pki.apiserver_client));
    assert_eq!(
        subject(&pki.gate),
        [
            attribute("2.5.4.3", "system:node:worker-1"),
            attribute("2.5.4.10", "system:nodes")
        ]
    );
    assert_eq!(subject(&pki.no_cn), [attribute("2.5.4.10", "developers")]);
}

#[test]
fn a_subject_holds_every_attribute_in_order() {
    let pki = Pki::generate().unwrap();
    let long = "g".repeat(300);
    let spec = CertificateSpec::client("first")
        .group("one")
        .group("two")
        .group(&long)
        .attribute(Attribute::Uid, "42")
        .attribute(Attribute::CommonName, "ünïcode");
    let pair = pki.client("dave", &spec).unwrap();
    assert_eq!(judged(&pki, &pair), Ok(()));
    assert_eq!(
        subject(&pair),
        [
            attribute("2.5.4.3", "first"),
            attribute("2.5.4.10", "one"),
            attribute("2.5.4.10", "two"),
            attribute("2.5.4.10", &long),
            attribute("1.3.6.1.4.1.57683.2", "42"),
            attribute("2.5.4.3", "ünïcode"),
        ]
    );
}

#[test]
fn every_kind_of_key_issues_and_is_issued() {
    let pki = Pki::generate().unwrap();
    for key in [KeyKind::P256, KeyKind::Rsa2048, KeyKind::Ed25519] {
        let pair = pki
            .client("dave", &CertificateSpec::client("dave").key(key))
            .unwrap();
        assert_eq!(judged(&pki, &pair), Ok(()), "{key:?}");
        pki.client_config(Some(&pair)).unwrap();

        let below = pki.ca.intermediate("below", key).unwrap();
        let pair = below.issue("eve", &CertificateSpec::client("eve")).unwrap();
        assert_eq!(pair.chain.len(), 2);
        assert_eq!(judged(&pki, &pair), Ok(()), "{key:?}");
        let alone = Pair {
            chain: pair.chain[..1].to_vec(),
            ..pair.clone()
        };
        assert!(judged(&pki, &alone).is_err());
    }
}

#[test]
fn files_hold_what_was_made_and_keys_are_private() {
    let pki = Pki::generate().unwrap();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("certs-dev");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("README.md"), "mine").unwrap();
    // A key that was left readable, and a link that leads elsewhere, are both replaced.
    fs::write(dir.join("alice.key"), "old").unwrap();
    std::os::unix::fs::symlink(dir.join("README.md"), dir.join("bob.key")).unwrap();

    let written = pki.write(&dir).unwrap();
    assert_eq!(written.len(), 3 + 2 * pki.pairs().len());
    for path in &written {
        let metadata = fs::symlink_metadata(path).unwrap();
        assert!(metadata.is_file());
        let private = path.extension().unwrap() == "key";
        assert_eq!(
            metadata.permissions().mode() & 0o777 == 0o600,
            private,
            "{}",
            path.display()
        );
    }
    assert_eq!(fs::read_to_string(dir.join("README.md")).unwrap(), "mine");

    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let chain: Vec<_> = rustls_pemfile::certs(&mut read("kubelet-serving.crt").as_slice())
        .map(Result::unwrap)
        .collect();
    assert_eq!(chain, pki.kubelet_serving.chain);
    let key = rustls_pemfile::private_key(&mut read("alice.key").as_slice())
        .unwrap()
        .unwrap();
    assert_eq!(key, pki.alice.key);

    let fresh = parent.path().join("a/b");
    pki.write(&fresh).unwrap();
    assert_eq!(fs::metadata(&fresh).unwrap().permissions().mode() & 0o777, 0o700);
    let error = pki.write(&fresh.join("ca.crt")).unwrap_err().to_string();
    assert!(error.contains("ca.crt"), "{error}");
}

#[test]
fn a_kubeconfig_says_where_and_who() {
    let pki = Pki::generate().unwrap();
    let url = "https://127.0.0.1:6443";
    let user = |credential| {
        let text = kubeconfig(url, &pki.ca, credential);
        let config: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], url);
        let ca = STANDARD.decode(
            config["clusters"][0]["cluster"]["certificate-authority-data"]
                .as_str()
                .unwrap(),
        );
        assert_eq!(ca.unwrap(), pki.ca.certificate_pem().as_bytes());
        config["users"][0]["user"].clone()
    };

    let embedded = user(Credential::Certificate(&pki.gate));
    let key = STANDARD
        .decode(embedded["client-key-data"].as_str().unwrap())
        .unwrap();
    assert_eq!(key, pki.gate.key_pem().as_bytes());
    assert_eq!(user(Credential::Token("a: \"b\"")), json!({"token": "a: \"b\""}));
    assert_eq!(
        user(Credential::TokenFile(Path::new("/run/token"))),
        json!({"tokenFile": "/run/token"})
    );
    let files = Credential::CertificateFiles {
        certificate: Path::new("gate.crt"),
        key: Path::new("gate.key"),
    };
    assert_eq!(
        user(files),
        json!({"client-certificate": "gate.crt", "client-key": "gate.key"})
    );
}

#[test]
fn nothing_printed_holds_a_key() {
    let pki = Pki::generate().unwrap();
    let printed = format!("{pki:?}");
    assert!(printed.len() < 4096, "{printed}");
    assert!(!printed.contains("PRIVATE"));
}
