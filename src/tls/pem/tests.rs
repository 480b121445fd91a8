#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const FILE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

fn block(kind: &str, base64: &str) -> String {
    format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
}

fn file() -> &'static Path {
    Path::new(FILE)
}

#[test]
fn one_file_may_hold_certificates_and_key() {
    let pem = block("CERTIFICATE", "MAA=") + &block("PRIVATE KEY", "MAEB") + &block("CERTIFICATE", "MAEC");
    let certificates = certificates(file(), pem.as_bytes()).unwrap();
    assert_eq!(
        certificates,
        [vec![0x30, 0x00].into(), vec![0x30, 0x01, 0x02].into()]
    );
    assert_eq!(
        private_key(file(), pem.as_bytes()).unwrap().secret_der(),
        [0x30, 0x01, 0x01]
    );
}

#[test]
fn errors_name_the_file_and_the_line() {
    let none = certificates(file(), block("PRIVATE KEY", "MAA=").as_bytes()).unwrap_err();
    assert!(matches!(none, PemError::NoCertificate { .. }) && none.to_string().starts_with(FILE));
    let none = private_key(file(), block("CERTIFICATE", "MAA=").as_bytes()).unwrap_err();
    assert!(matches!(none, PemError::NoKey { .. }) && none.to_string().starts_with(FILE));
    let text = format!("\n{}", block("CERTIFICATE", "MA!="));
    let broken = certificates(file(), text.as_bytes()).unwrap_err();
    assert!(
        broken.to_string().starts_with(&format!("{FILE}:2: broken PEM")),
        "{broken}"
    );
}

#[test]
fn revocation_lists_are_pem_or_der() {
    let two = block("X509 CRL", "MAA=") + &block("X509 CRL", "MAEB");
    let lists = revocation_lists(file(), two.as_bytes()).unwrap();
    assert_eq!(lists, [vec![0x30, 0x00].into(), vec![0x30, 0x01, 0x01].into()]);
    let der = revocation_lists(file(), &[0x30, 0x00]).unwrap();
    assert_eq!(der, [vec![0x30, 0x00].into()]);
    for none in [String::new(), block("CERTIFICATE", "MAA=")] {
        let none = revocation_lists(file(), none.as_bytes()).unwrap_err();
        assert!(matches!(none, PemError::NoRevocationList { .. }) && none.to_string().starts_with(FILE));
    }
}

#[test]
fn an_encrypted_key_is_reported_as_encrypted() {
    let pkcs8 = block("ENCRYPTED PRIVATE KEY", "MAA=");
    let traditional = block(
        "RSA PRIVATE KEY",
        "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMAA=",
    );
    for pem in [pkcs8, traditional] {
        let error = private_key(file(), pem.as_bytes()).unwrap_err();
        assert!(matches!(error, PemError::Encrypted { line: 1, .. }), "{error}");
    }
}

/// What `openssl -text` writes, and what an operator does.
#[test]
fn text_between_blocks_is_allowed() {
    let text = format!(
        "Bag Attributes\r\n    friendlyName: front--end\r\nsubject=CN = front-end CA\r\n{}# --- begin of the \
         second ---\n        Serial Number: 3 (0x3)\n  e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b\n\
         {}the end\n",
        block("CERTIFICATE", "MAA=").replace('\n', " \r\n"),
        block("CERTIFICATE", " MA\tEB"),
    );
    assert_eq!(certificates(file(), text.as_bytes()).unwrap().len(), 2);
}

/// Each of these has two certificates and would be read as one, or as none, by a reader that skips what it
/// cannot read. `@` stands for a certificate's body.
///
/// Seen red: with a line that looks like a boundary skipped, and with a body outside a block allowed.
#[test]
fn what_looks_like_a_block_and_is_not_read_is_refused_with_its_line() {
    let body = "MIIBajCCARCgAwIBAgICA+kwCgYIKoZIzj0EAwIwGzEZMBcGA1UEAwwQdHJ1c3Qg";
    let good = "-----BEGIN CERTIFICATE-----\n@\n-----END CERTIFICATE-----\n";
    let glued = good.trim_end().to_owned() + good;
    let rows = [
        (glued.clone(), 3, "on one line"),
        (glued.replace("----------", "----- -----"), 3, "on one line"),
        (format!("{good} {good}"), 4, "indented"),
        (format!("{good}\t{good}"), 4, "indented"),
        (format!("\u{feff}{good}{good}"), 1, "byte order mark"),
        (format!("{good}\u{feff}{good}"), 4, "byte order mark"),
        (format!("{good}\u{200b}{good}"), 4, "not exactly"),
        (format!("{good}CA: {good}"), 4, "not exactly"),
        (format!("{good}# -----BEGIN CERTIFICATE-----\n"), 4, "not exactly"),
        (good.replace('\n', "\r").repeat(2), 1, "carriage return"),
        (
            format!("{good}{}", good.replacen('\n', "\r", 1)),
            4,
            "carriage return",
        ),
        (
            format!("{good}{}", good.replace("-----B", "----B")),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replace("-----B", "------B")),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replacen("-----\n", "------\n", 1)),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replacen("-----\n", "----\n", 1)),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replacen("-----\n", "----- x\n", 1)),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replace("-----\n", "----- x\n")),
            4,
            "not exactly",
        ),
        (format!("{good}{}", good.to_lowercase()), 4, "not exactly"),
        (
            format!("{good}{}", good.replace("CERT", "cert")),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replace("N CERT", "N  CERT")),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replace("N CERT", "NCERT")),
            4,
            "not exactly",
        ),
        (
            format!("{good}{}", good.replace("-----BEGIN", "-BEGIN")),
            5,
            "missing",
        ),
        (
            format!("{good}{}", good.replace("-----BEGIN", "–––––BEGIN")),
            5,
            "missing",
        ),
        (
            format!("{good}{}", good.replace("-----BEGIN", "----- BEGIN")),
            5,
            "missing",
        ),
        (format!("{good}@\n-----END CERTIFICATE-----\n"), 4, "missing"),
        (format!("{good}-----END CERTIFICATE-----\n"), 4, "no -----BEGIN"),
        (format!("-----BEGIN CERTIFICATE-----\n@\n{good}"), 1, "has no end"),
        (format!("{good}-----BEGIN CERTIFICATE-----\n@\n"), 4, "has no end"),
        (
            format!("{good}{}", good.replace("END CERT", "END X509 CERT")),
            6,
            "another label",
        ),
        (format!("{good}{}", good.replace('\n', "\0\n")), 4, "zero byte"),
    ];
    for (text, line, found) in rows {
        let text = text.replace('@', body);
        let error = certificates(file(), text.as_bytes()).unwrap_err().to_string();
        let place = format!("{FILE}:{line}: ");
        assert!(
            error.starts_with(&place) && error.contains(found),
            "{text:?}: {error}"
        );
        // The same for what else is read from such a file.
        let lists = text
            .replace("CERTIFICATE", "X509 CRL")
            .replace("certificate", "x509 crl");
        assert!(revocation_lists(file(), lists.as_bytes()).is_err(), "{lists:?}");
        let keys = text.replace("CERTIFICATE", "EC PRIVATE KEY");
        assert!(private_key(file(), keys.as_bytes()).is_err(), "{keys:?}");
    }
}

/// OpenSSL writes such labels, and Go skips them.
#[test]
fn a_block_of_the_wanted_kind_with_another_label_is_refused() {
    let good = block("CERTIFICATE", "MAA=");
    for label in ["TRUSTED CERTIFICATE", "X509 CERTIFICATE"] {
        let text = good.clone() + &block(label, "MAA=");
        let error = certificates(file(), text.as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{FILE}:4: ")) && error.contains(label),
            "{error}"
        );
    }
    let request = good + &block("CERTIFICATE REQUEST", "MAA=");
    assert_eq!(certificates(file(), request.as_bytes()).unwrap().len(), 1);
    let lists = block("X509 CRL", "MAA=") + &block("CRL", "MAA=");
    assert!(revocation_lists(file(), lists.as_bytes()).is_err());
    let key = private_key(file(), block("OPENSSH PRIVATE KEY", "MAA=").as_bytes());
    assert!(key.unwrap_err().to_string().contains("OPENSSH"));
}

proptest! {
    /// The number of blocks is that of the texts that look like the start of one. Seen red: with a malformed
    /// boundary skipped.
    #[test]
    fn as_many_are_read_as_there_are_texts_that_look_like_one(
        parts in prop::collection::vec(
            prop_oneof![
                Just("-----BEGIN CERTIFICATE-----"),
                Just("-----BEGIN X509 CRL-----"),
                Just("-----END CERTIFICATE-----"),
                Just("-----END X509 CRL-----"),
                Just("-----begin certificate-----"),
                Just("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"),
                Just("-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----"),
                Just("MAA="),
                Just("\n"),
                Just("\r\n"),
                Just("\r"),
                Just(" "),
                Just("\u{feff}"),
                Just("text\n"),
                Just("-"),
            ],
            0..12,
        )
    ) {
        let text = parts.concat();
        let count = |kind: &str| text.to_lowercase().matches(&format!("-----begin {kind}")).count();
        let read = certificates(file(), text.as_bytes());
        if let Ok(read) = read {
            prop_assert_eq!(read.len(), count("certificate"));
        }
        if let Ok(read) = revocation_lists(file(), text.as_bytes()) {
            prop_assert_eq!(read.len(), count("x509 crl"));
        }
    }
}
