//! A text of certificates, keys and revocation lists. What is read is no less than what looks like a block.

use crate::tls::pem;

pub(super) fn run(text: &[u8]) {
    let upper = text.to_ascii_uppercase();
    let count = |what: &[u8]| upper.windows(what.len()).filter(|part| *part == what).count();
    let file = "file".as_ref();
    if let Ok(read) = pem::certificates(file, text) {
        assert_eq!(read.len(), count(b"-----BEGIN CERTIFICATE-----"));
        assert_eq!(count(b"-----BEGIN"), count(b"-----END"));
    }
    let is_der = text.first() == Some(&0x30) && text.get(1).is_some_and(|byte| !(0x20..0x80).contains(byte));
    if let (Ok(read), false) = (pem::revocation_lists(file, text), is_der) {
        assert_eq!(read.len(), count(b"-----BEGIN X509 CRL-----"));
        assert_eq!(count(b"-----BEGIN"), count(b"-----END"));
    }
    if pem::private_key(file, text).is_ok() {
        assert!(count(b"PRIVATE KEY-----") >= 2);
        assert_eq!(count(b"-----BEGIN"), count(b"-----END"));
    }
}
