//! Whether the API server answers reviews, as far as the last one shows.

use std::time::SystemTime;

use super::failure::ReviewError;

/// What is known about the API server.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Reachability {
    /// Nothing: no review has ended.
    #[default]
    NotAsked,
    /// It answered the last review.
    Answers,
    /// It has answered no review for some time.
    Failing {
        /// When the first of the failed reviews ended.
        since: SystemTime,
        /// Why the last of them failed.
        why: String,
    },
}

impl Reachability {
    /// Notes how a review has ended.
    pub(super) fn note(&mut self, failure: Option<&ReviewError>) {
        *self = match failure {
            None => Self::Answers,
            Some(error) => Self::Failing {
                since: match self {
                    Self::Failing { since, .. } => *since,
                    Self::NotAsked | Self::Answers => SystemTime::now(),
                },
                why: error.to_string(),
            },
        };
    }
}
