//! The identity of an authenticated client. Every later station demands one, and only this station can make
//! it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use crate::apiserver::UserInfo;
use crate::audit::UserJson;
use crate::tls::Marks;

/// The user who makes a request. Cheap to clone; two are equal if all fields of the user are.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    data: Arc<IdentityData>,
    is_stale: bool,
}

#[derive(Debug)]
struct IdentityData {
    user: UserInfo,
    /// Hash of `user`, computed once: every request looks reviews up by it.
    hash: u64,
    /// `user` as JSON, written once: every audit event has it.
    json: UserJson,
    credential: CredentialKind,
    valid_until: Option<SystemTime>,
    /// Of the certificates that it rests on.
    marks: Vec<Marks>,
    /// The generation of the deny lists that were last found not to deny it.
    cleared_by: AtomicU64,
}

/// The credential that proved an identity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum CredentialKind {
    /// None; anonymous requests are allowed.
    Anonymous,
    /// A client certificate.
    Certificate,
    /// A bearer token.
    Token,
}

impl Identity {
    /// Only authentication makes an identity. `valid_until` is when the credential expires.
    pub(super) fn new(user: UserInfo, credential: CredentialKind, valid_until: Option<SystemTime>) -> Self {
        Self::with_marks(user, credential, valid_until, Vec::new())
    }

    /// The identity of a certificate whose path has these `marks`.
    pub(super) fn of_certificate(user: UserInfo, valid_until: SystemTime, marks: Vec<Marks>) -> Self {
        Self::with_marks(user, CredentialKind::Certificate, Some(valid_until), marks)
    }

    fn with_marks(
        user: UserInfo,
        credential: CredentialKind,
        valid_until: Option<SystemTime>,
        marks: Vec<Marks>,
    ) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = HASHER.hash_one(&user);
        let json = UserJson::new(&user.username, &user.uid, &user.groups, &user.extra);
        let data = IdentityData {
            user,
            hash,
            json,
            credential,
            valid_until,
            marks,
            cleared_by: AtomicU64::new(0),
        };
        Self {
            data: Arc::new(data),
            is_stale: false,
        }
    }

    /// The same, known by an earlier review only.
    pub(super) fn as_stale(&self) -> Self {
        Self {
            data: self.data.clone(),
            is_stale: true,
        }
    }

    /// For the tests of later stations.
    #[cfg(test)]
    pub(crate) fn of(user: UserInfo, valid_until: Option<SystemTime>) -> Self {
        Self::new(user, CredentialKind::Token, valid_until)
    }

    /// `system:anonymous`, whose only group is `system:unauthenticated`.
    pub(super) fn anonymous() -> Self {
        let user = UserInfo {
            username: "system:anonymous".into(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".into()],
            extra: BTreeMap::new(),
        };
        Self::new(user, CredentialKind::Anonymous, None)
    }

    /// User name, uid, groups and extra, as a review sends them.
    pub(crate) fn user(&self) -> &UserInfo {
        &self.data.user
    }

    /// [`Self::user`] as audit events show it.
    pub(crate) fn json(&self) -> &UserJson {
        &self.data.json
    }

    /// Whether an earlier review proved it, because the API server is unreachable. What it may do is limited
    /// to what `authorization.webhook.staleAllow` names.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// The credential that proved it.
    pub(crate) fn credential(&self) -> CredentialKind {
        self.data.credential
    }

    /// By what a deny list knows the certificates that it rests on: leaf, intermediates and CA.
    pub(super) fn marks(&self) -> &[Marks] {
        &self.data.marks
    }

    /// Whether the deny lists of this generation are known not to deny it.
    pub(super) fn is_cleared_by(&self, generation: u64) -> bool {
        self.data.cleared_by.load(Relaxed) == generation
    }

    /// Notes that the deny lists of this generation do not deny it.
    pub(super) fn clear(&self, generation: u64) {
        self.data.cleared_by.store(generation, Relaxed);
    }

    /// When the certificate (or one of its issuers) or the token expires, if that is known.
    pub(crate) fn valid_until(&self) -> Option<SystemTime> {
        self.data.valid_until
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.data, &other.data) || self.data.user == other.data.user
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.data.hash);
    }
}

/// Appends `system:authenticated`, as the kubelet does: not to the anonymous user, and not if a group says
/// already whether the user is authenticated.
pub(crate) fn add_authenticated_group(user: &mut UserInfo) {
    let said = user
        .groups
        .iter()
        .any(|group| matches!(group.as_str(), "system:authenticated" | "system:unauthenticated"));
    if user.username != "system:anonymous" && !said {
        user.groups.push("system:authenticated".into());
    }
}
