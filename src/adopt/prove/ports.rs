//! The kubelet's ports that are probed.

use serde::{Deserialize, Serialize};

use crate::adopt::kubelet::options::Effective;
use crate::adopt::kubelet::{PORT, READ_ONLY_PORT};

/// The port for health checks, unless it is configured.
const HEALTHZ_PORT: u16 = 10248;

/// The kubelet's ports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Its own, with TLS.
    pub secure: u16,
    /// The read-only one.
    pub read_only: u16,
    /// The one for health checks.
    pub healthz: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            secure: PORT,
            read_only: READ_ONLY_PORT,
            healthz: HEALTHZ_PORT,
        }
    }
}

impl Ports {
    /// The ports of a kubelet with these options. A port that is switched off is probed at its usual number.
    #[must_use]
    pub fn of(options: &Effective) -> Self {
        let usual = Self::default();
        let port = |key: &str, usual: u16| {
            let port = u16::try_from(options.number(key)).ok();
            port.filter(|port| *port != 0).unwrap_or(usual)
        };
        Self {
            secure: port("port", usual.secure),
            read_only: port("readOnlyPort", usual.read_only),
            healthz: port("healthzPort", usual.healthz),
        }
    }
}
