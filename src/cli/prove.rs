//! `kubelet-gate prove`: probes this node's kubelet as attack tools do, and reports what gets through.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{CliError, Exit};
use super::output::ReportFormat;
use super::progress::Progress;
use super::table::{Cell, Table};
use super::terminal::{BAD, DOUBTFUL, GOOD, Stream, Terminal};
use super::which_kubelet::{chosen, listed};
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::options::Effective;
use crate::adopt::prove::{
    self, Exposure, PROBES, Ports, ProbeReport, ProbeToken, ProveError, ReportChanges, ReportFile, Severity,
    SideKind,
};
use crate::host::in_network_of;
use crate::report::sarif::{self, Finding, Level, Place, Rule, Run};

/// The arguments of `prove`.
#[derive(Args, Debug)]
#[command(after_help = "\
It sends at most five requests a second to this node's own addresses. None of them changes anything.

Exit codes:
  0   nothing got through
  1   nothing got through, but not everything could be tried
  2   something got through
  64  wrong command line")]
pub(super) struct Prove {
    /// An address of this node to probe; may be repeated. Default: all of them
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// Where to probe from; may be repeated. Default: everywhere
    #[arg(long, value_name = "SIDE", value_delimiter = ',')]
    from: Vec<SideKind>,
    /// The process id of the kubelet, if several run or it runs in a container: it is
    /// probed in its own network
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// The kubelet's port. Default: the running kubelet's
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The kubelet's read-only port, open or not. Default: the running kubelet's
    #[arg(long, value_name = "PORT")]
    read_only_port: Option<u16>,
    /// The kubelet's port for health checks. Default: the running kubelet's
    #[arg(long, value_name = "PORT")]
    healthz_port: Option<u16>,
    /// A file with a token that may only read: commands are then tried by GET and WebSocket too
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Keep the report in a new file, for a later --compare
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
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        // First everything that could keep the result from being shown, before anything is sent.
        if self.compare.is_some() && self.output == ReportFormat::Sarif {
            return Err(CliError::usage("--compare works with -o table and -o json only"));
        }
        let about_file = |flag: &str, path: &Path, error: &dyn std::error::Error| {
            CliError::usage(format!("{flag} {}: {error}", path.display()))
        };
        let read =
            |path: &PathBuf| ProbeReport::read(path).map_err(|error| about_file("--compare", path, &error));
        let before = self.compare.as_ref().map(read).transpose()?;
        let token = token(self.token_file.as_deref())?;
        let kubelet = self.kubelet()?;
        let (ports, guessed) = self.ports(kubelet.as_ref())?;
        let create = |path| ReportFile::create(path).map_err(|error| about_file("--save", path, &error));
        let mut kept = self.save.as_deref().map(create).transpose()?;

        let options = prove::Options {
            ports,
            addresses: self.address.clone(),
            sides: self.from.clone(),
            token,
            ..prove::Options::default()
        };
        let mut report = probe(&options, kubelet.as_ref(), &mut terminal.err)?;
        report.untried.extend(guessed);
        let stored = kept.as_mut().map(|kept| kept.write(&report)).transpose();
        match self.output {
            ReportFormat::Table => print(&report, before.as_ref(), &mut terminal.out),
            ReportFormat::Json => match &before {
                None => terminal.out.json_report(&report),
                Some(before) => terminal.out.json_report(&compared(&report, before)?),
            },
            ReportFormat::Sarif => terminal.out.json_report(&as_sarif(&report)),
        }
        stored.map_err(|error| CliError::failed(format!("--save: {error}")))?;
        if report.exposures().next().is_some() {
            Ok(Exit::Findings)
        } else if report.results.is_empty() {
            Err(CliError::failed("nothing could be tried"))
        } else if !report.faults().is_empty() {
            Err(CliError::failed(
                "not everything could be tried, or gave an answer, so nothing is proven",
            ))
        } else {
            Ok(Exit::Good)
        }
    }

    /// The kubelet that runs, unless all that it is asked for is named.
    fn kubelet(&self) -> Result<Option<Invocation>, CliError> {
        let all_named = self.port.is_some() && self.read_only_port.is_some() && self.healthz_port.is_some();
        if all_named && self.pid.is_none() {
            return Ok(None);
        }
        let (mut found, errors) = chosen(self.pid);
        if found.len() > 1 {
            return Err(CliError::usage(format!(
                "{}: choose one with --pid, or name the ports with --port, --read-only-port and \
                 --healthz-port",
                listed(&found)
            )));
        }
        match errors.into_iter().next() {
            Some(error) if self.pid.is_some() => Err(CliError::usage(error)),
            _ => Ok(found.pop()),
        }
    }

    /// The ports that are named, else those of the running kubelet; and what was assumed.
    fn ports(&self, kubelet: Option<&Invocation>) -> Result<(Ports, Option<String>), CliError> {
        let named = |ports: Ports| Ports {
            secure: self.port.unwrap_or(ports.secure),
            read_only: self.read_only_port.unwrap_or(ports.read_only),
            healthz: self.healthz_port.unwrap_or(ports.healthz),
        };
        if self.port.is_some() && self.read_only_port.is_some() && self.healthz_port.is_some() {
            return Ok((named(Ports::default()), None));
        }
        let name = "name the ports with --port, --read-only-port and --healthz-port";
        let Some(kubelet) = kubelet else {
            let (_, errors) = chosen(None);
            let why = errors.into_iter().next().unwrap_or_default();
            let guessed = format!("the ports of the running kubelet: {why}; {name}");
            return Ok((named(Ports::default()), Some(guessed)));
        };
        let options = Effective::of(kubelet).map_err(|error| {
            CliError::usage(format!("the kubelet of {}: {error}; {name}", kubelet.source))
        })?;
        let unread = kubelet.unread.iter().chain(&options.unread).next();
        let guessed = unread.map(|why| format!("ports that may be configured elsewhere: {why}; {name}"));
        Ok((named(Ports::of(&options)), guessed))
    }
}

/// The token in `--token-file`.
pub(super) fn token(path: Option<&Path>) -> Result<Option<ProbeToken>, CliError> {
    let read = |path: &Path| {
        ProbeToken::read(path)
            .map_err(|error| CliError::usage(format!("--token-file {}: {error}", path.display())))
    };
    path.map(read).transpose()
}

/// Sends the probes, and shows how far it has come. A kubelet in another network namespace is probed there:
/// its addresses and its loopback are those of that namespace.
pub(super) fn probe(
    options: &prove::Options,
    kubelet: Option<&Invocation>,
    err: &mut Stream,
) -> Result<ProbeReport, CliError> {
    let elsewhere = kubelet
        .filter(|kubelet| kubelet.elsewhere)
        .and_then(Invocation::pid);
    if let Some(pid) = elsewhere {
        err.text(&format!(
            "the kubelet (process {pid}) is probed in its own network namespace"
        ));
    }
    let mut progress = Progress::on(err);
    let mut show = |step: prove::Progress| {
        progress.show(&format!(
            "request {} of {}, about {} s left; {} {}",
            step.done + 1,
            step.total,
            step.remaining().as_secs(),
            step.side.name(),
            step.address
        ));
    };
    let probed = match elsewhere {
        None => prove::prove(options, &mut show),
        Some(pid) => in_network_of(pid, || prove::prove(options, &mut show)).map_err(|error| {
            CliError::failed(format!(
                "the network namespace of the kubelet (process {pid}): {error}; only root can enter it"
            ))
        })?,
    };
    drop(progress);
    probed.map_err(|error| match error {
        ProveError::NotLocal(..) | ProveError::TooMany(..) => CliError::usage(error),
        ProveError::Interrupted | ProveError::System { .. } => CliError::failed(error),
    })
}

/// The report, and what has changed since the one before.
fn compared(report: &ProbeReport, before: &ProbeReport) -> Result<serde_json::Value, CliError> {
    let changes = ReportChanges::between(before, report);
    let mut value = serde_json::to_value(report).map_err(CliError::failed)?;
    value["comparedWith"] = serde_json::json!({
        "started": before.started,
        "host": before.host,
        "closed": changes.closed,
        "stillOpen": changes.still,
        "newlyOpen": changes.newly,
        "unknown": changes.unknown,
        "counts": {"probes": changes.probes(), "requests": changes.requests()},
    });
    Ok(value)
}

fn print(report: &ProbeReport, before: Option<&ProbeReport>, out: &mut Stream) {
    let open = report.exposed_probes();
    if !open.is_empty() {
        let mut table = Table::new(["GOT THROUGH", "WHAT IT GIVES", "FROM"]);
        for exposure in &open {
            table.row([
                Cell::styled(exposure.probe.id, BAD),
                exposure.probe.gives.into(),
                from(exposure).into(),
            ]);
        }
        out.table(&table);
        writeln!(out);
    }
    let mut answers = Table::new(["FROM, TO", "PORT", "ANSWERS"]);
    for group in report.answer_groups() {
        let counts = group.answers.iter();
        let counts: Vec<String> = counts
            .map(|(answer, count)| format!("{answer} ×{count}"))
            .collect();
        answers.row([
            group.to.to_string().into(),
            group.port.to_string().into(),
            counts.join(", ").into(),
        ]);
    }
    out.table(&answers);
    remarks(report, out);
    if let Some(before) = before {
        print_changes(before, report, out);
    }
    writeln!(out);
    let tried: BTreeSet<&str> = report
        .results
        .iter()
        .map(|outcome| outcome.probe.as_str())
        .collect();
    let (tried, at) = (tried.len(), &report.finished);
    if !open.is_empty() {
        let requests = report.exposures().count();
        let through = format!(
            "{} of {tried} probes got through ({requests} of {} requests)",
            open.len(),
            report.results.len()
        );
        let next = format!(
            "at {at}. `kubelet-gate firewall status` tells whether this node is sealed, and docs/prove.md \
             describes every probe."
        );
        out.labelled(BAD, &through, &next);
    } else if report.faults().is_empty() {
        out.labelled(GOOD, "nothing got through:", &format!("{tried} probes at {at}"));
    } else {
        let label = "nothing got through of what was answered:";
        out.labelled(DOUBTFUL, label, &format!("{tried} probes at {at}"));
    }
}

fn print_changes(before: &ProbeReport, report: &ProbeReport, out: &mut Stream) {
    let changes = ReportChanges::between(before, report);
    writeln!(out);
    out.text(&format!(
        "since {}, in probes: {} (in requests: {})",
        before.started,
        changes.probes(),
        changes.requests()
    ));
    if before.host != report.host {
        out.text(&format!("that was on {}, this is {}", before.host, report.host));
    }
    for outcome in changes.newly {
        let what = format!(
            "{} from {} to {}",
            outcome.probe,
            outcome.side.name(),
            outcome.address
        );
        out.labelled(BAD, "newly open:", &what);
    }
}

/// Prints what was left out, and what keeps the report from proving anything.
pub(super) fn remarks(report: &ProbeReport, out: &mut Stream) {
    for remark in report.remarks() {
        out.text(&remark);
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
            help: format!("A client that gets through has {}.", probe.gives),
            severity: match probe.severity {
                Severity::High => 9.8,
                Severity::Medium => 7.5,
                Severity::Low => 5.3,
            },
        })
        .collect();
    let findings: Vec<Finding> = report
        .exposed_probes()
        .into_iter()
        .flat_map(|Exposure { probe, outcomes, .. }| {
            outcomes.into_iter().map(move |outcome| Finding {
                rule: id(probe.id),
                key: format!("{} from {}", outcome.address, outcome.side.name()),
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
                // Where the kernel lists the listener.
                place: Place {
                    file: match outcome.address.is_ipv4() {
                        true => "/proc/net/tcp".to_owned(),
                        false => "/proc/net/tcp6".to_owned(),
                    },
                    name: outcome.address.to_string(),
                },
                suppressed: None,
            })
        })
        .collect();
    sarif::document(&[Run {
        node: report.host.clone(),
        part: "prove",
        rules,
        findings,
        faults: report.faults(),
        notes: report.skipped.clone(),
    }])
}
