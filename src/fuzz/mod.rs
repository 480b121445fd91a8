//! Fuzz targets: what reads input from outside, each with what must hold whatever the input is.
//!
//! `fuzz/run` runs them with a fuzzer, and `cargo test` replays their seeds. They are compiled for these two
//! alone. A target that needs more of a room than others may see stands in that room, in its `fuzz.rs`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target tells what it found"
)]

mod bearer_token;
mod certificate;
mod chain_work;
mod configuration;
mod deny_list;
mod kubeconfig;
mod pem;
mod recorded;
mod request;
mod revocation_list;

pub use self::chain_work::ALLOCATIONS;
use crate::adopt::kubelet::fuzz::{kubelet_configuration, systemd_unit};
use crate::adopt::weaknesses::fuzz::go_program;
use crate::apiserver::fuzz::review_answer;
use crate::audit::fuzz::audit_line;
use crate::seal::fuzz::{connections, nft_listing};
use crate::seal::iptables_listing;

/// A target's name, which is that of its folder in `fuzz/seeds`, and the target.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 17] = [
    ("audit_line", audit_line),
    ("bearer_token", bearer_token::run),
    ("certificate", certificate::run),
    ("chain_work", chain_work::run),
    ("configuration", configuration::run),
    ("connections", connections),
    ("deny_list", deny_list::run),
    ("go_program", go_program),
    ("iptables_listing", iptables_listing),
    ("kubeconfig", kubeconfig::run),
    ("kubelet_configuration", kubelet_configuration),
    ("nft_listing", nft_listing),
    ("pem", pem::run),
    ("request", request::run),
    ("review_answer", review_answer),
    ("revocation_list", revocation_list::run),
    ("systemd_unit", systemd_unit),
];

#[cfg(test)]
mod tests;
