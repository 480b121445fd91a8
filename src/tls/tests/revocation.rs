//! Which certificates a revocation list stops, and which it does not.

use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, CrlIssuingDistributionPoint, CrlScope, KeyIdMethod, PKCS_ED25519,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateRevocationListDer;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

type List = CertificateRevocationListDer<'static>;

impl Authority {
    /// This CA's list of these certificates, valid for a day.
    fn revokes(&self, certificates: &[&CertificateDer<'_>]) -> List {
        self.list(certificates, time::Duration::DAY, |_| ())
    }

    fn list(
        &self,
        certificates: &[&CertificateDer<'_>],
        life: time::Duration,
        edit: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> List {
        let now = OffsetDateTime::now_utc();
        let serial = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
            SerialNumber::from_slice(certificate.raw_serial())
        };
        let mut params = CertificateRevocationListParams {
            this_update: now - time::Duration::DAY,
            next_update: now + life,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: certificates
                .iter()
                .map(|certificate| RevokedCertParams {
                    serial_number: serial(certificate),
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        edit(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).unwrap().der().clone()
    }
}

fn trust(bundle: &[&CertificateDer<'static>], lists: &[&List]) -> Result<Trust, RevocationError> {
    let mut trust = Trust::new(bundle.iter().copied().cloned().collect(), 1).unwrap();
    trust.allow_version1();
    for list in lists {
        trust.add_revocation_list(list, false)?;
    }
    Ok(trust)
}

fn judge(trust: &Trust, chain: &[&CertificateDer<'static>]) -> Result<Judged, Refusal> {
    let chain = chain.iter().copied().cloned().collect::<Vec<_>>();
    trust.verdict(&chain, SystemTime::now())
}

/// Seen red without the check for each of the four kinds in turn: that kind is accepted.
#[test]
fn a_revoked_leaf_is_refused_whichever_way_it_is_judged() {
    let ca = Authority::new("ca", |_| ());
    let version3 = ca.issue(|_| ());
    let version1 = ca.issue(|_| ()).into_version1(&ca);
    let with_ca_true = ca_leaf(&ca);
    let pinned = ca.issue(|_| ());
    let bundle = [&ca.certificate, &pinned.certificate];
    let leaves = [&version3, &version1, &with_ca_true, &pinned].map(|leaf| &leaf.certificate);
    let none_revoked = trust(&bundle, &[&ca.revokes(&[])]).unwrap();
    let all_revoked = trust(&bundle, &[&ca.revokes(&leaves)]).unwrap();
    for leaf in leaves {
        let judged = judge(&none_revoked, &[leaf]).unwrap();
        let day = Duration::from_secs(24 * 3600);
        assert!(
            judged.valid_until <= SystemTime::now() + day,
            "until the next list is due"
        );
        assert_eq!(judge(&all_revoked, &[leaf]), Err(Refusal::Revoked));
    }
    let first = trust(&bundle, &[&ca.revokes(&leaves[..1])]).unwrap();
    assert_eq!(judge(&first, &leaves[..1]), Err(Refusal::Revoked));
    judge(&first, &leaves[1..2]).unwrap();
}

/// Seen red without the check of a list's expiry.
#[test]
fn after_the_next_update_of_a_list_its_issuers_certificates_are_refused() {
    let ca = Authority::new("ca", |_| ());
    let other = Authority::new("other", |_| ());
    let list = ca.list(&[], -time::Duration::HOUR, |_| ());
    let pinned = ca.issue(|_| ());
    let trust = trust(
        &[&ca.certificate, &other.certificate, &pinned.certificate],
        &[&list],
    )
    .unwrap();
    for leaf in [
        ca.issue(|_| ()),
        ca.issue(|_| ()).into_version1(&ca),
        ca_leaf(&ca),
        pinned,
    ] {
        let refusal = judge(&trust, &[&leaf.certificate]).unwrap_err();
        assert_eq!(refusal.reason(), "revocation_unknown");
        assert!(refusal.to_string().contains("CN=ca has expired"), "{refusal}");
    }
    // A CA without a list revokes no certificate, and the other CA's list does not concern it.
    let judged = judge(&trust, &[&other.issue(|_| ()).certificate]).unwrap();
    assert!(judged.valid_until > SystemTime::now() + Duration::from_secs(7 * 24 * 3600));
}

/// Seen red with only the leaf checked, and without the CA of the bundle.
#[test]
fn the_leaves_of_a_revoked_intermediate_are_refused_even_if_it_is_in_the_bundle() {
    let root = Authority::new("root", |_| ());
    let issuer = root.below("issuer", |_| ());
    let leaf = issuer.issue(|_| ());
    let chain = [&leaf.certificate, &issuer.certificate];
    let list = root.revokes(&[&issuer.certificate]);
    let bundles: [&[_]; 2] = [&[&root.certificate], &[&issuer.certificate, &root.certificate]];
    for bundle in bundles {
        judge(&trust(bundle, &[&root.revokes(&[])]).unwrap(), &chain).unwrap();
        assert_eq!(
            judge(&trust(bundle, &[&list]).unwrap(), &chain),
            Err(Refusal::Revoked)
        );
    }
    // Without the root in the bundle the list's signer is unknown, but the list still counts.
    let partial = trust(&[&issuer.certificate], &[&list]).unwrap();
    assert_eq!(judge(&partial, &chain), Err(Refusal::Revoked));
}

/// Seen red without the check of the signature on an intermediate's list.
#[test]
fn an_intermediates_own_list_counts_if_it_signed_it() {
    let root = Authority::new("root", |_| ());
    let issuer = root.below("issuer", |_| ());
    let namesake = root.below("issuer", |_| ());
    let (good, bad) = (issuer.issue(|_| ()), issuer.issue(|_| ()));
    let chain = |leaf: &Leaf| [leaf.certificate.clone(), issuer.certificate.clone()];
    let now = SystemTime::now();
    let own = trust(&[&root.certificate], &[&issuer.revokes(&[&bad.certificate])]).unwrap();
    own.verdict(&chain(&good), now).unwrap();
    assert_eq!(own.verdict(&chain(&bad), now), Err(Refusal::Revoked));

    let forged = trust(&[&root.certificate], &[&namesake.revokes(&[])]).unwrap();
    let refusal = forged.verdict(&chain(&good), now).unwrap_err();
    assert!(matches!(refusal, Refusal::RevocationUnknown { .. }), "{refusal}");
}

/// As with a CA that changed its key: one name, two keys, a list by each.
#[test]
fn every_list_of_a_name_counts() {
    let (old, new) = (Authority::new("ca", |_| ()), Authority::new("ca", |_| ()));
    let (one, two, three) = (old.issue(|_| ()), new.issue(|_| ()), new.issue(|_| ()));
    let lists = [old.revokes(&[&one.certificate]), new.revokes(&[&two.certificate])];
    let bundle = [&old.certificate, &new.certificate];
    for lists in [[&lists[0], &lists[1]], [&lists[1], &lists[0]]] {
        let trust = trust(&bundle, &lists).unwrap();
        assert_eq!(judge(&trust, &[&one.certificate]), Err(Refusal::Revoked));
        assert_eq!(judge(&trust, &[&two.certificate]), Err(Refusal::Revoked));
        judge(&trust, &[&three.certificate]).unwrap();
    }
}

/// At some time the old key's list is no longer renewed, and an old file lies beside a new one.
///
/// Seen red with lists chosen by the issuer's name alone: with only the old CA's list, both CAs were refused;
/// when the new CA had its own list, the old CA's client was accepted. Also seen red with the oldest list
/// deciding: an expired list refused every client, although its successor was there.
#[test]
fn an_expired_list_refuses_no_certificate_that_another_list_covers() {
    let (old, new) = (Authority::new("ca", |_| ()), Authority::new("ca", |_| ()));
    let (one, two) = (old.issue(|_| ()), new.issue(|_| ()));
    let bundle = [&old.certificate, &new.certificate];
    let ended = old.list(&[], -time::Duration::HOUR, |_| ());
    for lists in [&[&ended, &new.revokes(&[])][..], &[&ended]] {
        let trust = trust(&bundle, lists).unwrap();
        judge(&trust, &[&two.certificate]).unwrap();
        let refusal = judge(&trust, &[&one.certificate]).unwrap_err();
        assert_eq!(refusal.reason(), "revocation_unknown");
    }
    let trust = trust(&bundle, &[&old.revokes(&[]), &ended]).unwrap();
    judge(&trust, &[&one.certificate]).unwrap();
}

/// Seen red with one part used as the whole list, and with a missing part ignored: the second part's client
/// was accepted.
#[test]
fn a_part_of_a_list_covers_no_certificate_of_another_part() {
    let ca = Authority::new("ca", |_| ());
    let points = |uri: &str| rcgen::CrlDistributionPoint {
        uris: vec![uri.to_owned()],
    };
    let (one, two) = ("http://ca.example/1.crl", "http://ca.example/2.crl");
    let leaf = |uri| ca.issue(|params| params.crl_distribution_points = vec![points(uri)]);
    let part = |uri, revoked: &[&CertificateDer<'_>]| {
        ca.list(revoked, time::Duration::DAY, |params| {
            params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
                distribution_point: points(uri),
                scope: None,
            });
        })
    };
    let (first, second, anywhere) = (leaf(one), leaf(two), ca.issue(|_| ()));
    let only_one = trust(&[&ca.certificate], &[&part(one, &[])]).unwrap();
    judge(&only_one, &[&first.certificate]).unwrap();
    judge(&only_one, &[&anywhere.certificate]).unwrap();
    let refusal = judge(&only_one, &[&second.certificate]).unwrap_err();
    assert!(matches!(refusal, Refusal::RevocationUnknown { .. }), "{refusal}");
    let both = trust(
        &[&ca.certificate],
        &[&part(one, &[]), &part(two, &[&second.certificate])],
    )
    .unwrap();
    judge(&both, &[&first.certificate]).unwrap();
    assert_eq!(judge(&both, &[&second.certificate]), Err(Refusal::Revoked));
}

/// Seen red: with the time of the lists not compared.
#[test]
fn a_list_that_is_older_or_one_of_several_does_not_replace_those_in_force() {
    let [ca, renewed] = [(); 2].map(|()| Authority::new("ca", |_| ()));
    let mut number = 0_u64;
    let mut list = |ca: &Authority, days: i64, place: &str| {
        ca.list(&[], time::Duration::DAY, |params| {
            params.this_update -= time::Duration::days(days);
            let scope = |place: &str| CrlIssuingDistributionPoint {
                distribution_point: rcgen::CrlDistributionPoint {
                    uris: vec![place.to_owned()],
                },
                scope: None,
            };
            params.issuing_distribution_point = (!place.is_empty()).then(|| scope(place));
            // No two lists are the same.
            number += 1;
            params.crl_number = SerialNumber::from(number);
        })
    };
    let [old, new, beside, newest] = [2, 1, 1, 0].map(|days| list(&ca, days, ""));
    let other = list(&renewed, 2, "");
    let (one, two) = (list(&ca, 2, "http://one"), list(&ca, 2, "http://two"));
    let bundle = [&ca.certificate, &renewed.certificate];
    for (before, after, lost) in [
        (vec![&new], vec![&new], 0),
        (vec![&new], vec![&newest], 0),
        (vec![&new], vec![&beside], 0),
        (vec![&new], vec![&old], 1),
        (vec![&new], vec![&old, &newest], 0),
        (vec![&new], vec![], 1),
        // Cut after the first.
        (vec![&old, &new], vec![&old], 1),
        (vec![&new, &old], vec![&new], 1),
        (vec![&new, &beside], vec![&new], 1),
        (vec![&new, &beside], vec![&newest], 1),
        (vec![&old, &new], vec![&new, &newest], 0),
        (vec![&old, &new], vec![&newest, &new], 0),
        (vec![&new, &new], vec![&newest], 0),
        // Of another key, and of another place.
        (vec![&new, &other], vec![&newest], 1),
        (vec![&new, &other], vec![&newest, &other], 0),
        (vec![&one, &two], vec![&one], 1),
        (vec![&one, &two], vec![&new], 0),
        (vec![&new], vec![&one, &two], 1),
    ] {
        let [before, after] = [&before, &after].map(|lists| trust(&bundle, lists).unwrap());
        assert_eq!(after.lost_lists(&before).len(), lost);
    }
}

/// Seen red with each of the three errors ignored.
#[test]
fn a_list_that_cannot_be_used_is_refused() {
    let ca = Authority::new("ca", |_| ());
    let namesake = Authority::new("ca", |_| ());
    let refuse = |list: &List| trust(&[&ca.certificate], &[list]).unwrap_err().to_string();
    assert!(refuse(&namesake.revokes(&[])).contains("CN=ca is not signed by"));

    let mut params = Authority::params("another name");
    params.not_after = ca.params.not_after;
    let renamed = Authority {
        params,
        key: KeyPair::from_pem(&ca.key.serialize_pem()).unwrap(),
        certificate: ca.certificate.clone(),
    };
    assert!(refuse(&renamed.revokes(&[])).contains("spells its name differently"));

    for scope in [CrlScope::UserCertsOnly, CrlScope::CaCertsOnly] {
        let partial = ca.list(&[], time::Duration::DAY, |params| {
            params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
                distribution_point: rcgen::CrlDistributionPoint {
                    uris: vec!["http://ca.example/crl".to_owned()],
                },
                scope: Some(scope),
            });
        });
        assert!(refuse(&partial).contains("some of the issuer's certificates only"));
    }
    // A list that says where it is published, and covers all certificates, is accepted.
    let published = ca.list(&[], time::Duration::DAY, |params| {
        params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: rcgen::CrlDistributionPoint {
                uris: vec!["http://ca.example/crl".to_owned()],
            },
            scope: None,
        });
    });
    trust(&[&ca.certificate], &[&published]).unwrap();

    let mut broken = ca.revokes(&[]).to_vec();
    broken.pop();
    assert!(refuse(&broken.into()).contains("not a usable revocation list"));
    let mut changed = ca.revokes(&[]).to_vec();
    *changed.last_mut().unwrap() ^= 1;
    assert!(refuse(&changed.into()).contains("is not signed by"));
}

#[test]
fn a_list_may_be_signed_as_certificates_may() {
    let ca = Authority::with_key("ca", KeyPair::generate_for(&PKCS_ED25519).unwrap(), |_| ());
    let leaf = ca.issue(|_| ());
    let trust = trust(&[&ca.certificate], &[&ca.revokes(&[&leaf.certificate])]).unwrap();
    assert_eq!(judge(&trust, &[&leaf.certificate]), Err(Refusal::Revoked));
}
