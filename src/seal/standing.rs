//! The one judgement: whether the kernel's rules are the confirmed ones, and what they are otherwise.
//!
//! The watch, `firewall status`, `apply`, `confirm`, `admit` and, by the watch, readiness all ask
//! [`Standing::judge`].

use std::path::Path;
use std::time::Duration;

use super::error::FirewallError;
use super::file::FileError;
use super::firewall::Firewall;
use super::plan::Plan;
use super::rules::Rules;
use super::state::{Confirmed, State};

/// The kernel's rules beside what was confirmed and tried on this node.
#[derive(Debug)]
pub struct Standing {
    /// What was confirmed last.
    pub confirmed: Option<Confirmed>,
    /// What was tried last and not confirmed.
    pub trial: Option<Plan>,
    /// The packet filter of both.
    pub firewall: Firewall,
    /// What it lists.
    pub rules: Rules,
    /// The judgement.
    pub case: Case,
}

/// What the kernel's rules are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Case {
    /// Those of the plan that is tried; when it ends, the kernel goes back to the confirmed one, or to none.
    Trial {
        /// Until it ends.
        remaining: Duration,
    },
    /// Those of a trial whose plan is not in the state: an `apply` ended before it loaded its rules, or other
    /// hands wrote.
    UnknownTrial {
        /// Until it ends.
        remaining: Duration,
    },
    /// A trial ended, and nothing was ever confirmed: none match.
    Ended,
    /// Those of the plan that was tried, confirmed in the kernel and not in the state: a `confirm` did not
    /// finish.
    Unfinished,
    /// A part of the plan that was tried, confirmed; the rest was taken away before `confirm` could finish.
    Fragment,
    /// The confirmed ones.
    InForce,
    /// Others than the confirmed ones.
    Changed,
    /// None, though a plan was confirmed.
    Gone,
    /// Listed in another way than the confirmed ones, by another version of the program.
    Incomparable {
        /// The version by which the plan was confirmed.
        confirmed_with: String,
        /// The version now.
        now: String,
    },
}

/// The kernel or the state cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The state.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

// === impl Standing ===

impl Standing {
    /// Judges the kernel's rules; `None`: nothing was ever tried or confirmed on this node, or it was
    /// removed.
    ///
    /// Without the lock, a change that is being made may be seen halfway.
    ///
    /// # Errors
    /// The kernel or the state cannot be read.
    pub fn judge(state: &State, run_directory: &Path) -> Result<Option<Self>, StandingError> {
        let (confirmed, trial) = (state.confirmed()?, state.trial()?);
        let plan = confirmed.as_ref().map(|confirmed| &confirmed.plan);
        let Some(plan) = plan.or(trial.as_ref()) else {
            return Ok(None);
        };
        let firewall = Firewall::of(plan.backend);
        let rules = firewall.rules()?;
        let case = match (
            in_trial(&rules, confirmed.as_ref(), trial.as_ref()),
            confirmed.as_ref(),
        ) {
            (Some(case), _) => case,
            (None, None) if rules.confirms_any() => Case::Fragment,
            (None, None) => Case::Ended,
            (None, Some(confirmed)) => {
                // A note that cannot be read is no note: the rules then count as changed.
                let noted = state.listed(run_directory).unwrap_or(None);
                beside(confirmed, noted.as_ref(), &rules, firewall)?
            }
        };
        Ok(Some(Self {
            confirmed,
            trial,
            firewall,
            rules,
            case,
        }))
    }

    /// The plan in force, or the one that should be.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        let confirmed = self.confirmed.as_ref().map(|confirmed| &confirmed.plan);
        match self.case {
            Case::Trial { .. } | Case::Unfinished => self.trial.as_ref(),
            _ => confirmed.or(self.trial.as_ref()),
        }
    }
}

/// The case, if it is one of a trial that runs or of a confirmation that did not finish.
fn in_trial(rules: &Rules, confirmed: Option<&Confirmed>, trial: Option<&Plan>) -> Option<Case> {
    if let Some(remaining) = rules.trial_remaining() {
        return Some(if trial.is_some_and(|trial| rules.tries(trial)) {
            Case::Trial { remaining }
        } else {
            Case::UnknownTrial { remaining }
        });
    }
    let trial = trial.filter(|trial| confirmed.is_none_or(|confirmed| confirmed.plan != **trial));
    trial
        .is_some_and(|trial| rules.confirms(trial))
        .then_some(Case::Unfinished)
}

/// The case of a confirmed plan that no trial covers.
fn beside(
    confirmed: &Confirmed,
    noted: Option<&Confirmed>,
    rules: &Rules,
    firewall: Firewall,
) -> Result<Case, FirewallError> {
    let Some(listed) = rules.fingerprint() else {
        return Ok(Case::Gone);
    };
    // The gate that loaded the plan again noted how another version of the program lists it.
    let noted = noted.filter(|noted| noted.plan == confirmed.plan && noted.tool != confirmed.tool);
    if listed == confirmed.fingerprint || noted.is_some_and(|noted| noted.fingerprint == listed) {
        return Ok(Case::InForce);
    }
    let now = firewall.version()?;
    Ok(if now == confirmed.tool {
        Case::Changed
    } else {
        Case::Incomparable {
            confirmed_with: confirmed.tool.clone(),
            now,
        }
    })
}

// === impl Case ===

impl Case {
    /// What speaks against a seal; `None`: nothing does.
    #[must_use]
    pub fn finding(&self) -> Option<String> {
        Some(match self {
            Self::InForce => return None,
            Self::Trial { remaining } => format!(
                "on trial: the kernel undoes it in {} s unless it is confirmed",
                remaining.as_secs()
            ),
            Self::UnknownTrial { remaining } => format!(
                "a trial runs that is not the plan in firewall.stateDirectory, and the kernel undoes it in \
                 {} s",
                remaining.as_secs()
            ),
            Self::Ended => "the trial ended without being confirmed".into(),
            Self::Unfinished => "the seal is in force, but its confirmation did not finish".into(),
            Self::Fragment => {
                "only a part of the seal is in force, since its confirmation did not finish".into()
            }
            Self::Changed => "the rules of the seal are not the confirmed ones: another program changed \
                              them"
                .into(),
            Self::Gone => {
                "the rules of the seal are gone: another program removed them, or they were not loaded at \
                 boot"
                    .into()
            }
            Self::Incomparable { confirmed_with, now } => format!(
                "the rules of the seal cannot be compared: they were confirmed with {confirmed_with}, this \
                 is {now}"
            ),
        })
    }

    /// The finding, and what to do about it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let remedy = match self {
            Self::InForce => return None,
            Self::Trial { .. } => "kubelet-gate firewall confirm keeps it",
            Self::UnknownTrial { .. } | Self::Ended => "kubelet-gate firewall apply tries it again",
            Self::Unfinished => "kubelet-gate firewall confirm finishes it",
            Self::Fragment | Self::Changed | Self::Gone | Self::Incomparable { .. } => {
                "kubelet-gate firewall apply, and then confirm, load it again"
            }
        };
        self.finding().map(|finding| format!("{finding}; {remedy}"))
    }
}
