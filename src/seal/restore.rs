//! What a running gate does about the rules: it puts the confirmed ones back, and tidies up after a trial.

use std::path::Path;

use super::error::FirewallError;
use super::exemption::Exemption;
use super::file::FileError;
use super::standing::{Case, Standing};
use super::state::{Confirmed, State};

/// The confirmed rules were loaded again.
#[derive(Debug)]
pub enum Restored {
    /// They are listed as the next judgement expects.
    Noted,
    /// Another version of the program lists them in a way that could not be noted: the next judgement cannot
    /// compare them.
    Unnoted(FileError),
}

/// Loads the confirmed plan again, if there is one, and notes how the kernel lists it now. Needs the lock.
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
        return Ok(Restored::Noted);
    };
    standing.firewall.load(Some(&confirmed.plan), None, exemption)?;
    let listed = standing.firewall.rules()?.fingerprint();
    let Some(fingerprint) = listed.filter(|listed| *listed != confirmed.fingerprint) else {
        return Ok(Restored::Noted);
    };
    let listed = Confirmed {
        plan: confirmed.plan.clone(),
        fingerprint,
        tool: standing.firewall.version()?,
    };
    Ok(match state.keep_listed(run_directory, &listed) {
        Ok(()) => Restored::Noted,
        Err(error) => Restored::Unnoted(error),
    })
}

/// Takes away what is left of a trial that ended, which matches nothing any more; `true`: something was.
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
        (Case::Ended, _) if rules.fingerprint().is_some() || rules.left_of_trial() => {
            standing.firewall.remove()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
