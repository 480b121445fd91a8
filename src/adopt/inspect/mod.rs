//! What a kubelet is open to: its effective options and certificates, judged by the CIS benchmark's section 4.2 and by what
//! a gate in front of it meets; and what of it the gate makes up for.

mod certificates;
mod checks;
mod permissions;
mod route_localnet;

pub use self::certificates::{Certificate, Role};
pub use self::checks::{Check, Gate, Verdict};

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::invocation::{Invocation, Source};
use crate::adopt::kubelet::options::{self, Effective, OptionsError};
use crate::adopt::prove::{Report, Verified};
use crate::host;

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
    /// What may surprise.
    pub notes: Vec<String>,
    /// What could not be read, and may say anything: no check of the options has passed for sure then.
    pub unread: Vec<String>,
}

impl Inspection {
    /// Looks at one kubelet. Reads files, and changes nothing.
    ///
    /// # Errors
    /// Its options cannot be told.
    pub fn of(invocation: Invocation, now: OffsetDateTime) -> Result<Self, OptionsError> {
        let options = Effective::of(&invocation)?;
        let mut notes = [invocation.notes.clone(), options.notes.clone()].concat();
        let unread = [invocation.unread.clone(), options.unread.clone()].concat();
        if invocation.elsewhere {
            let pid = invocation.pid().unwrap_or_default();
            notes.push(format!(
                "the kubelet is in another network than this program: its addresses and ports are not seen from here; nsenter -t {pid} -n"
            ));
        }
        let certificates = certificates::of(&options, &invocation.root, &mut notes);
        let addresses = addresses(&invocation, &options);
        let mut checks = checks::of(&options);
        checks.push(checks::address_deny(invocation.unit.as_ref()));
        if !unread.is_empty() {
            checks::doubt(&mut checks);
        }
        if invocation.source != Source::Given {
            checks.push(route_localnet::check(&invocation));
        }
        for certificate in &certificates {
            checks.push(certificate.life(now));
            if certificate.role == Role::Serving {
                checks.push(certificate.named(&addresses));
            }
        }
        // A copy has modes and owners of its own.
        if invocation.pid().is_some() {
            checks.extend(permissions::checks(&options, &invocation));
        }
        Ok(Self {
            invocation,
            options,
            checks,
            certificates,
            notes,
            unread,
        })
    }

    /// Compares what is written with what probes have just seen: a door that they got through is open, whatever was read.
    pub fn face(&mut self, report: &Report) {
        for check in &mut self.checks {
            if check.verdict == Verdict::Pass && verified(Some(report), check.new) == Verified::Open {
                check.verdict = Verdict::Fail;
                check.why = "what runs is not what is written: a probe got through".to_owned();
            }
        }
    }

    /// As JSON; docs/schemas/inspection.json describes it.
    #[must_use]
    pub fn to_json(&self, report: Option<&Report>) -> Value {
        let checks: Vec<Value> = self.checks.iter().map(|check| check.to_json(report)).collect();
        json!({
            "from": self.invocation.source.to_string(),
            "pid": self.invocation.pid(),
            "arguments": options::arguments(&self.invocation),
            "files": self.options.files,
            "options": options::as_json(&self.options),
            "checks": checks,
            "certificates": self.certificates,
            "notes": self.notes,
            "unread": self.unread,
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

/// The node's addresses that clients dial, as far as they are known.
#[derive(Debug)]
enum Addresses {
    /// Those that the kubelet announces, by its `--node-ip`: each of them is dialled.
    Announced(Vec<IpAddr>),
    /// Those of the node's interfaces: one of them is announced.
    Interfaces(Vec<IpAddr>),
    Unknown,
}

fn addresses(invocation: &Invocation, options: &Effective) -> Addresses {
    let announced: Vec<IpAddr> = options
        .text("--node-ip")
        .split(',')
        .filter_map(|address| address.trim().parse().ok())
        .filter(|address: &IpAddr| !address.is_unspecified())
        .collect();
    if !announced.is_empty() {
        return Addresses::Announced(announced);
    }
    let own = match invocation.pid() {
        Some(_) if !invocation.elsewhere => host::addresses().unwrap_or_default(),
        _ => Vec::new(),
    };
    let outside: Vec<IpAddr> = own.into_iter().filter(|address| !address.is_loopback()).collect();
    match outside.is_empty() {
        true => Addresses::Unknown,
        false => Addresses::Interfaces(outside),
    }
}

/// A file of the kubelet's, whose path may be one of its own working directory.
fn read(root: &Root, path: &str) -> Result<String, String> {
    root.read(Path::new(path))
        .map_err(|error| format!("{path}: {error}"))
}
