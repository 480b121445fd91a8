//! One kubelet, inspected.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::addresses::DialledAddresses;
use super::certificates::{self, Certificate, CertificateRole};
use super::check::{Check, Verdict};
use super::{address_deny, named_files, next_start, node, options, permissions, route_localnet, socket_unit};
use crate::adopt::kubelet;
use crate::adopt::kubelet::invocation::{Invocation, Source};
use crate::adopt::kubelet::options::{Effective, OptionsError};
use crate::adopt::prove::{ProbeReport, Verified};

/// What an inspection of a kubelet found.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What the node is called, as far as it can be read.
    pub node: String,
    /// How it is started.
    pub invocation: Invocation,
    /// What it runs with.
    pub options: Effective,
    /// The checks, in the benchmark's order.
    pub checks: Vec<Check>,
    /// The certificates that it serves, presents and trusts.
    pub certificates: Vec<Certificate>,
    /// What may surprise the operator.
    pub notes: Vec<String>,
    /// Sources that could not be read and may hold any option: no check of the options passes then.
    pub unread: Vec<String>,
    /// Why a kubelet does not start as it is configured; the notes say it too. No
    /// check of the options passes.
    pub refused: Vec<String>,
}

impl Inspection {
    /// Inspects one kubelet. It reads files, and changes nothing.
    ///
    /// # Errors
    /// Its options cannot be read or understood.
    pub fn of(invocation: Invocation, now: OffsetDateTime) -> Result<Self, OptionsError> {
        let options = Effective::of(&invocation)?;
        let refused = options.refused.clone();
        let mut notes = [&*invocation.notes, &*refused, &*options.notes].concat();
        let unread = [invocation.unread.clone(), options.unread.clone()].concat();
        if invocation.elsewhere {
            let pid = invocation.pid().unwrap_or_default();
            notes.push(format!(
                "the kubelet is in another network namespace than this program, which cannot see its \
                 addresses and ports: run this with nsenter -t {pid} -n"
            ));
        }
        let certificates = certificates::of(&options, &invocation.root, &mut notes);
        let addresses = DialledAddresses::of(&invocation, &options);
        let mut checks = options::of(&options);
        named_files::judge(&mut checks, &options, &invocation);
        checks.push(address_deny::check(invocation.unit.as_ref()));
        checks.extend(next_start::check(&invocation));
        if !unread.is_empty() {
            options::doubt(
                &mut checks,
                "a source that may set another value could not be read",
            );
        } else if !refused.is_empty() {
            options::doubt(
                &mut checks,
                "a kubelet does not start as it is configured (see the notes)",
            );
        }
        if invocation.source != Source::Given {
            checks.push(route_localnet::check(&invocation));
            checks.extend(socket_unit::check(&invocation));
        }
        for certificate in &certificates {
            checks.push(certificate.validity(now));
            if certificate.role == CertificateRole::Serving {
                checks.push(certificate.names(&addresses));
            }
        }
        // A copy has modes and owners of its own.
        if invocation.pid().is_some() {
            checks.extend(permissions::checks(&options, &invocation));
        }
        Ok(Self {
            node: node::name(&invocation, &options, &certificates),
            invocation,
            options,
            checks,
            certificates,
            notes,
            unread,
            refused,
        })
    }

    /// The next start of a running kubelet, inspected, if its unit starts it otherwise than it runs.
    ///
    /// # Errors
    /// Its options cannot be read or understood.
    pub fn next_start(&self, now: OffsetDateTime) -> Result<Option<Self>, OptionsError> {
        let next = next_start::differs(&self.invocation).cloned();
        next.map(|next| Self::of(next, now)).transpose()
    }

    /// Compares what is written with what probes have just shown: where a probe got through, the check fails,
    /// whatever the files say.
    pub fn face(&mut self, report: &ProbeReport) {
        for check in &mut self.checks {
            if check.verdict == Verdict::Pass && check.verified(Some(report)) == Verified::Open {
                check.verdict = Verdict::Fail;
                check.why = "a probe got through: the kubelet does not run with what is written".to_owned();
            }
        }
    }

    /// As JSON; docs/schemas/inspection.json describes it.
    #[must_use]
    pub fn to_json(&self, report: Option<&ProbeReport>) -> Value {
        let checks: Vec<Value> = self.checks.iter().map(|check| check.to_json(report)).collect();
        json!({
            "node": self.node,
            "from": self.invocation.source.to_string(),
            "pid": self.invocation.pid(),
            "arguments": kubelet::options::arguments(&self.invocation),
            "files": self.options.files,
            "options": kubelet::options::as_json(&self.options),
            "checks": checks,
            "certificates": self.certificates,
            "notes": self.notes,
            "unread": self.unread,
        })
    }
}
