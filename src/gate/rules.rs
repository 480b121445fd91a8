//! Who may do what, by the configuration in force.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::authn::{Authenticator, CredentialKind, Identity, StaleAnswers};
use crate::authz::Authorizer;
use crate::error::RequestError;
use crate::settings::{Sources, Streams};

/// The security settings in force, and the answers that were remembered under them. They are replaced as one
/// value: a request is judged by the same rules from its first station to its last, and no answer outlives
/// the rules that it was given under.
pub(crate) struct Rules {
    pub(crate) authenticator: Authenticator,
    pub(crate) authorizer: Authorizer,
    /// `authorization.webhook.staleAllow`; `None` while it is off.
    pub(crate) stale: Option<Arc<StaleAnswers>>,
    /// `sources`: from where the TLS port may be used.
    pub(crate) sources: Sources,
    /// `authorization.interactive.allowedUsers`: places are kept for these users.
    pub(crate) interactive_users: Vec<String>,
    /// `authorization.interactive.requireCreate`.
    pub(crate) interactive_requires_create: bool,
    /// `streamingConnectionIdleTimeout`.
    pub(crate) stream_idle_timeout: Duration,
    /// `limits.followStallTimeout`.
    pub(crate) follow_stall_timeout: Duration,
    /// `streams`.
    pub(crate) streams: Streams,
}

impl Rules {
    /// Whether a request may come from this address. A connection that was open before the list changed is
    /// judged by the new one at its next request.
    ///
    /// # Errors
    /// 403: `sources.port` does not have it.
    pub(super) fn judge_source(&self, source: IpAddr) -> Result<(), RequestError> {
        if self.sources.port.allow(source) {
            return Ok(());
        }
        Err(RequestError::forbidden(
            "source",
            "Forbidden: this port is not open to your address\n",
            format!("sources.port does not have {}", source.to_canonical()),
        ))
    }

    /// Whether `authorization.interactive.allowedUsers` names the user.
    pub(super) fn is_interactive_user(&self, identity: &Identity) -> bool {
        identity.credential() != CredentialKind::Anonymous
            && self.interactive_users.contains(&identity.user().username)
    }
}
