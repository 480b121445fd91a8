//! Station 5: authorization by one cached SubjectAccessReview per check, in order. The result is a
//! [`Permit`], without which nothing can be forwarded.

mod permit;
mod policy;
mod review;

pub(crate) use self::permit::Permit;
pub(crate) use self::policy::Policy;
pub(crate) use self::review::AccessReviewer;

use std::net::IpAddr;
use std::sync::Arc;

use crate::attributes::Checks;
use crate::authn::Identity;
use crate::cache::Freshness;
use crate::error::{RequestError, Station};

use self::review::AccessVerdict;

/// Authorizes requests.
pub(crate) struct Authorizer {
    policy: Policy,
    /// `None` with `authorization.mode: AlwaysAllow`.
    reviewer: Option<AccessReviewer>,
}

impl Authorizer {
    /// An authorizer that asks `reviewer`; without one it allows all that `policy` does not refuse.
    pub(crate) fn new(policy: Policy, reviewer: Option<AccessReviewer>) -> Self {
        Self { policy, reviewer }
    }

    /// Whether the gate's own rules leave `identity`, at the address `source`, one of
    /// `checks`. They need no review.
    ///
    /// # Errors
    /// 403 in the kubelet's words.
    pub(crate) fn judge_by_policy(
        &self,
        identity: &Identity,
        checks: &Checks,
        source: IpAddr,
    ) -> Result<(), RequestError> {
        self.policy
            .judge(identity, checks, source)
            .map_err(|refusal| forbidden(identity, checks, refusal.reason, refusal.detail))
    }

    /// Whether `identity`, at the address `source`, is allowed one of `checks`, by
    /// reviews that are fresh enough.
    ///
    /// The first Allow wins, a Deny is final, and a failed review ends the decision.
    ///
    /// # Errors
    /// 403 in the kubelet's words, or 503 if a review failed.
    pub(crate) async fn authorize(
        &self,
        identity: Identity,
        checks: &Checks,
        source: IpAddr,
        freshness: Freshness,
    ) -> Result<Permit, RequestError> {
        self.judge_by_policy(&identity, checks, source)?;
        let Some(reviewer) = &self.reviewer else {
            return Ok(Permit::new(
                identity,
                checks,
                checks.subresources()[0],
                Arc::from("AlwaysAllow"),
                false,
            ));
        };
        for &subresource in checks.subresources() {
            match reviewer
                .review(
                    &identity,
                    checks.verb(),
                    subresource,
                    checks.interactive(),
                    freshness,
                )
                .await
            {
                AccessVerdict::Allow(reason) => {
                    return Ok(Permit::new(identity, checks, subresource, reason, true));
                }
                AccessVerdict::Deny(reason) => {
                    return Err(forbidden(&identity, checks, "denied", reason.to_string()));
                }
                AccessVerdict::NoOpinion => {}
                AccessVerdict::Failed(detail) => {
                    let station = Station::Authz;
                    return Err(RequestError::review_failed(
                        station,
                        "SubjectAccessReview",
                        detail.to_string(),
                    ));
                }
            }
        }
        Err(forbidden(
            &identity,
            checks,
            "not_allowed",
            "no rule allows it".into(),
        ))
    }
}

/// The kubelet's 403, byte for byte, except for control characters in the name: the kubelet writes them raw.
fn forbidden(identity: &Identity, checks: &Checks, reason: &'static str, inside: String) -> RequestError {
    let name = identity
        .user()
        .username
        .chars()
        .fold(String::new(), |mut name, char| {
            if char.is_control() {
                name.extend(char.escape_default())
            } else {
                name.push(char)
            }
            name
        });
    let subresources: Vec<&str> = checks
        .subresources()
        .iter()
        .map(|subresource| subresource.as_str())
        .collect();
    let sentence = format!(
        "Forbidden (user={name}, verb={}, resource=nodes, subresource(s)=[{}])\n",
        checks.verb(),
        subresources.join(" ")
    );
    RequestError::forbidden(reason, sentence, inside)
}
