//! The seal in the language of iptables.

use std::path::Path;
use std::time::Duration;

use super::{Backend, Boot, Exemption, FirewallError, Plan};

/// Chains of its own in `iptables` and `ip6tables`.
#[derive(Debug)]
pub struct Iptables {
    /// `iptables-legacy` rather than `iptables-nft`.
    pub legacy: bool,
}

impl Iptables {
    fn refused(&self) -> FirewallError {
        FirewallError::Unusable {
            backend: if self.legacy {
                Backend::IptablesLegacy
            } else {
                Backend::IptablesNft
            },
            why: "not built yet".into(),
        }
    }

    pub(super) fn usable(&self) -> Result<(), FirewallError> {
        Err(self.refused())
    }

    pub(super) fn print(&self, _: &Plan) -> String {
        String::new()
    }

    pub(super) fn load(
        &self,
        _: Option<&Plan>,
        _: Option<(&Plan, Duration)>,
        _: Option<&Exemption>,
    ) -> Result<(), FirewallError> {
        Err(self.refused())
    }

    pub(super) fn confirm(&self, _: &Plan, _: Option<&Exemption>) -> Result<(), FirewallError> {
        Err(self.refused())
    }

    pub(super) fn admit(&self, _: &Exemption) -> Result<(), FirewallError> {
        Err(self.refused())
    }

    pub(super) fn admitted(&self, _: &Exemption) -> Result<bool, FirewallError> {
        Err(self.refused())
    }

    pub(super) fn remove(&self) -> Result<(), FirewallError> {
        Err(self.refused())
    }

    pub(super) fn fingerprint(&self) -> Result<Option<String>, FirewallError> {
        Err(self.refused())
    }

    pub(super) fn trial_remaining(&self) -> Result<Option<Duration>, FirewallError> {
        Err(self.refused())
    }

    pub(super) fn left_of_trial(&self) -> Result<bool, FirewallError> {
        Err(self.refused())
    }

    pub(super) fn boot(&self, _: &Plan, _: &Path) -> Boot {
        Boot {
            files: Vec::new(),
            commands: Vec::new(),
        }
    }
}
