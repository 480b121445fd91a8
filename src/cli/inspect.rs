//! `kubelet-gate inspect`: what this node's kubelet is open to, and what a gate makes up for.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use anstyle::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::output::ReportFormat;
use super::prove::{ports_of, remarks, token};
use super::which_kubelet::{WhichKubelet, elsewhere, listed};
use super::{FAILED, FINDINGS, GOOD, USAGE, complain};
use crate::adopt::inspect::{Check, Gate, Inspection, Verdict};
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::{binds, plain};
use crate::adopt::prove::{self, Report};
use crate::report::sarif::{self, Finding, Level, Place, Rule};

/// The arguments of `inspect`.
#[derive(Args, Debug)]
pub(super) struct Inspect {
    #[command(flatten)]
    kubelet: WhichKubelet,
    /// Probe the kubelet's ports as well, as `prove` does: only what a probe sees closed is called compensated
    #[arg(long, conflicts_with_all = ["root", "kubelet_config", "kubelet_arg"])]
    prove: bool,
    /// With --prove: one of this node's addresses; may be repeated. Without it, all of them
    #[arg(long, value_name = "IP", requires = "prove")]
    address: Vec<IpAddr>,
    /// With --prove: a file with a token that may only read; without one nothing is shown of 4.2.2
    #[arg(long, value_name = "FILE", requires = "prove")]
    token_file: Option<PathBuf>,
    /// Show every option that was read, not only what was judged
    #[arg(long)]
    options: bool,
    /// The least verdict for exit code 2, unless a probe has seen it closed
    #[arg(long, value_name = "LEVEL", default_value = "fail")]
    fail_on: FailOn,
    /// How to print it
    #[arg(short, long, default_value = "table")]
    output: ReportFormat,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FailOn {
    /// Anything that is not a pass
    Warn,
    /// What is open or broken
    Fail,
    /// Nothing
    Never,
}

impl Inspect {
    pub(super) fn run(&self) -> u8 {
        let (invocations, mut errors) = self.kubelet.find();
        if self.prove
            && let Some(why) = unprovable(&invocations)
        {
            eprintln!("error: --prove: {why}");
            return USAGE;
        }
        let token = match token(self.token_file.as_deref()) {
            Ok(token) => token,
            Err(error) => {
                eprintln!("error: {}", plain(&error));
                return USAGE;
            }
        };
        let now = OffsetDateTime::now_utc();
        let mut inspections = Vec::new();
        for invocation in invocations {
            let source = invocation.source.to_string();
            match Inspection::of(invocation, now) {
                Ok(inspection) => inspections.push(inspection),
                Err(error) => errors.push(format!("the kubelet of {source}: {error}")),
            }
        }
        for error in &errors {
            eprintln!("error: {}", plain(error));
        }
        let proven = match inspections.as_slice() {
            [inspection] if self.prove => Some(prove::prove(
                &prove::Options {
                    ports: ports_of(&inspection.options),
                    addresses: self.address.clone(),
                    token,
                    ..prove::Options::default()
                },
                &mut |_| {},
            )),
            _ => None,
        };
        let report = match proven.transpose() {
            Ok(report) => report,
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        };
        let report = report.as_ref();
        if let Some(report) = report {
            for inspection in &mut inspections {
                inspection.face(report);
            }
        }
        let printed = match self.output {
            _ if inspections.is_empty() => return FAILED,
            ReportFormat::Table => self.table(&inspections, report),
            ReportFormat::Json => print_json(&as_json(&inspections, &errors, report, now)),
            ReportFormat::Sarif => print_json(&as_sarif(&inspections, &errors, report)),
        };
        if let Err(error) = printed {
            complain(&error);
            return FAILED;
        }
        let least = match self.fail_on {
            FailOn::Warn => Verdict::Warn,
            FailOn::Fail => Verdict::Fail,
            FailOn::Never => return GOOD,
        };
        let mut checks = inspections.iter().flat_map(|inspection| &inspection.checks);
        let found = checks.any(|check| check.verdict >= least && !check.is_compensated(report));
        let unread = !errors.is_empty() || inspections.iter().any(|inspection| !inspection.unread.is_empty());
        outcome(found, report, unread)
    }

    fn table(&self, inspections: &[Inspection], report: Option<&Report>) -> std::io::Result<()> {
        let mut out = anstream::stdout().lock();
        if inspections.len() > 1 {
            writeln!(
                out,
                "{} kubelets; --pid chooses one of those that run\n",
                inspections.len()
            )?;
        }
        for inspection in inspections {
            table(&mut out, inspection, report)?;
            if self.options {
                all_options(&mut out, inspection)?;
            }
        }
        if let Some(report) = report {
            let mut through: Vec<&str> = report.exposures().map(|outcome| outcome.probe.as_str()).collect();
            through.sort_unstable();
            through.dedup();
            match through.as_slice() {
                [] => writeln!(out, "\nno probe got through")?,
                through => writeln!(
                    out,
                    "\ngot through: {}; `kubelet-gate prove` shows what each gives, and from where",
                    through.join(", ")
                )?,
            }
            for remark in remarks(report) {
                writeln!(out, "{remark}")?;
            }
        }
        Ok(())
    }
}

/// The exit code: a finding is one whatever else could not be told, and a probe that gets through is a finding, whether or not a
/// check is about it.
fn outcome(found: bool, report: Option<&Report>, unread: bool) -> u8 {
    let through = report.is_some_and(|report| report.exposures().next().is_some());
    if found || through {
        FINDINGS
    } else if report.is_some_and(|report| !report.faults().is_empty()) {
        eprintln!("error: not everything that was to be tried has shown something, so nothing is proven");
        FAILED
    } else if unread {
        eprintln!("error: not everything could be read, so nothing is sure");
        FAILED
    } else {
        GOOD
    }
}

/// Why the ports that are seen here are not those of the kubelet.
fn unprovable(invocations: &[Invocation]) -> Option<String> {
    match invocations {
        [invocation] if invocation.elsewhere => Some(elsewhere(invocation)),
        [] | [_] => None,
        several => Some(format!("{}: choose one with --pid", listed(several))),
    }
}

const WIDTH: usize = 118;

fn table(
    out: &mut impl std::io::Write,
    inspection: &Inspection,
    report: Option<&Report>,
) -> std::io::Result<()> {
    let bold = Style::new().bold();
    let dim = Style::new().dimmed();
    writeln!(out, "{bold}kubelet{bold:#}  {}", inspection.invocation.source)?;
    let options = &inspection.options;
    let binds = match binds(options) {
        Ok(binds) if binds.is_empty() => "nothing".to_owned(),
        Ok(binds) => {
            let binds: Vec<String> = binds.iter().map(ToString::to_string).collect();
            binds.join(", ")
        }
        Err(error) => plain(&error.to_string()),
    };
    writeln!(out, "  binds     {binds}")?;
    match options.files.as_slice() {
        [] => writeln!(out, "  read      its flags only: there is no --config")?,
        files => writeln!(out, "  read      {}", plain(&files.join(", ")))?,
    }
    for certificate in &inspection.certificates {
        let until = certificate.not_after.date();
        writeln!(
            out,
            "  {:<9} {}, until {until} ({})",
            role(certificate),
            plain(&certificate.subject),
            plain(&certificate.file)
        )?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{bold}{:<15} {:<4}  {:<38} value, and where it comes from{bold:#}",
        "CIS", "", "what"
    )?;
    for check in &inspection.checks {
        let style = match check.verdict {
            Verdict::Pass => AnsiColor::Green.on_default(),
            Verdict::Warn => AnsiColor::Yellow.on_default(),
            Verdict::Fail => AnsiColor::Red.on_default().bold(),
        };
        let word = check.verdict.word();
        writeln!(
            out,
            "{:<15} {style}{word}{style:#}  {:<38} {} {dim}({}){dim:#}",
            numbers(check),
            check.title,
            plain(&check.value),
            plain(&check.origin)
        )?;
        if check.verdict != Verdict::Pass {
            wrapped(out, &check.why)?;
            wrapped(out, &format!("the gate: {}", check.with_gate(report)))?;
        }
    }
    for unread in &inspection.unread {
        wrapped_with(out, "not read: ", unread)?;
    }
    for note in &inspection.notes {
        wrapped_with(out, "note: ", note)?;
    }
    let count = |verdict| {
        inspection
            .checks
            .iter()
            .filter(|check| check.verdict == verdict)
            .count()
    };
    writeln!(
        out,
        "\n{bold}{} FAIL, {} WARN, {} PASS{bold:#} for the kubelet alone.{}",
        count(Verdict::Fail),
        count(Verdict::Warn),
        count(Verdict::Pass),
        summary(inspection, report)
    )
}

fn summary(inspection: &Inspection, report: Option<&Report>) -> String {
    let open: Vec<&Check> = inspection
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .collect();
    let compensated = open.iter().filter(|check| check.is_compensated(report)).count();
    let can = open
        .iter()
        .filter(|check| matches!(check.gate, Gate::Yes(_)))
        .count();
    match report {
        Some(_) => format!(
            " Of the {} FAIL, {compensated} are compensated, verified by probe.",
            open.len()
        ),
        None => format!(
            " Of the {} FAIL, a gate can compensate {can}; only a probe tells whether it does.",
            open.len()
        ),
    }
}

fn role(certificate: &crate::adopt::inspect::Certificate) -> &'static str {
    use crate::adopt::inspect::Role;
    match certificate.role {
        Role::Serving => "serves",
        Role::Client => "is",
        Role::ClientCa => "believes",
    }
}

/// Both numbers, one if they are equal.
fn numbers(check: &Check) -> String {
    match (check.old, check.new) {
        (Some(old), Some(new)) if old == new => old.to_owned(),
        (Some(old), Some(new)) => format!("{old} / {new}"),
        (Some(old), None) => format!("{old} / -"),
        (None, Some(new)) => format!("- / {new}"),
        (None, None) => String::new(),
    }
}

fn wrapped(out: &mut impl std::io::Write, text: &str) -> std::io::Result<()> {
    wrapped_with(out, "                      ", text)
}

/// Breaks at spaces; the lines that follow are as far in as the first.
fn wrapped_with(out: &mut impl std::io::Write, before: &str, text: &str) -> std::io::Result<()> {
    let mut line = before.to_owned();
    let indent = " ".repeat(before.len());
    for word in plain(text).split(' ') {
        if line.len() > before.len() && line.len() + word.len() >= WIDTH {
            writeln!(out, "{}", line.trim_end())?;
            line.clone_from(&indent);
        }
        line.push_str(word);
        line.push(' ');
    }
    writeln!(out, "{}", line.trim_end())
}

fn all_options(out: &mut impl std::io::Write, inspection: &Inspection) -> std::io::Result<()> {
    writeln!(out, "\nEvery option that was read:")?;
    for setting in inspection.options.settings() {
        writeln!(
            out,
            "  {:<46} {:<24} {}",
            setting.field.key,
            plain(&setting.shown()),
            plain(&setting.origin.to_string())
        )?;
    }
    Ok(())
}

fn print_json(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

fn as_json(
    inspections: &[Inspection],
    errors: &[String],
    report: Option<&Report>,
    now: OffsetDateTime,
) -> serde_json::Value {
    let kubelets: Vec<_> = inspections
        .iter()
        .map(|inspection| inspection.to_json(report))
        .collect();
    json!({
        "apiVersion": prove::API_VERSION,
        "kind": "Inspection",
        "version": env!("CARGO_PKG_VERSION"),
        "time": now.truncate_to_second().format(&Rfc3339).unwrap_or_default(),
        "kubelets": kubelets,
        "errors": errors,
        "probes": report,
    })
}

fn as_sarif(inspections: &[Inspection], errors: &[String], report: Option<&Report>) -> serde_json::Value {
    let all = || inspections.iter().flat_map(|inspection| &inspection.checks);
    let mut rules: Vec<Rule> = Vec::new();
    for check in all() {
        let id = rule_id(check);
        if rules.iter().all(|rule| rule.id != id) {
            let numbers = numbers(check);
            let cis = match numbers.as_str() {
                "" => String::new(),
                numbers => format!(" CIS Kubernetes Benchmark {numbers} (up to 1.24 / since 1.7)."),
            };
            rules.push(Rule {
                id,
                name: check.title.to_owned(),
                help: format!("The kubelet should be so by itself: {}.{cis}", check.title),
            });
        }
    }
    let findings = inspections.iter().flat_map(|inspection| {
        let found = inspection
            .checks
            .iter()
            .filter(|check| check.verdict != Verdict::Pass);
        found.map(|check| Finding {
            rule: rule_id(check),
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
            place: match &check.file {
                Some(path) => Place::File(path.clone()),
                None => Place::Named(inspection.invocation.source.to_string()),
            },
            suppressed: check.is_compensated(report).then(|| check.with_gate(report)),
        })
    });
    let unread = inspections.iter().flat_map(|inspection| &inspection.unread);
    let unproven = report.map(Report::faults).unwrap_or_default();
    let faults: Vec<String> = errors.iter().chain(unread).chain(&unproven).cloned().collect();
    let notes: Vec<String> = inspections
        .iter()
        .flat_map(|inspection| inspection.notes.clone())
        .collect();
    sarif::document(&rules, &findings.collect::<Vec<_>>(), &faults, &notes)
}

fn rule_id(check: &Check) -> String {
    format!("kubelet/{}", check.id)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::adopt::prove::{Answer, Outcome, Ports, SideKind};

    /// Seen red: with a probe that no check is about left out.
    #[test]
    fn what_gets_through_is_a_finding_whatever_the_checks_say() {
        let report = |probe: &str, through, untried: &[&str]| Report {
            api_version: String::new(),
            kind: String::new(),
            version: String::new(),
            host: String::new(),
            started: String::new(),
            finished: String::new(),
            ports: Ports::default(),
            results: vec![Outcome {
                probe: probe.to_owned(),
                side: SideKind::Namespace,
                address: "192.0.2.10:10248".parse().unwrap(),
                answer: Answer::Status(200),
                through,
            }],
            skipped: Vec::new(),
            untried: untried.iter().map(ToString::to_string).collect(),
        };
        let (mut shown, open) = (
            report("pods", false, &[]),
            report("healthz-port", true, &["a side"]),
        );
        shown.results[0].address.set_port(10250);
        let untried = report("pods", false, &["a side"]);
        for (found, report, unread, expected) in [
            (false, None, false, GOOD),
            (false, None, true, FAILED),
            (true, None, true, FINDINGS),
            (false, Some(&shown), false, GOOD),
            (false, Some(&shown), true, FAILED),
            (false, Some(&untried), false, FAILED),
            (false, Some(&open), false, FINDINGS),
            (true, Some(&shown), false, FINDINGS),
        ] {
            assert_eq!(
                outcome(found, report, unread),
                expected,
                "{found} {report:?} {unread}"
            );
        }
    }
}
