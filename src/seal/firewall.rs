//! The kernel's packet filters, as the seal uses them.

use std::path::Path;
use std::time::Duration;

use super::boot::Boot;
use super::error::FirewallError;
use super::exemption::Exemption;
use super::iptables::Iptables;
use super::nft::Nft;
use super::plan::Plan;
use super::rules::Rules;
use super::tool;
use crate::settings::Backend;

/// One of the kernel's packet filters. Every call blocks while a program runs.
#[derive(Clone, Copy, Debug)]
pub enum Firewall {
    /// `nft`.
    Nft(Nft),
    /// `iptables` and `ip6tables`, of either kind.
    Iptables(Iptables),
}

/// The same call to either.
macro_rules! either {
    ($firewall:expr, $it:ident => $call:expr) => {
        match $firewall {
            Firewall::Nft($it) => $call,
            Firewall::Iptables($it) => $call,
        }
    };
}

impl Firewall {
    /// The packet filter of a plan.
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
    pub fn usable(self) -> Result<(), FirewallError> {
        either!(self, it => it.usable())
    }

    /// What its program prints as its version.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn version(self) -> Result<String, FirewallError> {
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
    pub fn print(self, plan: &Plan) -> String {
        either!(self, it => it.print(plan))
    }

    /// Replaces everything of ours: the confirmed plan, and before it, as long as it lasts, the trial.
    ///
    /// # Errors
    /// What was confirmed before may be in force still, or in part; at no moment is the node more open than
    /// before.
    pub fn load(
        self,
        confirmed: Option<&Plan>,
        trial: Option<(&Plan, Duration)>,
        exemption: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        either!(self, it => it.load(confirmed, trial, exemption))
    }

    /// Makes the running trial the confirmed plan.
    ///
    /// # Errors
    /// [`FirewallError::TooLate`] when it has ended, [`FirewallError::AnotherTrial`] when another plan is
    /// being tried.
    pub fn confirm(self, trial: &Plan, exemption: Option<&Exemption>) -> Result<(), FirewallError> {
        let rules = self.rules()?;
        if rules.trial_remaining().is_none() {
            return Err(FirewallError::TooLate);
        }
        if !rules.tries(trial) {
            return Err(FirewallError::AnotherTrial);
        }
        either!(self, it => it.confirm(trial, exemption))
    }

    /// Lets sockets with this exemption through and no others; the rest stays as it is.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn admit(self, exemption: &Exemption) -> Result<(), FirewallError> {
        either!(self, it => it.admit(exemption))
    }

    /// Takes everything of ours away and leaves the rest as it was. That nothing is there is fine.
    ///
    /// # Errors
    /// Something of ours may still be there.
    pub fn remove(self) -> Result<(), FirewallError> {
        either!(self, it => it.remove(None))
    }

    /// The same, but for a chain with this comment that has the kernel go on translating the connections that
    /// the seal had brought to the gate. Without a seal nothing is kept, and what is kept already stays.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub(super) fn remove_but_drain(self, comment: &str) -> Result<(), FirewallError> {
        either!(self, it => it.remove(Some(comment)))
    }

    /// What is kept of a seal that was removed, as the program lists it.
    pub(super) fn draining(self) -> Result<Option<String>, FirewallError> {
        either!(self, it => it.draining())
    }

    /// Takes it away. That it is not there is fine.
    pub(super) fn end_draining(self) -> Result<(), FirewallError> {
        either!(self, it => it.end_draining())
    }

    /// What the kernel has of ours.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn rules(self) -> Result<Rules, FirewallError> {
        Ok(match self {
            Self::Nft(nft) => Rules::Nft(nft.listing()?),
            Self::Iptables(iptables) => Rules::Iptables(iptables.tables()?),
        })
    }

    /// What loads this plan at boot from `directory`, with no process exempted.
    #[must_use]
    pub fn boot(self, plan: &Plan, directory: &Path) -> Boot {
        either!(self, it => it.boot(plan, directory))
    }
}

/// Which of the two iptables holds this node's other rules: the one with more of them.
#[must_use]
pub fn iptables_in_use() -> Backend {
    let rules = |tool| {
        let saved = tool::run::<&str>(tool, &[], "", "listing every rule");
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
