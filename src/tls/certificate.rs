//! One certificate, read as strictly as the kubelet's TLS library reads it, and the facts that decide what a
//! chain may use it for.
//!
//! Go's crypto/tls parses every certificate that a client sends, and ends the handshake at the first that it
//! cannot parse. The gate completes the handshake, but does not accept such a chain either.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, Class};
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_PKIX_AUTHORITY_INFO_ACCESS, OID_PKIX_SUBJECT_INFO_ACCESS, OID_SIG_ED25519,
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CERTIFICATE_POLICIES,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_INHIBIT_ANY_POLICY,
    OID_X509_EXT_ISSUER_ALT_NAME, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_POLICY_CONSTRAINTS, OID_X509_EXT_POLICY_MAPPINGS,
    OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use super::bounds::MAX_ELEMENTS;
use super::encoding::{self, Signed};
use super::frame::Frame;
use super::refusal::{Malformed, Refusal};
use super::work::Work;

/// Go's crypto/tls refuses longer RSA keys: verifying with them is too expensive.
const MAX_RSA_BITS: usize = 8192;
/// Go does not support larger exponents.
const MAX_EXPONENT_BITS: usize = 31;

/// Parses a certificate, and refuses what Go's parser refuses.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Malformed> {
    check_elements(der, &mut usize::MAX.clone())?;
    parse_checked(der)
}

/// Checks every element of a certificate and takes its elements off `left`, before another parser sees them.
fn check_elements<'a>(der: &'a CertificateDer<'_>, left: &mut usize) -> Result<Frame<'a>, Malformed> {
    if !encoding::is_strict(der, left) {
        return Err(Malformed("not strict DER, or text outside its character set"));
    }
    let frame = Frame::read(der).ok_or(Malformed("not an X.509 certificate"))?;
    for (id, value) in &frame.extensions {
        if is_read_by_go(id) && !encoding::is_strict(value, left) {
            return Err(Malformed("an unreadable extension"));
        }
        // x509-parser reads these and Go does not: as many elements as there is room for.
        if [
            OID_X509_EXT_ISSUER_ALT_NAME,
            OID_PKIX_SUBJECT_INFO_ACCESS,
            OID_X509_EXT_ISSUER_DISTRIBUTION_POINT,
        ]
        .iter()
        .any(|known| known.as_bytes() == *id)
        {
            *left = left.saturating_sub(value.len() / 2);
        }
    }
    Ok(frame)
}

fn parse_checked<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Malformed> {
    let Ok((rest, certificate)) = X509Certificate::from_der(der) else {
        return Err(Malformed("not an X.509 certificate"));
    };
    if !rest.is_empty() {
        return Err(Malformed("bytes behind the certificate"));
    }
    if certificate.version.0 > X509Version::V3.0 {
        return Err(Malformed("unknown version"));
    }
    if certificate.version != X509Version::V3 && !certificate.extensions().is_empty() {
        return Err(Malformed("extensions in a certificate older than v3"));
    }
    if certificate
        .raw_serial()
        .first()
        .is_none_or(|first| first & 0x80 != 0)
    {
        return Err(Malformed("negative serial number"));
    }
    if certificate.signature != certificate.signature_algorithm {
        return Err(Malformed("inner and outer signature algorithm differ"));
    }
    check_name(certificate.issuer())?;
    check_name(certificate.subject())?;
    check_key(certificate.public_key())?;
    check_extensions(&certificate)?;
    Ok(certificate)
}

/// x509-parser stops at an attribute that it cannot read, and keeps the ones before it. The kubelet would go
/// on and might take a later common name. So every attribute must have been read.
fn check_name(name: &X509Name<'_>) -> Result<(), Malformed> {
    let written = encoding::only(name.as_raw(), encoding::SEQUENCE)
        .and_then(encoding::elements)
        .and_then(|sets| {
            sets.iter()
                .map(|set| Some(encoding::elements(set.content)?.len()))
                .sum::<Option<usize>>()
        });
    if written != Some(name.iter_attributes().count()) {
        return Err(Malformed("a name with an unreadable attribute"));
    }
    // Go reads an INTEGER in a name into 64 bits.
    const INTEGER: u32 = 2;
    let is_huge = |value: &Any<'_>| {
        value.class() == Class::Universal && value.tag().0 == INTEGER && value.data.len() > 8
    };
    if name
        .iter_attributes()
        .any(|attribute| is_huge(attribute.attr_value()))
    {
        return Err(Malformed("a name with a huge integer"));
    }
    Ok(())
}

fn check_key(key: &SubjectPublicKeyInfo<'_>) -> Result<(), Malformed> {
    let algorithm = &key.algorithm.algorithm;
    let parameters = key.algorithm.parameters();
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        let null = parameters.is_some_and(|parameters| parameters.tag().0 == 5);
        let positive = |number: &[u8]| {
            number.first().is_some_and(|first| first & 0x80 == 0) && number.iter().any(|byte| *byte != 0)
        };
        let bits = |number: &[u8]| {
            let zeros = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
            let first = number.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize);
            (number.len() - zeros) * 8 - first
        };
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa))
                if null
                    && positive(rsa.modulus)
                    && positive(rsa.exponent)
                    && encoding::is_strict(&key.subject_public_key.data, &mut 3)
                    && bits(rsa.modulus) <= MAX_RSA_BITS
                    && bits(rsa.exponent) <= MAX_EXPONENT_BITS =>
            {
                Ok(())
            }
            _ => Err(Malformed("a bad or too long RSA key")),
        };
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = parameters.and_then(|parameters| parameters.as_oid().ok());
        let bytes = match curve {
            Some(curve) if curve == OID_EC_P256 => 32,
            Some(curve) if curve == OID_NIST_EC_P384 => 48,
            Some(curve) if curve == OID_NIST_EC_P521 => 66,
            _ => return Err(Malformed("an elliptic curve other than P-256, P-384, P-521")),
        };
        let point = &key.subject_public_key.data;
        if point.len() != 1 + 2 * bytes || point.first() != Some(&4) {
            return Err(Malformed(
                "a point of an elliptic curve that is not in the uncompressed form",
            ));
        }
        return Ok(());
    }
    if *algorithm != OID_SIG_ED25519 {
        return Err(Malformed(
            "a key that is neither RSA, nor of an elliptic curve, nor Ed25519",
        ));
    }
    if parameters.is_some() || key.subject_public_key.data.len() != 32 {
        return Err(Malformed("a bad Ed25519 key"));
    }
    Ok(())
}

fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), Malformed> {
    if certificate.extensions_map().is_err() {
        return Err(Malformed("an extension twice"));
    }
    for extension in certificate.extensions() {
        if is_read_by_go(extension.oid.as_bytes()) {
            if extension.parsed_extension().error().is_some() {
                return Err(Malformed("an unreadable extension"));
            }
            if extension.critical && must_not_be_critical(extension) {
                return Err(Malformed("a critical extension that must not be critical"));
            }
        }
        let reason = match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                let readable =
                    has_exact_tags(extension.value) && names.general_names.iter().all(is_readable_name);
                (!readable).then_some("a malformed subject alternative name")
            }
            ParsedExtension::NameConstraints(_) => {
                let bases = constraint_bases(extension.value);
                let readable = bases.is_some_and(|bases| bases.iter().all(is_readable_constraint));
                (!readable).then_some("malformed name constraints")
            }
            ParsedExtension::CertificatePolicies(policies) => {
                // A set, because a certificate has room for thousands of policies and any client may send
                // one.
                let ids: HashSet<_> = policies.iter().map(|policy| &policy.policy_id).collect();
                (ids.len() != policies.len()).then_some("a certificate policy twice")
            }
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(Malformed(reason));
        }
    }
    Ok(())
}

/// Whether Go reads the extension with this identifier, given as its content.
fn is_read_by_go(id: &[u8]) -> bool {
    [
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        OID_X509_EXT_KEY_USAGE,
        OID_X509_EXT_SUBJECT_ALT_NAME,
        OID_X509_EXT_BASIC_CONSTRAINTS,
        OID_X509_EXT_NAME_CONSTRAINTS,
        OID_X509_EXT_CRL_DISTRIBUTION_POINTS,
        OID_X509_EXT_CERTIFICATE_POLICIES,
        OID_X509_EXT_POLICY_MAPPINGS,
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        OID_X509_EXT_POLICY_CONSTRAINTS,
        OID_X509_EXT_EXTENDED_KEY_USAGE,
        OID_X509_EXT_INHIBIT_ANY_POLICY,
        OID_PKIX_AUTHORITY_INFO_ACCESS,
    ]
    .iter()
    .any(|read| read.as_bytes() == id)
}

fn must_not_be_critical(extension: &X509Extension<'_>) -> bool {
    [
        OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
        OID_PKIX_AUTHORITY_INFO_ACCESS,
    ]
    .contains(&extension.oid)
}

/// Whether alternative names have the tags of their kinds. Go ignores a name with another class or
/// constructed bit; x509-parser reads some of them.
fn has_exact_tags(names: &[u8]) -> bool {
    const OTHER_NAME: u8 = 0xa0;
    const X400_ADDRESS: u8 = 0xa3;
    const DIRECTORY_NAME: u8 = 0xa4;
    const EDI_PARTY_NAME: u8 = 0xa5;
    const REGISTERED_ID: u8 = 0x88;
    encoding::only(names, encoding::SEQUENCE)
        .and_then(encoding::elements)
        .is_some_and(|names| {
            names.iter().all(|name| {
                matches!(
                    name.tag,
                    OTHER_NAME
                        | EMAIL
                        | DNS
                        | X400_ADDRESS
                        | DIRECTORY_NAME
                        | EDI_PARTY_NAME
                        | URI
                        | IP
                        | REGISTERED_ID
                )
            })
        })
}

fn is_readable_name(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::RFC822Name(name) | GeneralName::DNSName(name) => name.is_ascii(),
        GeneralName::URI(uri) => encoding::is_uri(uri.as_bytes()),
        GeneralName::IPAddress(address) => matches!(address.len(), 4 | 16),
        GeneralName::Invalid(..) => false,
        _ => true,
    }
}

/// Whether Go refuses this name as soon as a CA above has name constraints of any kind.
fn is_odd_name(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::DNSName(name) => !encoding::is_domain(name.as_bytes()),
        // Go parses the mailbox; a quoted one is refused here.
        GeneralName::RFC822Name(name) => !name.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && !local.contains('"') && encoding::is_domain(domain.as_bytes())
        }),
        GeneralName::URI(uri) => {
            let uri = uri.parse::<http::Uri>().ok();
            // Without a scheme the library takes the whole URI as a host.
            let host = uri
                .as_ref()
                .filter(|uri| uri.scheme().is_some())
                .and_then(http::Uri::host);
            host.is_none_or(|host| {
                let address = host.trim_start_matches('[').trim_end_matches(']');
                address.parse::<std::net::IpAddr>().is_ok() || !encoding::is_domain(host.as_bytes())
            })
        }
        _ => false,
    }
}

/// The bases of all subtrees. They are read here because x509-parser drops a list of subtrees that it cannot
/// read.
fn constraint_bases(value: &[u8]) -> Option<Vec<encoding::Element<'_>>> {
    const PERMITTED: u8 = 0xa0;
    const EXCLUDED: u8 = 0xa1;
    let lists = encoding::elements(encoding::only(value, encoding::SEQUENCE)?)?;
    if !matches!(
        lists.iter().map(|list| list.tag).collect::<Vec<_>>()[..],
        [PERMITTED] | [EXCLUDED] | [PERMITTED, EXCLUDED]
    ) {
        return None;
    }
    let mut bases = Vec::new();
    for list in lists {
        let subtrees = encoding::elements(list.content)?;
        if subtrees.is_empty() {
            return None;
        }
        for subtree in subtrees {
            if subtree.tag != encoding::SEQUENCE {
                return None;
            }
            bases.push(encoding::elements(subtree.content)?.into_iter().next()?);
        }
    }
    Some(bases)
}

const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;

fn is_readable_constraint(base: &encoding::Element<'_>) -> bool {
    let domain = base.content.strip_prefix(b".").unwrap_or(base.content);
    match base.tag {
        DNS => encoding::is_domain(domain),
        EMAIL => match domain.iter().position(|byte| *byte == b'@') {
            // Go parses the mailbox; a quoted one is refused here.
            Some(at) => {
                at > 0 && encoding::is_domain(&base.content[at + 1..]) && !base.content.contains(&b'"')
            }
            None => encoding::is_domain(domain),
        },
        URI => {
            let is_address =
                std::str::from_utf8(domain).is_ok_and(|text| text.parse::<std::net::IpAddr>().is_ok());
            encoding::is_domain(domain) && !is_address
        }
        IP => {
            let (_, mask) = base.content.split_at(base.content.len() / 2);
            let ones = mask.iter().map(|byte| byte.leading_ones()).sum::<u32>();
            let set = mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
            let contiguous = mask
                .iter()
                .skip_while(|byte| **byte == 0xff)
                .skip(1)
                .all(|byte| *byte == 0);
            matches!(base.content.len(), 8 | 32) && ones == set && contiguous
        }
        _ => true,
    }
}

/// One certificate of a chain, parsed.
pub(super) struct ChainCertificate<'a> {
    pub(super) der: &'a CertificateDer<'a>,
    pub(super) parsed: X509Certificate<'a>,
    pub(super) facts: CertificateFacts,
    pub(super) signed: Signed<'a>,
    pub(super) key_ids: KeyIds<'a>,
}

/// The key identifiers in a certificate: hints, which anyone may write into a certificate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyIds<'a> {
    pub(super) own: Option<&'a [u8]>,
    pub(super) issuer: Option<&'a [u8]>,
}

/// The facts about a certificate that the verification of a chain needs and webpki does not check.
#[derive(Clone, Copy, Debug)]
pub(super) struct CertificateFacts {
    not_before: i64,
    not_after: i64,
    /// It is a v3 certificate with CA:TRUE, or an older one; and its key usage, if any, has keyCertSign.
    pub(super) may_issue: bool,
    /// It has no extended key usage, or one with clientAuth or any usage.
    pub(super) for_clients: bool,
    /// The most intermediates between it and the leaf.
    pub(super) path_length: Option<u32>,
    /// It has a critical extension that Go does not handle.
    pub(super) unhandled_critical: bool,
    /// It requires a certificate policy of the chain below. The kubelet never has one.
    pub(super) requires_policy: bool,
    /// It is a CA certificate.
    pub(super) is_ca: bool,
    /// One of its alternative names is not in a form that Go compares with constraints.
    pub(super) has_odd_names: bool,
    /// It has alternative names, though perhaps none.
    pub(super) has_names: bool,
    /// How many alternative names it has.
    pub(super) names: usize,
    /// How many name constraints it has.
    pub(super) constraints: usize,
}

// === impl ChainCertificate ===

impl<'a> ChainCertificate<'a> {
    /// Reads a certificate, and notes in `work` what that cost. No more than [`MAX_ELEMENTS`] elements of DER
    /// are read in all certificates of a chain together.
    pub(super) fn read(number: usize, der: &'a CertificateDer<'a>, work: &mut Work) -> Result<Self, Refusal> {
        let before = MAX_ELEMENTS.saturating_sub(work.elements as usize);
        let mut left = before;
        let checked = check_elements(der, &mut left);
        work.note_certificate(der.len(), before - left);
        if left == 0 {
            return Err(Refusal::TooComplex);
        }
        let read = checked.and_then(|frame| Ok((frame, parse_checked(der)?)));
        let (frame, parsed) = read.map_err(|reason| Refusal::Malformed { number, reason })?;
        Ok(Self {
            der,
            facts: CertificateFacts::of(&parsed),
            signed: frame.signed,
            key_ids: KeyIds::of(&parsed),
            parsed,
        })
    }

    /// Its subject, as DER.
    pub(super) fn subject(&self) -> &[u8] {
        self.parsed.subject().as_raw()
    }

    /// Its issuer, as DER.
    pub(super) fn issuer(&self) -> &[u8] {
        self.parsed.issuer().as_raw()
    }

    /// Its SubjectPublicKeyInfo.
    pub(super) fn key(&self) -> &[u8] {
        self.parsed.public_key().raw
    }
}

// === impl KeyIds ===

impl<'a> KeyIds<'a> {
    pub(super) fn of(certificate: &X509Certificate<'a>) -> Self {
        let mut ids = Self::default();
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => ids.own = Some(id.0),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    ids.issuer = id.key_identifier.as_ref().map(|id| id.0);
                }
                _ => {}
            }
        }
        ids
    }
}

// === impl CertificateFacts ===

impl CertificateFacts {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut facts = Self {
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            may_issue: certificate.version != X509Version::V3,
            for_clients: true,
            path_length: None,
            unhandled_critical: false,
            requires_policy: false,
            is_ca: false,
            has_odd_names: false,
            has_names: false,
            names: 0,
            constraints: 0,
        };
        let mut may_sign = true;
        for extension in certificate.extensions() {
            facts.unhandled_critical |= extension.critical && !is_handled(extension);
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    facts.may_issue = constraints.ca;
                    facts.is_ca = constraints.ca;
                    facts.path_length = constraints.path_len_constraint;
                }
                // A key usage without any bit counts as no key usage.
                ParsedExtension::KeyUsage(usage) => may_sign = usage.flags == 0 || usage.key_cert_sign(),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    let others = usage.server_auth
                        || usage.code_signing
                        || usage.email_protection
                        || usage.time_stamping
                        || usage.ocsp_signing
                        || !usage.other.is_empty();
                    facts.for_clients = usage.any || usage.client_auth || !others;
                }
                ParsedExtension::PolicyConstraints(constraints) => {
                    facts.requires_policy = constraints.require_explicit_policy.is_some();
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.has_names = true;
                    facts.names = names.general_names.len();
                    facts.has_odd_names = names.general_names.iter().any(is_odd_name);
                }
                ParsedExtension::NameConstraints(_) => {
                    // Bases that cannot be read constrain as well.
                    facts.constraints = constraint_bases(extension.value).map_or(1, |bases| bases.len());
                }
                _ => {}
            }
        }
        facts.may_issue &= may_sign;
        facts
    }

    /// `notAfter`. A time before 1970 counts as 1970.
    pub(super) fn not_after(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.not_after).unwrap_or(0))
    }

    pub(super) fn has_begun(&self, now: SystemTime) -> bool {
        u64::try_from(self.not_before).is_ok_and(|begin| now >= UNIX_EPOCH + Duration::from_secs(begin))
            || self.not_before < 0
    }

    /// `notBefore`, if it is after `now`.
    pub(super) fn begins_after(&self, now: SystemTime) -> Option<SystemTime> {
        let begin = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.not_before).ok()?);
        (begin > now).then_some(begin)
    }

    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        now > self.not_after()
    }

    /// Whether a CA of the bundle may be the anchor of a path with `below` intermediates. Go requires the
    /// same of an anchor as of an intermediate; webpki does not check it.
    pub(super) fn check_as_anchor(&self, below: u32, now: SystemTime) -> Result<(), Refusal> {
        if !self.has_begun(now) {
            return Err(Refusal::AnchorNotYetValid);
        }
        if self.has_ended(now) {
            return Err(Refusal::AnchorExpired);
        }
        if !self.may_issue {
            return Err(Refusal::BadAnchor {
                reason: "CA:TRUE or keyCertSign is missing",
            });
        }
        if self.path_length.is_some_and(|length| below > length) {
            return Err(Refusal::BadAnchor {
                reason: "more intermediates than its path length",
            });
        }
        if self.unhandled_critical {
            return Err(Refusal::BadAnchor {
                reason: "a critical extension",
            });
        }
        if !self.for_clients {
            return Err(Refusal::BadUsage);
        }
        Ok(())
    }
}

/// Whether Go handles this extension, so that it may be critical.
fn is_handled(extension: &X509Extension<'_>) -> bool {
    match extension.parsed_extension() {
        // Only names of a kind that Go compares count as handled: at least one of the alternative names …
        ParsedExtension::SubjectAlternativeName(names) => names.general_names.iter().any(|name| {
            use GeneralName::{DNSName, IPAddress, RFC822Name, URI};
            matches!(name, DNSName(_) | IPAddress(_) | RFC822Name(_) | URI(_))
        }),
        // … and all of the constraints.
        ParsedExtension::NameConstraints(_) => constraint_bases(extension.value).is_some_and(|bases| {
            bases
                .iter()
                .all(|base| matches!(base.tag, EMAIL | DNS | URI | IP))
        }),
        _ => is_read_by_go(extension.oid.as_bytes()),
    }
}
