//! What every set of rules of a process shares, and the rules that the settings make of it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::error::StartError;
use crate::apiserver::ApiServer;
use crate::authn::{Authenticator, Budget, DenyList, StaleAnswers, TokenReviewer, Verdicts};
use crate::authz::{AccessReviewer, Authorizer, Policy, StaticRules};
use crate::gate::Rules;
use crate::metrics::Metrics;
use crate::settings::{AuthorizationMode, Settings};
use crate::source::Known;

/// What stays when the security settings change.
pub(crate) struct Reviewing {
    /// The verdicts on certificates: they depend on the trust and the deny lists alone, which
    /// have their generations.
    pub(super) verdicts: Arc<Verdicts>,
    /// The deny lists in force.
    pub(super) denied: Arc<ArcSwap<DenyList>>,
    /// What each source may spend on tokens that are rejected.
    pub(super) rejected_tokens: Arc<Budget>,
    pub(super) api_server: Option<ApiServer>,
    pub(super) node_name: Arc<str>,
    /// Where reviews run.
    pub(super) control: Handle,
    pub(super) known: Arc<Known>,
    pub(super) metrics: Arc<Metrics>,
}

impl Reviewing {
    /// The rules of `settings`, with nothing remembered.
    ///
    /// # Errors
    /// There is no API server to ask, or no randomness.
    pub(super) fn rules(&self, settings: &Settings) -> Result<Rules, StartError> {
        let stale = self.api_server.as_ref().and_then(|api_server| {
            StaleAnswers::new(
                &settings.authorization.stale_allow,
                settings.limits.cache_entries,
                api_server.clone(),
                self.control.clone(),
                self.metrics.clone(),
            )
        });
        let stale = stale.map(Arc::new);
        let tokens = match &self.api_server {
            Some(api_server) if settings.authentication.webhook => Some(TokenReviewer::new(
                api_server.clone(),
                &settings.authentication,
                &settings.limits,
                self.control.clone(),
                self.rejected_tokens.clone(),
                self.known.clone(),
                stale.clone(),
                self.metrics.clone(),
            )?),
            _ => None,
        };
        let reviewer = match (settings.authorization.mode, &self.api_server) {
            (AuthorizationMode::Webhook, Some(api_server)) => Some(AccessReviewer::new(
                api_server.clone(),
                self.node_name.clone(),
                &settings.authorization,
                settings.limits.cache_entries,
                self.control.clone(),
                stale.clone(),
                self.metrics.clone(),
            )),
            (AuthorizationMode::Webhook, None) => return Err(StartError::NoApiServer),
            (AuthorizationMode::AlwaysAllow, _) => None,
        };
        let interactive = &settings.authorization.interactive;
        Ok(Rules {
            authenticator: Authenticator::new(
                self.verdicts.clone(),
                tokens,
                settings.authentication.anonymous,
                self.metrics.clone(),
            ),
            authorizer: Authorizer::new(
                Policy::new(&settings.authorization, &settings.sources, self.denied.clone()),
                StaticRules::new(&settings.authorization),
                reviewer,
            ),
            stale,
            sources: settings.sources.clone(),
            interactive_users: interactive.allowed_users.clone(),
            interactive_requires_create: interactive.require_create,
            stream_idle_timeout: settings.streaming_connection_idle_timeout,
            follow_stall_timeout: settings.limits.follow_stall_timeout,
            streams: settings.streams.clone(),
        })
    }
}
