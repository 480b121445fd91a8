//! The user in a client certificate: CN is the name, every O a group, a Kubernetes OID the uid.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use super::identity::{CredentialKind, Identity, add_authenticated_group};
use crate::apiserver::UserInfo;
use crate::tls::{Judged, Refusal};

/// What a client certificate says about the client.
#[derive(Clone, Debug)]
pub(super) enum CertificateVerdict {
    /// A user.
    Authenticated(Identity),
    /// A good certificate without a common name: no opinion, so the next credential decides.
    NoUser,
    /// Not judged: too many certificates from this address were refused just now.
    Exhausted,
    /// Not to be believed.
    Refused {
        /// One word for metrics and audit.
        reason: &'static str,
        /// Cause and way out, for the operator.
        detail: String,
    },
}

/// Kubernetes' OID of the uid in a subject (`AllowParsingUserUIDFromCertAuth`): 1.3.6.1.4.1.57683.2, DER content.
const UID_OID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xc2, 0x53, 0x02];
const COMMON_NAME_OID: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION_OID: &[u8] = &[0x55, 0x04, 0x0a];

impl CertificateVerdict {
    /// The verdict on a `leaf` whose chain was judged as `judged`.
    pub(super) fn of(leaf: &[u8], judged: Result<Judged, Refusal>) -> Self {
        match judged {
            Err(refusal) => Self::refused(refusal.reason(), refusal.to_string()),
            Ok(judged) => match user_of(leaf) {
                Err(detail) => Self::refused("malformed", detail.into()),
                Ok(None) => Self::NoUser,
                Ok(Some(user)) => Self::Authenticated(Identity::new(
                    user,
                    CredentialKind::Certificate,
                    Some(judged.valid_until),
                )),
            },
        }
    }

    fn refused(reason: &'static str, detail: String) -> Self {
        Self::Refused {
            reason,
            detail: format!("client certificate: {detail}"),
        }
    }
}

/// The user in the certificate's subject; `None` without a common name.
///
/// The last CN counts and an empty last CN is nobody; all O count, in order. One uid is a uid, two or an empty one are
/// an error. As in Go, only values of string types count.
pub(crate) fn user_of(der: &[u8]) -> Result<Option<UserInfo>, &'static str> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "cannot be parsed")?;
    let mut username = None;
    let mut groups = Vec::new();
    let mut uid = None;
    for attribute in certificate.subject().iter_attributes() {
        match attribute.attr_type().as_bytes() {
            COMMON_NAME_OID => {
                if let Some(value) = text(attribute) {
                    username = Some(value);
                }
            }
            ORGANIZATION_OID => groups.extend(text(attribute)),
            UID_OID => {
                let value = text(attribute)
                    .filter(|value| !value.is_empty())
                    .ok_or("its subject has an unusable uid")?;
                if uid.replace(value).is_some() {
                    return Err("its subject has more than one uid");
                }
            }
            _ => {}
        }
    }
    let Some(username) = username.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let fingerprint = digest(&SHA256, der);
    let mut credential_id = String::from("X509SHA256=");
    for byte in fingerprint.as_ref() {
        credential_id.push_str(&format!("{byte:02x}"));
    }
    let extra = BTreeMap::from([(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![credential_id],
    )]);
    let mut user = UserInfo {
        username,
        uid: uid.unwrap_or_default(),
        groups,
        extra,
    };
    add_authenticated_group(&mut user);
    Ok(Some(user))
}

/// The value of a subject attribute of a string type that Go reads: UTF8, Printable, IA5, T61, Numeric and BMP.
fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    use x509_parser::asn1_rs::Tag;
    let value = attribute.attr_value();
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            str::from_utf8(value.data).ok().map(str::to_owned)
        }
        // Go reads T61String as Latin-1: each byte is the character of that number.
        Tag::T61String => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let (units, rest) = value.data.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            if rest.is_empty() {
                String::from_utf16(&units).ok()
            } else {
                None
            }
        }
        _ => None,
    }
}
