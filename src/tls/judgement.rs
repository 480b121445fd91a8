//! Certificates judged before they are put in force: at start, at a reload, by `check`, and by `init` for
//! what it found on a node.
//!
//! What is wrong from the beginning, and what no client would accept, is an error. What time brings to one
//! of several CAs is a warning: a CA that expires must not take the others down at the next start.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::certificate::CertificateFacts;
use super::encoding::{self, Element, INTEGER, OCTET_STRING, SEQUENCE};
use super::refusal::escaped;
use super::signature::is_signed_by;
use crate::timestamp::timestamp;

/// A certificate that ends sooner is a warning.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The bits of the RSA keys that can be used: the gate signs and verifies with no shorter ones, and Go's TLS
/// refuses longer ones.
pub(super) const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a certificate is not put in force. `number` is its place in the file, from 1.
#[derive(Debug, Error)]
pub enum Unfit {
    /// It cannot be read.
    #[error("certificate {number} is not X.509: have it issued anew")]
    Malformed {
        /// Its number.
        number: usize,
    },
    /// It has expired.
    #[error(
        "certificate {number} ({subject}) has expired, at {}: renew it, or remove it from the file if no \
         peer needs it",
        timestamp(*at)
    )]
    Expired {
        /// Its number.
        number: usize,
        /// Its subject.
        subject: String,
        /// When.
        at: SystemTime,
    },
    /// It is not valid yet.
    #[error(
        "certificate {number} ({subject}) is not valid before {}: set this machine's clock if it is wrong, \
         or renew the certificate",
        timestamp(*from)
    )]
    NotYetValid {
        /// Its number.
        number: usize,
        /// Its subject.
        subject: String,
        /// From when.
        from: SystemTime,
    },
    /// Its extended key usage leaves out what it is wanted for.
    #[error(
        "certificate 1 ({subject}) is not for {wanted}, for its extended key usage leaves that out: name one \
         that was issued for it"
    )]
    Usage {
        /// Its subject.
        subject: String,
        /// `serving (serverAuth)` or `clients (clientAuth)`.
        wanted: &'static str,
    },
    /// It stands among CAs, and is a certificate that one of them issued.
    #[error(
        "certificate {number} ({subject}) is no CA, and CA {issuer} of this file issued it: remove it, for a \
         client with its key would be let in whatever becomes of that CA"
    )]
    LeafAmongCas {
        /// Its number.
        number: usize,
        /// Its subject.
        subject: String,
        /// The number of its CA.
        issuer: usize,
    },
    /// No certificate of a bundle vouches for a client.
    #[error("it has no CA that vouches for a client: {}; name the CAs of the clients", why.join("; "))]
    NoCa {
        /// What is wrong with each.
        why: Vec<String>,
    },
}

/// What is judged of one certificate.
struct Subjected<'a> {
    number: usize,
    parsed: X509Certificate<'a>,
    facts: CertificateFacts,
}

/// Judges a chain that the gate would serve with, leaf first. Yields warnings.
///
/// # Errors
/// Clients that verify would refuse it.
pub(crate) fn serving(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Vec<String>, Unfit> {
    pair(chain, now, "serving (serverAuth)", |leaf| {
        let usage = leaf.parsed.extended_key_usage().ok().flatten();
        usage.is_none_or(|usage| usage.value.any || usage.value.server_auth)
    })
}

/// Judges a chain that the gate would present as a client, leaf first. Yields warnings.
///
/// # Errors
/// The server would refuse it.
pub(crate) fn client(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Vec<String>, Unfit> {
    pair(chain, now, "clients (clientAuth)", |leaf| leaf.facts.for_clients)
}

fn pair(
    chain: &[CertificateDer<'_>],
    now: SystemTime,
    wanted: &'static str,
    is_for: impl Fn(&Subjected<'_>) -> bool,
) -> Result<Vec<String>, Unfit> {
    let mut warnings = Vec::new();
    for (number, der) in (1..).zip(chain) {
        let certificate = Subjected::read(number, der)?;
        if number == 1 && !is_for(&certificate) {
            return Err(Unfit::Usage {
                subject: certificate.subject(),
                wanted,
            });
        }
        warnings.extend(certificate.check_dates(now)?);
    }
    Ok(warnings)
}

/// Judges the CAs of clients. Yields warnings.
///
/// A bundle may be in the middle of a rotation: a CA in it may have expired, or may not be valid yet. Go
/// lets in a client whose own certificate is in the bundle, so a certificate of an unknown issuer may be
/// meant. One that a CA of the bundle issued is never needed: that file is a chain.
///
/// # Errors
/// A CA of the bundle issued a leaf beside it, or no certificate is a CA that is valid now.
pub(crate) fn client_cas(bundle: &[CertificateDer<'_>], now: SystemTime) -> Result<Vec<String>, Unfit> {
    let read = (1..)
        .zip(bundle)
        .map(|(number, der)| Subjected::read(number, der));
    let all = read.collect::<Result<Vec<_>, _>>()?;
    let (mut warnings, mut useless) = (Vec::new(), Vec::new());
    for (certificate, der) in all.iter().zip(bundle) {
        let (number, subject) = (certificate.number, certificate.subject());
        if !certificate.facts.may_issue {
            let is_issuer = |ca: &&Subjected<'_>| {
                ca.facts.may_issue
                    && ca.parsed.subject().as_raw() == certificate.parsed.issuer().as_raw()
                    && is_signed_by(der, ca.parsed.public_key().raw)
            };
            if let Some(issuer) = all.iter().find(is_issuer) {
                return Err(Unfit::LeafAmongCas {
                    number,
                    subject,
                    issuer: issuer.number,
                });
            }
            useless.push(format!(
                "certificate {number} ({subject}) is no CA, for CA:TRUE or keyCertSign is missing"
            ));
            continue;
        }
        match certificate.check_dates(now) {
            Ok(soon) => warnings.extend(soon),
            Err(unfit) => {
                useless.push(unfit.to_string());
                continue;
            }
        }
        if let Some(bits) = certificate.rsa_bits().filter(|bits| !RSA_BITS.contains(bits)) {
            useless.push(format!(
                "certificate {number} ({subject}) has an RSA key of {bits} bits, and 2048 or more are needed"
            ));
        }
    }
    if useless.len() == bundle.len() {
        return Err(Unfit::NoCa { why: useless });
    }
    warnings.extend(useless);
    Ok(warnings)
}

/// When the first certificate of a chain expires, as Unix time.
pub(super) fn expiry(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let ends = chain.iter().filter_map(|der| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    ends.min()
}

/// The bits of the modulus of a private RSA key; `None` for another key.
pub(super) fn rsa_bits(key: &PrivateKeyDer<'_>) -> Option<usize> {
    // The content of rsaEncryption, 1.2.840.113549.1.1.1.
    const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    let fields = encoding::elements(encoding::only(key.secret_der(), SEQUENCE)?)?;
    let pkcs1 = match (key, &fields[..]) {
        (PrivateKeyDer::Pkcs1(_), _) => fields,
        (
            PrivateKeyDer::Pkcs8(_),
            [
                _,
                algorithm,
                Element {
                    tag: OCTET_STRING,
                    content,
                    ..
                },
                ..,
            ],
        ) if encoding::elements(algorithm.content)?.first()?.content == RSA => {
            encoding::elements(encoding::only(content, SEQUENCE)?)?
        }
        _ => return None,
    };
    match &pkcs1[..] {
        [
            _,
            Element {
                tag: INTEGER,
                content,
                ..
            },
            ..,
        ] => Some(bits(content)),
        _ => None,
    }
}

/// How many bits an unsigned number has.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let first = number.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
    (number.len() - zeros) * 8 - first
}

// === impl Subjected ===

impl<'a> Subjected<'a> {
    fn read(number: usize, der: &'a CertificateDer<'_>) -> Result<Self, Unfit> {
        match X509Certificate::from_der(der) {
            Ok(([], parsed)) => Ok(Self {
                number,
                facts: CertificateFacts::of(&parsed),
                parsed,
            }),
            _ => Err(Unfit::Malformed { number }),
        }
    }

    fn subject(&self) -> String {
        escaped(self.parsed.subject())
    }

    fn rsa_bits(&self) -> Option<usize> {
        match self.parsed.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(bits(key.modulus)),
            _ => None,
        }
    }

    /// A warning if it ends soon.
    fn check_dates(&self, now: SystemTime) -> Result<Option<String>, Unfit> {
        let (number, subject) = (self.number, self.subject());
        let at = self.facts.not_after();
        if let Some(from) = self.facts.begins_after(now) {
            return Err(Unfit::NotYetValid {
                number,
                subject,
                from,
            });
        }
        if self.facts.has_ended(now) {
            return Err(Unfit::Expired { number, subject, at });
        }
        let left = at.duration_since(now).unwrap_or_default();
        let days = left.as_secs() / (24 * 60 * 60);
        Ok((left < SOON).then(|| {
            format!(
                "certificate {number} ({subject}) expires in {days} days, at {}: renew it by then",
                timestamp(at)
            )
        }))
    }
}
