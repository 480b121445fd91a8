//! `firewall dial`: connections from somewhere else — another user, another network namespace — held until somebody on the
//! node has looked who took them. Not for people.

use std::io::Read as _;
use std::net::SocketAddr;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{runtime, told};
use crate::cli::{FAILED, GOOD};
use crate::firewall::{dial_all, nobody};

/// The arguments of `firewall dial`.
#[derive(Args, Debug)]
pub(super) struct Dial {
    /// What to dial
    addresses: Vec<SocketAddr>,
}

/// A line of what it prints.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) address: SocketAddr,
    /// The end of the connection that is here; `None`: nobody answered, or see `error`.
    pub(super) here: Option<SocketAddr>,
    /// Why it cannot be said whether somebody answers.
    pub(super) error: Option<String>,
}

impl Dial {
    pub(super) fn run(&self) -> Result<u8, u8> {
        let dialled = runtime()?.block_on(dial_all(&self.addresses));
        let lines: Vec<Line> = dialled
            .iter()
            .map(|(address, outcome)| {
                let here = outcome.as_ref().ok().and_then(|stream| stream.local_addr().ok());
                let error = outcome
                    .as_ref()
                    .err()
                    .filter(|error| !nobody(error))
                    .map(ToString::to_string);
                Line {
                    address: *address,
                    here,
                    error,
                }
            })
            .collect();
        println!(
            "{}",
            serde_json::to_string(&lines).map_err(|error| told(FAILED, &error))?
        );
        // Held until whoever asked is done.
        let _ = std::io::stdin().read(&mut [0]);
        Ok(GOOD)
    }
}
