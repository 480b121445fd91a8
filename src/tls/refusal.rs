//! Why a client's chain is refused: a word for metrics, and a sentence that says what to do.

use std::time::SystemTime;

use thiserror::Error;
use x509_parser::prelude::{X509Certificate, X509Name};

use super::bounds::{MAX_BYTES, MAX_CERTIFICATES};
use super::marks::Marks;
use super::signature::SignatureError;
use super::subject::Subject;

/// A chain that was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged {
    /// When the chain was judged. The verdict holds from then on.
    pub judged_at: SystemTime,
    /// When the verdict ends: the least `notAfter` of leaf, intermediates and anchor, and the next update of
    /// their revocation lists.
    pub valid_until: SystemTime,
    /// The subject of the leaf.
    pub(crate) subject: Subject,
    /// SHA-256 of each intermediate of the path, from the leaf's issuer up: what the verdict
    /// rests on, besides the leaf.
    pub(crate) path: Vec<[u8; 32]>,
    /// By what a deny list knows the certificates of the path: leaf, intermediates and anchor.
    pub(crate) marks: Vec<Marks>,
}

/// A chain that was refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{refusal}")]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// When a certificate becomes valid that might change it. Without one it stands as long as the trust.
    pub stands_until: Option<SystemTime>,
}

/// Why a chain is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// It has more certificates or bytes than are read.
    #[error(
        "the client sent a chain of {certificates} certificates and {bytes} bytes, at most \
         {MAX_CERTIFICATES} and {MAX_BYTES} are looked at: send the leaf and its intermediates only"
    )]
    TooLong {
        /// How many.
        certificates: usize,
        /// How large.
        bytes: usize,
    },
    /// A certificate cannot be parsed.
    #[error("certificate {number} of the client's chain is malformed ({reason}): have it issued anew")]
    Malformed {
        /// Its number in the chain, from 1.
        number: usize,
        /// What is wrong.
        reason: Malformed,
    },
    /// A certificate of the chain has expired.
    #[error("a certificate of the client's chain has expired: renew it (or check the clocks)")]
    Expired,
    /// A certificate of the chain is not valid yet.
    #[error(
        "a certificate of the client's chain is not valid yet: check the clocks of this node and of the \
         issuer"
    )]
    NotYetValid,
    /// The CA has expired.
    #[error(
        "the CA that issued the client's certificate has expired: renew the CA and put it into clientCAFile"
    )]
    AnchorExpired,
    /// The CA is not valid yet.
    #[error("the CA that issued the client's certificate is not valid yet: check the clock of this node")]
    AnchorNotYetValid,
    /// The CA was not allowed to issue this.
    #[error(
        "the CA that issued the client's certificate may not ({reason}): put a CA with CA:TRUE and \
         keyCertSign into clientCAFile"
    )]
    BadAnchor {
        /// What forbids it.
        reason: &'static str,
    },
    /// No CA in the bundle issued it.
    #[error(
        "no CA in clientCAFile issued the client's certificate (issuer {issuer}): add its CA there, or let \
         the client send the intermediate certificates"
    )]
    UnknownIssuer {
        /// The leaf's issuer, escaped and shortened.
        issuer: String,
    },
    /// A certificate was issued for another use than clients.
    #[error(
        "a certificate of the client's chain is not for clients: issue it with extended key usage \
         clientAuth, or without any"
    )]
    BadUsage,
    /// A signature is wrong.
    #[error(
        "a signature in the client's chain is wrong, or by an RSA key of less than 2048 bits: have the \
         certificate issued anew"
    )]
    BadSignature,
    /// A key or signature algorithm is too weak or unknown.
    #[error(
        "a key or signature algorithm in the client's chain is too weak or unknown: use ECDSA, Ed25519 or \
         RSA of 2048 to 8192 bits, with SHA-256 or better"
    )]
    UnsupportedAlgorithm,
    /// An intermediate certificate is not allowed to issue.
    #[error(
        "a certificate of the client's chain was issued by one that may not ({reason}): issue it by a CA \
         with CA:TRUE, keyCertSign and a sufficient path length"
    )]
    BadIssuer {
        /// What forbids it.
        reason: &'static str,
    },
    /// A name is outside a CA's name constraints.
    #[error(
        "a name in the client's chain is outside a CA's name constraints: issue it by a CA that may name it"
    )]
    NameConstraints,
    /// The leaf is X.509 v1, which the settings do not allow.
    #[error(
        "the client's certificate is X.509 v1: issue it as v3 (openssl x509 -req with -extfile), or set \
         authentication.x509.legacyV1Certificates to true"
    )]
    Version1,
    /// The leaf is X.509 v2.
    #[error(
        "the client's certificate is X.509 v2, which is not verified here: issue it as v3 (openssl x509 \
         -req with -extfile)"
    )]
    Version2,
    /// The leaf is a CA certificate, and no CA in the bundle issued it itself.
    #[error(
        "the client's certificate is a CA certificate that no CA in clientCAFile issued itself: issue it \
         with CA:FALSE, or put it into clientCAFile"
    )]
    CaAsClient,
    /// A certificate of the path is on a revocation list.
    #[error("a certificate of the client's chain is revoked: issue another one")]
    Revoked,
    /// A deny list has a certificate of the path.
    #[error(
        "a certificate of the client's chain, or its CA, is denied by {by}: issue the client another one, \
         with a new key"
    )]
    Denied {
        /// The file, the line and the entry.
        by: String,
    },
    /// The newest list that could revoke a certificate is past its next update.
    #[error(
        "the revocation list of {issuer} has expired, so newer revocations are unknown: put a new one into \
         crlFiles"
    )]
    RevocationListExpired {
        /// The list's issuer.
        issuer: String,
    },
    /// The list that could revoke a certificate is missing: the lists of this issuer cover other
    /// certificates, or no known CA signed them.
    #[error(
        "the list of {issuer} that would revoke a certificate of the client's chain is not in crlFiles, \
         only another part or one that its issuer has not signed: put it there"
    )]
    RevocationUnknown {
        /// The list's issuer.
        issuer: String,
    },
    /// The chain uses something that the kubelet or webpki does not support.
    #[error("the client's chain uses something that is not supported ({reason}): issue it without")]
    Unsupported {
        /// What it is.
        reason: String,
    },
    /// Reading or verifying it reached a bound.
    #[error("the client's chain needs too many steps to verify: send the leaf and its intermediates only")]
    TooComplex,
}

/// What is wrong with a certificate that Go's parser refuses, or that two parsers read differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

// === impl Refusal ===

impl Refusal {
    /// The reason as a metric label, from a small fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::TooComplex => "too_long",
            Self::Malformed { .. } => "malformed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::AnchorExpired => "ca_expired",
            Self::AnchorNotYetValid => "ca_not_yet_valid",
            Self::BadAnchor { .. } | Self::BadIssuer { .. } => "bad_issuer",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::BadUsage => "bad_usage",
            Self::BadSignature => "bad_signature",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::NameConstraints => "name_constraints",
            Self::Version1 | Self::Version2 => "old_version",
            Self::CaAsClient => "ca_as_client",
            Self::Denied { .. } => "denied_certificate",
            Self::Revoked => "revoked",
            Self::RevocationListExpired { .. } | Self::RevocationUnknown { .. } => "revocation_unknown",
            Self::Unsupported { .. } => "unsupported",
        }
    }

    /// Whether time can change it: a chain that cannot be read stays so.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(self, Self::TooLong { .. } | Self::Malformed { .. })
    }

    /// The refusal for an error of webpki.
    pub(super) fn from_webpki(error: webpki::Error, leaf: &X509Certificate<'_>) -> Self {
        use webpki::Error;
        match error {
            Error::CertExpired { .. } => Self::Expired,
            Error::CertNotValidYet { .. } => Self::NotYetValid,
            Error::UnknownIssuer => unknown_issuer(leaf),
            Error::EmptyEkuExtension => Self::BadUsage,
            Error::InvalidSignatureForPublicKey => Self::BadSignature,
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::UnsupportedAlgorithm,
            Error::CaUsedAsEndEntity => Self::CaAsClient,
            Error::EndEntityUsedAsCa => Self::BadIssuer {
                reason: "it lacks CA:TRUE",
            },
            Error::PathLenConstraintViolated => Self::BadIssuer {
                reason: "more intermediates than its path length",
            },
            Error::NameConstraintViolation
            | Error::MalformedDnsIdentifier
            | Error::MalformedNameConstraint => Self::NameConstraints,
            Error::MaximumSignatureChecksExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumPathDepthExceeded
            | Error::MaximumNameConstraintComparisonsExceeded => Self::TooComplex,
            other => Self::Unsupported {
                reason: other.to_string(),
            },
        }
    }
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Bad => Self::BadSignature,
            SignatureError::Unsupported => Self::UnsupportedAlgorithm,
            SignatureError::Exhausted => Self::TooComplex,
        }
    }
}

/// The refusal of a leaf that no CA in the bundle issued.
pub(super) fn unknown_issuer(leaf: &X509Certificate<'_>) -> Refusal {
    Refusal::UnknownIssuer {
        issuer: escaped(leaf.issuer()),
    }
}

/// A name for a log line.
pub(super) fn escaped(name: &X509Name<'_>) -> String {
    name.to_string().escape_debug().take(200).collect()
}
