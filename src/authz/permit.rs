//! The proof that a request may be forwarded.

use std::sync::Arc;

use crate::attributes::{Checks, Protocol, Subresource};
use crate::authn::{CredentialKind, Identity};

/// Proof that a request is allowed. `forward` demands one, and only this station can make it.
#[derive(Debug)]
pub(crate) struct Permit {
    identity: Identity,
    subresource: Subresource,
    reason: Arc<str>,
    ground: Ground,
    tunnel: Option<Protocol>,
    is_stream: bool,
}

/// What allowed a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ground {
    /// `authorization.mode: AlwaysAllow`.
    AlwaysAllow,
    /// An earlier review: the API server is unreachable.
    EarlierReview,
    /// A review.
    Review,
    /// `authorization.static`.
    StaticRule,
}

impl Permit {
    pub(super) fn new(
        identity: Identity,
        checks: &Checks,
        subresource: Subresource,
        reason: Arc<str>,
        ground: Ground,
    ) -> Self {
        Self {
            identity,
            subresource,
            reason,
            ground,
            tunnel: checks.tunnel(),
            is_stream: checks.is_stream(),
        }
    }

    /// The user who is allowed.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The check that allowed it.
    pub(crate) fn subresource(&self) -> Subresource {
        self.subresource
    }

    /// The API server's reason, or the static rule, for the audit event.
    pub(crate) fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// Whether the API server allowed it, in a review of a user who showed a credential. In AlwaysAllow, or
    /// for a static rule, it did not, and an anonymous user may be any stranger.
    pub(crate) fn is_reviewed(&self) -> bool {
        self.ground == Ground::Review
            && !self.identity.is_stale()
            && self.identity.credential() != CredentialKind::Anonymous
    }

    /// The reviews that were not made, because the API server is unreachable, and whose earlier answers were
    /// used instead.
    pub(crate) fn stale(&self) -> Option<&'static str> {
        match (self.identity.is_stale(), self.ground == Ground::EarlierReview) {
            (false, false) => None,
            (true, false) => Some("TokenReview"),
            (false, true) => Some("SubjectAccessReview"),
            (true, true) => Some("TokenReview, SubjectAccessReview"),
        }
    }

    /// The protocol that may be tunnelled, if this request may become a tunnel.
    pub(crate) fn tunnel(&self) -> Option<Protocol> {
        self.tunnel
    }

    /// Whether the request may have an answer without an end: a tunnel, or a followed log. Such an answer is
    /// judged again while it lasts.
    pub(crate) fn is_stream(&self) -> bool {
        self.is_stream
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::apiserver::UserInfo;

    /// A source is known, and comes first in a flood, by a review alone.
    ///
    /// (Not seen red.)
    #[test]
    fn only_a_review_is_a_review() {
        let request = http::Request::get("/metrics")
            .header("host", "node")
            .body(())
            .unwrap();
        let checks = Checks::of(&request.into_parts().0, true).unwrap();
        let permit = |ground| {
            let identity = Identity::of(UserInfo::default(), None);
            Permit::new(identity, &checks, Subresource::Metrics, "why".into(), ground)
        };
        assert!(permit(Ground::Review).is_reviewed());
        for ground in [Ground::AlwaysAllow, Ground::EarlierReview, Ground::StaticRule] {
            assert!(!permit(ground).is_reviewed(), "{ground:?}");
        }
    }
}
