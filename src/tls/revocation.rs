//! Certificate revocation lists: `authentication.x509.crlFiles`. The kubelet has none.
//!
//! A list covers every certificate whose issuer has the list's name: leaves, intermediates and CAs of the
//! bundle, whether webpki built the path or not. It must be signed by a CA of the bundle, which is checked
//! when it is read, or by the intermediate that issued the certificate, which is checked when a path has one.
//! If an issuer has lists, its certificates are accepted until the latest next update of these lists. If it
//! has none, none of its certificates is revoked. Two CAs of one name are told apart by their keys. Lists
//! that are published in parts are told apart by the places of publication.
//!
//! webpki's own check is not used: it takes only the first list of an issuer's name (a CA with a new key has
//! two), hashes it for every connection, and covers neither pinned nor v1 leaves.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension};
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::certificate;
use super::encoding::{self, Signed};
use super::refusal::{Refusal, escaped};
use super::signature::{Signatures, is_signed_by};

/// One list.
pub(super) struct RevocationList {
    /// The issuer's name, as bytes: names are compared as bytes.
    issuer: Vec<u8>,
    this_update: SystemTime,
    next_update: SystemTime,
    revoked: CertRevocationList<'static>,
    /// The list itself.
    der: Vec<u8>,
    /// The key (SubjectPublicKeyInfo) that signed it, once it is found.
    signer: OnceLock<Vec<u8>>,
    /// Where it is published, if it says so. It does not cover certificates that name only other places.
    published: Vec<String>,
}

/// What the lists are asked about a certificate.
pub(super) struct Revocable {
    issuer: Vec<u8>,
    subject: Vec<u8>,
    /// Its SubjectPublicKeyInfo.
    key: Vec<u8>,
    serial: Vec<u8>,
    /// The places of revocation lists that it names.
    published: Vec<String>,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It is malformed, or of a kind that is not supported.
    #[error(
        "not a usable revocation list ({reason}): give complete lists of version 2 with a next update, as \
         PEM or DER (openssl ca -gencrl with crl_extensions)"
    )]
    Unusable {
        /// Why not.
        reason: String,
    },
    /// No CA that may sign it has signed it.
    #[error(
        "the list of {issuer} is not signed by the CA of that name in clientCAFile: give that CA's own \
         list, or the CA whose list it is"
    )]
    NotSigned {
        /// Its issuer.
        issuer: String,
    },
    /// It would never be used.
    #[error(
        "the list of {issuer} is signed by a CA of clientCAFile that spells its name differently: issue it \
         with the CA's own subject"
    )]
    Misnamed {
        /// Its issuer.
        issuer: String,
    },
}

impl RevocationList {
    pub(super) fn this_update(&self) -> SystemTime {
        self.this_update
    }

    pub(super) fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Reads a list. `bundle` has the CAs that may have signed it. With `any_signer` a list is accepted even
    /// if the CA of its name has not signed it; then no certificate of that CA is accepted.
    pub(super) fn new(
        der: &CertificateRevocationListDer<'_>,
        bundle: &[CertificateDer<'_>],
        any_signer: bool,
    ) -> Result<Self, RevocationError> {
        let unusable = |reason: &str| RevocationError::Unusable {
            reason: reason.to_owned(),
        };
        let revoked = OwnedCertRevocationList::from_der(der).map_err(|error| unusable(&error.to_string()))?;
        // Serial numbers are compared as bytes, so each must be in its only DER encoding.
        let is_strict = encoding::is_strict(der, &mut usize::MAX.clone());
        let (true, Ok(([], list))) = (is_strict, CertificateRevocationList::from_der(der)) else {
            return Err(unusable("malformed"));
        };
        let mut published = Vec::new();
        for extension in list.extensions() {
            if let ParsedExtension::IssuingDistributionPoint(scope) = extension.parsed_extension() {
                if scope.only_contains_user_certs || scope.only_contains_ca_certs {
                    return Err(unusable("it is for some of the issuer's certificates only"));
                }
                published.extend(scope.distribution_point.iter().flat_map(addresses));
            }
        }
        let next_update = list.next_update().ok_or_else(|| unusable("no next update"))?;
        let issuer = list.issuer().as_raw();

        let mut named = false;
        let signer = OnceLock::new();
        for ca in bundle {
            let Ok(ca) = certificate::parse(ca) else { continue };
            let is_named = ca.subject().as_raw() == issuer;
            let has_signed = is_signed_by(der, ca.public_key().raw);
            if has_signed && !is_named {
                return Err(RevocationError::Misnamed {
                    issuer: escaped(list.issuer()),
                });
            }
            named |= is_named;
            if has_signed {
                let _ = signer.set(ca.public_key().raw.to_vec());
            }
        }
        if signer.get().is_none() {
            let issuer = escaped(list.issuer());
            if named && !any_signer {
                return Err(RevocationError::NotSigned { issuer });
            }
            if named {
                tracing::warn!(
                    issuer,
                    "a revocation list is not signed by the CA of its name: every certificate of that CA is \
                     refused"
                );
            } else {
                tracing::info!(
                    issuer,
                    "a revocation list is of no CA in clientCAFile: it is used for an intermediate CA"
                );
            }
        }
        let time =
            |time: ASN1Time| UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
        let next_update = time(next_update);
        if next_update <= SystemTime::now() {
            let issuer = escaped(list.issuer());
            tracing::warn!(
                issuer,
                "a revocation list has expired: without a newer one every certificate of its issuer is \
                 refused"
            );
        }
        Ok(Self {
            issuer: issuer.to_vec(),
            this_update: time(list.last_update()),
            next_update,
            revoked: revoked.into(),
            der: der.to_vec(),
            signer,
            published,
        })
    }

    /// Its issuer's name, as bytes.
    pub(super) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    pub(super) fn issuer_text(&self) -> String {
        name_text(&self.issuer)
    }

    /// Whether it is as new as `other`, and covers what that covers: it has the same issuer, and is published
    /// at the same places. A signer that is not known yet may be the same.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        let signers = (self.signer.get(), other.signer.get());
        let places = &self.published;
        let published = match other.published.is_empty() {
            true => places.is_empty(),
            false => places.is_empty() || other.published.iter().all(|place| places.contains(place)),
        };
        self.issuer == other.issuer
            && self.this_update >= other.this_update
            && published
            && (signers.0.is_none() || signers.1.is_none() || signers.0 == signers.1)
    }

    /// Whether no list replaces both this one and `other`: they stood beside each other for the same places.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        self.published == other.published && self.der != other.der
    }

    /// Whether `key` signed it.
    fn is_of<'a>(&'a self, key: &'a [u8], signatures: &mut Signatures<'a>) -> bool {
        match self.signer.get() {
            Some(signer) => signer == key,
            None => {
                let signed = Signed::read(&self.der);
                let is_signed = signed.is_some_and(|signed| signatures.check(signed, key).is_ok());
                if is_signed {
                    let _ = self.signer.set(key.to_vec());
                }
                is_signed
            }
        }
    }

    /// Whether it covers this certificate of its issuer.
    fn is_about(&self, certificate: &Revocable) -> bool {
        let named = &certificate.published;
        self.published.is_empty()
            || named.is_empty()
            || named.iter().any(|address| self.published.contains(address))
    }
}

impl Revocable {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        Self {
            issuer: certificate.issuer().as_raw().to_vec(),
            subject: certificate.subject().as_raw().to_vec(),
            key: certificate.public_key().raw.to_vec(),
            serial: certificate.raw_serial().to_vec(),
            published: certificate
                .extensions()
                .iter()
                .flat_map(distribution_points)
                .collect(),
        }
    }

    fn issuer_text(&self) -> String {
        name_text(&self.issuer)
    }
}

fn name_text(name: &[u8]) -> String {
    X509Name::from_der(name).map_or_else(|_| String::new(), |(_, name)| escaped(&name))
}

/// The places of revocation lists that a certificate names.
fn distribution_points(extension: &X509Extension<'_>) -> Vec<String> {
    match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => {
            let names = points
                .points
                .iter()
                .filter_map(|point| point.distribution_point.as_ref());
            names.flat_map(addresses).collect()
        }
        _ => Vec::new(),
    }
}

fn addresses(name: &DistributionPointName<'_>) -> Vec<String> {
    let DistributionPointName::FullName(names) = name else {
        return Vec::new();
    };
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    names.iter().filter_map(address).collect()
}

/// Checks every certificate of a path, leaf first, against `lists`; yields how long a verdict holds that
/// would hold `until` then without them.
pub(super) fn check_path<'a>(
    lists: &'a [RevocationList],
    path: &[&'a Revocable],
    until: SystemTime,
    now: SystemTime,
    signatures: &mut Signatures<'a>,
) -> Result<SystemTime, Refusal> {
    path.iter()
        .enumerate()
        .try_fold(until, |until, (at, certificate)| {
            let is_self_issued = certificate.subject == certificate.issuer;
            let issuer = path
                .get(at + 1)
                .or_else(|| is_self_issued.then_some(certificate))
                .copied();
            check(lists, certificate, issuer, until, now, signatures)
        })
}

/// Checks one certificate; yields how long a verdict holds that would hold `until` then without these lists.
/// `issuer` is the certificate's issuer, if it is known.
fn check<'a>(
    lists: &'a [RevocationList],
    certificate: &Revocable,
    issuer: Option<&'a Revocable>,
    until: SystemTime,
    now: SystemTime,
    signatures: &mut Signatures<'a>,
) -> Result<SystemTime, Refusal> {
    let unknown = || Refusal::RevocationUnknown {
        issuer: certificate.issuer_text(),
    };
    let of_that_name = || lists.iter().filter(|list| list.issuer == certificate.issuer);
    // A list that revokes the certificate counts whatever its signer: the operator put it there.
    if of_that_name().any(|list| !matches!(list.revoked.find_serial(&certificate.serial), Ok(None))) {
        return Err(Refusal::Revoked);
    }
    let mut newest = None;
    let mut elsewhere = false;
    for list in of_that_name() {
        if let Some(issuer) = issuer
            && !list.is_of(&issuer.key, signatures)
        {
            // A list of another CA with the same name is skipped. A list of an unknown signer might be this
            // CA's.
            if list.signer.get().is_none() {
                return Err(unknown());
            }
            continue;
        }
        if list.is_about(certificate) {
            newest = newest.max(Some(list.next_update));
        } else {
            elsewhere = true;
        }
    }
    match newest {
        Some(next_update) if now >= next_update => Err(Refusal::RevocationListExpired {
            issuer: certificate.issuer_text(),
        }),
        Some(next_update) => Ok(until.min(next_update)),
        // This issuer has lists, but none that covers this certificate.
        None if elsewhere => Err(unknown()),
        None => Ok(until),
    }
}
