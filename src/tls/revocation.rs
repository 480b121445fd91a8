//! Certificate revocation lists: `authentication.x509.crlFiles`. The kubelet has none.
//!
//! A list speaks for every certificate whose issuer has its name, leaf, intermediate and CA of the bundle alike, whether
//! webpki built the path or not. It is believed if a CA of the bundle signed it, which is checked when it is read, or
//! else if the intermediate that issued the certificate did, which is checked when a path has one. An issuer with a
//! list has no certificate believed beyond the list's next update; an issuer without a list revokes nobody.
//!
//! Not webpki's own check, because that takes only the first list of an issuer's name (a CA with a new key has two),
//! hashes it for every connection, and knows neither pinned nor v1 leaves.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{ALL_VERIFICATION_ALGS, CertRevocationList, OwnedCertRevocationList};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate;
use super::encoding;
use super::refusal::{Refusal, escaped};
use super::signature::is_signed_by;

/// One list.
pub(super) struct RevocationList {
    /// Who issued it, as bytes: names are compared so.
    issuer: Vec<u8>,
    next_update: SystemTime,
    revoked: CertRevocationList<'static>,
    /// The list itself, if nobody of the bundle has signed it.
    unproven: Option<Vec<u8>>,
}

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// It is malformed, or of a kind that is not read.
    #[error(
        "not a usable revocation list ({reason}): give complete lists of version 2 with a next update, as PEM or DER \
         (openssl ca -gencrl with crl_extensions)"
    )]
    Unusable {
        /// Why not.
        reason: String,
    },
    /// Signed by nobody who may.
    #[error(
        "the list of {issuer} is not signed by the CA of that name in clientCAFile: give that CA's own list, or the \
         CA whose list it is"
    )]
    NotSigned {
        /// Its issuer.
        issuer: String,
    },
    /// It would never be looked at.
    #[error(
        "the list of {issuer} is signed by a CA of clientCAFile that spells its name differently: issue it with the \
         CA's own subject"
    )]
    Misnamed {
        /// Its issuer.
        issuer: String,
    },
}

impl RevocationList {
    pub(super) fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Takes a list; `bundle` are the CAs that it may be of.
    pub(super) fn new(
        der: &CertificateRevocationListDer<'_>,
        bundle: &[CertificateDer<'_>],
    ) -> Result<Self, RevocationError> {
        let unusable = |reason: &str| RevocationError::Unusable {
            reason: reason.to_owned(),
        };
        let revoked = OwnedCertRevocationList::from_der(der).map_err(|error| unusable(&error.to_string()))?;
        // Serial numbers are compared as bytes, so each must have the one encoding that DER has for it.
        let (true, Ok(([], list))) = (encoding::is_strict(der), CertificateRevocationList::from_der(der))
        else {
            return Err(unusable("malformed"));
        };
        for extension in list.extensions() {
            if let ParsedExtension::IssuingDistributionPoint(scope) = extension.parsed_extension()
                && (scope.only_contains_user_certs || scope.only_contains_ca_certs)
            {
                return Err(unusable("it is for some of the issuer's certificates only"));
            }
        }
        let next_update = list.next_update().ok_or_else(|| unusable("no next update"))?;
        let issuer = list.issuer().as_raw();

        let (mut named, mut proven) = (false, false);
        for ca in bundle {
            let Ok(ca) = certificate::parse(ca) else { continue };
            let is_named = ca.subject().as_raw() == issuer;
            let has_signed = is_signed_by(der, ca.public_key().raw, ALL_VERIFICATION_ALGS);
            if has_signed && !is_named {
                return Err(RevocationError::Misnamed {
                    issuer: escaped(list.issuer()),
                });
            }
            named |= is_named;
            proven |= has_signed;
        }
        if named && !proven {
            return Err(RevocationError::NotSigned {
                issuer: escaped(list.issuer()),
            });
        }
        let next_update =
            UNIX_EPOCH + Duration::from_secs(u64::try_from(next_update.timestamp()).unwrap_or(0));
        if next_update <= SystemTime::now() {
            let issuer = escaped(list.issuer());
            tracing::warn!(
                issuer,
                "a revocation list has expired: nobody of this issuer is let in"
            );
        }
        Ok(Self {
            issuer: issuer.to_vec(),
            next_update,
            revoked: revoked.into(),
            unproven: (!proven).then(|| der.to_vec()),
        })
    }
}

/// Until when a certificate stands that would stand `until` then without these lists. `issuer` is who issued it, where
/// that is known.
pub(super) fn check(
    lists: &[RevocationList],
    certificate: &X509Certificate<'_>,
    issuer: Option<&X509Certificate<'_>>,
    mut until: SystemTime,
    now: SystemTime,
) -> Result<SystemTime, Refusal> {
    let name = certificate.issuer();
    for list in lists.iter().filter(|list| list.issuer == name.as_raw()) {
        // A list that says "revoked" is heard, whoever wrote it: the operator put it there.
        if !matches!(list.revoked.find_serial(certificate.raw_serial()), Ok(None)) {
            return Err(Refusal::Revoked);
        }
        if let (Some(der), Some(issuer)) = (&list.unproven, issuer)
            && !is_signed_by(der, issuer.public_key().raw, ALL_VERIFICATION_ALGS)
        {
            return Err(Refusal::RevocationUnknown {
                issuer: escaped(name),
            });
        }
        if now >= list.next_update {
            return Err(Refusal::RevocationListExpired {
                issuer: escaped(name),
            });
        }
        until = until.min(list.next_update);
    }
    Ok(until)
}
