//! SubjectAccessReviews, cached by the whole question. Requests with the same question share one review.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::apiserver::{AccessAnswer, AccessSpec, ApiServer, ReviewError};
use crate::attributes::{Subresource, Verb};
use crate::authn::{Identity, StaleAnswers};
use crate::cache::{Cache, Freshness, ReviewOutcome};
use crate::metrics::{CacheKind, Metrics};
use crate::settings::Authorization;

/// How long a failed review is remembered for its question.
const FAILURE_LIFE: Duration = Duration::from_secs(1);

/// Has the API server review whether a user is allowed something, and remembers the answers.
pub(crate) struct AccessReviewer {
    api_server: ApiServer,
    node_name: Arc<str>,
    lives: Lifetimes,
    cache: Cache<AccessQuestion, AccessVerdict>,
    stale: Option<Arc<StaleAnswers>>,
    metrics: Arc<Metrics>,
}

/// How long each kind of answer is remembered.
#[derive(Clone, Copy)]
struct Lifetimes {
    allowed: Duration,
    not_allowed: Duration,
    interactive: Duration,
}

/// All that a review asks, except the node's name, which is always the same. Two requests share an answer
/// exactly if their reviews would be the same.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct AccessQuestion {
    identity: Identity,
    verb: Verb,
    subresource: Subresource,
    /// Interactive answers are kept for a shorter time, and separately.
    interactive: bool,
}

/// The verdict on one check.
#[derive(Clone, Debug)]
pub(super) enum AccessVerdict {
    /// Allowed, for this reason.
    Allow(Arc<str>),
    /// Denied explicitly, which is final.
    Deny(Arc<str>),
    /// Allowed by an earlier review, for this reason: the API server is unreachable.
    AllowStale(Arc<str>),
    /// The review failed.
    Failed {
        /// Why, for the operator.
        detail: Arc<str>,
        /// The failure shows that the API server is unreachable.
        is_outage: bool,
    },
    /// Not allowed by this check; the next one may allow it.
    NoOpinion,
}

impl AccessReviewer {
    /// A reviewer for the node `node_name` that remembers up to `entries` answers, and those of `stale` for
    /// an outage. Reviews run on `control`.
    pub(crate) fn new(
        api_server: ApiServer,
        node_name: Arc<str>,
        settings: &Authorization,
        entries: usize,
        control: Handle,
        stale: Option<Arc<StaleAnswers>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let lives = Lifetimes {
            allowed: settings.cache_authorized_ttl,
            not_allowed: settings.cache_unauthorized_ttl,
            interactive: settings
                .interactive
                .cache_authorized_ttl
                .min(settings.cache_authorized_ttl),
        };
        let lost = AccessVerdict::Failed {
            detail: Arc::from("the review was lost"),
            is_outage: false,
        };
        Self {
            api_server,
            node_name,
            lives,
            cache: Cache::new(entries, control, lost),
            stale,
            metrics,
        }
    }

    /// Whether `identity` may use `verb` on this node's `subresource`.
    pub(super) async fn review(
        &self,
        identity: &Identity,
        verb: Verb,
        subresource: Subresource,
        interactive: bool,
        freshness: Freshness,
    ) -> AccessVerdict {
        let question = AccessQuestion {
            identity: identity.clone(),
            verb,
            subresource,
            interactive,
        };
        match self.cache.get_fresh(&question, freshness) {
            Some(known) => {
                self.metrics.cache_hit(CacheKind::Access);
                // After a failed review an earlier answer may do.
                if !known.value.is_outage() {
                    if known.is_due() && matches!(freshness, Freshness::Remembered) {
                        let asked = question.clone();
                        self.cache.renew(question, || self.ask(asked));
                    }
                    return known.value;
                }
            }
            None => self.metrics.cache_miss(CacheKind::Access),
        }
        // Boxed: it is rare, and would enlarge the future of every request.
        Box::pin(self.review_anew(question, freshness)).await
    }

    /// The verdict on a question without an answer in the cache. If the API server is unreachable, an earlier
    /// answer may do; while that is known, no request waits for a review to fail.
    async fn review_anew(&self, question: AccessQuestion, freshness: Freshness) -> AccessVerdict {
        let stale = async |failed| {
            let stale = self.stale.as_ref()?;
            stale
                .allow(&question.identity, question.check(), freshness, failed)
                .await
        };
        if let Some(reason) = stale(false).await {
            return AccessVerdict::AllowStale(reason);
        }
        let (key, asked) = (question.clone(), question.clone());
        let verdict = self
            .cache
            .get_or_review(key, freshness, || self.ask(asked))
            .await
            .value;
        if verdict.is_outage()
            && let Some(reason) = stale(true).await
        {
            return AccessVerdict::AllowStale(reason);
        }
        verdict
    }

    /// The review itself, independent of the request that needs it.
    fn ask(
        &self,
        question: AccessQuestion,
    ) -> impl Future<Output = ReviewOutcome<AccessVerdict>> + Send + use<> {
        let (api_server, node_name, lives) = (self.api_server.clone(), self.node_name.clone(), self.lives);
        let (metrics, stale) = (self.metrics.clone(), self.stale.clone());
        async move {
            let spec = AccessSpec {
                user: question.identity.user(),
                verb: question.verb.as_str(),
                subresource: question.subresource.as_str(),
                name: &node_name,
            };
            let asked = Instant::now();
            let answer = api_server.review_access(spec).await;
            metrics.review("subjectaccessreviews", &answer);
            let outcome = decide(answer, &question, lives);
            match (&outcome, stale) {
                (ReviewOutcome::Granted(AccessVerdict::Allow(reason), _), Some(stale)) => {
                    stale.keep_allow(&question.identity, question.check(), reason, asked);
                }
                (ReviewOutcome::Refused(..), Some(stale)) => stale.forget_user(&question.identity),
                _ => {}
            }
            outcome
        }
    }
}

impl AccessQuestion {
    fn check(&self) -> (Verb, Subresource, bool) {
        (self.verb, self.subresource, self.interactive)
    }
}

impl AccessVerdict {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Failed { is_outage: true, .. })
    }
}

/// The verdict of an answer, and how long it is remembered: never longer than the credential is valid.
fn decide(
    answer: Result<AccessAnswer, ReviewError>,
    question: &AccessQuestion,
    lives: Lifetimes,
) -> ReviewOutcome<AccessVerdict> {
    match answer {
        Err(error) => {
            let (detail, is_outage) = (error.to_string().into(), error.is_outage());
            ReviewOutcome::Failed(AccessVerdict::Failed { detail, is_outage }, FAILURE_LIFE)
        }
        Ok(answer) if answer.denied => {
            ReviewOutcome::Refused(AccessVerdict::Deny(answer.reason.into()), lives.not_allowed)
        }
        Ok(answer) if answer.allowed => {
            let life = if question.interactive {
                lives.interactive
            } else {
                lives.allowed
            };
            let left = question.identity.valid_until().map_or(life, |until| {
                until.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
            });
            ReviewOutcome::Granted(AccessVerdict::Allow(answer.reason.into()), life.min(left))
        }
        Ok(_) => ReviewOutcome::Refused(AccessVerdict::NoOpinion, lives.not_allowed),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::apiserver::{UserInfo, access_review};

    prop_compose! {
        /// A question made of few values, so that two are often nearly the same.
        fn question()(
            username in "[ab]{1,2}",
            uid in "[ab]?",
            groups in vec("[ab]{1,2}", 0..3),
            extra in btree_map("[ab]", vec("[ab]", 0..3), 0..2),
            verb in prop::sample::select(vec![Verb::Get, Verb::Create, Verb::Update]),
            subresource in prop::sample::select(vec![
                Subresource::Pods,
                Subresource::Proxy,
                Subresource::Metrics,
            ]),
        ) -> AccessQuestion {
            let user = UserInfo { username, uid, groups, extra };
            AccessQuestion { identity: Identity::of(user, None), verb, subresource, interactive: false }
        }
    }

    fn asked(question: &AccessQuestion) -> Vec<u8> {
        access_review(AccessSpec {
            user: question.identity.user(),
            verb: question.verb.as_str(),
            subresource: question.subresource.as_str(),
            name: "node",
        })
        .unwrap()
    }

    proptest! {
        /// Seen red with `groups` left out of the comparison of users, and with `subresource` left out of
        /// `AccessQuestion`'s.
        #[test]
        fn two_requests_share_an_answer_exactly_if_they_ask_the_same(
            a in question(),
            other in question(),
            changed in 0..7,
        ) {
            let mut user = a.identity.user().clone();
            let mut b = a.clone();
            match changed {
                0 => user.username = other.identity.user().username.clone(),
                1 => user.uid = other.identity.user().uid.clone(),
                2 => user.groups = other.identity.user().groups.clone(),
                3 => user.extra = other.identity.user().extra.clone(),
                4 => b.verb = other.verb,
                5 => b.subresource = other.subresource,
                _ => {}
            }
            b.identity = Identity::of(user, None);
            let same = asked(&a) == asked(&b);
            prop_assert_eq!(a == b, same);
            prop_assert_eq!(HashSet::from([a, b]).len() == 1, same);
        }
    }

    #[test]
    fn no_answer_outlives_the_credential_it_was_given_for() {
        let minute = Duration::from_secs(60);
        let lives = Lifetimes {
            allowed: 5 * minute,
            not_allowed: minute,
            interactive: minute / 6,
        };
        let answer = |allowed, denied| {
            Ok(AccessAnswer {
                allowed,
                denied,
                reason: String::new(),
            })
        };
        let question = |until: Option<SystemTime>| AccessQuestion {
            identity: Identity::of(UserInfo::default(), until),
            verb: Verb::Get,
            subresource: Subresource::Metrics,
            interactive: false,
        };
        let life = |outcome| match outcome {
            ReviewOutcome::Granted(_, life)
            | ReviewOutcome::Refused(_, life)
            | ReviewOutcome::Failed(_, life) => life,
        };
        let now = SystemTime::now();
        let granted = |until| life(decide(answer(true, false), &question(until), lives));
        assert_eq!(granted(None), 5 * minute);
        assert_eq!(granted(Some(now + 60 * minute)), 5 * minute);
        let soon = granted(Some(now + minute));
        assert!(soon <= minute && soon > minute / 2, "{soon:?}");
        assert_eq!(granted(Some(now - minute)), Duration::ZERO);
        assert_eq!(life(decide(answer(false, false), &question(None), lives)), minute);
        assert_eq!(life(decide(answer(false, true), &question(None), lives)), minute);
        let interactive = AccessQuestion {
            interactive: true,
            ..question(None)
        };
        assert_eq!(life(decide(answer(true, false), &interactive, lives)), minute / 6);
    }
}
