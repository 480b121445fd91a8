//! SubjectAccessReviews: asked, remembered under everything they were asked with, and made once for all who wait.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;

use crate::apiserver::{AccessAnswer, AccessSpec, ApiServer, ReviewError};
use crate::attributes::{Subresource, Verb};
use crate::authn::Identity;
use crate::cache::Cache;
use crate::metrics::{CacheKind, Metrics};
use crate::settings::Authorization;

/// How long a review that failed is remembered for its key.
const FAILURE_LIFE: Duration = Duration::from_secs(1);

/// Asks the API server whether somebody may, and remembers the answer.
pub struct AccessReviewer {
    api_server: ApiServer,
    node_name: Arc<str>,
    lives: Lives,
    cache: Cache<Question, Decision>,
    metrics: Arc<Metrics>,
}

/// How long each kind of answer may be remembered.
#[derive(Clone, Copy)]
struct Lives {
    allowed: Duration,
    not_allowed: Duration,
    interactive: Duration,
}

/// Everything a review is asked with (the node's name is the same for all): two requests share an answer exactly if the
/// API server would be asked the same.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Question {
    identity: Identity,
    verb: Verb,
    subresource: Subresource,
    /// Interactive answers live shorter and are kept apart.
    interactive: bool,
}

/// The API server's word on one check.
#[derive(Clone, Debug)]
pub(super) enum Decision {
    /// Allowed, for this reason.
    Allow(Arc<str>),
    /// Explicitly denied: final.
    Deny(Arc<str>),
    /// Not asked, or not answered.
    Failed(Arc<str>),
    /// Not allowed by this check; the next one may.
    NoOpinion,
}

impl AccessReviewer {
    /// A reviewer for the node `node_name`, remembering up to `entries` answers; reviews run on `control`.
    pub fn new(
        api_server: ApiServer,
        node_name: Arc<str>,
        settings: &Authorization,
        entries: usize,
        control: Handle,
        metrics: Arc<Metrics>,
    ) -> Self {
        let lives = Lives {
            allowed: settings.cache_authorized_ttl,
            not_allowed: settings.cache_unauthorized_ttl,
            interactive: settings
                .interactive
                .cache_authorized_ttl
                .min(settings.cache_authorized_ttl),
        };
        let lost = Decision::Failed(Arc::from("the review was lost"));
        Self {
            api_server,
            node_name,
            lives,
            cache: Cache::new(entries, control, lost),
            metrics,
        }
    }

    /// Whether `identity` may `verb` this node's `subresource`.
    pub(super) async fn review(
        &self,
        identity: &Identity,
        verb: Verb,
        subresource: Subresource,
        interactive: bool,
    ) -> Decision {
        let question = Question {
            identity: identity.clone(),
            verb,
            subresource,
            interactive,
        };
        if let Some(decision) = self.cache.get(&question) {
            self.metrics.cache_hit(CacheKind::Access);
            return decision;
        }
        self.metrics.cache_miss(CacheKind::Access);
        let (api_server, node_name, lives) = (self.api_server.clone(), self.node_name.clone(), self.lives);
        let (asked, metrics) = (question.clone(), self.metrics.clone());
        // Boxed: rare, and it would make the future of every request larger.
        Box::pin(self.cache.get_or_review(question, move || async move {
            let spec = AccessSpec {
                user: asked.identity.user(),
                verb: asked.verb.as_str(),
                subresource: asked.subresource.as_str(),
                name: &node_name,
            };
            let answer = api_server.review_access(spec).await;
            metrics.review("subjectaccessreviews", &answer);
            decide(answer, &asked, lives)
        }))
        .await
    }
}

/// What an answer means, and how long it may be remembered: never beyond the credential it was asked for.
fn decide(
    answer: Result<AccessAnswer, ReviewError>,
    question: &Question,
    lives: Lives,
) -> (Decision, Duration) {
    match answer {
        Err(error) => (Decision::Failed(error.to_string().into()), FAILURE_LIFE),
        Ok(answer) if answer.denied => (Decision::Deny(answer.reason.into()), lives.not_allowed),
        Ok(answer) if answer.allowed => {
            let life = if question.interactive {
                lives.interactive
            } else {
                lives.allowed
            };
            let left = question.identity.valid_until().map_or(life, |until| {
                until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
            });
            (Decision::Allow(answer.reason.into()), life.min(left))
        }
        Ok(_) => (Decision::NoOpinion, lives.not_allowed),
    }
}
