//! TLS versions and cipher suites by the names that the kubelet's flags and configuration use, which are
//! Go's.

use rustls::{CipherSuite, NamedGroup, ProtocolVersion};

use super::TlsError;

/// What Go and rustls both have; the first three are TLS 1.3's.
const SUPPORTED: [(&str, CipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Older spellings that Kubernetes still takes.
const ALIASES: [(&str, &str); 2] = [
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    ),
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

/// Sorts the names of `tlsCipherSuites` into those that are offered and those that rustls lacks, which the
/// caller warns about: node images ship lists with `TLS_RSA_WITH_…` in them, and must not fail on that. TLS
/// 1.3 suites are always offered, as in Go, but their names are kept: a list of nothing else switches TLS 1.2
/// off, whereas an empty one means every suite.
pub(crate) fn parse_cipher_suites(names: &[String]) -> Result<(Vec<String>, Vec<String>), TlsError> {
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for name in names {
        let canonical = ALIASES
            .iter()
            .find(|(alias, _)| alias == name)
            .map_or(name.as_str(), |(_, canonical)| canonical);
        if SUPPORTED.iter().any(|(supported, _)| *supported == canonical) {
            kept.push(canonical.to_owned());
        } else if LACKING.contains(&canonical) {
            dropped.push(name.clone());
        } else {
            let known = SUPPORTED.iter().map(|(known, _)| *known).chain(LACKING);
            return Err(TlsError::UnknownCipherSuite {
                name: name.clone(),
                nearest: nearest(name, known),
            });
        }
    }
    if kept.is_empty() && !dropped.is_empty() {
        return Err(TlsError::NoCipherSuite {
            names: dropped.join(", "),
        });
    }
    Ok((kept, dropped))
}

/// The kubelet's name of a negotiated version, as a metric label.
pub(crate) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "VersionTLS12",
        ProtocolVersion::TLSv1_3 => "VersionTLS13",
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

/// The kubelet's name of a negotiated suite, as a metric label.
pub(super) fn suite_name(suite: CipherSuite) -> &'static str {
    SUPPORTED
        .iter()
        .find(|(_, supported)| *supported == suite)
        .map_or("unknown", |(name, _)| name)
}

/// The known name with the fewest letters to change.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    known
        .min_by_key(|known| distance(name.as_bytes(), known.as_bytes()))
        .unwrap_or_default()
}

/// Levenshtein's distance, letter case aside; only the first 64 bytes count.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, left) in a.iter().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!left.eq_ignore_ascii_case(right));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<(Vec<String>, Vec<String>), TlsError> {
        parse_cipher_suites(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_name_of_go_is_taken() {
        let names = SUPPORTED
            .iter()
            .map(|(name, _)| *name)
            .chain(ALIASES.iter().map(|(alias, _)| *alias))
            .chain(LACKING);
        let (kept, dropped) = parse(&names.collect::<Vec<_>>()).unwrap();
        assert_eq!((kept.len(), dropped.len()), (11, 16));
        assert_eq!(
            kept[9..],
            [
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
                "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"
            ]
        );
    }

    #[test]
    fn an_unknown_suite_names_the_nearest() {
        let error = parse(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA265\""),
            "{error}"
        );
        assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{error}");
    }

    #[test]
    fn a_list_that_leaves_nothing_is_an_error_and_an_empty_one_is_not() {
        assert!(matches!(
            parse(&["TLS_RSA_WITH_AES_128_GCM_SHA256"]),
            Err(TlsError::NoCipherSuite { .. })
        ));
        assert_eq!(parse(&[]).unwrap(), (vec![], vec![]));
    }

    #[test]
    fn names_are_the_kubelets() {
        assert_eq!(version_name(ProtocolVersion::TLSv1_3), "VersionTLS13");
        assert_eq!(
            suite_name(CipherSuite::TLS13_AES_128_GCM_SHA256),
            "TLS_AES_128_GCM_SHA256"
        );
    }
}
