//! `authorization.static`: what named users and groups may get without a review.

use std::sync::Arc;

use crate::attributes::{Checks, Subresource, Verb};
use crate::authn::Identity;
use crate::settings;

/// The rules, in order. They replace a SubjectAccessReview, never the authentication before it.
pub(crate) struct StaticRules(Vec<StaticRule>);

struct StaticRule {
    users: Vec<String>,
    groups: Vec<String>,
    subresources: Vec<Subresource>,
    /// For the audit: `static rule N`, where the first rule is 1.
    reason: Arc<str>,
}

impl StaticRules {
    /// The rules of these settings.
    pub(crate) fn new(settings: &settings::Authorization) -> Self {
        let rules = settings.static_rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| StaticRule {
            users: rule.users.clone(),
            groups: rule.groups.clone(),
            subresources: rule.subresources.iter().map(|&scraped| scraped.into()).collect(),
            reason: format!("static rule {}", index + 1).into(),
        });
        Self(rules.collect())
    }

    /// Why a rule allows this check, if one does.
    pub(super) fn allow(
        &self,
        identity: &Identity,
        checks: &Checks,
        subresource: Subresource,
    ) -> Option<&Arc<str>> {
        if checks.verb() != Verb::Get || checks.interactive() {
            return None;
        }
        let rule = self
            .0
            .iter()
            .find(|rule| rule.subresources.contains(&subresource) && rule.names(identity))?;
        Some(&rule.reason)
    }
}

impl StaticRule {
    fn names(&self, identity: &Identity) -> bool {
        let user = identity.user();
        self.users.contains(&user.username) || user.groups.iter().any(|group| self.groups.contains(group))
    }
}
