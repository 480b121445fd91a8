//! The judgement of a chain against a bundle.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CustomExtension, GeneralSubtree, NameConstraints, date_time_ymd};

use super::*;

#[test]
fn a_verdict_holds_until_the_first_certificate_of_the_path_ends() {
    let year = |year| date_time_ymd(year, 1, 1);
    for (leaf, intermediate, anchor) in [(2100, 2200, 2300), (2300, 2100, 2200), (2200, 2300, 2100)] {
        let root = Authority::new("root", |params| params.not_after = year(anchor));
        let issuer = root.below("issuer", |params| params.not_after = year(intermediate));
        let leaf = issuer.issue(|params| params.not_after = year(leaf));
        let chain = [leaf.certificate, issuer.certificate];
        let judged = root.trust().verdict(&chain, SystemTime::now()).unwrap();
        let end = SystemTime::from(year(2100));
        assert_eq!(judged.valid_until, end);
        root.trust().verdict(&chain, end).unwrap();
        root.trust()
            .verdict(&chain, end + Duration::from_millis(1))
            .unwrap_err();
    }
}

#[test]
fn of_a_ca_and_its_renewal_the_longer_one_counts() {
    let old = Authority::new("ca", |params| params.not_after = date_time_ymd(2100, 1, 1));
    let mut params = old.params.clone();
    params.not_after = date_time_ymd(2200, 1, 1);
    let renewed = params.self_signed(&old.key).unwrap().der().clone();
    let leaf = old.issue(|_| ()).certificate;
    for bundle in [
        vec![old.certificate.clone(), renewed.clone()],
        vec![renewed.clone(), old.certificate.clone()],
    ] {
        let trust = Trust::new(bundle, 1).unwrap();
        assert_eq!(trust.hints().len(), 1, "one name, one hint");
        let judged = trust
            .verdict(std::slice::from_ref(&leaf), SystemTime::now())
            .unwrap();
        assert_eq!(judged.valid_until, SystemTime::from(date_time_ymd(2200, 1, 1)));
    }
}

/// Go checks every alternative name as soon as there is a constraint; webpki only those of the constraint's
/// kind.
///
/// Seen red without `has_odd_names`: `a..b` was accepted under a constraint on addresses. Also seen red
/// without the names or without the constraints of intermediates: one of the two chains was accepted.
#[test]
fn under_constraints_of_any_kind_names_must_be_well_formed() {
    let free = Authority::new("ca", |_| ());
    let bound = Authority::new("ca", |params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::IpAddress(rcgen::CidrSubnet::V4(
                [10, 0, 0, 0],
                [255, 0, 0, 0],
            ))],
            excluded_subtrees: vec![],
        });
    });
    use rcgen::SanType::{DnsName, Rfc822Name, URI};
    for (name, good) in [
        (DnsName("a.b".try_into().unwrap()), true),
        (DnsName("a..b".try_into().unwrap()), false),
        (DnsName("a.b.".try_into().unwrap()), false),
        (Rfc822Name("who@a.b".try_into().unwrap()), true),
        (Rfc822Name("mailbox".try_into().unwrap()), false),
        (URI("https://a.b/c".try_into().unwrap()), true),
        (URI("https://10.0.0.1/c".try_into().unwrap()), false),
        (URI("https://[::1]/c".try_into().unwrap()), false),
        (URI("urn:a".try_into().unwrap()), false),
    ] {
        let judge = |authority: &Authority| {
            let leaf = authority.issue(|params| params.subject_alt_names = vec![name.clone()]);
            authority.trust().verdict(&[leaf.certificate], SystemTime::now())
        };
        judge(&free).unwrap();
        let judged = judge(&bound);
        assert_eq!(judged.is_ok(), good, "{name:?}: {judged:?}");

        // The name, or the constraints, in an intermediate.
        let named = |params: &mut CertificateParams| params.subject_alt_names = vec![name.clone()];
        let bind = |params: &mut CertificateParams| {
            params.name_constraints.clone_from(&bound.params.name_constraints);
        };
        let chains: [(&Authority, Authority, Leaf); 2] = {
            let (below_bound, below_free) = (bound.below("named", named), free.below("bound", bind));
            let leaves = (below_bound.issue(|_| ()), below_free.issue(named));
            [(&bound, below_bound, leaves.0), (&free, below_free, leaves.1)]
        };
        for (root, issuer, leaf) in chains {
            let chain = [leaf.certificate, issuer.certificate];
            let judged = root.trust().verdict(&chain, SystemTime::now());
            let subject = &issuer.params.distinguished_name;
            assert_eq!(judged.is_ok(), good, "{name:?} {subject:?}: {judged:?}");
        }
    }
}

/// Any client's certificate is read before anything is known about it, on a thread that serves other clients
/// too.
///
/// Seen red without the comparison: it was accepted.
#[test]
fn a_policy_twice_is_found_among_more_than_a_thousand() {
    let policies = |ids: &[u16]| {
        let one = |id: &u16| {
            vec![
                0x30,
                0x07,
                0x06,
                0x05,
                0x2a,
                0x84,
                0x80 | (id >> 7 & 0x7f) as u8,
                (id & 0x7f) as u8,
                1,
            ]
        };
        let content: Vec<u8> = ids.iter().flat_map(one).collect();
        let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
        let value = [&[0x30, 0x82, high, low], &content[..]].concat();
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 32], value);
        let ca = Authority::new("ca", |_| ());
        let leaf = ca.issue(|params| params.custom_extensions = vec![extension]);
        ca.trust().verdict(&[leaf.certificate], SystemTime::now())
    };
    let mut ids: Vec<u16> = (128..1200).collect();
    policies(&ids).unwrap();
    ids.push(200);
    assert_eq!(
        policies(&ids),
        Err(Refusal::Malformed {
            number: 1,
            reason: Malformed("a certificate policy twice")
        })
    );
}

/// webpki and rustls support ML-DSA; a kubelet does not.
///
/// Seen red with keys of unknown kinds accepted: webpki then refused the signature. Also seen red with all of
/// webpki's algorithms in the list.
#[test]
fn keys_and_signatures_that_kubelets_do_not_support_are_refused() {
    let ca = Authority::new("ca", |_| ());
    let leaf = ca.issue(|_| ()).certificate.to_vec();
    // The key's algorithm becomes an unknown one: ecPublicKey with its last arc changed.
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let at = leaf.windows(9).position(|bytes| bytes == EC_PUBLIC_KEY).unwrap();
    let mut changed = leaf;
    changed[at + 8] = 0x7f;
    let refused = ca
        .trust()
        .verdict(&[changed.into()], SystemTime::now())
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("neither RSA, nor of an elliptic curve, nor Ed25519"),
        "{refused}"
    );
    assert!(signature::ALGORITHMS.len() > 12);
    let ml_dsa = webpki::aws_lc_rs::ML_DSA_65.signature_alg_id();
    assert!(
        signature::ALGORITHMS
            .iter()
            .all(|known| known.signature_alg_id() != ml_dsa)
    );
}

/// A client must not be able to cause the cost of an exponent of a thousand bits.
///
/// Seen red without the limit: the signature was refused instead.
#[test]
fn an_rsa_key_has_no_larger_exponent_than_in_go() {
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072).unwrap();
    let ca = Authority::new("ca", |_| ());
    let leaf = ca.issue_for(key, |_| ()).certificate.to_vec();
    // Bytes move from the modulus to the exponent, so that no outer length changes.
    let widened = |exponent: &[u8]| {
        const MODULUS: &[u8] = &[0x02, 0x82, 0x01, 0x81, 0x00];
        let at = leaf.windows(5).position(|bytes| bytes == MODULUS).unwrap();
        let end = at + 4 + 0x181 + 5;
        let mut leaf = leaf.clone();
        assert_eq!(leaf[end - 5..end], [0x02, 0x03, 1, 0, 1]);
        leaf[at + 3] -= u8::try_from(exponent.len() - 3).unwrap();
        let begin = end - exponent.len() - 2;
        leaf[begin] = 0x02;
        leaf[begin + 1] = exponent.len() as u8;
        leaf[begin + 2..end].copy_from_slice(exponent);
        ca.trust().verdict(&[leaf.into()], SystemTime::now()).unwrap_err()
    };
    assert_eq!(widened(&[0x7f, 0xff, 0xff, 0xff]), Refusal::BadSignature);
    for exponent in [&[0, 0x80, 0, 0, 1][..], &[1, 0, 0, 0, 1], &[1; 64]] {
        let reason = Malformed("a bad or too long RSA key");
        assert_eq!(widened(exponent), Refusal::Malformed { number: 1, reason });
    }
}

#[test]
fn an_anchor_is_held_to_its_own_extensions() {
    let judge = |authority: &Authority| {
        authority
            .trust()
            .verdict(&[authority.issue(|_| ()).certificate], SystemTime::now())
    };
    let server_only = Authority::new("ca", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert_eq!(judge(&server_only), Err(Refusal::BadUsage));
    let no_sign = Authority::new("ca", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(judge(&no_sign).unwrap_err().reason(), "bad_issuer");
    let no_ca = Authority::new("ca", |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(judge(&no_ca).unwrap_err().reason(), "bad_issuer");
    let critical = Authority::new("ca", |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    assert_eq!(judge(&critical).unwrap_err().reason(), "bad_issuer");
    let elsewhere = Authority::new("ca", |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("other.example".to_owned())];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees,
            excluded_subtrees: Vec::new(),
        });
    });
    assert_eq!(judge(&elsewhere), Err(Refusal::NameConstraints));

    let flat = Authority::new("ca", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
    });
    judge(&flat).unwrap();
    let issuer = flat.below("issuer", |_| ());
    let chain = [issuer.issue(|_| ()).certificate, issuer.certificate];
    assert_eq!(
        flat.trust()
            .verdict(&chain, SystemTime::now())
            .unwrap_err()
            .reason(),
        "bad_issuer"
    );
}

#[test]
fn chains_of_unknown_cas_long_chains_and_malformed_ones_are_refused() {
    let authority = Authority::new("ca", |_| ());
    let trust = authority.trust();
    let now = SystemTime::now();
    let leaf = authority.issue(|_| ()).certificate;

    let stranger = Authority::new("ca", |_| ()).issue(|_| ()).certificate;
    assert_eq!(
        trust.verdict(&[stranger], now).unwrap_err().reason(),
        "bad_signature",
        "same name, other key"
    );
    let stranger = Authority::new("other\nca", |_| ()).issue(|_| ()).certificate;
    let refusal = trust.verdict(&[stranger], now).unwrap_err();
    assert_eq!(refusal.reason(), "unknown_issuer");
    assert!(
        !refusal.to_string().contains('\n'),
        "names are escaped: {refusal}"
    );

    assert_eq!(
        trust.verdict(&vec![leaf.clone(); 17], now).unwrap_err().reason(),
        "too_long"
    );
    let huge = CertificateDer::from(vec![0; 128 * 1024]);
    assert_eq!(
        trust.verdict(&[leaf.clone(), huge], now).unwrap_err().reason(),
        "too_long"
    );
    let rubbish = CertificateDer::from(vec![0x30, 0x00]);
    assert_eq!(
        trust.verdict(&[leaf, rubbish], now).unwrap_err(),
        Refusal::Malformed {
            number: 2,
            reason: Malformed("not an X.509 certificate")
        }
    );
    assert_eq!(trust.verdict(&[], now).unwrap_err().reason(), "malformed");
    assert!(matches!(Trust::new(Vec::new(), 1), Err(TrustError::Empty)));
}

proptest! {
    /// Every bit of a chain is signed, part of the signature, or compared with signed bytes.
    #[test]
    fn no_chain_with_a_changed_bit_is_accepted(at: proptest::sample::Index, bit in 0..8_u32) {
        static GOOD: LazyLock<(Arc<Trust>, [Vec<u8>; 2])> = LazyLock::new(|| {
            let root = Authority::new("root", |_| ());
            let issuer = root.below("issuer", |_| ());
            let leaf = issuer.issue(|_| ());
            (root.trust(), [leaf.certificate.to_vec(), issuer.certificate.to_vec()])
        });
        let (trust, chain) = &*GOOD;
        let judge = |chain: &[Vec<u8>]| {
            let chain = chain.iter().map(|der| CertificateDer::from(&der[..])).collect::<Vec<_>>();
            trust.verdict(&chain, SystemTime::now())
        };
        prop_assert!(judge(chain).is_ok());
        let mut changed = chain.clone();
        let at = at.index(chain[0].len() + chain[1].len());
        let (certificate, byte) = if at < chain[0].len() { (0, at) } else { (1, at - chain[0].len()) };
        changed[certificate][byte] ^= 1 << bit;
        prop_assert!(judge(&changed).is_err());
    }
}
