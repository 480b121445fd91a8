//! What a running gate does about the rules: it puts the confirmed ones back, and tidies up after a trial.

use std::path::Path;

use super::draining::Draining;
use super::error::FirewallError;
use super::exemption::Exemption;
use super::file::FileError;
use super::standing::{Case, Standing};
use super::state::{Confirmed, State};

/// The confirmed rules were loaded again.
#[derive(Debug)]
pub enum Restored {
    /// They are in force, and listed as the next judgement expects.
    InForce,
    /// Another version of the program lists them in a way that could not be noted: the next judgement cannot
    /// compare them.
    Unnoted(FileError),
    /// Another program has changed them already.
    ChangedAgain,
}

/// Loads the confirmed plan again, if there is one, and notes how another version of the program
/// lists it. Needs the lock.
///
/// # Errors
/// It cannot be loaded, or not be listed.
pub fn put_back(
    standing: &Standing,
    state: &State,
    run_directory: &Path,
    exemption: Option<&Exemption>,
) -> Result<Restored, FirewallError> {
    let Some(confirmed) = &standing.confirmed else {
        return Ok(Restored::ChangedAgain);
    };
    let firewall = standing.firewall;
    firewall.load(Some(&confirmed.plan), None, exemption)?;
    let fingerprint = match firewall.rules()?.fingerprint() {
        None => return Ok(Restored::ChangedAgain),
        Some(listed) if listed == confirmed.fingerprint => return Ok(Restored::InForce),
        Some(listed) => listed,
    };
    let tool = firewall.version()?;
    // The same version lists the same rules in the same way: these are others.
    if tool == confirmed.tool {
        return Ok(Restored::ChangedAgain);
    }
    let listed = Confirmed {
        plan: confirmed.plan.clone(),
        fingerprint,
        tool,
    };
    Ok(match state.keep_listed(run_directory, &listed) {
        Ok(()) => Restored::InForce,
        Err(error) => Restored::Unnoted(error),
    })
}

/// Takes away what is left of a trial that ended, which matches nothing any more, but for what keeps its
/// connections translated; `true`: something was.
/// Needs the lock.
///
/// # Errors
/// It is still there.
pub fn tidy(standing: &Standing, exemption: Option<&Exemption>) -> Result<bool, FirewallError> {
    let rules = &standing.rules;
    match (&standing.case, &standing.confirmed) {
        (Case::InForce, Some(confirmed)) if rules.left_of_trial() => {
            standing.firewall.load(Some(&confirmed.plan), None, exemption)?;
        }
        (Case::Ended, _) if !rules.is_none() => {
            let comment = Draining::of(&standing.trial).comment();
            standing.firewall.remove_but_drain(&comment)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
