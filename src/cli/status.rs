//! `kubelet-gate status`: what the running gate says of itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::exit::{CliError, Exit, runtime};
use super::output::Output;
use super::table::Table;
use super::terminal::{BAD, GOOD, Stream, Terminal};
use crate::adopt::kubelet::plain;
use crate::seal::Seal;
use crate::serve::StatusReport;
use crate::serve::admin::client::{AdminPlace, get};
use crate::settings::{KubeletFlags, Settings};

const DEADLINE: Duration = Duration::from_secs(5);

/// The arguments of `status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 the gate is ready, 1 it is not ready, 2 no gate answers, 64 wrong command line or \
configuration")]
pub(super) struct Status {
    /// The configuration file of the running gate
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Status {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        let settings = Settings::load(&self.config, &KubeletFlags::default()).map_err(CliError::usage)?;
        let admin = AdminPlace::of(&settings, None).ok_or_else(|| {
            CliError::usage(format!(
                "{}: admin.socket is off and admin.listen names no port, so the gate cannot be asked; set \
                 admin.socket: auto, or a port such as 127.0.0.1:10256, and restart the gate",
                self.config.display()
            ))
        })?;
        let asking = get::<Value>(&admin, "/status", DEADLINE);
        let answer = runtime().map_err(CliError::failed)?.block_on(asking);
        // Another local process may hold the port while the gate is down.
        let report = answer.map(printable).map_err(no_gate)?;
        let report: StatusReport = serde_json::from_value(report).map_err(|error| {
            no_gate(format!(
                "/status of the gate's admin port or socket is not a gate's report: {error}; is the gate of \
                 another version, or is another program there?"
            ))
        })?;
        match self.output {
            Output::Json => terminal.out.json(&report),
            Output::Table => print(&report, &mut terminal.out),
        }
        Ok(if report.ready { Exit::Good } else { Exit::Failed })
    }
}

fn no_gate(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CliError {
    let way_out = "no gate answers: `systemctl status kubelet-gate` shows whether it runs; its admin socket \
                   is for root, the gate's user and admin.group";
    CliError::several(Exit::Findings, [error.into(), way_out.into()])
}

/// The same value without characters that control a terminal.
fn printable(value: Value) -> Value {
    match value {
        Value::String(text) => plain(&text).into(),
        Value::Array(items) => items.into_iter().map(printable).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields.map(|(name, value)| (name, printable(value))).collect()
        }
        other => other,
    }
}

fn print(report: &StatusReport, out: &mut Stream) {
    let version = &report.version;
    match report.ready {
        true => writeln!(out, "kubelet-gate {version} is {GOOD}ready{GOOD:#}"),
        false => writeln!(out, "kubelet-gate {version} is {BAD}NOT READY{BAD:#}"),
    }
    out.hanging(
        "  process        ",
        &format!("{}, since {}", report.pid, report.since),
    );
    let configuration = report.configuration.as_ref();
    let configuration = configuration.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    out.hanging("  configuration  ", &configuration);
    out.hanging("  node           ", &report.node);
    for (place, listener) in report.listeners.iter().enumerate() {
        let label = if place == 0 { "listeners" } else { "" };
        let text = format!("{} ({})", listener.address, listener.port);
        out.hanging(&format!("  {label:13}  "), &text);
    }
    out.hanging(
        "  connections    ",
        &format!(
            "{}, with {} requests in flight",
            report.connections, report.requests_in_flight
        ),
    );
    out.hanging(
        "  streams        ",
        &format!("{}, and {} followed logs", report.streams, report.followed_logs),
    );
    out.hanging("  seal           ", &seal(&report.seal));
    out.hanging("  sandbox        ", &report.sandbox);
    for part in report.parts.iter().filter(|part| !part.starts_with("[+]")) {
        match part.split_at_checked("[!] ".len()) {
            Some((mark, text)) => out.hanging(mark, text),
            None => out.text(part),
        }
    }
    if !report.leaving.is_empty() {
        let mut table = Table::new(["LEAVING", "SINCE", "UNTIL", "CONNECTIONS", "STREAMS"]);
        for process in &report.leaving {
            table.row([
                process.pid.to_string().into(),
                process.since.as_str().into(),
                process.deadline.as_str().into(),
                process.connections.to_string().into(),
                process.streams.to_string().into(),
            ]);
        }
        out.table(&table);
    }
}

fn seal(seal: &Seal) -> String {
    match seal {
        Seal::Sealed => "in force".to_owned(),
        Seal::Absent => "none is in force: kubelet-gate firewall apply".to_owned(),
        Seal::Trial => "on trial: kubelet-gate firewall confirm".to_owned(),
        Seal::Unwatched => "not looked at yet".to_owned(),
        Seal::Shut(why) => format!("keeps callers out: {why}"),
        Seal::Open(why) => format!("open: {why}"),
        Seal::Unknown(why) => format!("unknown: {why}"),
    }
}
