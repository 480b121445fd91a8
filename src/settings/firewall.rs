//! `firewall`: the seal around the gate.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::document::quoted;
use super::file;
use super::reading::Reading;
use super::writing;
use crate::named::Named;

/// What a file says for "the first that the node can do" and "bits that nothing else uses".
const AUTO: &str = "auto";

const FEWEST_BITS: u32 = 4;

/// `firewall`: the seal around the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Firewall {
    /// `firewall.required`: not ready unless the seal is in force and confirmed.
    pub required: bool,
    /// `firewall.managed`: a confirmed seal is put back when its rules were removed or changed.
    pub managed: bool,
    /// `firewall.backend`; `None` means the first that the node can do, nftables before the others.
    pub backend: Option<Backend>,
    /// `firewall.mark`: the bits of the packet mark that are the gate's; `None` means bits that nothing else
    /// uses.
    pub mark: Option<u32>,
    /// `firewall.apiServerUsers`: users that count as the API server; empty means every client certificate
    /// that may `nodes/proxy`.
    pub api_server_users: Vec<String>,
    /// `firewall.stateDirectory`: the confirmed plan.
    pub state_directory: PathBuf,
    /// `firewall.runDirectory`: the gate's exemption, until the next boot.
    pub run_directory: PathBuf,
}

/// Which of the kernel's packet filters carries the seal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// One table of its own, `inet kubelet_gate`, by `nft`.
    Nftables,
    /// Chains of its own in the tables of `iptables-nft` and `ip6tables-nft`.
    IptablesNft,
    /// Chains of its own in the tables of `iptables-legacy` and `ip6tables-legacy`.
    IptablesLegacy,
}

impl Named for Backend {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("nftables", Self::Nftables),
        ("iptables-nft", Self::IptablesNft),
        ("iptables-legacy", Self::IptablesLegacy),
    ];
}

// === impl Firewall ===

impl Firewall {
    pub(super) fn read(reading: &mut Reading<'_>, file: file::Firewall) -> Self {
        let mark = match file.mark.as_str() {
            AUTO => None,
            text => match u32::from_str_radix(text.trim_start_matches("0x"), 16) {
                Ok(mask) if mask.count_ones() >= FEWEST_BITS => Some(mask),
                _ => {
                    reading.refuse(
                        "firewall.mark",
                        format!(
                            "{} is neither auto nor a mask of at least {FEWEST_BITS} bits of the packet mark \
                             that nothing else on the node uses, such as 0x0000107f",
                            quoted(text)
                        ),
                    );
                    None
                }
            },
        };
        Self {
            required: file.required,
            managed: file.managed,
            backend: reading.choice_or("firewall.backend", &file.backend, AUTO),
            mark,
            api_server_users: reading.names("firewall.apiServerUsers", file.api_server_users),
            state_directory: reading.required_path(
                "firewall.stateDirectory",
                &file.state_directory,
                "the directory of the confirmed plan",
            ),
            run_directory: reading.required_path(
                "firewall.runDirectory",
                &file.run_directory,
                "the directory of what lives until the next boot",
            ),
        }
    }

    pub(super) fn write(&self) -> file::Firewall {
        file::Firewall {
            required: self.required,
            managed: self.managed,
            backend: self.backend.map_or(AUTO, Backend::name).to_owned(),
            mark: self
                .mark
                .map_or_else(|| AUTO.to_owned(), |mask| format!("{mask:#010x}")),
            api_server_users: self.api_server_users.clone(),
            state_directory: writing::path(&self.state_directory),
            run_directory: writing::path(&self.run_directory),
        }
    }
}

// === impl Backend ===

impl Backend {
    /// As in `firewall.backend`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Named::name(self)
    }
}

impl Serialize for Backend {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Backend {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| de::Error::custom(format!("{} is no backend", quoted(&name))))
    }
}
