//! Station 5: authorization by a static rule or one cached SubjectAccessReview per check, in order. The
//! result is a [`Permit`], without which nothing can be forwarded.

mod permit;
mod policy;
mod review;
mod static_rules;

pub(crate) use self::permit::Permit;
pub(crate) use self::policy::Policy;
pub(crate) use self::review::AccessReviewer;
pub(crate) use self::static_rules::StaticRules;

use std::net::IpAddr;
use std::sync::Arc;

use crate::attributes::Checks;
use crate::authn::Identity;
use crate::cache::Freshness;
use crate::error::{RequestError, Station};

use self::permit::Ground;
use self::review::AccessVerdict;

/// Authorizes requests.
pub(crate) struct Authorizer {
    policy: Policy,
    static_rules: StaticRules,
    /// `None` with `authorization.mode: AlwaysAllow`.
    reviewer: Option<AccessReviewer>,
}

impl Authorizer {
    /// An authorizer that asks `reviewer` what `static_rules` do not allow; without a reviewer it allows all
    /// that `policy` does not refuse.
    pub(crate) fn new(policy: Policy, static_rules: StaticRules, reviewer: Option<AccessReviewer>) -> Self {
        Self {
            policy,
            static_rules,
            reviewer,
        }
    }

    /// Whether the gate's own rules leave `identity`, at the address `source`, one of
    /// `checks`. They need no review.
    ///
    /// # Errors
    /// 403 in the kubelet's words, or 401 if the certificate that shows the identity is denied.
    pub(crate) fn judge_by_policy(
        &self,
        identity: &Identity,
        checks: &Checks,
        source: IpAddr,
    ) -> Result<(), RequestError> {
        self.policy
            .judge(identity, checks, source)
            .map_err(|refusal| match refusal.is_of_credential {
                true => RequestError::unauthorized(refusal.reason, refusal.detail),
                false => forbidden(identity, checks, refusal.reason, refusal.detail),
            })
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
                Ground::AlwaysAllow,
            ));
        };
        for (index, &subresource) in checks.subresources().iter().enumerate() {
            // An earlier review may say who the user is for what `staleAllow` names,
            // which is the first check.
            if index > 0 && identity.is_stale() {
                let detail = "the token was reviewed earlier, which does not count for the next check";
                return Err(RequestError::review_failed(Station::Authn, "TokenReview", detail));
            }
            if let Some(reason) = self.static_rules.allow(&identity, checks, subresource) {
                let reason = reason.clone();
                return Ok(Permit::new(
                    identity,
                    checks,
                    subresource,
                    reason,
                    Ground::StaticRule,
                ));
            }
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
                    return Ok(Permit::new(identity, checks, subresource, reason, Ground::Review));
                }
                AccessVerdict::AllowStale(reason) => {
                    let ground = Ground::EarlierReview;
                    return Ok(Permit::new(identity, checks, subresource, reason, ground));
                }
                AccessVerdict::Deny(reason) => {
                    return Err(forbidden(&identity, checks, "denied", reason.to_string()));
                }
                AccessVerdict::NoOpinion => {}
                AccessVerdict::Failed { detail, .. } => {
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
