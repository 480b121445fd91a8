//! The gate's own rules. They need no review and can only refuse.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::attributes::{Checks, is_subpath};
use crate::authn::{DenyList, Identity};
use crate::network::Networks;
use crate::settings;

/// The deny lists, `authorization.paths.deny`, `sources.interactive` and
/// `authorization.interactive.allowedUsers`.
pub(crate) struct Policy {
    denied: Arc<ArcSwap<DenyList>>,
    deny_paths: Vec<String>,
    interactive_sources: Networks,
    allowed_users: Vec<String>,
}

/// Why the policy refuses.
pub(super) struct PolicyRefusal {
    /// What shows the identity is denied itself: it proves nothing any more.
    pub(super) is_of_credential: bool,
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

impl PolicyRefusal {
    fn new(reason: &'static str, detail: String) -> Self {
        Self {
            is_of_credential: false,
            reason,
            detail,
        }
    }
}

impl Policy {
    /// The policy of these settings.
    pub(crate) fn new(
        settings: &settings::Authorization,
        sources: &settings::Sources,
        denied: Arc<ArcSwap<DenyList>>,
    ) -> Self {
        Self {
            denied,
            deny_paths: settings.deny_paths.clone(),
            interactive_sources: sources.interactive.clone(),
            allowed_users: settings.interactive.allowed_users.clone(),
        }
    }

    pub(super) fn judge(
        &self,
        identity: &Identity,
        checks: &Checks,
        source: IpAddr,
    ) -> Result<(), PolicyRefusal> {
        // The first of all rules, so that nothing that allows can stand above it.
        if let Some(denial) = self.denied.load().denies(identity) {
            return Err(PolicyRefusal {
                is_of_credential: denial.is_of_certificate(),
                ..PolicyRefusal::new(denial.reason(), format!("denied by {}", denial.by))
            });
        }
        if let Some(prefix) = self
            .deny_paths
            .iter()
            .find(|prefix| is_subpath(checks.path(), prefix))
        {
            let detail = format!("authorization.paths.deny has {prefix}");
            return Err(PolicyRefusal::new("path_denied", detail));
        }
        if checks.interactive() && !self.interactive_sources.allow(source) {
            let detail = format!("sources.interactive does not have {}", source.to_canonical());
            return Err(PolicyRefusal::new("interactive_source", detail));
        }
        let user = &identity.user().username;
        if checks.interactive() && !self.allowed_users.is_empty() && !self.allowed_users.contains(user) {
            let detail = format!("authorization.interactive.allowedUsers does not have {user}");
            return Err(PolicyRefusal::new("interactive_user", detail));
        }
        Ok(())
    }
}
