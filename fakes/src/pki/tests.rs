//! What `tests/it` would not notice: a certificate that is bad for another reason than its name says, a key
//! in a log, and a key written through a link.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;

use super::*;

/// webpki's verdict on a client certificate under the cluster's CA, now.
fn verdict(pki: &Pki, pair: &Pair) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca.certificate().clone()).unwrap();
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()))
        .build()
        .unwrap()
        .verify_client_cert(&pair.chain[0], &pair.chain[1..], UnixTime::now())
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn each_bad_certificate_is_bad_for_its_own_reason() {
    let pki = Pki::generate().unwrap();
    for good in [&pki.apiserver_client, &pki.gate, &pki.alice, &pki.bob, &pki.no_cn] {
        assert_eq!(verdict(&pki, good), Ok(()), "{}", good.name);
    }
    for (bad, reason) in [
        (&pki.expired, "expired"),
        (&pki.not_yet_valid, "not valid yet"),
        (&pki.wrong_usage, "extended key usage"),
        (&pki.wrong_ca, "BadSignature"),
        (&pki.carol, "UnknownIssuer"),
    ] {
        let verdict = verdict(&pki, bad).unwrap_err();
        assert!(verdict.contains(reason), "{}: {verdict}", bad.name);
    }
}

#[test]
fn files_are_replaced_and_not_written_through() {
    let pki = Pki::generate().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("README.md"), "unchanged").unwrap();
    // A key that other users can read, and a link to another file.
    fs::write(path("alice.key"), "old").unwrap();
    symlink(path("README.md"), path("bob.key")).unwrap();
    pki.write(directory.path()).unwrap();
    for (name, pair) in [("alice.key", &pki.alice), ("bob.key", &pki.bob)] {
        let metadata = fs::symlink_metadata(path(name)).unwrap();
        assert!(
            metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600,
            "{name}"
        );
        assert_eq!(fs::read_to_string(path(name)).unwrap(), pair.key_pem());
    }
    assert_eq!(fs::read_to_string(path("README.md")).unwrap(), "unchanged");
}

#[test]
fn debug_output_contains_no_key() {
    let printed = format!("{:?}", Pki::generate().unwrap());
    assert!(printed.len() < 4096 && !printed.contains("PRIVATE"), "{printed}");
}
