//! Our rules as the kernel has them.

use std::time::Duration;

use super::error::FirewallError;
use super::exemption::Exemption;
use super::iptables::Tables;
use super::listing::Listing;
use super::nft::{named_after, nft_cgroup};
use super::plan::Plan;

/// What the kernel has of ours, listed once, so that every question is answered by the same listing.
#[derive(Debug)]
pub enum Rules {
    /// As `nft` lists it; `None`: there is no table of ours.
    Nft(Option<Listing>),
    /// As the programs of iptables list it.
    Iptables(Tables),
}

impl Rules {
    /// The digest of everything of ours but a trial, the exemption, counters and handles; `None`: there is
    /// nothing of ours.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        match self {
            Self::Nft(listing) => listing.as_ref().map(Listing::fingerprint),
            Self::Iptables(tables) => tables.fingerprint(),
        }
    }

    /// Whether there is nothing of ours.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.fingerprint().is_none() && !self.left_of_trial()
    }

    /// How long the trial still lasts; `None`: none is running.
    #[must_use]
    pub fn trial_remaining(&self) -> Option<Duration> {
        match self {
            Self::Nft(listing) => listing.as_ref()?.trial_remaining(),
            Self::Iptables(tables) => tables.trial_remaining(),
        }
    }

    /// Whether anything of a trial is there, even if it has ended and its rules match nothing any more.
    #[must_use]
    pub fn left_of_trial(&self) -> bool {
        match self {
            Self::Nft(listing) => listing.as_ref().is_some_and(Listing::has_trial),
            Self::Iptables(tables) => tables.left_of_trial(),
        }
    }

    /// Whether the rules of the trial are those of `plan`, all of them loaded. A plan brings a chain that is
    /// named after it; what other programs did to the rules since is told by the fingerprint alone.
    #[must_use]
    pub fn tries(&self, plan: &Plan) -> bool {
        match self {
            Self::Nft(listing) => has_chain(listing.as_ref(), &named_after(plan, "trial")),
            Self::Iptables(tables) => tables.tries(plan),
        }
    }

    /// Whether the rules of `plan`, all of them loaded, are in force until they are removed.
    #[must_use]
    pub fn confirms(&self, plan: &Plan) -> bool {
        match self {
            Self::Nft(listing) => has_chain(listing.as_ref(), &named_after(plan, "confirmed")),
            Self::Iptables(tables) => tables.confirms(plan),
        }
    }

    /// Whether there is any confirmed rule, of whichever plan.
    #[must_use]
    pub fn confirms_any(&self) -> bool {
        let confirmed = |listing: &Listing| listing.has_chain(|chain| chain.ends_with("_confirmed"));
        match self {
            Self::Nft(listing) => listing.as_ref().is_some_and(confirmed),
            Self::Iptables(tables) => tables.confirms_any(),
        }
    }

    /// Whether sockets with this exemption, and no others, are let through.
    ///
    /// # Errors
    /// The gate's cgroup cannot be found.
    pub fn admits(&self, exemption: &Exemption) -> Result<bool, FirewallError> {
        match self {
            Self::Nft(None) => Ok(false),
            Self::Nft(Some(listing)) => {
                let (cgroup, mark) = (nft_cgroup(exemption)?, exemption.mark);
                Ok(listing.admits(exemption.uid, mark.value, mark.mask, cgroup.as_deref()))
            }
            Self::Iptables(tables) => Ok(tables.admits(exemption)),
        }
    }
}

fn has_chain(listing: Option<&Listing>, name: &str) -> bool {
    listing.is_some_and(|listing| listing.has_chain(|chain| chain == name))
}
