//! The published weaknesses, from the data that is compiled into this program.

use serde::{Deserialize, Deserializer, Serialize};
use time::Date;
use time::macros::format_description;

use super::components::ComponentKind;
use super::preconditions::Precondition;
use super::version::VersionRange;

const DATA: &str = include_str!("weaknesses.yaml");

/// Why the data is not known.
#[derive(Debug, thiserror::Error)]
#[error("the data of known weaknesses in this program is broken: {0}")]
pub struct CatalogueError(#[from] serde_saphyr::Error);

/// All of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Catalogue {
    /// When its sources were read.
    #[serde(deserialize_with = "date")]
    pub(super) date: Date,
    pub(super) weaknesses: Vec<Weakness>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Weakness {
    pub(super) id: String,
    #[serde(default)]
    pub(super) aliases: Vec<String>,
    pub(super) title: String,
    pub(super) decides: ComponentKind,
    pub(super) affected: Vec<Affected>,
    #[serde(default)]
    pub(super) needs: Vec<Precondition>,
    #[serde(default)]
    pub(super) severity: Option<f64>,
    pub(super) shield: Shield,
    pub(super) how: String,
    pub(super) sources: Vec<String>,
}

/// Versions that have a weakness.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Affected {
    pub(super) range: VersionRange,
    /// What these versions need besides.
    #[serde(default)]
    pub(super) needs: Vec<Precondition>,
}

/// What shields the kubelet, by where the client is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shield {
    /// On another machine.
    pub wire: ShieldedBy,
    /// In a pod with a network of its own.
    pub pod: ShieldedBy,
    /// In a pod, or a process without privileges, in the node's network.
    pub host_network_pod: ShieldedBy,
    /// Root on the node.
    pub root: ShieldedBy,
}

/// What shields it there, while the node is sealed and its gate serves.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ShieldedBy {
    /// The gate does not do what the weakness needs, whatever the client has.
    Gate,
    /// The firewall rules close the way.
    Seal,
    /// The rules lead every client to the gate, which answers in the kubelet's place.
    Both,
    /// Some clients are kept away, or the effect is bounded.
    Part,
    /// Nothing of this program's.
    None,
}

impl ShieldedBy {
    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Seal => "seal",
            Self::Both => "both",
            Self::Part => "part",
            Self::None => "none",
        }
    }
}

impl Catalogue {
    pub(super) fn embedded() -> Result<Self, CatalogueError> {
        Ok(serde_saphyr::from_str(DATA)?)
    }
}

fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    let text = String::deserialize(deserializer)?;
    let format = format_description!("[year]-[month]-[day]");
    Date::parse(&text, format).map_err(|_| serde::de::Error::custom("the date is not YYYY-MM-DD"))
}
