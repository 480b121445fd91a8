//! Station 5: whether they may. One SubjectAccessReview per check, in order, remembered; the outcome is a [`Permit`],
//! without which nothing can be forwarded.

mod permit;
mod policy;
mod review;

pub use self::permit::Permit;
pub use self::policy::Policy;
pub use self::review::AccessReviewer;

use std::sync::Arc;

use crate::attributes::Checks;
use crate::authn::Identity;
use crate::error::{RequestError, Station};

use self::review::AccessVerdict;

/// Decides about every request.
pub struct Authorizer {
    policy: Policy,
    /// `None` with `authorization.mode: AlwaysAllow`.
    reviewer: Option<AccessReviewer>,
}

impl Authorizer {
    /// An authorizer that asks `reviewer`, or allows whatever `policy` does not refuse.
    pub fn new(policy: Policy, reviewer: Option<AccessReviewer>) -> Self {
        Self { policy, reviewer }
    }

    /// Whether `identity` may do what `checks` says.
    ///
    /// The first Allow wins; a Deny is final; a review that fails stops the rest.
    ///
    /// # Errors
    /// 403 with the kubelet's sentence, or 503 if a review was not answered.
    pub async fn authorize(&self, identity: Identity, checks: &Checks) -> Result<Permit, RequestError> {
        if let Err(refusal) = self.policy.judge(&identity, checks) {
            return Err(forbidden(&identity, checks, refusal.reason, refusal.detail));
        }
        let Some(reviewer) = &self.reviewer else {
            return Ok(Permit::new(
                identity,
                checks,
                checks.subresources()[0],
                Arc::from("AlwaysAllow"),
            ));
        };
        for &subresource in checks.subresources() {
            match reviewer
                .review(&identity, checks.verb(), subresource, checks.interactive())
                .await
            {
                AccessVerdict::Allow(reason) => {
                    return Ok(Permit::new(identity, checks, subresource, reason));
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

/// The kubelet's 403, byte for byte, but for control characters in the name, which the kubelet echoes raw.
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
