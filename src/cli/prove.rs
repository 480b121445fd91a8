//! `kubelet-gate prove`: go about this node's kubelet as attackers' tools do, and report what gets through.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use clap::Args;

use super::which_kubelet::{elsewhere, listed};
use super::{FAILED, FINDINGS, GOOD, ReportFormat, USAGE, complain};
use crate::adopt::kubelet::options::Effective;
use crate::adopt::kubelet::{plain, running};
use crate::adopt::prove::{
    self, Exposure, PROBES, Ports, ProbeReport, ProbeToken, ProveError, ReportChanges, ReportFile, Severity,
    SideKind,
};
use crate::report::sarif::{self, Finding, Level, Place, Rule};

/// The arguments of `prove`.
#[derive(Args, Debug)]
pub(super) struct Prove {
    /// One of this node's addresses; may be repeated. Without it, all of them
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// Where to probe from; may be repeated. Without it, everywhere
    #[arg(long, value_name = "SIDE", value_delimiter = ',')]
    from: Vec<SideKind>,
    /// The kubelet's port, instead of the running kubelet's
    #[arg(long)]
    port: Option<u16>,
    /// Its read-only port, open or not
    #[arg(long)]
    read_only_port: Option<u16>,
    /// Its port for health checks
    #[arg(long)]
    healthz_port: Option<u16>,
    /// A file with a token that may only read, with which to try commands by GET and WebSocket
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Keep the report in a new file, to compare with later
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Show what has changed since a saved report
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, default_value = "table")]
    output: ReportFormat,
}

impl Prove {
    pub(super) fn run(&self) -> u8 {
        self.done().unwrap_or_else(|code| code)
    }

    fn done(&self) -> Result<u8, u8> {
        let told = |code: u8, text: String| {
            eprintln!("error: {}", plain(&text));
            code
        };
        // Before anything is sent, what would keep the result from being seen.
        if self.compare.is_some() && self.output == ReportFormat::Sarif {
            let text = "--compare is shown by -o table and -o json only";
            return Err(told(USAGE, text.to_owned()));
        }
        let before = match &self.compare {
            None => None,
            Some(path) => Some(
                ProbeReport::read(path)
                    .map_err(|error| told(USAGE, format!("--compare {}: {error}", path.display())))?,
            ),
        };
        let token = token(self.token_file.as_deref()).map_err(|error| told(USAGE, error))?;
        let (ports, guessed) = self.ports().map_err(|error| told(USAGE, error))?;
        let mut kept = match &self.save {
            None => None,
            Some(path) => {
                let opened = ReportFile::create(path);
                Some(opened.map_err(|error| told(USAGE, format!("--save {}: {error}", path.display())))?)
            }
        };
        let options = prove::Options {
            ports,
            addresses: self.address.clone(),
            sides: self.from.clone(),
            token,
            ..prove::Options::default()
        };
        let watched = io::stderr().is_terminal();
        let mut dialled = None;
        let report = prove::prove(&options, &mut |progress| {
            let next = (progress.side, progress.address);
            if watched && dialled.is_none() {
                eprintln!(
                    "at most five requests a second, none of which changes anything: about {} s if all is open",
                    progress.remaining().as_secs()
                );
            }
            if watched && dialled.replace(next) != Some(next) {
                eprintln!(
                    "  {} of {} probes done; next {}: {}",
                    progress.done,
                    progress.total,
                    progress.side.name(),
                    progress.address
                );
            }
        });
        let mut report = report.map_err(|error| {
            complain(&error);
            if matches!(error, ProveError::NotLocal(..) | ProveError::TooMany(..)) {
                USAGE
            } else {
                FAILED
            }
        })?;
        report.untried.extend(guessed);
        let stored = match &mut kept {
            None => Ok(()),
            Some(kept) => kept.write(&report),
        };
        let printed = match self.output {
            ReportFormat::Table => table(&report, before.as_ref()),
            ReportFormat::Json => json(&report, before.as_ref()),
            ReportFormat::Sarif => print(&as_sarif(&report)),
        };
        printed.map_err(|error| {
            complain(&error);
            FAILED
        })?;
        stored.map_err(|error| told(FAILED, format!("--save: {error}")))?;
        if report.exposures().next().is_some() {
            Ok(FINDINGS)
        } else if report.results.is_empty() {
            Err(told(FAILED, "nothing could be tried".to_owned()))
        } else if !report.faults().is_empty() {
            let text = "not everything that was to be tried has shown something, so nothing is proven";
            Err(told(FAILED, text.to_owned()))
        } else {
            Ok(GOOD)
        }
    }

    /// Those that are named, else those of the running kubelet; and what was taken for granted.
    fn ports(&self) -> Result<(Ports, Option<String>), String> {
        let named = |ports: Ports| Ports {
            secure: self.port.unwrap_or(ports.secure),
            read_only: self.read_only_port.unwrap_or(ports.read_only),
            healthz: self.healthz_port.unwrap_or(ports.healthz),
        };
        if self.port.is_some() && self.read_only_port.is_some() && self.healthz_port.is_some() {
            return Ok((named(Ports::default()), None));
        }
        let running = running(Path::new("/proc"));
        let name = "name the ports with --port, --read-only-port and --healthz-port";
        match running.as_slice() {
            [] => {
                let guessed = format!("the running kubelet's own ports: none is seen; {name}");
                Ok((named(Ports::default()), Some(guessed)))
            }
            [invocation] if !invocation.elsewhere => {
                let options = Effective::of(invocation)
                    .map_err(|error| format!("the kubelet of {}: {error}; {name}", invocation.source))?;
                let unread = invocation.unread.iter().chain(&options.unread).next();
                let guessed = unread.map(|why| format!("other ports, if there are: {why}; {name}"));
                Ok((named(Ports::of(&options)), guessed))
            }
            [invocation] => Err(elsewhere(invocation)),
            several => Err(format!("{}: {name}", listed(several))),
        }
    }
}

/// The token in `--token-file`.
pub(super) fn token(path: Option<&Path>) -> Result<Option<ProbeToken>, String> {
    path.map(|path| {
        ProbeToken::read(path).map_err(|error| format!("--token-file {}: {error}", path.display()))
    })
    .transpose()
}

fn print(value: &impl serde::Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

fn json(report: &ProbeReport, before: Option<&ProbeReport>) -> io::Result<()> {
    let Some(before) = before else {
        return print(report);
    };
    let changes = ReportChanges::between(before, report);
    let mut value = serde_json::to_value(report)?;
    value["comparedWith"] = serde_json::json!({
        "started": before.started,
        "host": before.host,
        "closed": changes.closed,
        "stillOpen": changes.still,
        "newlyOpen": changes.newly,
        "unknown": changes.unknown,
    });
    print(&value)
}

fn table(report: &ProbeReport, before: Option<&ProbeReport>) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    let (bold, red, green) = (
        Style::new().bold(),
        AnsiColor::Red.on_default(),
        AnsiColor::Green.on_default(),
    );
    let open = report.exposed_probes();
    if !open.is_empty() {
        writeln!(
            out,
            "{bold}{:<22} {:<58} FROM{bold:#}",
            "GOT THROUGH", "WHAT IT GIVES"
        )?;
    }
    for exposure in &open {
        writeln!(
            out,
            "{red}{:<22}{red:#} {:<58} {}",
            exposure.probe.id,
            exposure.probe.gives,
            from(exposure)
        )?;
    }
    if !open.is_empty() {
        writeln!(out)?;
    }
    writeln!(out, "{bold}{:<40} {:<6} ANSWERS{bold:#}", "FROM, TO", "PORT")?;
    for group in report.answer_groups() {
        let answers: Vec<String> = group
            .answers
            .iter()
            .map(|(answer, count)| format!("{answer} ×{count}"))
            .collect();
        writeln!(
            out,
            "{:<40} {:<6} {}",
            group.to.to_string(),
            group.port,
            answers.join(", ")
        )?;
    }
    for remark in report.remarks() {
        writeln!(out, "{remark}")?;
    }
    if let Some(before) = before {
        let changes = ReportChanges::between(before, report);
        writeln!(
            out,
            "\nsince {}: {} closed, {} still open, {} newly open, {} not shown this time",
            plain(&before.started),
            changes.closed.len(),
            changes.still.len(),
            changes.newly.len(),
            changes.unknown.len()
        )?;
        if before.host != report.host {
            writeln!(
                out,
                "that was on {}, this is {}",
                plain(&before.host),
                plain(&report.host)
            )?;
        }
        for outcome in changes.newly {
            writeln!(
                out,
                "  {red}newly open{red:#} {} from {} to {}",
                outcome.probe,
                outcome.side.name(),
                outcome.address
            )?;
        }
    }
    let tried: BTreeSet<&str> = report
        .results
        .iter()
        .map(|outcome| outcome.probe.as_str())
        .collect();
    if open.is_empty() && report.faults().is_empty() {
        writeln!(
            out,
            "\n{green}nothing got through{green:#}: {} probes at {}",
            tried.len(),
            report.finished
        )
    } else if open.is_empty() {
        writeln!(
            out,
            "\nnothing got through of what was answered: {} probes at {}",
            tried.len(),
            report.finished
        )
    } else {
        writeln!(
            out,
            "\n{red}{} of {} probes got through{red:#} at {}; `kubelet-gate firewall status` tells whether this node is sealed, \
             docs/prove.md what each probe is",
            open.len(),
            tried.len(),
            report.finished
        )
    }
}

/// `everywhere`, or `loopback 127.0.0.1; node address (all)`.
fn from(exposure: &Exposure<'_>) -> String {
    match exposure.from.as_slice() {
        [_, _, ..] if exposure.everywhere => "everywhere".to_owned(),
        from => {
            let from: Vec<String> = from.iter().map(ToString::to_string).collect();
            from.join("; ")
        }
    }
}

fn as_sarif(report: &ProbeReport) -> serde_json::Value {
    let id = |probe: &str| format!("probe/{probe}");
    let rules: Vec<Rule> = PROBES
        .iter()
        .map(|probe| Rule {
            id: id(probe.id),
            name: format!("{} {} is refused to strangers", probe.method, probe.path),
            help: format!("Whoever gets through has {}.", probe.gives),
        })
        .collect();
    let findings: Vec<Finding> = report
        .exposed_probes()
        .into_iter()
        .flat_map(|Exposure { probe, outcomes, .. }| {
            outcomes.into_iter().map(move |outcome| Finding {
                rule: id(probe.id),
                level: match probe.severity {
                    Severity::High => Level::Error,
                    Severity::Medium => Level::Warning,
                    Severity::Low => Level::Note,
                },
                message: format!(
                    "{} {} to {} from {} was answered {}: {}.",
                    probe.method,
                    probe.path,
                    outcome.address,
                    outcome.side.name(),
                    outcome.answer,
                    probe.gives
                ),
                place: Place::Named(outcome.address.to_string()),
                suppressed: None,
            })
        })
        .collect();
    sarif::document(&rules, &findings, &report.faults(), &report.skipped)
}
