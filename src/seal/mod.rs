//! The seal: whoever goes around the gate finds the kubelet's ports closed.
//!
//! A [`Plan`] says what is closed and where it is brought instead. It is tried for a while, in which the kernel itself
//! falls back to the last confirmed plan, and then confirmed.

mod changes;
pub mod connections;
mod exemption;
pub mod foreign;
mod iptables;
mod listing;
mod nft;
pub mod observe;
mod plan;
mod self_check;
mod state;
mod tool;
mod verdict;

pub(crate) use self::changes::Changes;
pub use self::exemption::{FREE_BITS, RunningGate, RunningGateError};
pub use self::plan::{Exemption, Plan, PlanError, PortKind, SealedPort};
pub use self::self_check::{Attempt, Reached, attempt_all, dial_all, reached};
pub use self::state::{Confirmed, Lock, State, StateError};
pub(crate) use self::tool::run as run_tool;
pub use self::verdict::Seal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use self::iptables::Iptables;
use self::nft::Nft;
use crate::settings::Backend;

/// What keeps the packet filter from doing as it is told.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program is not installed.
    #[error(
        "{tool} is neither in PATH nor in /usr/sbin or /sbin: install it, or choose another with firewall.backend"
    )]
    Missing {
        /// Its name.
        tool: String,
    },
    /// The program failed.
    #[error("{tool}, {doing}: {why}")]
    Failed {
        /// Its name.
        tool: String,
        /// What it was to do.
        doing: &'static str,
        /// How it ended and what it said.
        why: String,
    },
    /// What the program printed cannot be read.
    #[error("{tool}, {doing}: its answer cannot be read: {why}")]
    Answer {
        /// Its name.
        tool: String,
        /// What it was to do.
        doing: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// This packet filter cannot carry a seal on this node.
    #[error("{} cannot carry the seal here: {why}", backend.name())]
    Unusable {
        /// Which one.
        backend: Backend,
        /// What failed when it was tried.
        why: String,
    },
    /// The trial was over before it was confirmed.
    #[error(
        "too late: no trial is running any more, the kernel has gone back to what was confirmed before; apply again"
    )]
    TooLate,
    /// What the kernel tries is not the plan that is to be confirmed.
    #[error(
        "the trial that runs is not the plan in firewall.stateDirectory, so that nobody has tried that one: apply again"
    )]
    AnotherTrial,
}

/// Of which kind the rules of a plan are in the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// They match for a while.
    Trial,
    /// They match until they are removed.
    Confirmed,
}

/// What loads a confirmed plan when the machine starts, without the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Boot {
    /// Files to be there: path and text.
    pub files: Vec<(PathBuf, String)>,
    /// The commands, in order, each as its words, the first an absolute path.
    pub commands: Vec<Vec<String>>,
}

/// One of the kernel's packet filters, and how the seal is told to it. Every call blocks while a program runs.
#[derive(Debug)]
pub enum Firewall {
    /// `nft`.
    Nft(Nft),
    /// `iptables` and `ip6tables`, of either kind.
    Iptables(Iptables),
}

/// The same call to whichever it is.
macro_rules! either {
    ($firewall:expr, $it:ident => $call:expr) => {
        match $firewall {
            Firewall::Nft($it) => $call,
            Firewall::Iptables($it) => $call,
        }
    };
}

impl Firewall {
    /// That of a plan.
    #[must_use]
    pub fn of(backend: Backend) -> Self {
        match backend {
            Backend::Nftables => Self::Nft(Nft),
            Backend::IptablesNft => Self::Iptables(Iptables { legacy: false }),
            Backend::IptablesLegacy => Self::Iptables(Iptables { legacy: true }),
        }
    }

    /// The first that can carry a seal on this node; `wanted` leaves no choice.
    ///
    /// # Errors
    /// None can: why each cannot.
    pub fn find(wanted: Option<Backend>) -> Result<(Backend, Self), Vec<FirewallError>> {
        let all = [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy];
        let candidates = all
            .into_iter()
            .filter(|backend| wanted.is_none_or(|wanted| wanted == *backend));
        let mut failures = Vec::new();
        for backend in candidates {
            let firewall = Self::of(backend);
            match firewall.usable() {
                Ok(()) => return Ok((backend, firewall)),
                Err(error) => failures.push(error),
            }
        }
        Err(failures)
    }

    /// Whether it can carry a seal: tried on this node, nothing is changed.
    ///
    /// # Errors
    /// It cannot: what failed.
    pub fn usable(&self) -> Result<(), FirewallError> {
        either!(self, it => it.usable())
    }

    /// Its program's own words on its version.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn version(&self) -> Result<String, FirewallError> {
        let tool = match self {
            Self::Nft(_) => "nft",
            Self::Iptables(Iptables { legacy: false }) => "iptables-nft",
            Self::Iptables(Iptables { legacy: true }) => "iptables-legacy",
        };
        let text = tool::run(tool, &["--version"], "", "telling its version")?;
        Ok(text.trim().to_owned())
    }

    /// The rules, each with a comment, as they would be loaded.
    #[must_use]
    pub fn print(&self, plan: &Plan) -> String {
        either!(self, it => it.print(plan))
    }

    /// Replaces everything of ours, at once: the confirmed plan, and before it, as long as it lasts, the trial.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn load(
        &self,
        confirmed: Option<&Plan>,
        trial: Option<(&Plan, Duration)>,
        exemption: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        either!(self, it => it.load(confirmed, trial, exemption))
    }

    /// Makes the running trial the confirmed plan.
    ///
    /// # Errors
    /// [`FirewallError::TooLate`] when it has ended, [`FirewallError::AnotherTrial`] when another plan is being tried.
    pub fn confirm(&self, trial: &Plan, exemption: Option<&Exemption>) -> Result<(), FirewallError> {
        if self.trial_remaining()?.is_none() {
            return Err(FirewallError::TooLate);
        }
        if !self.carries(trial, Kind::Trial)? {
            return Err(FirewallError::AnotherTrial);
        }
        either!(self, it => it.confirm(trial, exemption))
    }

    /// Whether the rules of this kind are those of `plan`, all of them loaded. A plan of either kind brings a chain that
    /// is named after it; what somebody did to the rules since is told by the fingerprint alone.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn carries(&self, plan: &Plan, kind: Kind) -> Result<bool, FirewallError> {
        either!(self, it => it.carries(plan, kind))
    }

    /// Whether any confirmed rules are there, whichever plan's.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn confirmed_any(&self) -> Result<bool, FirewallError> {
        either!(self, it => it.confirmed_any())
    }

    /// Lets these sockets through and no others; the rest stays as it is.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn admit(&self, exemption: &Exemption) -> Result<(), FirewallError> {
        either!(self, it => it.admit(exemption))
    }

    /// Whether these sockets, and no others, are let through.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn admitted(&self, exemption: &Exemption) -> Result<bool, FirewallError> {
        either!(self, it => it.admitted(exemption))
    }

    /// Takes everything of ours away and leaves the rest as it was. That nothing is there is fine.
    ///
    /// # Errors
    /// Something of ours may still be there.
    pub fn remove(&self) -> Result<(), FirewallError> {
        either!(self, it => it.remove())
    }

    /// What the kernel has of ours, apart from a trial, the exemption, counters and handles; `None`: nothing of ours.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn fingerprint(&self) -> Result<Option<String>, FirewallError> {
        either!(self, it => it.fingerprint())
    }

    /// How long the trial lasts; `None`: none is running.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn trial_remaining(&self) -> Result<Option<Duration>, FirewallError> {
        either!(self, it => it.trial_remaining())
    }

    /// Whether rules of a trial are still there, even if it has ended and they match nothing any more.
    ///
    /// # Errors
    /// It cannot be seen.
    pub fn left_of_trial(&self) -> Result<bool, FirewallError> {
        either!(self, it => it.left_of_trial())
    }

    /// What loads this plan at boot from `directory`, with nobody exempted.
    #[must_use]
    pub fn boot(&self, plan: &Plan, directory: &Path) -> Boot {
        either!(self, it => it.boot(plan, directory))
    }
}

/// What tells a plan from every other one, short enough for the name of a chain.
fn id(plan: &Plan) -> String {
    // A plan can always be written: it is numbers, names and addresses.
    let text = serde_json::to_vec(plan).unwrap_or_default();
    let hash = digest(&SHA256, &text);
    hash.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Which of the two iptables this node's other rules are in: the one with more of them.
#[must_use]
pub fn iptables_in_use() -> Backend {
    let rules = |tool| {
        let saved = run_tool::<&str>(tool, &[], "", "listing every rule");
        saved.map_or(0, |text| {
            text.lines().filter(|line| line.starts_with("-A ")).count()
        })
    };
    if rules("iptables-legacy-save") > rules("iptables-nft-save") {
        Backend::IptablesLegacy
    } else {
        Backend::IptablesNft
    }
}
