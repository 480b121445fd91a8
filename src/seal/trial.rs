//! The protocol of the seal: `apply`, `confirm` and `remove`, each a list of steps.
//!
//! A verb takes the lock, judges what there is, and decides its steps; then [`Change::finish`] does one after
//! the other. A crash may follow any step. The order is such that the node is then sealed as before or as
//! decided, and that [`Standing::judge`] tells which:
//!
//! - A plan is in the state before its trial is in the kernel, so that a trial in the kernel has a known
//!   plan.
//! - The kernel's step confirms a trial. From then on the rules stay; the plan in the state and the kernel's
//!   chain of its name say that a confirmation is to be finished.
//! - What loads the plan at boot is written before the state says that it is confirmed, to files with the
//!   plan's name: the unit changes from one plan to the other at once.
//! - `remove` takes the rules first, then the unit, and the confirmed plan last: as long as anything could
//!   load rules, the state says which.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boot::Boot;
use super::draining::{self, Draining};
use super::error::FirewallError;
use super::exemption::Exemption;
use super::file::{self, FileError};
use super::firewall::Firewall;
use super::iptables::Builtins;
use super::plan::Plan;
use super::running_gate::RunningGate;
use super::standing::{Case, Standing, StandingError};
use super::state::{Confirmed, Lock, State};
use super::unit::Unit;
use crate::settings::Backend;

/// Why a change was refused, or a step failed.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The packet filter failed, or the trial has ended.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// systemd failed.
    #[error("the unit that loads the seal at boot: {0}")]
    Unit(#[source] FirewallError),
    /// The confirmed plan is another packet filter's.
    #[error(
        "the confirmed seal is carried by {}: two packet filters cannot fall back to each other; go on with \
         it (--backend), or remove the seal first", .0.name()
    )]
    OtherBackend(Backend),
    /// An earlier confirmation must be finished first.
    #[error(
        "the confirmation of the seal that is in force did not finish: first finish it by kubelet-gate \
         firewall confirm, or remove it by kubelet-gate firewall remove"
    )]
    Unfinished,
    /// There is nothing to confirm.
    #[error("nothing is being tried: begin with kubelet-gate firewall apply")]
    NothingTried,
    /// Another process began a trial in between.
    #[error(
        "another apply has taken the place of this trial: it is not confirmed; kubelet-gate firewall status \
             shows what is being tried"
    )]
    AnotherApply,
    /// What is confirmed is not in force.
    #[error("{0}")]
    NotInForce(String),
    /// The rules went away between loading and listing.
    #[error(
        "the rules were loaded and are gone again: another program manages this node's rules; have it leave \
             the seal's alone, and begin again with kubelet-gate firewall apply"
    )]
    GoneAgain,
    /// Rules are left, and with them what belongs to them.
    #[error(
        "not removed, so that the state and what loads the seal at boot are kept: repair this, and remove \
         again with \
         kubelet-gate firewall remove"
    )]
    NotRemoved,
}

/// One step of a change.
#[derive(Clone, Debug)]
pub enum Step {
    /// Notes the tables that are there before the seal makes its own.
    KeepBuiltins(Builtins),
    /// Writes the plan that is tried to the state, or deletes it.
    KeepTrial(Option<Plan>),
    /// Loads a trial, with the confirmed plan to fall back to.
    LoadTrial {
        /// What is tried.
        trial: Plan,
        /// What is confirmed.
        confirmed: Option<Plan>,
        /// How long it lasts.
        window: Duration,
    },
    /// Makes the running trial the confirmed plan, in the kernel.
    ConfirmTrial(Plan),
    /// Loads a plan that the kernel has confirmed already.
    LoadConfirmed(Plan),
    /// Takes the fingerprint of what was loaded.
    List(Backend),
    /// Writes one of the files for the boot.
    WriteBootFile(PathBuf, String),
    /// Writes the unit that loads them.
    InstallUnit(Boot),
    /// Has systemd run the unit at boot.
    EnableUnit,
    /// Writes the plan to the state as confirmed, with its fingerprint.
    KeepConfirmed(Plan),
    /// Deletes the files of earlier plans.
    DeleteOtherBootFiles(Boot),
    /// Takes the rules out of one packet filter. Only with `needed` do the steps that follow depend on it.
    RemoveRules {
        /// Which one.
        backend: Backend,
        /// The state says that it has rules, or cannot be read.
        needed: bool,
        /// The state says that it has rules.
        used: bool,
        /// What says for which connections the kernel goes on translating.
        comment: String,
    },
    /// Has systemd no longer run the unit.
    DisableUnit,
    /// Deletes the unit.
    DeleteUnit,
    /// Deletes what it would load.
    DeleteBootFiles,
    /// Deletes the confirmed plan from the state.
    ForgetConfirmed,
}

/// A change of the seal that has been decided. Until it is dropped no other process changes the seal; dropped
/// before its last step, it leaves what a crash leaves.
#[derive(Debug)]
pub struct Change {
    state: State,
    unit: Unit,
    exemption: Option<Exemption>,
    steps: VecDeque<Step>,
    /// What is done if a step fails.
    undo: Option<Step>,
    /// The fingerprint of what was loaded, and the version of the program that listed it.
    listed: Option<(String, String)>,
    /// Rules could not be removed: what belongs to them stays.
    left: bool,
    setbacks: Vec<TrialError>,
    _lock: Lock,
}

/// An `apply` that has been decided.
#[derive(Debug)]
pub struct Apply {
    /// Its steps.
    pub change: Change,
    /// After the trial the kernel goes back to a confirmed plan, not to none.
    pub falls_back: bool,
}

/// A `confirm` that has been decided.
#[derive(Debug)]
pub struct Confirm {
    /// Its steps.
    pub change: Change,
    /// What is confirmed.
    pub plan: Plan,
    /// It was confirmed before, and is in force.
    pub already: bool,
}

/// Decides to try `plan` for `window`.
///
/// # Errors
/// The confirmed plan is another packet filter's, an earlier confirmation did not finish, or something cannot
/// be read.
pub fn apply(
    state: State,
    run_directory: &Path,
    plan: &Plan,
    window: Duration,
    exemption: Option<Exemption>,
) -> Result<Apply, TrialError> {
    let lock = state.lock()?;
    let confirmed = state.confirmed()?.map(|confirmed| confirmed.plan);
    if let Some(confirmed) = &confirmed
        && confirmed.backend != plan.backend
    {
        return Err(TrialError::OtherBackend(confirmed.backend));
    }
    // A trial that cannot be read is as good as none: this one takes its place.
    let before = state.trial().unwrap_or(None);
    if before.is_some()
        && let Some(standing) = Standing::judge(&state, run_directory)?
        && standing.case == Case::Unfinished
    {
        return Err(TrialError::Unfinished);
    }
    let falls_back = confirmed.is_some();
    let load = Step::LoadTrial {
        trial: plan.clone(),
        confirmed,
        window,
    };
    let mut change = Change::new(state, Unit::new(Path::new(Unit::DIRECTORY)), lock);
    change.exemption = exemption;
    let firewall = Firewall::of(plan.backend);
    if firewall.rules()?.is_none() && firewall.draining()?.is_none() {
        let before = draining::tables_before(plan.backend);
        change.steps.extend(before.map(Step::KeepBuiltins));
    }
    change.steps.extend([Step::KeepTrial(Some(plan.clone())), load]);
    // What may still be running is the trial before, and confirm is about what was tried.
    change.undo = Some(Step::KeepTrial(before));
    Ok(Apply { change, falls_back })
}

/// Decides to confirm the trial that runs, or to finish an earlier confirmation. With `expected`, only if
/// that plan is the one that is tried.
///
/// # Errors
/// There is nothing to confirm, it is too late, or something cannot be read.
pub fn confirm(
    state: State,
    run_directory: &Path,
    unit: Unit,
    expected: Option<&Plan>,
) -> Result<Confirm, TrialError> {
    let lock = state.lock()?;
    let Some(standing) = Standing::judge(&state, run_directory)? else {
        return Err(TrialError::NothingTried);
    };
    let confirmed = standing.confirmed.as_ref().map(|confirmed| &confirmed.plan);
    if expected.is_some_and(|expected| standing.trial.as_ref().or(confirmed) != Some(expected)) {
        return Err(TrialError::AnotherApply);
    }
    let ended = standing
        .trial
        .as_ref()
        .is_some_and(|trial| confirmed != Some(trial));
    let kernel = match (&standing.case, &standing.trial) {
        (Case::Trial { .. }, Some(trial)) => Some(Step::ConfirmTrial(trial.clone())),
        (Case::Unfinished, Some(trial)) => Some(Step::LoadConfirmed(trial.clone())),
        (Case::InForce, _) if !ended => None,
        (Case::InForce | Case::Ended, _) => return Err(FirewallError::TooLate.into()),
        (Case::UnknownTrial { .. }, _) => return Err(FirewallError::AnotherTrial.into()),
        (case, _) => return Err(TrialError::NotInForce(case.problem().unwrap_or_default())),
    };
    let Some(plan) = standing.plan().cloned() else {
        return Err(TrialError::NothingTried);
    };
    let boot = standing.firewall.boot(&plan, state.directory());
    let gate = RunningGate::read(run_directory)?;
    let mut change = Change::new(state, unit, lock);
    change.exemption = gate.and_then(|gate| gate.exemption);
    let already = kernel.is_none();
    let steps = &mut change.steps;
    if let Some(kernel) = kernel {
        // The plan was written before it was loaded. A disk that is full is better met before the kernel's
        // step.
        steps.extend([
            Step::KeepTrial(Some(plan.clone())),
            kernel,
            Step::List(plan.backend),
        ]);
    }
    let files = boot.files.iter().cloned();
    steps.extend(files.map(|(path, text)| Step::WriteBootFile(path, text)));
    steps.push_back(Step::InstallUnit(boot.clone()));
    if change.unit.is_read_by_systemd() {
        steps.push_back(Step::EnableUnit);
    }
    if !already {
        steps.push_back(Step::KeepConfirmed(plan.clone()));
    }
    steps.extend([Step::KeepTrial(None), Step::DeleteOtherBootFiles(boot)]);
    Ok(Confirm {
        change,
        plan,
        already,
    })
}

/// Decides to take the seal away, whatever there is of it.
///
/// # Errors
/// The lock cannot be taken.
pub fn remove(state: State, unit: Unit) -> Result<Change, TrialError> {
    let lock = state.lock()?;
    let (confirmed, trial) = (state.confirmed(), state.trial());
    // Of a state that cannot be read any packet filter may be the one.
    let unreadable = confirmed.is_err() || trial.is_err();
    let confirmed = confirmed.unwrap_or(None).map(|confirmed| confirmed.plan);
    let plans: Vec<Plan> = [confirmed, trial.unwrap_or(None)].into_iter().flatten().collect();
    let used = |backend: Backend| plans.iter().any(|plan| plan.backend == backend);
    let comment = Draining::of(&plans).comment();
    let mut backends = [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy];
    // The one with the rules comes first: both kinds of iptables have the trial's set, and it goes once no
    // rule names it.
    backends.sort_by_key(|backend| !used(*backend));
    let rules = backends.map(|backend| Step::RemoveRules {
        backend,
        needed: used(backend) || unreadable,
        used: used(backend),
        comment: comment.clone(),
    });
    let mut change = Change::new(state, unit, lock);
    change.steps.extend(rules);
    if change.unit.is_read_by_systemd() {
        change.steps.push_back(Step::DisableUnit);
    }
    change.steps.extend([
        Step::DeleteUnit,
        Step::DeleteBootFiles,
        Step::KeepTrial(None),
        Step::ForgetConfirmed,
    ]);
    Ok(change)
}

// === impl Change ===

impl Change {
    fn new(state: State, unit: Unit, lock: Lock) -> Self {
        Self {
            state,
            unit,
            exemption: None,
            steps: VecDeque::new(),
            undo: None,
            listed: None,
            left: false,
            setbacks: Vec::new(),
            _lock: lock,
        }
    }

    /// The steps that are left.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }

    /// What failed without ending the change.
    #[must_use]
    pub fn setbacks(&self) -> &[TrialError] {
        &self.setbacks
    }

    /// Does every step.
    ///
    /// # Errors
    /// A step failed. What it left is judged like what a crash leaves.
    pub fn finish(&mut self) -> Result<(), TrialError> {
        while let Some(done) = self.step() {
            if let Err(error) = done {
                self.steps.clear();
                if let Some(undo) = self.undo.take()
                    && let Err(error) = self.perform(undo)
                {
                    self.setbacks.push(error);
                }
                return Err(error);
            }
        }
        if self.left {
            return Err(TrialError::NotRemoved);
        }
        Ok(())
    }

    /// Does the next step; `None`: all are done.
    pub fn step(&mut self) -> Option<Result<(), TrialError>> {
        let step = self.steps.pop_front()?;
        let performed = self.perform(step.clone());
        let Err(error) = performed else {
            return Some(performed);
        };
        match step {
            // The seal holds without it until the machine starts again, and confirm can be repeated.
            Step::EnableUnit | Step::DisableUnit => {}
            // The old unit, if there is one, still loads the old files.
            Step::InstallUnit(_) => self
                .steps
                .retain(|step| !matches!(step, Step::EnableUnit | Step::DeleteOtherBootFiles(_))),
            // With the state forgotten, no gate would be let through the rules that are left.
            Step::RemoveRules { needed: true, .. } => {
                self.left = true;
                self.steps.retain(|step| matches!(step, Step::RemoveRules { .. }));
            }
            Step::RemoveRules { .. } => {}
            _ => return Some(Err(error)),
        }
        self.setbacks.push(error);
        Some(Ok(()))
    }

    fn perform(&mut self, step: Step) -> Result<(), TrialError> {
        let exemption = self.exemption.as_ref();
        match step {
            Step::KeepBuiltins(before) => self.state.keep_builtins(Some(&before))?,
            Step::KeepTrial(plan) => self.state.keep_trial(plan.as_ref())?,
            Step::LoadTrial {
                trial,
                confirmed,
                window,
            } => {
                Firewall::of(trial.backend).load(confirmed.as_ref(), Some((&trial, window)), exemption)?;
            }
            Step::ConfirmTrial(plan) => Firewall::of(plan.backend).confirm(&plan, exemption)?,
            Step::LoadConfirmed(plan) => Firewall::of(plan.backend).load(Some(&plan), None, exemption)?,
            Step::List(backend) => {
                let firewall = Firewall::of(backend);
                let fingerprint = firewall.rules()?.fingerprint();
                let fingerprint = fingerprint.ok_or(TrialError::GoneAgain)?;
                self.listed = Some((fingerprint, firewall.version()?));
            }
            Step::WriteBootFile(path, text) => file::replace(&path, &text, file::READABLE)?,
            Step::InstallUnit(boot) => self.unit.install(&boot)?,
            Step::EnableUnit => self.unit.enable().map_err(TrialError::Unit)?,
            Step::KeepConfirmed(plan) => {
                let (fingerprint, tool) = self.listed.take().ok_or(TrialError::GoneAgain)?;
                self.state.keep_confirmed(Some(&Confirmed {
                    plan,
                    fingerprint,
                    tool,
                }))?;
            }
            Step::DeleteOtherBootFiles(boot) => self.state.delete_boot_files(Some(&boot))?,
            Step::RemoveRules {
                backend,
                used,
                comment,
                ..
            } => match Firewall::of(backend).remove_but_drain(&comment) {
                // What was never used need not be installed.
                Err(FirewallError::Missing { .. }) if !used => {}
                removed => removed?,
            },
            Step::DisableUnit => self.unit.disable().map_err(TrialError::Unit)?,
            Step::DeleteUnit => self.unit.delete()?,
            Step::DeleteBootFiles => self.state.delete_boot_files(None)?,
            Step::ForgetConfirmed => self.state.keep_confirmed(None)?,
        }
        Ok(())
    }
}

impl From<StandingError> for TrialError {
    fn from(error: StandingError) -> Self {
        match error {
            StandingError::File(error) => error.into(),
            StandingError::Firewall(error) => error.into(),
        }
    }
}
