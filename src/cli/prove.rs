//! `kubelet-gate prove`: go about this node's kubelet as attackers' tools do, and report what gets through.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use clap::Args;

use super::output::ReportFormat;
use super::which_kubelet::{elsewhere, listed};
use super::{FAILED, FINDINGS, GOOD, USAGE, complain};
use crate::adopt::kubelet::invocation;
use crate::adopt::kubelet::options::Effective;
use crate::adopt::kubelet::plain;
use crate::adopt::prove::{
    self, API_VERSION, Answer, Changes, KIND, Outcome, PROBES, Ports, Probe, ProveError, Report, Severity,
    SideKind,
};
use crate::host;
use crate::report::sarif::{self, Finding, Level, Place, Rule};

/// Nobody has as many addresses.
const LARGEST_REPORT: u64 = 64 * 1024 * 1024;
const LARGEST_TOKEN: u64 = 1024 * 1024;

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
                saved(path).map_err(|error| told(USAGE, format!("--compare {}: {error}", path.display())))?,
            ),
        };
        let token = token(self.token_file.as_deref()).map_err(|error| told(USAGE, error))?;
        let (ports, guessed) = self.ports().map_err(|error| told(USAGE, error))?;
        let mut kept = match &self.save {
            None => None,
            Some(path) => {
                let opened = Kept::new(path);
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
        if watched {
            let addresses = if self.address.is_empty() {
                host::addresses().map_or(0, |all| all.len())
            } else {
                self.address.len()
            };
            let about = prove::about(2 * addresses).as_secs();
            eprintln!(
                "five requests a second at most, none of which changes anything: about {about} s if all is open"
            );
        }
        let report = prove::prove(&options, &mut |step| {
            if watched {
                eprintln!("  {step}");
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
        let running = invocation::running(Path::new("/proc"));
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
                Ok((named(ports_of(&options)), guessed))
            }
            [invocation] => Err(elsewhere(invocation)),
            several => Err(format!("{}: {name}", listed(several))),
        }
    }
}

/// The ports of a kubelet with these options; one that is switched off is looked for where it usually is.
pub(super) fn ports_of(options: &Effective) -> Ports {
    let usual = Ports::default();
    let port = |key: &str, usual: u16| {
        let port = u16::try_from(options.number(key)).ok();
        port.filter(|port| *port != 0).unwrap_or(usual)
    };
    Ports {
        secure: port("port", usual.secure),
        read_only: port("readOnlyPort", usual.read_only),
        healthz: port("healthzPort", usual.healthz),
    }
}

/// The token in `--token-file`.
pub(super) fn token(path: Option<&Path>) -> Result<Option<String>, String> {
    let Some(path) = path else {
        return Ok(None);
    };
    let bytes =
        read(path, LARGEST_TOKEN).map_err(|error| format!("--token-file {}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let token = text.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "--token-file {}: it holds no single token",
            path.display()
        ));
    }
    Ok(Some(token.to_owned()))
}

/// A file, unless it is none or larger than anybody's: a device would be read without end.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn saved(path: &Path) -> io::Result<Report> {
    let report: Report = serde_json::from_slice(&read(path, LARGEST_REPORT)?)?;
    if report.kind != KIND || report.api_version != API_VERSION {
        return Err(io::Error::other(format!("not a report of prove, {API_VERSION}")));
    }
    Ok(report)
}

/// A new file for the report, which is taken away again unless it is written whole: half a report would be taken for one. It
/// tells where a node is open, to its owner alone.
struct Kept<'a> {
    path: &'a Path,
    file: fs::File,
    whole: bool,
}

impl<'a> Kept<'a> {
    fn new(path: &'a Path) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::Error::other("there already, and may be wanted"),
            _ => error,
        })?;
        Ok(Self {
            path,
            file,
            whole: false,
        })
    }

    fn write(&mut self, report: &Report) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(report)?;
        self.file.write_all(&text)?;
        self.file.sync_all()?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if !self.whole {
            let _ = fs::remove_file(self.path);
        }
    }
}

fn print(value: &impl serde::Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

fn json(report: &Report, before: Option<&Report>) -> io::Result<()> {
    let Some(before) = before else {
        return print(report);
    };
    let changes = Changes::between(before, report);
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

fn table(report: &Report, before: Option<&Report>) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    let (bold, red, green) = (
        Style::new().bold(),
        AnsiColor::Red.on_default(),
        AnsiColor::Green.on_default(),
    );
    let open = through(report);
    if !open.is_empty() {
        writeln!(
            out,
            "{bold}{:<22} {:<58} FROM{bold:#}",
            "GOT THROUGH", "WHAT IT GIVES"
        )?;
    }
    for (probe, outcomes) in &open {
        writeln!(
            out,
            "{red}{:<22}{red:#} {:<58} {}",
            probe.id,
            probe.gives,
            from(outcomes)
        )?;
    }
    if !open.is_empty() {
        writeln!(out)?;
    }
    writeln!(out, "{bold}{:<18} {:<28} WHAT ANSWERED{bold:#}", "FROM", "TO")?;
    for ((side, address), answers) in answers(report) {
        let answers: Vec<String> = answers
            .iter()
            .map(|(answer, count)| format!("{answer} ×{count}"))
            .collect();
        writeln!(
            out,
            "{:<18} {:<28} {}",
            side.name(),
            address.to_string(),
            answers.join(", ")
        )?;
    }
    for remark in remarks(report) {
        writeln!(out, "{remark}")?;
    }
    if let Some(before) = before {
        let changes = Changes::between(before, report);
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

/// What is not as it might be, and how far the answers reach.
pub(super) fn remarks(report: &Report) -> Vec<String> {
    let skipped = report.skipped.iter().map(|why| format!("left out: {why}"));
    skipped.chain(report.faults()).collect()
}

/// What got through, by probe, in the order of the table.
fn through(report: &Report) -> Vec<(&'static Probe, Vec<&Outcome>)> {
    PROBES
        .iter()
        .map(|probe| {
            (
                probe,
                report
                    .exposures()
                    .filter(|outcome| outcome.probe == probe.id)
                    .collect::<Vec<_>>(),
            )
        })
        .filter(|(_, outcomes)| !outcomes.is_empty())
        .collect()
}

/// `loopback 127.0.0.1 ::1; node address 192.0.2.10`.
fn from(outcomes: &[&Outcome]) -> String {
    let mut sides: BTreeMap<SideKind, Vec<String>> = BTreeMap::new();
    for outcome in outcomes {
        sides
            .entry(outcome.side)
            .or_default()
            .push(outcome.address.ip().to_string());
    }
    let sides: Vec<String> = sides
        .iter()
        .map(|(side, addresses)| format!("{} {}", side.name(), addresses.join(" ")))
        .collect();
    sides.join("; ")
}

type Answers<'a> = BTreeMap<(SideKind, std::net::SocketAddr), BTreeMap<&'a Answer, usize>>;

fn answers(report: &Report) -> Answers<'_> {
    let mut all = Answers::new();
    for outcome in &report.results {
        let answers = all.entry((outcome.side, outcome.address)).or_default();
        *answers.entry(&outcome.answer).or_default() += 1;
    }
    all
}

fn as_sarif(report: &Report) -> serde_json::Value {
    let id = |probe: &str| format!("probe/{probe}");
    let rules: Vec<Rule> = PROBES
        .iter()
        .map(|probe| Rule {
            id: id(probe.id),
            name: format!("{} {} is refused to strangers", probe.method, probe.path),
            help: format!("Whoever gets through has {}.", probe.gives),
        })
        .collect();
    let findings: Vec<Finding> = through(report)
        .into_iter()
        .flat_map(|(probe, outcomes)| {
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
