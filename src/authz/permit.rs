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
    reviewed: bool,
    tunnel: Option<Protocol>,
    is_stream: bool,
}

impl Permit {
    pub(super) fn new(
        identity: Identity,
        checks: &Checks,
        subresource: Subresource,
        reason: Arc<str>,
        reviewed: bool,
    ) -> Self {
        Self {
            identity,
            subresource,
            reason,
            reviewed,
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

    /// The API server's reason, for the audit event.
    pub(crate) fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// Whether the API server allowed it, in a review of a user who showed a credential. In AlwaysAllow it
    /// did not, and an anonymous user may be any stranger.
    pub(crate) fn is_reviewed(&self) -> bool {
        self.reviewed && self.identity.credential() != CredentialKind::Anonymous
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
