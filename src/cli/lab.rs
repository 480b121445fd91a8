//! `kubelet-gate lab`: an open kubelet, an API server and a gate on one machine, to be tried or shown.

use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::exit::{CliError, Exit, runtime};
use super::serve::{LogFormat, log_to_stderr};
use super::table::{Cell, Table};
use super::terminal::{BAD, BOLD, GOOD, Stream, Terminal};
use crate::host::sandbox::no_core_dumps;
use crate::lab::scenes::{self, DemoResult, Meaning, Row};
use crate::lab::{self, LabError, LabOptions};
use crate::serve::notify::Notifier;
use crate::serve::reload::keep_reloading;
use crate::serve::run::until_signalled;
use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN, PROXY_GET_TOKEN};

/// The arguments of `lab`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 stopped by a signal, or every row has the expected result;
1 failed at run time, or a row differs; 64 wrong command line")]
pub(super) struct Lab {
    /// Play every scene against the open kubelet and against the gate, and print both answers
    #[arg(long)]
    demo: bool,
    /// Keep certificates, configuration and audit log in this directory, not in a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The gate's port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

impl Lab {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        no_core_dumps();
        terminal.let_reader_leave();
        let done = runtime().map_err(CliError::failed)?.block_on(async {
            let stop = CancellationToken::new();
            // From here on a signal ends the lab in good order, and no key stays in a temporary directory.
            tokio::spawn(until_signalled(stop.clone()).map_err(LabError::Serve)?);
            let options = LabOptions {
                directory: self.dir.clone(),
                port: self.port,
            };
            if self.demo {
                demo(options, stop, terminal).await
            } else {
                log_to_stderr(LogFormat::Text);
                stay(options, stop, terminal).await
            }
        });
        done.map_err(CliError::failed)
    }
}

/// Plays the scenes, and compares every answer with the expected one.
async fn demo(
    options: LabOptions,
    stop: CancellationToken,
    terminal: &mut Terminal,
) -> Result<Exit, LabError> {
    let lab = lab::Lab::start(options).await?;
    let played = stop.run_until_cancelled(scenes::play(&lab)).await;
    let stopped = lab.stop().await;
    let Some(played) = played else {
        stopped?;
        terminal.err.text("interrupted");
        return Ok(Exit::Failed);
    };
    let DemoResult { rows, skipped } = played.map_err(LabError::Serve)?;
    let expected = print(&rows, &mut terminal.out);
    if let Some(skipped) = skipped {
        terminal.out.text(&skipped);
    }
    stopped?;
    Ok(if expected { Exit::Good } else { Exit::Failed })
}

/// Prints how to try the lab, and waits for a signal.
async fn stay(
    options: LabOptions,
    stop: CancellationToken,
    terminal: &mut Terminal,
) -> Result<Exit, LabError> {
    let lab = lab::Lab::start(options).await?;
    welcome(&lab, &mut terminal.out);
    let reloading = keep_reloading(lab.gate.clone(), Notifier::default()).map_err(LabError::Serve)?;
    stop.run_until_cancelled(reloading).await;
    lab.stop().await?;
    Ok(Exit::Good)
}

/// Prints the rows, and how many have the expected result; true if all have.
fn print(rows: &[Row], out: &mut Stream) -> bool {
    out.table(&table(rows));
    let expected = rows.iter().filter(|row| row.is_as_expected()).count();
    let style = if expected == rows.len() { GOOD } else { BAD };
    writeln!(out);
    out.hanging("! ", "a client gets what it must not get");
    out.hanging(
        "✓ ",
        "an allowed client is served, or a client that is not allowed is refused",
    );
    out.hanging("✗ ", "not the expected answer");
    writeln!(out);
    writeln!(
        out,
        "{style}{expected} of {} rows have the expected result{style:#}",
        rows.len()
    );
    expected == rows.len()
}

/// Both answers to each request. Callers and scenes are named where they change.
fn table(rows: &[Row]) -> Table<6> {
    let mut table = Table::new(["", "CALLER", "REQUEST", "OPEN KUBELET", "THROUGH THE GATE", "WHY"]);
    let mut last: Option<&Row> = None;
    for row in rows {
        let same_scene = last.is_some_and(|last| last.scene == row.scene);
        let same_caller = same_scene && last.is_some_and(|last| last.caller == row.caller);
        if last.is_some() && !same_scene {
            table.row([""; 6].map(Cell::from));
        }
        let number = if same_scene {
            String::new()
        } else {
            row.scene.to_string()
        };
        let shown = table.row([
            Cell::styled(&number, BOLD),
            Cell::from(if same_caller { "" } else { row.caller }),
            Cell::from(row.request),
            answer(&row.open),
            answer(&row.gate),
            Cell::from(row.why),
        ]);
        for (door, cell) in [("open kubelet", &row.open), ("through the gate", &row.gate)] {
            if let Some(wrong) = &cell.mismatch {
                shown.below(&format!("✗ {door}: {wrong}"));
            }
        }
        last = Some(row);
    }
    table
}

fn answer(cell: &scenes::Outcome) -> Cell {
    let (sign, style) = match (&cell.mismatch, cell.meaning) {
        (Some(_), _) => ('✗', BAD),
        (None, Meaning::Exposed) => ('!', BAD),
        (None, Meaning::Served | Meaning::Refused) => ('✓', GOOD),
    };
    Cell::styled(&format!("{sign} {}", cell.shown), style)
}

/// Prints the addresses, the identities, and commands to paste.
fn welcome(lab: &lab::Lab, out: &mut Stream) {
    let (gate, open) = (lab.address(), lab.kubelet.address());
    let (read_only, tombstone, admin) = (lab.read_only(), lab.tombstone(), lab.admin());
    out.text(
        "An open kubelet, an API server, and a gate in front of the kubelet, all on this machine. Ctrl-C \
         ends them.",
    );
    writeln!(out);
    let mut addresses = Table::new(["ADDRESS", "SERVER"]);
    for (url, server) in [
        (format!("https://{gate}"), "the gate"),
        (
            format!("http://{tombstone}"),
            "the gate, in place of the read-only port",
        ),
        (
            format!("http://{admin}"),
            "the gate's /livez, /readyz and /metrics",
        ),
        (format!("https://{open}"), "the kubelet, open to every client"),
        (format!("http://{read_only}"), "the kubelet's read-only port"),
        (format!("https://{}", lab.api_server.address()), "the API server"),
    ] {
        addresses.row([url.into(), server.into()]);
    }
    out.table(&addresses);
    writeln!(out);
    let mut certificates = Table::new(["CERTIFICATE", "USER", "MAY"]);
    for row in [
        [
            "kube-apiserver-kubelet-client",
            "the API server",
            "everything on nodes",
        ],
        ["bob", "bob, group admins", "everything on nodes"],
        [
            "carol",
            "carol, group admins",
            "the same; only rotated-ca.crt has issued hers",
        ],
        ["alice", "alice, group developers", "nothing"],
        [
            "expired, not-yet-valid, wrong-ca, wrong-usage, no-cn",
            "none: the certificate is invalid",
            "nothing",
        ],
    ] {
        certificates.row(row.map(Cell::from));
    }
    out.table(&certificates);
    writeln!(out);
    let mut tokens = Table::new(["TOKEN", "USER", "MAY"]);
    for row in [
        [ADMIN_TOKEN, "admin, group admins", "everything on nodes"],
        [
            METRICS_TOKEN,
            "service account metrics",
            "get nodes/metrics, nodes/stats",
        ],
        [PROXY_GET_TOKEN, "service account reader", "get nodes/proxy"],
    ] {
        tokens.row(row.map(Cell::from));
    }
    out.table(&tokens);
    writeln!(
        out,
        "
To paste into another terminal:

  cd '{directory}'
  gate=https://{gate} kubelet=https://{open}
  metrics='Authorization: Bearer {METRICS_TOKEN}'
  curl_as() {{ curl --cacert ca.crt --cert \"$1.crt\" --key \"$1.key\" \"${{@:2}}\"; }}

  # The kubelet by itself: every client reads every pod with its secrets, and
  # runs commands.
  curl -k \"$kubelet/pods\"
  curl -k -X POST \"$kubelet/run/default/web/nginx?cmd=id\"
  curl http://{read_only}/pods

  # The same through the gate: 401, 401, 410.
  curl -i --cacert ca.crt \"$gate/pods\"
  curl -i --cacert ca.crt -X POST \"$gate/run/default/web/nginx?cmd=id\"
  curl -i http://{tombstone}/pods

  # With a certificate: the API server may, alice may not (403), and a
  # certificate of another authority is refused (401).
  curl_as alice -i \"$gate/pods\"
  curl_as wrong-ca -i \"$gate/pods\"
  curl_as kube-apiserver-kubelet-client \"$gate/pods\"
  curl_as kube-apiserver-kubelet-client -X POST \\
    \"$gate/run/default/web/nginx?cmd=id\"
  curl_as kube-apiserver-kubelet-client -N -m 5 \\
    \"$gate/containerLogs/payments/ledger/app?follow=true\"

  # With a token: metrics yes (200), pods no (403).
  curl -i --cacert ca.crt -H \"$metrics\" \"$gate/metrics\"
  curl -i --cacert ca.crt -H \"$metrics\" \"$gate/pods\"

  # A path that can be read in two ways: 400.
  curl -i --path-as-is --cacert ca.crt -H \"$metrics\" \\
    \"$gate/metrics/../run/default/web/nginx?cmd=id\"

  # What attack tools get: around the gate, which only a seal prevents (exit 2),
  # and through the gate (exit 0).
  kubelet-gate prove --address 127.0.0.1 \\
    --port {open_port} --read-only-port {read_only_port} --healthz-port 1
  kubelet-gate prove --address 127.0.0.1 \\
    --port {gate_port} --read-only-port {tombstone_port} --healthz-port 1

  # What the gate reports.
  curl -s http://{admin}/metrics | grep '^kubelet_gate.*_total'
  curl 'http://{admin}/readyz?verbose'
  tail audit.log",
        directory = lab.directory().display(),
        open_port = open.port(),
        read_only_port = read_only.port(),
        gate_port = gate.port(),
        tombstone_port = tombstone.port(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(wrong: Option<&str>) -> Row {
        let cell = |shown: &str, meaning, wrong: Option<&str>| scenes::Outcome {
            shown: shown.to_owned(),
            meaning,
            mismatch: wrong.map(str::to_owned),
        };
        Row {
            scene: 7,
            caller: "a caller",
            request: "POST /run/default/web/nginx?cmd=id",
            open: cell("200 uid=0(root)", Meaning::Exposed, None),
            gate: cell("401 Unauthorized", Meaning::Refused, wrong),
            why: "because",
        }
    }

    #[test]
    fn every_answer_has_a_sign_and_a_wrong_one_is_explained() {
        let rows = [row(None), row(Some("expected 401, got 200"))];
        let text = anstream::adapter::strip_str(&table(&rows).lines(None).join("\n")).to_string();
        assert!(text.contains("! 200 uid=0(root)  ✓ 401 Unauthorized"), "{text}");
        assert!(text.contains("! 200 uid=0(root)  ✗ 401 Unauthorized"), "{text}");
        assert!(
            text.contains("✗ through the gate: expected 401, got 200"),
            "{text}"
        );
        assert_eq!(text.matches("a caller").count(), 1, "{text}");
    }
}
