//! `kubelet-gate inspect`: reports what this node's kubelet leaves open, and what a gate compensates.

mod kube_bench;
mod sarif;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::exit::{CliError, Exit};
use super::prove::{probe, remarks, token};
use super::table::{Cell, Table};
use super::terminal::{BAD, BOLD, DOUBTFUL, GOOD, Stream, Terminal};
use super::weaknesses::{self, SaidVersions};
use super::which_kubelet::{WhichKubelet, listed};
use crate::adopt::inspect::{CertificateRole, Check, Compensation, Inspection, Verdict};
use crate::adopt::kubelet::binds;
use crate::adopt::kubelet::invocation::{Invocation, Source};
use crate::adopt::prove::{self, Ports, ProbeReport, ProbeToken};
use crate::adopt::weaknesses::WeaknessListing;

/// The arguments of `inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes:
  0   no check has the verdict that --fail-on names
  1   nothing was found, but not everything could be read or probed
  2   a check has this verdict and a gate was not seen to compensate it
      (known weaknesses change no exit code)
  64  wrong command line")]
pub(super) struct Inspect {
    #[command(flatten)]
    kubelet: WhichKubelet,
    #[command(flatten)]
    said: SaidVersions,
    /// Probe the kubelet's ports too, as `prove` does: a finding is called compensated only if probes find it
    /// closed
    #[arg(long, conflicts_with_all = ["root", "kubelet_config", "kubelet_arg"])]
    prove: bool,
    /// With --prove: an address of this node to probe; may be repeated. Default: all of them
    #[arg(long, value_name = "IP", requires = "prove")]
    address: Vec<IpAddr>,
    /// With --prove: a file with a token that may only read; without it, check 4.2.2 is not probed
    #[arg(long, value_name = "FILE", requires = "prove")]
    token_file: Option<PathBuf>,
    /// Print every option that was read, not only those that were checked
    #[arg(long)]
    options: bool,
    /// The least verdict that makes the exit code 2
    #[arg(long, value_name = "LEVEL", default_value = "fail")]
    fail_on: FailOn,
    /// How to print it
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// How the inspection is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// One JSON document.
    Json,
    /// JSON in the shape of kube-bench's.
    KubeBench,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Text for people.
    Table,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum FailOn {
    /// WARN or FAIL
    Warn,
    /// FAIL
    Fail,
    /// No verdict
    Never,
}

impl Inspect {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let (invocations, mut errors) = self.kubelet.find();
        if self.prove
            && let Some(why) = unprovable(&invocations)
        {
            return Err(CliError::usage(format!("--prove: {why}")));
        }
        let token = token(self.token_file.as_deref())?;
        let claims = self.said.claims()?;
        let now = OffsetDateTime::now_utc();
        let mut inspections = Vec::new();
        for invocation in invocations {
            let source = invocation.source.to_string();
            match Inspection::of(invocation, now) {
                Ok(inspection) => inspections.push(inspection),
                Err(error) => errors.push(format!("the kubelet of {source}: {error}")),
            }
        }
        if inspections.is_empty() {
            return Err(CliError::several(Exit::Failed, errors));
        }
        for error in &errors {
            terminal.err.labelled(BAD, "error:", error);
        }
        let report = match inspections.as_slice() {
            [inspection] if self.prove => Some(self.proven(inspection, token, &mut terminal.err)?),
            _ => None,
        };
        let report = report.as_ref();
        if let Some(report) = report {
            for inspection in &mut inspections {
                inspection.face(report);
            }
        }
        for at in (0..inspections.len()).rev() {
            match inspections[at].next_start(now) {
                Ok(None) => {}
                Ok(Some(next)) => inspections.insert(at + 1, next),
                Err(error) => {
                    let error = format!("the next start of {}: {error}", inspections[at].invocation.source);
                    terminal.err.labelled(BAD, "error:", &error);
                    errors.push(error);
                }
            }
        }
        let listed = inspections.iter();
        let listed = listed.map(|inspection| WeaknessListing::of(inspection, &claims, report, now.date()));
        let listings = listed.collect::<Result<Vec<_>, _>>().map_err(CliError::failed)?;
        let out = &mut terminal.out;
        match self.output {
            Format::Table => self.print(&inspections, &listings, report, out),
            Format::Json => out.json_report(&as_json(&inspections, &listings, &errors, report, now)),
            Format::KubeBench => out.json_report(&kube_bench::document(&inspections, &errors, report)),
            Format::Sarif => out.json_report(&sarif::document(&inspections, &listings, &errors, report)),
        }
        let least = match self.fail_on {
            FailOn::Warn => Verdict::Warn,
            FailOn::Fail => Verdict::Fail,
            FailOn::Never => return Ok(Exit::Good),
        };
        let found = inspections.iter().any(|inspection| {
            let report = probed(inspection, report);
            let mut checks = inspection.checks.iter();
            checks.any(|check| check.verdict >= least && !check.is_compensated(report))
        });
        let unread = !errors.is_empty()
            || inspections
                .iter()
                .any(|inspection| !inspection.unread.is_empty() || !inspection.refused.is_empty());
        outcome(found, report, unread)
    }

    fn proven(
        &self,
        inspection: &Inspection,
        token: Option<ProbeToken>,
        err: &mut Stream,
    ) -> Result<ProbeReport, CliError> {
        let options = prove::Options {
            ports: Ports::of(&inspection.options),
            addresses: self.address.clone(),
            token,
            ..prove::Options::default()
        };
        probe(&options, Some(&inspection.invocation), err)
    }

    fn print(
        &self,
        inspections: &[Inspection],
        listings: &[WeaknessListing],
        report: Option<&ProbeReport>,
        out: &mut Stream,
    ) {
        let kubelets = inspections
            .iter()
            .filter(|inspection| !is_next(inspection))
            .count();
        if kubelets > 1 {
            out.text(&format!(
                "{kubelets} kubelets; --pid chooses one of those that run"
            ));
            writeln!(out);
        }
        for (inspection, listing) in inspections.iter().zip(listings) {
            print(inspection, probed(inspection, report), out);
            if !is_next(inspection) {
                weaknesses::print(listing, out);
            }
            if self.options {
                print_options(inspection, out);
            }
        }
        if let Some(report) = report {
            let mut through: Vec<&str> = report.exposures().map(|outcome| outcome.probe.as_str()).collect();
            through.sort_unstable();
            through.dedup();
            writeln!(out);
            match through.as_slice() {
                [] => out.labelled(GOOD, "no probe", "got through"),
                through => out.labelled(
                    BAD,
                    "got through:",
                    &format!(
                        "{}; `kubelet-gate prove` shows what each gives, and from where",
                        through.join(", ")
                    ),
                ),
            }
            remarks(report, out);
        }
    }
}

/// What probes have shown of this kubelet. Of its next start they show nothing.
fn probed<'a>(inspection: &Inspection, report: Option<&'a ProbeReport>) -> Option<&'a ProbeReport> {
    report.filter(|_| !is_next(inspection))
}

/// Whether it is how a running kubelet is started next.
fn is_next(inspection: &Inspection) -> bool {
    matches!(inspection.invocation.source, Source::NextStart { .. })
}

/// The exit code. A finding counts even if not everything could be read, and a probe that gets through is a
/// finding, whether or not a check is about it.
fn outcome(found: bool, report: Option<&ProbeReport>, unread: bool) -> Result<Exit, CliError> {
    let through = report.is_some_and(|report| report.exposures().next().is_some());
    if found || through {
        Ok(Exit::Findings)
    } else if report.is_some_and(|report| !report.faults().is_empty()) {
        Err(CliError::failed(
            "not everything could be tried, or gave an answer, so nothing is proven",
        ))
    } else if unread {
        Err(CliError::failed(
            "not everything could be read, so nothing is sure",
        ))
    } else {
        Ok(Exit::Good)
    }
}

/// Why it is not known which kubelet to probe.
fn unprovable(invocations: &[Invocation]) -> Option<String> {
    match invocations {
        [] | [_] => None,
        several => Some(format!("{}: choose one with --pid", listed(several))),
    }
}

fn print(inspection: &Inspection, report: Option<&ProbeReport>, out: &mut Stream) {
    out.labelled(BOLD, "kubelet", &inspection.invocation.source.to_string());
    let options = &inspection.options;
    let binds = match binds(options) {
        Ok(binds) if binds.is_empty() => "nothing".to_owned(),
        Ok(binds) => {
            let binds: Vec<String> = binds.iter().map(ToString::to_string).collect();
            binds.join(", ")
        }
        Err(error) => error.to_string(),
    };
    out.hanging("  binds     ", &binds);
    match options.files.as_slice() {
        [] => out.hanging("  reads     ", "its flags only: there is no --config"),
        files => out.hanging("  reads     ", &files.join(", ")),
    }
    for certificate in &inspection.certificates {
        let label = match certificate.role {
            CertificateRole::Serving => "  serves    ",
            CertificateRole::Client => "  presents  ",
            CertificateRole::ClientCa => "  trusts    ",
        };
        let until = certificate.not_after.date();
        let text = format!("{}, until {until} ({})", certificate.subject, certificate.file);
        out.hanging(label, &text);
    }
    writeln!(out);
    out.table(&checks(inspection, report));
    for unread in &inspection.unread {
        out.labelled(BAD, "not read:", unread);
    }
    for note in &inspection.notes {
        out.note(note);
    }
    writeln!(out);
    let count = |verdict| {
        let checks = inspection.checks.iter();
        checks.filter(|check| check.verdict == verdict).count()
    };
    let counts = format!(
        "{} FAIL, {} WARN, {} PASS",
        count(Verdict::Fail),
        count(Verdict::Warn),
        count(Verdict::Pass)
    );
    let text = format!("for the kubelet alone. {}", summary(inspection, report));
    out.labelled(BOLD, &counts, &text);
}

fn checks(inspection: &Inspection, report: Option<&ProbeReport>) -> Table<4> {
    let mut table = Table::new(["CIS", "", "CHECK", "VALUE"]).aligned_with(2);
    for check in &inspection.checks {
        let style = match check.verdict {
            Verdict::Pass => GOOD,
            Verdict::Warn => DOUBTFUL,
            Verdict::Fail => BAD,
        };
        let row = table.row([
            numbers(check).into(),
            Cell::styled(check.verdict.word(), style),
            check.title.into(),
            format!("{} ({})", check.value, check.origin).into(),
        ]);
        if check.verdict != Verdict::Pass {
            row.below(&check.why);
            row.below(&format!("the gate: {}", check.with_gate(report)));
        }
    }
    table
}

fn summary(inspection: &Inspection, report: Option<&ProbeReport>) -> String {
    let open: Vec<&Check> = inspection
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .collect();
    let compensated = open.iter().filter(|check| check.is_compensated(report)).count();
    let can = open
        .iter()
        .filter(|check| matches!(check.gate, Compensation::Full(_)))
        .count();
    match report {
        Some(_) => format!(
            "Of the {} FAIL, {compensated} are compensated, verified by probe.",
            open.len()
        ),
        None => format!(
            "Of the {} FAIL, a gate can compensate {can}; only a probe tells whether it does.",
            open.len()
        ),
    }
}

/// Both numbers, or one if they are equal.
fn numbers(check: &Check) -> String {
    match (check.old, check.new) {
        (Some(old), Some(new)) if old == new => old.to_owned(),
        (Some(old), Some(new)) => format!("{old} / {new}"),
        (Some(old), None) => format!("{old} / -"),
        (None, Some(new)) => format!("- / {new}"),
        (None, None) => String::new(),
    }
}

fn print_options(inspection: &Inspection, out: &mut Stream) {
    writeln!(out);
    out.text("Every option that was read:");
    let mut table = Table::new(["OPTION", "VALUE"]);
    for setting in inspection.options.settings() {
        table.row([
            setting.field.key.into(),
            format!("{} ({})", setting.shown(), setting.origin).into(),
        ]);
    }
    out.table(&table);
}

fn as_json(
    inspections: &[Inspection],
    listings: &[WeaknessListing],
    errors: &[String],
    report: Option<&ProbeReport>,
    now: OffsetDateTime,
) -> serde_json::Value {
    let kubelets: Vec<_> = inspections
        .iter()
        .zip(listings)
        .map(|(inspection, listing)| {
            let mut kubelet = inspection.to_json(probed(inspection, report));
            kubelet["weaknesses"] = listing.to_json();
            kubelet
        })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::adopt::prove::{ProbeAnswer, ProbeOutcome, SideKind};

    /// Seen red: with a probe that no check is about left out.
    #[test]
    fn what_gets_through_is_a_finding_whatever_the_checks_say() {
        let report = |probe: &str, through, untried: &[&str]| ProbeReport {
            api_version: String::new(),
            kind: String::new(),
            version: String::new(),
            host: String::new(),
            started: String::new(),
            finished: String::new(),
            ports: Ports::default(),
            results: vec![ProbeOutcome {
                probe: probe.to_owned(),
                side: SideKind::Namespace,
                address: "192.0.2.10:10248".parse().unwrap(),
                answer: ProbeAnswer::Status(200),
                through,
            }],
            skipped: Vec::new(),
            untried: untried.iter().map(ToString::to_string).collect(),
            build: None,
        };
        let (mut shown, open) = (
            report("pods", false, &[]),
            report("healthz-port", true, &["a side"]),
        );
        shown.results[0].address.set_port(10250);
        let untried = report("pods", false, &["a side"]);
        for (found, report, unread, expected) in [
            (false, None, false, Exit::Good),
            (false, None, true, Exit::Failed),
            (true, None, true, Exit::Findings),
            (false, Some(&shown), false, Exit::Good),
            (false, Some(&shown), true, Exit::Failed),
            (false, Some(&untried), false, Exit::Failed),
            (false, Some(&open), false, Exit::Findings),
            (true, Some(&shown), false, Exit::Findings),
        ] {
            assert_eq!(
                outcome(found, report, unread).unwrap_or_else(|error| error.exit),
                expected,
                "{found} {report:?} {unread}"
            );
        }
    }
}
