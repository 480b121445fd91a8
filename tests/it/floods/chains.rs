//! Certificates that cost more to judge than to send.

use std::sync::LazyLock;

use fakes::pki::Pair;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// Sixteen certificates, 44 KB in all, each with the name X for subject and issuer, another key, and 250
/// extensions of a few bytes. Each may have issued each other, and none leads to a CA.
pub(super) static WORST: LazyLock<Pair> = LazyLock::new(|| same_name(16, 250));

/// A leaf with four intermediates of the same kind.
pub(super) static EXPENSIVE: LazyLock<Pair> = LazyLock::new(|| same_name(5, 250));

/// One certificate of 52 KB.
pub(super) static LARGE: LazyLock<Pair> = LazyLock::new(|| same_name(1, 5000));

/// The same chain with another signature of the leaf, so that no verdict on it is remembered. Its key is the
/// same, so the sender can still prove that it has it.
pub(super) fn varied(pair: &Pair, number: u32) -> Pair {
    let mut leaf = pair.chain[0].to_vec();
    let end = leaf.len() - 4;
    leaf[end..].copy_from_slice(&number.to_be_bytes());
    let mut varied = pair.clone();
    varied.chain[0] = leaf.into();
    varied
}

fn same_name(certificates: usize, extensions: u64) -> Pair {
    let mut leaf_key = None;
    let mut chain = Vec::new();
    for number in 0..certificates {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "X");
        params.is_ca = match number {
            0 => IsCa::ExplicitNoCa,
            _ => IsCa::Ca(BasicConstraints::Unconstrained),
        };
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let small = |number| CustomExtension::from_oid_content(&[1, 2, number], Vec::new());
        params.custom_extensions = (0..extensions).map(small).collect();
        chain.push(CertificateDer::from(params.self_signed(&key).unwrap()));
        leaf_key.get_or_insert(key);
    }
    Pair {
        name: "same-name".to_owned(),
        chain,
        key: PrivatePkcs8KeyDer::from(leaf_key.unwrap().serialize_der()).into(),
    }
}
