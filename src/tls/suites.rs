//! TLS versions, cipher suites and key exchange groups by the names that the kubelet's flags and
//! configuration use, which are Go's.

use rustls::CipherSuite::{self, *};
use rustls::{NamedGroup, ProtocolVersion};

use super::options::TlsVersion;
use crate::named::Named;

/// What Go and rustls both have; the last two are older spellings that Kubernetes still takes.
#[rustfmt::skip] // One suite a line.
const OFFERED: [(&str, CipherSuite); 11] = [
    ("TLS_AES_128_GCM_SHA256", TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// What Go has and rustls will not: CBC, RSA key exchange, RC4, 3DES.
const LACKING: [&str; 16] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// What a name in `tlsCipherSuites` stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SuiteName {
    /// A suite that can be offered.
    Offered(CipherSuite),
    /// One that Go has and rustls lacks. Node images ship lists with `TLS_RSA_WITH_…` in them: no reason to
    /// fail.
    Lacking,
    /// None that Go knows.
    Unknown,
}

/// The suite of this name, as written in `tlsCipherSuites`.
pub(crate) fn cipher_suite(name: &str) -> SuiteName {
    match OFFERED.iter().find(|(known, _)| *known == name) {
        Some((_, suite)) => SuiteName::Offered(*suite),
        None if LACKING.contains(&name) => SuiteName::Lacking,
        None => SuiteName::Unknown,
    }
}

/// Every name that stands for a suite that can be offered.
pub(crate) fn suite_names() -> impl Iterator<Item = &'static str> {
    OFFERED.iter().map(|(name, _)| *name)
}

/// The kubelet's name of a negotiated version, as a metric label.
pub(crate) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => TlsVersion::Tls12.name(),
        ProtocolVersion::TLSv1_3 => TlsVersion::Tls13.name(),
        _ => "unknown",
    }
}

/// A key exchange group, for a metric: the names of TLS' registry.
pub(crate) fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::secp521r1 => "secp521r1",
        _ => "other",
    }
}

/// The kubelet's name of a suite.
pub(crate) fn suite_name(suite: CipherSuite) -> &'static str {
    let named = OFFERED.iter().find(|(_, known)| *known == suite);
    named.map_or("unknown", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_go_is_known() {
        assert!(suite_names().all(|name| matches!(cipher_suite(name), SuiteName::Offered(_))));
        assert!(
            LACKING
                .iter()
                .all(|name| cipher_suite(name) == SuiteName::Lacking)
        );
        assert_eq!(
            cipher_suite("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265"),
            SuiteName::Unknown
        );
        assert_eq!(cipher_suite(""), SuiteName::Unknown);
    }

    #[test]
    fn names_are_the_kubelets() {
        assert_eq!(version_name(ProtocolVersion::TLSv1_3), "VersionTLS13");
        assert_eq!(suite_name(TLS13_AES_128_GCM_SHA256), "TLS_AES_128_GCM_SHA256");
        let old = cipher_suite("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305");
        let suite = TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256;
        assert_eq!(old, SuiteName::Offered(suite));
        assert_eq!(suite_name(suite), "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256");
    }

    /// A suite that rustls offers and the table forgets could be neither chosen nor named.
    #[test]
    fn every_suite_of_the_provider_has_a_name() {
        for suite in super::super::config::provider().cipher_suites {
            assert_ne!(suite_name(suite.suite()), "unknown", "{suite:?}");
        }
    }
}
