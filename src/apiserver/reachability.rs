//! Whether the API server answers reviews, as far as the last one shows.

use std::time::SystemTime;

use super::failure::{Cause, ReviewError};

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
        /// That failure shows that the API server is unreachable.
        is_outage: bool,
    },
}

impl Reachability {
    /// Notes how a review has ended. One that was not asked for want of a slot shows nothing.
    pub(super) fn note(&mut self, failure: Option<&ReviewError>) {
        *self = match failure {
            Some(ReviewError {
                cause: Cause::NoSlot { .. },
                ..
            }) => return,
            None => Self::Answers,
            Some(error) => Self::Failing {
                since: match self {
                    Self::Failing { since, .. } => *since,
                    Self::NotAsked | Self::Answers => SystemTime::now(),
                },
                why: error.to_string(),
                is_outage: error.is_outage(),
            },
        };
    }
}
