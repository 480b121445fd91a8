//! The user in a client certificate: CN is the name, every O a group, a Kubernetes OID the uid.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::identity::{Identity, add_authenticated_group};
use crate::apiserver::UserInfo;
use crate::hex;
use crate::tls::{Judged, Refused, Subject};

/// The verdict on a client certificate.
#[derive(Clone, Debug)]
pub(super) enum CertificateVerdict {
    /// It names this user.
    Authenticated(Identity),
    /// It is valid and has no common name: the next credential decides.
    NoUser,
    /// It is refused.
    Refused {
        /// One word for metrics and audit.
        reason: &'static str,
        /// Cause and way out, for the operator.
        detail: Arc<str>,
    },
}

/// Why the user that a certificate names cannot be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SubjectError {
    /// It is not X.509.
    #[error("cannot be parsed")]
    Unreadable,
    /// A uid that is empty or not text.
    #[error("its subject has an unusable uid")]
    UnusableUid,
    /// More than one uid.
    #[error("its subject has more than one uid")]
    SeveralUids,
}

/// Kubernetes' OID of the uid in a subject (`AllowParsingUserUIDFromCertAuth`): 1.3.6.1.4.1.57683.2, DER
/// content.
const UID_OID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xc2, 0x53, 0x02];
const COMMON_NAME_OID: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION_OID: &[u8] = &[0x55, 0x04, 0x0a];

impl CertificateVerdict {
    /// The verdict on a leaf whose chain was judged as `judged`.
    pub(super) fn of(judged: Result<Judged, Refused>) -> Self {
        match judged {
            Err(Refused { refusal, .. }) => Self::refused(refusal.reason(), refusal.to_string()),
            Ok(judged) => match user_of(&judged.subject) {
                Err(error) => Self::refused("malformed", error.to_string()),
                Ok(None) => Self::NoUser,
                Ok(Some(user)) => {
                    Self::Authenticated(Identity::of_certificate(user, judged.valid_until, judged.marks))
                }
            },
        }
    }

    fn refused(reason: &'static str, detail: String) -> Self {
        Self::Refused {
            reason,
            detail: format!("client certificate: {detail}").into(),
        }
    }
}

/// The user that a certificate names. The certificate is not judged.
pub(crate) fn user_of_certificate(der: &[u8]) -> Result<Option<UserInfo>, SubjectError> {
    user_of(&Subject::of_der(der).ok_or(SubjectError::Unreadable)?)
}

/// The user in a certificate's subject; `None` without a common name.
///
/// Of several common names the last counts; if that is empty, the certificate names no user. All
/// organizations count, in order. One uid is a uid; two uids, or an empty one, are an error. As in Go, only
/// values of string types count.
fn user_of(subject: &Subject) -> Result<Option<UserInfo>, SubjectError> {
    let mut username = None;
    let mut groups = Vec::new();
    let mut uid = None;
    for attribute in &subject.attributes {
        let text = attribute.text.clone();
        match attribute.oid.as_slice() {
            COMMON_NAME_OID => username = text.or(username),
            ORGANIZATION_OID => groups.extend(text),
            UID_OID => {
                let value = text.filter(|value| !value.is_empty());
                let value = value.ok_or(SubjectError::UnusableUid)?;
                if uid.replace(value).is_some() {
                    return Err(SubjectError::SeveralUids);
                }
            }
            _ => {}
        }
    }
    let Some(username) = username.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let extra = BTreeMap::from([(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={}", hex::text(&subject.fingerprint))],
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
