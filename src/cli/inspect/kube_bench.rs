//! An inspection in the JSON of kube-bench, for pipelines that read that already.
//!
//! The status is always the kubelet's own, as the benchmark means it. What a gate makes up for is in
//! `reason`, and turns no FAIL into a PASS.

use serde::Serialize;

use super::probed;
use crate::adopt::inspect::{Check, Inspection, Verdict};
use crate::adopt::prove::ProbeReport;

/// The benchmark that the numbers are from.
const BENCHMARK: &str = "cis-1.11";
/// The benchmark's sections, as kube-bench calls them.
const SECTIONS: [(&str, &str); 2] = [("4.1", "Worker Node Configuration Files"), ("4.2", "Kubelet")];
/// The section of checks that the benchmark does not have. Their number is their name.
const BEYOND: (&str, &str) = ("kubelet-gate", "Beyond the benchmark");
/// The section of what could not be read or proven.
const UNREAD: (&str, &str) = ("not-read", "What could not be read, and may say anything");

/// All of it, as kube-bench prints it with `--json`.
#[derive(Serialize)]
pub(super) struct Document {
    #[serde(rename = "Controls")]
    controls: Vec<Controls>,
    #[serde(rename = "Totals")]
    totals: Totals,
}

/// The checks of one kubelet.
#[derive(Serialize)]
struct Controls {
    id: &'static str,
    version: &'static str,
    detected_version: &'static str,
    text: String,
    node_type: &'static str,
    tests: Vec<Group>,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Serialize)]
struct Group {
    section: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    counts: Counts,
    desc: &'static str,
    results: Vec<TestResult>,
}

#[derive(Default, Serialize)]
struct Counts {
    pass: usize,
    fail: usize,
    warn: usize,
    info: usize,
}

#[derive(Default, Serialize)]
struct Totals {
    total_pass: usize,
    total_fail: usize,
    total_warn: usize,
    total_info: usize,
}

#[derive(Serialize)]
struct TestResult {
    test_number: String,
    test_desc: String,
    audit: String,
    #[serde(rename = "AuditEnv")]
    audit_env: &'static str,
    #[serde(rename = "AuditConfig")]
    audit_config: String,
    #[serde(rename = "type")]
    kind: &'static str,
    remediation: String,
    test_info: [String; 1],
    status: Verdict,
    actual_value: String,
    scored: bool,
    #[serde(rename = "IsMultiple")]
    is_multiple: bool,
    expected_result: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

pub(super) fn document(
    inspections: &[Inspection],
    errors: &[String],
    report: Option<&ProbeReport>,
) -> Document {
    let several = inspections.len() > 1 || !errors.is_empty();
    let mut controls: Vec<Controls> = inspections
        .iter()
        .map(|inspection| {
            let report = probed(inspection, report);
            let mut groups: Vec<Group> = SECTIONS
                .into_iter()
                .chain([BEYOND])
                .map(|section| {
                    let in_section = |check: &&Check| section_of(check) == section.0;
                    let checks = inspection.checks.iter().filter(in_section);
                    let results = checks.map(|check| result(check, inspection, report));
                    group(section, results.collect())
                })
                .collect();
            let unread = inspection.unread.iter().chain(&inspection.refused);
            groups.push(group(UNREAD, unread.map(|why| unread_result(why)).collect()));
            let text = match several {
                false => "Worker Node Security Configuration".to_owned(),
                true => format!(
                    "Worker Node Security Configuration: the kubelet of {} on {}",
                    inspection.invocation.source, inspection.node
                ),
            };
            controls_of(text, groups)
        })
        .collect();
    // What belongs to no kubelet in particular.
    let unproven = report.map(ProbeReport::faults).unwrap_or_default();
    let faults: Vec<TestResult> = errors
        .iter()
        .chain(&unproven)
        .map(|why| unread_result(why))
        .collect();
    if !faults.is_empty() {
        let text = "Worker Node Security Configuration: what was not inspected".to_owned();
        controls.push(controls_of(text, vec![group(UNREAD, faults)]));
    }
    Document {
        totals: Totals::of(controls.iter().flat_map(|controls| &controls.tests)),
        controls,
    }
}

fn controls_of(text: String, mut groups: Vec<Group>) -> Controls {
    groups.retain(|group| !group.results.is_empty());
    Controls {
        id: "4",
        version: BENCHMARK,
        // Of Kubernetes.
        detected_version: "",
        text,
        node_type: "node",
        totals: Totals::of(groups.iter()),
        tests: groups,
    }
}

fn group((section, desc): (&'static str, &'static str), results: Vec<TestResult>) -> Group {
    let count = |verdict| results.iter().filter(|result| result.status == verdict).count();
    Group {
        section,
        kind: "",
        counts: Counts {
            pass: count(Verdict::Pass),
            fail: count(Verdict::Fail),
            warn: count(Verdict::Warn),
            info: 0,
        },
        desc,
        results,
    }
}

/// The section of a check: the benchmark's if it has a number there.
fn section_of(check: &Check) -> &'static str {
    let of = |number: &str| {
        let mut sections = SECTIONS.iter().map(|(section, _)| *section);
        sections.find(|section| number.starts_with(&format!("{section}.")))
    };
    check.new.and_then(of).unwrap_or(BEYOND.0)
}

fn result(check: &Check, inspection: &Inspection, report: Option<&ProbeReport>) -> TestResult {
    let remediation = format!(
        "On the kubelet, {}: see {} ({}).",
        check.title, check.key, check.origin
    );
    let reason = match check.verdict {
        Verdict::Pass => String::new(),
        Verdict::Warn | Verdict::Fail => {
            format!("{}; the gate: {}", check.why, check.with_gate(report))
        }
    };
    TestResult {
        test_number: check.new.unwrap_or(check.id).to_owned(),
        test_desc: format!("{}: {}", check.id, check.title),
        audit: format!("kubelet-gate inspect, {}", inspection.invocation.source),
        audit_env: "",
        audit_config: check.file.clone().unwrap_or_default(),
        kind: "",
        test_info: [remediation.clone()],
        remediation,
        status: check.verdict,
        actual_value: format!("{} ({})", check.value, check.origin),
        scored: true,
        is_multiple: false,
        expected_result: check.title.to_owned(),
        reason,
    }
}

fn unread_result(why: &str) -> TestResult {
    let remediation = "Make it readable, or say what it holds with --kubelet-config and \
        --kubelet-arg."
        .to_owned();
    TestResult {
        test_number: UNREAD.0.to_owned(),
        test_desc: "everything that decides about the kubelet can be read".to_owned(),
        audit: "kubelet-gate inspect".to_owned(),
        audit_env: "",
        audit_config: String::new(),
        kind: "",
        test_info: [remediation.clone()],
        remediation,
        status: Verdict::Warn,
        actual_value: String::new(),
        scored: true,
        is_multiple: false,
        expected_result: "nothing that could not be read".to_owned(),
        reason: why.to_owned(),
    }
}

impl Totals {
    fn of<'a>(groups: impl Iterator<Item = &'a Group>) -> Self {
        groups.fold(Self::default(), |totals, group| Self {
            total_pass: totals.total_pass + group.counts.pass,
            total_fail: totals.total_fail + group.counts.fail,
            total_warn: totals.total_warn + group.counts.warn,
            total_info: totals.total_info + group.counts.info,
        })
    }
}
