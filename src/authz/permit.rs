//! The proof that a request may be forwarded.

use std::sync::Arc;

use crate::attributes::{Checks, Protocol, Subresource};
use crate::authn::Identity;

/// Proof that a request is allowed. `forward` demands one, and only this station can make it.
#[derive(Debug)]
pub(crate) struct Permit {
    identity: Identity,
    subresource: Subresource,
    reason: Arc<str>,
    tunnel: Option<Protocol>,
}

impl Permit {
    pub(super) fn new(
        identity: Identity,
        checks: &Checks,
        subresource: Subresource,
        reason: Arc<str>,
    ) -> Self {
        Self {
            identity,
            subresource,
            reason,
            tunnel: checks.tunnel(),
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

    /// The protocol that may be tunnelled, if this request may become a tunnel.
    pub(crate) fn tunnel(&self) -> Option<Protocol> {
        self.tunnel
    }
}
