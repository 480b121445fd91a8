//! Somebody known: the value that every later station demands and only this one can make.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use crate::apiserver::UserInfo;
use crate::audit::UserJson;

/// Who asks, as authentication found it. Cheap to clone; equal when the whole user is.
#[derive(Clone, Debug)]
pub struct Identity(Arc<IdentityData>);

#[derive(Debug)]
struct IdentityData {
    user: UserInfo,
    /// Hash of `user`, computed once: reviews are looked up by it on every request.
    hash: u64,
    /// `user` as JSON, written once: it is in every audit event.
    json: UserJson,
    credential: CredentialKind,
    valid_until: Option<SystemTime>,
}

/// What proved the identity.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CredentialKind {
    /// Nothing; anonymous requests are allowed.
    Anonymous,
    /// A client certificate.
    Certificate,
    /// A bearer token.
    Token,
}

impl Identity {
    /// Only authentication makes one. `valid_until` is when the credential itself ends.
    pub(super) fn new(user: UserInfo, credential: CredentialKind, valid_until: Option<SystemTime>) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = HASHER.hash_one(&user);
        let json = UserJson::new(&user.username, &user.uid, &user.groups, &user.extra);
        Self(Arc::new(IdentityData {
            user,
            hash,
            json,
            credential,
            valid_until,
        }))
    }

    /// For tests of the stations behind this one.
    #[cfg(test)]
    pub(crate) fn of(user: UserInfo, valid_until: Option<SystemTime>) -> Self {
        Self::new(user, CredentialKind::Token, valid_until)
    }

    /// `system:anonymous`, which is in no group but `system:unauthenticated`.
    pub(super) fn anonymous() -> Self {
        let user = UserInfo {
            username: "system:anonymous".into(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".into()],
            extra: BTreeMap::new(),
        };
        Self::new(user, CredentialKind::Anonymous, None)
    }

    /// User name, uid, groups and extra, as a review is told them.
    pub fn user(&self) -> &UserInfo {
        &self.0.user
    }

    /// [`Self::user`] as it stands in audit events.
    pub fn json(&self) -> &UserJson {
        &self.0.json
    }

    /// What proved it.
    pub fn credential(&self) -> CredentialKind {
        self.0.credential
    }

    /// When the certificate (or an issuer's) or the token expires, if that is known.
    pub fn valid_until(&self) -> Option<SystemTime> {
        self.0.valid_until
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.user == other.0.user
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// Appends `system:authenticated` as the kubelet's group adder does: not to the anonymous user, and not where a group
/// says already whether the user is authenticated.
pub(crate) fn add_authenticated_group(user: &mut UserInfo) {
    let said = user
        .groups
        .iter()
        .any(|group| matches!(group.as_str(), "system:authenticated" | "system:unauthenticated"));
    if user.username != "system:anonymous" && !said {
        user.groups.push("system:authenticated".into());
    }
}
