//! An inspection as SARIF: what becomes a rule, and what becomes a result.

use serde_json::Value;

use super::{is_next, numbers, probed};
use crate::adopt::inspect::{Check, Inspection, Verdict};
use crate::adopt::kubelet::invocation::Source;
use crate::adopt::prove::ProbeReport;
use crate::adopt::weaknesses::WeaknessListing;
use crate::cli::weaknesses;
use crate::report::sarif::{self, Finding, Level, Place, Rule, Run};

/// How severe a breach of a check is, as CVSS counts: what commands and secrets can be had by, and what is
/// needed for it. A check that is not here is one of good order.
#[rustfmt::skip]
const SEVERITIES: [(&str, f64); 20] = [
    ("anonymous-auth", 9.8), ("authorization-mode", 9.8),
    ("client-ca-file", 8.1), ("config-mode", 7.8), ("config-owner", 7.8), ("kubeconfig-mode", 7.8),
    ("kubeconfig-owner", 7.8), ("unit-mode", 7.8), ("unit-owner", 7.8),
    ("client-ca-mode", 7.8), ("client-ca-owner", 7.8), ("read-only-port", 7.5),
    ("redirect-container-streaming", 6.5), ("token-webhook", 6.5), ("route-localnet", 5.4),
    ("cadvisor-port", 5.3), ("cipher-suites", 5.9), ("serving-pair", 5.9), ("tls-min-version", 5.9),
    ("healthz-bind-address", 5.3),
];
const GOOD_ORDER: f64 = 3.1;

/// The document, with a run for each node. A kubelet that could not be read may be on any of them.
pub(super) fn document(
    inspections: &[Inspection],
    listings: &[WeaknessListing],
    errors: &[String],
    report: Option<&ProbeReport>,
) -> Value {
    let mut runs: Vec<Run> = Vec::new();
    let unproven = report.map(ProbeReport::faults).unwrap_or_default();
    for (inspection, listing) in inspections.iter().zip(listings) {
        let known = runs.iter().position(|run| run.node == inspection.node);
        let at = known.unwrap_or_else(|| {
            runs.push(Run {
                node: inspection.node.clone(),
                part: "",
                rules: Vec::new(),
                findings: Vec::new(),
                faults: [errors, &unproven].concat(),
                notes: Vec::new(),
            });
            runs.len() - 1
        });
        let run = &mut runs[at];
        // The next start is of the same programs.
        let listing = Some(listing).filter(|_| !is_next(inspection));
        for rule in rules(inspection).chain(listing.into_iter().flat_map(weaknesses::rules)) {
            if run.rules.iter().all(|known| known.id != rule.id) {
                run.rules.push(rule);
            }
        }
        run.findings
            .extend(findings(inspection, probed(inspection, report)));
        let known = listing
            .into_iter()
            .flat_map(|listing| weaknesses::findings(listing, place(inspection, None)));
        run.findings.extend(known);
        run.faults.extend_from_slice(&inspection.unread);
        run.faults.extend_from_slice(&inspection.refused);
        run.notes.extend_from_slice(&inspection.notes);
    }
    sarif::document(&runs)
}

/// Everything that was looked at.
fn rules(inspection: &Inspection) -> impl Iterator<Item = Rule> {
    inspection.checks.iter().map(rule)
}

/// Everything that was found.
fn findings(inspection: &Inspection, report: Option<&ProbeReport>) -> impl Iterator<Item = Finding> {
    let found = |check: &&Check| check.verdict != Verdict::Pass;
    let finding = move |check| finding(check, inspection, report);
    inspection.checks.iter().filter(found).map(finding)
}

fn rule(check: &Check) -> Rule {
    let cis = match numbers(check).as_str() {
        "" => String::new(),
        numbers => format!(" CIS Kubernetes Benchmark {numbers} (up to 1.24 / since 1.7)."),
    };
    let severity = SEVERITIES.iter().find(|(id, _)| *id == check.id);
    Rule {
        id: rule_id(check),
        name: check.title.to_owned(),
        help: format!("The kubelet should be so by itself: {}.{cis}", check.title),
        severity: severity.map_or(GOOD_ORDER, |(_, severity)| *severity),
    }
}

fn finding(check: &Check, inspection: &Inspection, report: Option<&ProbeReport>) -> Finding {
    Finding {
        rule: rule_id(check),
        key: check.key.clone(),
        level: match check.verdict {
            Verdict::Fail => Level::Error,
            Verdict::Warn | Verdict::Pass => Level::Warning,
        },
        message: format!(
            "{}: {} ({}). {}. The gate: {}.",
            check.title,
            check.value,
            check.origin,
            check.why,
            check.with_gate(report)
        ),
        place: place(inspection, check.file.as_deref()),
        suppressed: check.is_compensated(report).then(|| check.with_gate(report)),
    }
}

/// Where something is written, or else where it would be: code scanning shows no result without a file.
fn place(inspection: &Inspection, file: Option<&str>) -> Place {
    let invocation = &inspection.invocation;
    let written = file.or_else(|| inspection.options.files.first().map(String::as_str));
    let file = match (written, &invocation.source, &invocation.unit) {
        (Some(file), _, _) => file.to_owned(),
        (None, Source::File(file) | Source::NextStart { file, .. }, _) => file.clone(),
        (None, Source::Process(_), Some(unit)) => unit.file.clone(),
        (None, Source::Process(pid), None) => format!("/proc/{pid}/cmdline"),
        (None, Source::Given, _) => "/proc/self/cmdline".to_owned(),
    };
    Place {
        file,
        name: invocation.source.to_string(),
    }
}

fn rule_id(check: &Check) -> String {
    format!("kubelet/{}", check.id)
}
