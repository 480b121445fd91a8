//! What a kubelet is open to: its effective options and certificates, judged by the CIS benchmark's section 4.2 and by what
//! a gate in front of it meets; and what of it the gate makes up for.

mod certificates;
mod checks;
mod permissions;

pub use self::certificates::{Certificate, Role};
pub use self::checks::{Check, Gate, Verdict};

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::node::invocation::Invocation;
use crate::node::options::{self, Effective, OptionsError};
use crate::node::{self, Root};
use crate::prove::{Report, Verified};

/// A kubelet, looked at.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// How it is started.
    pub invocation: Invocation,
    /// What it runs with.
    pub options: Effective,
    /// What was looked for, in the benchmark's order.
    pub checks: Vec<Check>,
    /// What it and its node identify themselves by.
    pub certificates: Vec<Certificate>,
    /// What could not be read, or may surprise.
    pub notes: Vec<String>,
}

impl Inspection {
    /// Looks at one kubelet. Reads files, and changes nothing.
    ///
    /// # Errors
    /// Its options cannot be told.
    pub fn of(invocation: Invocation, now: OffsetDateTime) -> Result<Self, OptionsError> {
        let options = Effective::of(&invocation)?;
        let mut notes = [invocation.notes.clone(), options.notes.clone()].concat();
        let certificates = certificates::of(&options, &invocation.root, &mut notes);
        let addresses = addresses(&invocation, &options);
        let mut checks = checks::of(&options);
        checks.extend(checks::route_localnet(
            &invocation.root,
            invocation.pid().is_some(),
        ));
        checks.extend(
            certificates
                .iter()
                .flat_map(|certificate| certificate.checks(now, &addresses)),
        );
        // A copy has modes and owners of its own.
        if invocation.pid().is_some() {
            checks.extend(permissions::checks(&options, &invocation.root));
        }
        Ok(Self {
            invocation,
            options,
            checks,
            certificates,
            notes,
        })
    }

    /// As JSON; docs/inspect.schema.json describes it.
    #[must_use]
    pub fn to_json(&self, report: Option<&Report>) -> Value {
        let checks: Vec<Value> = self.checks.iter().map(|check| check.to_json(report)).collect();
        let words: Vec<&str> = self
            .invocation
            .words
            .iter()
            .map(|word| word.text.as_str())
            .collect();
        json!({
            "from": self.invocation.source.to_string(),
            "pid": self.invocation.pid(),
            "arguments": words,
            "files": self.options.files,
            "options": options::as_json(&self.options),
            "checks": checks,
            "certificates": self.certificates,
            "notes": self.notes,
        })
    }
}

/// What probes have shown of a check.
pub(crate) fn verified(report: Option<&Report>, cis: Option<&str>) -> Verified {
    match (report, cis) {
        (Some(report), Some(cis)) => report.verified(cis),
        _ => Verified::Untried,
    }
}

/// The node's addresses that clients may dial; for a file system, what `--node-ip` says of them.
fn addresses(invocation: &Invocation, options: &Effective) -> Vec<IpAddr> {
    if invocation.pid().is_some() {
        let all = node::addresses().unwrap_or_default();
        return all.into_iter().filter(|address| !address.is_loopback()).collect();
    }
    let named = options.text("--node-ip").split(',');
    named
        .filter_map(|address| address.trim().parse().ok())
        .filter(|address: &IpAddr| !address.is_unspecified())
        .collect()
}

/// A file of the kubelet's, whose path may be one of its own working directory.
fn read(root: &Root, path: &str) -> Result<String, String> {
    root.read(Path::new(path))
        .map_err(|error| format!("{path}: {error}"))
}
