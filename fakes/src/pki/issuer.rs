//! Certificate authorities, and certificates that they sign.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub use rcgen::ExtendedKeyUsagePurpose as Usage;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SigningKey,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::PkiError;

/// An attribute of a subject that Kubernetes reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// CN, the user name; the last one counts.
    CommonName,
    /// O, a group each.
    Organization,
    /// 1.3.6.1.4.1.57683.2, the user's uid.
    Uid,
}

/// The content of a certificate that is not a CA's.
#[derive(Clone, Debug)]
pub struct CertificateSpec {
    /// The subject, in order; an attribute may come more than once.
    pub subject: Vec<(Attribute, String)>,
    /// Subject alternative names: IP addresses and DNS names.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// Extended key usages. If empty, the extension is left out.
    pub usages: Vec<Usage>,
}

/// A certificate authority: its certificate and key.
#[derive(Clone)]
pub struct Ca {
    /// The CA's certificate, then those of the CAs above it, up to the root.
    chain: Vec<CertificateDer<'static>>,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

/// A certificate with its chain and private key.
pub struct Pair {
    /// The name of the pair's files.
    pub name: String,
    /// The certificate, then those of the CAs above it, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

// === impl CertificateSpec ===

impl CertificateSpec {
    /// A client certificate for this user. An empty name leaves the CN out.
    pub fn client(user: &str) -> Self {
        let (not_before, not_after) = validity();
        let subject = match user {
            "" => Vec::new(),
            user => vec![(Attribute::CommonName, user.to_owned())],
        };
        Self {
            subject,
            names: Vec::new(),
            not_before,
            not_after,
            usages: vec![Usage::ClientAuth],
        }
    }

    /// A serving certificate for these DNS names and IP addresses.
    pub fn server(common_name: &str, names: &[&str]) -> Self {
        Self {
            names: names.iter().map(ToString::to_string).collect(),
            usages: vec![Usage::ServerAuth],
            ..Self::client(common_name)
        }
    }

    /// Adds an O: a group of the user.
    #[must_use]
    pub fn group(self, group: &str) -> Self {
        self.attribute(Attribute::Organization, group)
    }

    /// Adds an attribute at the end of the subject.
    #[must_use]
    pub fn attribute(mut self, attribute: Attribute, value: &str) -> Self {
        self.subject.push((attribute, value.to_owned()));
        self
    }

    /// Sets start and end of validity, relative to now.
    #[must_use]
    pub fn valid(mut self, from: Duration, until: Duration) -> Self {
        let now = OffsetDateTime::now_utc();
        (self.not_before, self.not_after) = (now + from, now + until);
        self
    }

    /// Replaces the extended key usages. If empty, the extension is left out.
    #[must_use]
    pub fn usages(mut self, usages: &[Usage]) -> Self {
        self.usages = usages.to_vec();
        self
    }
}

// === impl Ca ===

impl Ca {
    /// A new self-signed CA with this CN.
    pub fn generate(common_name: &str) -> Result<Self, PkiError> {
        Self::self_signed(ca_params(common_name))
    }

    /// The same, valid from and until these times, relative to now.
    pub fn generate_valid(common_name: &str, from: Duration, until: Duration) -> Result<Self, PkiError> {
        let mut params = ca_params(common_name);
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now + from, now + until);
        Self::self_signed(params)
    }

    fn self_signed(params: CertificateParams) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self {
            chain: vec![certificate],
            issuer: Arc::new(Issuer::new(params, key)),
        })
    }

    /// A new CA below this one. Its certificate is in the chain of each certificate that it issues.
    pub fn intermediate(&self, common_name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = ca_params(common_name);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        let chain = [&[certificate], self.chain.as_slice()].concat();
        Ok(Self {
            chain,
            issuer: Arc::new(Issuer::new(params, key)),
        })
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The CA's certificate as PEM. A bundle is several of them, concatenated.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", self.certificate())
    }

    /// The CA's private key as PEM.
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.issuer.key().serialized_der())
    }

    /// Signs a new pair. `name` is the name of its files.
    pub fn issue(&self, name: &str, spec: &CertificateSpec) -> Result<Pair, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(spec.names.clone())?;
        (params.not_before, params.not_after) = (spec.not_before, spec.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = spec.usages.clone();
        params.use_authority_key_identifier_extension = true;
        let subjectless = params.signed_by(&key, &self.issuer)?;
        let certificate = with_subject(subjectless.der(), &spec.subject, self.issuer.key())?;

        let above = &self.chain[..self.chain.len() - 1];
        let chain = [&[certificate], above].concat();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(Pair {
            name: name.to_owned(),
            chain,
            key,
        })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

// === impl Pair ===

impl Pair {
    /// The certificate and its chain as PEM.
    pub fn certificate_pem(&self) -> String {
        self.chain
            .iter()
            .map(|certificate| pem("CERTIFICATE", certificate))
            .collect()
    }

    /// The private key as PEM (PKCS#8).
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", self.key.secret_der())
    }
}

impl Clone for Pair {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// === encoding ===

/// Replaces a certificate's subject and signs it anew.
///
/// rcgen keeps one value per attribute type, but a user in several groups has an O for each, and of several
/// CNs Kubernetes uses the last one.
fn with_subject(
    certificate: &CertificateDer<'_>,
    subject: &[(Attribute, String)],
    signer: &KeyPair,
) -> Result<CertificateDer<'static>, PkiError> {
    let unexpected = |_| PkiError::Certificate(rcgen::Error::CouldNotParseCertificate);
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(unexpected)?;
    let tbs = parsed.tbs_certificate.as_ref();
    let old = parsed.tbs_certificate.subject.as_raw();
    // Both are slices of the same buffer.
    let start = old.as_ptr().addr() - tbs.as_ptr().addr();
    let content = tbs.len() - content_length(tbs);

    let name: Vec<u8> = subject
        .iter()
        .flat_map(|(attribute, value)| relative_name(*attribute, value))
        .collect();
    let tbs_content = [
        &tbs[content..start],
        &der(SEQUENCE, &name),
        &tbs[start + old.len()..],
    ]
    .concat();
    let new_tbs = der(SEQUENCE, &tbs_content);
    let signature = signer.sign(&new_tbs)?;

    let after_tbs = &certificate[certificate.len() - content_length(certificate) + tbs.len()..];
    // An AlgorithmIdentifier is short: one byte of tag, one of length.
    let algorithm = &after_tbs[..2 + usize::from(after_tbs[1])];
    let bits = der(BIT_STRING, &[&[0], signature.as_slice()].concat());
    Ok(CertificateDer::from(der(
        SEQUENCE,
        &[&new_tbs, algorithm, &bits].concat(),
    )))
}

fn relative_name(attribute: Attribute, value: &str) -> Vec<u8> {
    let oid: &[u8] = match attribute {
        Attribute::CommonName => &[0x55, 4, 3],
        Attribute::Organization => &[0x55, 4, 10],
        Attribute::Uid => &[0x2b, 6, 1, 4, 1, 0x83, 0xc2, 0x53, 2],
    };
    let pair = [der(OBJECT_IDENTIFIER, oid), der(UTF8_STRING, value.as_bytes())].concat();
    der(SET, &der(SEQUENCE, &pair))
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match significant {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend(long);
        }
    }
    out.extend(content);
    out
}

/// The length of the content of this DER element, which ends where the slice ends.
fn content_length(element: &[u8]) -> usize {
    let header = match element[1] {
        short if short < 0x80 => 2,
        long => 2 + usize::from(long & 0x7f),
    };
    element.len() - header
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for start in (0..text.len()).step_by(64) {
        out.push_str(&text[start..text.len().min(start + 64)]);
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = validity();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params
}

/// From an hour ago, for clocks that differ, for a year.
fn validity() -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::HOUR, now + Duration::days(365))
}

const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
