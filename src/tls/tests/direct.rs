//! Leaves that webpki does not judge: X.509 v1, and CA:TRUE.

use std::sync::LazyLock;

use proptest::prelude::*;
use rcgen::{
    DnType, GeneralSubtree, NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    date_time_ymd,
};

use super::*;

fn judge(trust: &Trust, leaf: &Leaf) -> Result<Judged, Refusal> {
    trust.verdict(std::slice::from_ref(&leaf.certificate), SystemTime::now())
}

/// The trust in this bundle, with v1 leaves allowed.
fn legacy(bundle: &[&Authority]) -> Trust {
    let bundle = bundle.iter().map(|authority| authority.certificate.clone());
    let mut trust = Trust::new(bundle.collect(), 1).unwrap();
    trust.allow_version1();
    trust
}

fn version1(authority: &Authority) -> Leaf {
    authority.issue(|_| ()).into_version1(authority)
}

/// Seen red with `legacy_v1` ignored: nothing is refused.
#[test]
fn a_v1_leaf_is_accepted_if_allowed_and_the_refusal_names_the_key() {
    for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let authority = Authority::with_key("ca", KeyPair::generate_for(algorithm).unwrap(), |params| {
            params.not_after = date_time_ymd(2100, 1, 1);
        });
        let leaf = version1(&authority);
        let refusal = judge(&authority.trust(), &leaf).unwrap_err();
        assert_eq!(refusal, Refusal::Version1);
        assert!(
            refusal
                .to_string()
                .contains("authentication.x509.legacyV1Certificates to true")
        );
        let judged = judge(&legacy(&[&authority]), &leaf).unwrap();
        assert_eq!(judged.valid_until, SystemTime::from(date_time_ymd(2100, 1, 1)));
    }
}

/// Seen red without `check_as_anchor`: the expired CA's leaf is accepted.
#[test]
fn the_ca_of_such_a_leaf_must_meet_the_rules_for_every_ca() {
    let cas = [
        Authority::new("ca", |params| params.not_after = date_time_ymd(2020, 1, 1)),
        Authority::new("ca", |params| params.not_before = date_time_ymd(2998, 1, 1)),
        Authority::new("ca", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]),
        Authority::new("ca", |params| params.is_ca = IsCa::ExplicitNoCa),
        Authority::new("ca", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
    ];
    let words = [
        "ca_expired",
        "ca_not_yet_valid",
        "bad_issuer",
        "bad_issuer",
        "bad_usage",
    ];
    for (authority, word) in cas.iter().zip(words) {
        for leaf in [version1(authority), ca_leaf(authority)] {
            assert_eq!(judge(&legacy(&[authority]), &leaf).unwrap_err().reason(), word);
        }
        // The certificate of a renewed CA beside it is enough.
        let renewed = Authority::with_key(
            "ca",
            KeyPair::from_pem(&authority.key.serialize_pem()).unwrap(),
            |_| (),
        );
        judge(&legacy(&[authority, &renewed]), &version1(authority)).unwrap();
        judge(&legacy(&[&renewed, authority]), &ca_leaf(authority)).unwrap();
    }
}

/// Seen red with `is_signed_by` always true: leaves of a CA with the same name are accepted. Also seen red
/// without the comparison of keys: the CA's own renewal is accepted.
#[test]
fn only_a_ca_of_the_bundle_that_signed_it_itself_counts() {
    let authority = Authority::new("ca", |_| ());
    let trust = legacy(&[&authority]);
    let namesake = Authority::new("ca", |_| ());
    for leaf in [version1(&namesake), ca_leaf(&namesake)] {
        assert_eq!(judge(&trust, &leaf), Err(Refusal::BadSignature));
        judge(&legacy(&[&authority, &namesake]), &leaf).unwrap();
    }
    let stranger = Authority::new("stranger", |_| ());
    assert_eq!(
        judge(&trust, &version1(&stranger)).unwrap_err().reason(),
        "unknown_issuer"
    );
    assert_eq!(judge(&trust, &ca_leaf(&stranger)), Err(Refusal::CaAsClient));

    let issuer = authority.below("issuer", |_| ());
    let chain = [version1(&issuer).certificate, issuer.certificate.clone()];
    let refusal = trust.verdict(&chain, SystemTime::now()).unwrap_err();
    assert_eq!(refusal.reason(), "unknown_issuer", "no intermediates");
    let chain = [ca_leaf(&issuer).certificate, issuer.certificate.clone()];
    assert_eq!(
        trust.verdict(&chain, SystemTime::now()),
        Err(Refusal::CaAsClient),
        "no intermediates"
    );

    // As in Go, a CA's certificate that is not the one in the bundle is not issued by the one that is.
    let renewed = Authority::with_key(
        "ca",
        KeyPair::from_pem(&authority.key.serialize_pem()).unwrap(),
        |params| params.not_after = date_time_ymd(2100, 1, 1),
    );
    let refusal = trust
        .verdict(&[renewed.certificate], SystemTime::now())
        .unwrap_err();
    assert_eq!(refusal, Refusal::CaAsClient);
}

#[test]
fn such_a_leaf_must_meet_the_other_rules_for_leaves() {
    let authority = Authority::new("ca", |_| ());
    let trust = legacy(&[&authority]);
    let expired = authority.issue(|params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        judge(&trust, &expired.into_version1(&authority)),
        Err(Refusal::Expired)
    );
    let server = authority.issue(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!(judge(&trust, &server), Err(Refusal::BadUsage));

    let narrow = Authority::new("ca", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("other.example".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    });
    let named = narrow.issue(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(judge(&legacy(&[&narrow]), &named), Err(Refusal::NameConstraints));
    // Constraints are about alternative names, never about the CN.
    judge(&legacy(&[&narrow]), &ca_leaf(&narrow)).unwrap();
    judge(&legacy(&[&narrow]), &version1(&narrow)).unwrap();

    let ed25519 = Authority::with_key("ca", KeyPair::generate_for(&PKCS_ED25519).unwrap(), |_| ());
    judge(&legacy(&[&ed25519]), &version1(&ed25519)).unwrap();
}

proptest! {
    /// Every bit of such a leaf is signed, part of the signature, or compared with signed bytes. Seen red
    /// with `is_signed_by` always true.
    #[test]
    fn no_v1_leaf_with_a_changed_byte_is_accepted(at: proptest::sample::Index, change in 1..=255_u8) {
        static GOOD: LazyLock<[(Trust, Leaf); 2]> = LazyLock::new(|| {
            [&PKCS_RSA_SHA256, &PKCS_ECDSA_P384_SHA384].map(|algorithm| {
                let key = KeyPair::generate_for(algorithm).unwrap();
                let authority = Authority::with_key("ca", key, |_| ());
                (legacy(&[&authority]), version1(&authority))
            })
        });
        for (trust, leaf) in &*GOOD {
            prop_assert!(judge(trust, leaf).is_ok());
            let mut changed = leaf.certificate.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= change;
            prop_assert!(trust.verdict(&[changed.into()], SystemTime::now()).is_err());
        }
    }

    /// A leaf that was cut or lengthened is refused as well.
    #[test]
    fn no_v1_leaf_of_another_length_is_accepted(at: proptest::sample::Index, insert: bool, byte: u8) {
        static GOOD: LazyLock<(Trust, Leaf)> = LazyLock::new(|| {
            let mut params = Authority::params("ca");
            params.distinguished_name.push(DnType::OrganizationName, "o");
            let authority = Authority::new("ca", |ca| *ca = params);
            (legacy(&[&authority]), version1(&authority))
        });
        let (trust, leaf) = &*GOOD;
        let mut changed = leaf.certificate.to_vec();
        let at = at.index(changed.len());
        if insert { changed.insert(at, byte) } else { changed.truncate(at) }
        prop_assert!(trust.verdict(&[changed.into()], SystemTime::now()).is_err());
    }
}
