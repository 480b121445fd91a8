//! Whether the API server answers reviews, as far as the last one shows.

use std::time::SystemTime;

use tokio::sync::watch;

use super::failure::{Cause, ReviewError};

/// What is known about the API server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Reachability {
    /// Nothing: no review has ended.
    #[default]
    NotAsked,
    /// It answered the last review.
    Answers {
        /// When that review ended.
        last: SystemTime,
    },
    /// It has answered no review for some time.
    Failing {
        /// When the first of the failed reviews ended.
        since: SystemTime,
        /// When the last of them ended.
        last: SystemTime,
        /// Why the last of them failed.
        why: String,
        /// That failure shows that the API server is unreachable.
        is_outage: bool,
    },
}

/// The times at which the API server answers a review after one that it did not answer.
pub(crate) struct Recoveries(watch::Receiver<Reachability>);

impl Reachability {
    /// Notes how a review has ended. One that was not asked for want of a slot shows nothing. Yields whether
    /// the API server answers after it had failed.
    pub(super) fn note(&mut self, failure: Option<&ReviewError>) -> bool {
        let last = SystemTime::now();
        let next = match failure {
            Some(ReviewError {
                cause: Cause::NoSlot { .. },
                ..
            }) => return false,
            None => Self::Answers { last },
            Some(error) => Self::Failing {
                since: match self {
                    Self::Failing { since, .. } => *since,
                    Self::NotAsked | Self::Answers { .. } => last,
                },
                last,
                why: error.to_string(),
                is_outage: error.is_outage(),
            },
        };
        let before = std::mem::replace(self, next);
        failure.is_none() && matches!(before, Self::Failing { .. })
    }
}

impl Recoveries {
    /// Those that are announced on this channel from now on.
    pub(super) fn of(reachability: &watch::Sender<Reachability>) -> Self {
        Self(reachability.subscribe())
    }

    /// Waits for the next one. Those that came since the last call count as one.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The client is gone, and so is the API server.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::apiserver::failure::Api;

    fn failed(cause: Cause) -> ReviewError {
        let api = Api::TokenReview;
        ReviewError { api, cause }
    }

    /// A client that keeps all slots taken must not make the API server look unreachable.
    ///
    /// Seen red: with a review that had no slot noted as a failure.
    #[test]
    fn a_review_that_had_no_slot_shows_nothing_about_the_api_server() {
        let after = Duration::from_secs(1);
        let mut reachability = Reachability::default();
        assert!(!reachability.note(Some(&failed(Cause::NoSlot { after }))));
        assert_eq!(reachability, Reachability::NotAsked);
    }

    /// Seen red: with the first answer taken for a return.
    #[test]
    fn the_api_server_is_back_once_it_answers_after_a_failure() {
        let away = failed(Cause::Request("away".to_owned()));
        let mut reachability = Reachability::default();
        assert!(!reachability.note(None), "it was never away");
        assert!(!reachability.note(Some(&away)) && !reachability.note(Some(&away)));
        assert!(reachability.note(None));
        assert!(!reachability.note(None));
    }
}
