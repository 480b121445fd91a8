//! A gate that is upgraded must never be away: a refused or reset request is an `kubectl logs` that fails, and
//! a missing point in every graph. Each module here replaces the gate under load in one way, and no request
//! may fail.
//!
//! The short form, which every `cargo test` runs, has a few upgrades. The full form (`just upgrade`, or
//! `KUBELET_GATE_UPGRADES=full` with a release build) has twenty in a row and at least 50,000 requests in each
//! module, and writes a row for each to `target/upgrades.md`.

mod by_hand_over;
mod by_restart;
mod figures;
mod gap;
mod killed;
mod sealed;

use std::sync::LazyLock;
use std::time::Duration;

use crate::load::Plan;

/// Whether the upgrades are played in full.
static FULL: LazyLock<bool> = LazyLock::new(|| match std::env::var("KUBELET_GATE_UPGRADES") {
    Err(_) => false,
    Ok(text) if text == "full" => true,
    Ok(text) => panic!("KUBELET_GATE_UPGRADES is {text:?}: expected `full`, or no such variable"),
});

/// The first value in the short form, the second in the full form.
fn scaled<T>(short: T, full: T) -> T {
    if *FULL { full } else { short }
}

/// How many upgrades there are in a row.
fn upgrades() -> u64 {
    scaled(3, 20)
}

/// How many requests are judged for each upgrade.
fn requests() -> u64 {
    scaled(1000, 3000)
}

fn plan() -> Plan {
    Plan {
        kept: scaled(2, 6),
        new: scaled(1, 3),
        idle: 8,
        idle_for: Duration::from_secs(1),
        rough: 1,
        streams: scaled(1, 3),
        pause: Duration::from_millis(2),
        lasting: Duration::from_millis(1500),
    }
}
