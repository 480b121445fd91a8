//! `kubelet-gate lab`: a gate between an open kubelet and an API server, to try or to demonstrate.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::serve::{LogFormat, log_to_stderr, no_core_dumps};
use super::{FAILED, GOOD, complain};
use crate::lab::scenes::{self, DemoResult, Row, Style, table};
use crate::lab::{self, LabError, LabOptions};
use crate::serve::run::{keep_reloading, until_signalled};
use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN, PROXY_GET_TOKEN};

/// The arguments of `lab`.
#[derive(Args, Debug)]
pub(super) struct Lab {
    /// Play every scene with the open kubelet and through the gate, print the table, and fail unless every
    /// row is as expected
    #[arg(long)]
    demo: bool,
    /// Keep certificates, configuration and audit log in this directory instead of a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The gate's port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
}

impl Lab {
    pub(super) fn run(&self) -> u8 {
        no_core_dumps();
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        };
        let done = runtime.block_on(async {
            let stop = CancellationToken::new();
            // From here on a signal stops the lab in order, and the temporary directory with its keys is
            // removed.
            tokio::spawn(until_signalled(stop.clone()).map_err(LabError::Serve)?);
            let options = LabOptions {
                directory: self.dir.clone(),
                port: self.port,
            };
            if self.demo {
                demo(options, stop).await
            } else {
                log_to_stderr(LogFormat::Text);
                stay(options, stop).await
            }
        });
        match done {
            Ok(true) => GOOD,
            Ok(false) => FAILED,
            Err(error) => {
                complain(&error);
                FAILED
            }
        }
    }
}

/// Plays the scenes. True if every row is as expected.
async fn demo(options: LabOptions, stop: CancellationToken) -> Result<bool, LabError> {
    let lab = lab::Lab::start(options).await?;
    let played = stop.run_until_cancelled(scenes::play(&lab)).await;
    let stopped = lab.stop().await;
    let Some(played) = played else {
        stopped?;
        eprintln!("interrupted");
        return Ok(false);
    };
    let DemoResult { rows, skipped } = played.map_err(LabError::Serve)?;
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = if colour { Style::Colour } else { Style::Plain };
    print(&table(&rows, style));
    if let Some(skipped) = skipped {
        println!("{skipped}");
    }
    stopped?;
    Ok(rows.iter().all(Row::is_as_expected))
}

/// Prints how to try the lab, and waits for a signal.
async fn stay(options: LabOptions, stop: CancellationToken) -> Result<bool, LabError> {
    let lab = lab::Lab::start(options).await?;
    print(&welcome(&lab));
    stop.run_until_cancelled(keep_reloading(lab.gate.clone()).map_err(LabError::Serve)?)
        .await;
    lab.stop().await?;
    Ok(true)
}

/// The addresses, the users, and commands to paste.
fn welcome(lab: &lab::Lab) -> String {
    let mut text = String::new();
    let (gate, open) = (lab.address(), lab.kubelet.address());
    let (read_only, tombstone, admin) = (lab.read_only(), lab.tombstone(), lab.admin());
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "\
An open kubelet, an API server, and a gate in front of the kubelet, on this machine. Ctrl-C ends them.

  https://{gate}   the gate                        http://{tombstone}   the gate, in place of the read-only port
  https://{open}   the open kubelet                http://{read_only}   the kubelet's read-only port
  https://{api}   the API server                  http://{admin}   the gate's /livez, /readyz and /metrics

Users
  certificate                    user                            may
  kube-apiserver-kubelet-client  the API server                  everything on nodes
  bob                            bob, group admins               everything on nodes
  carol                          carol, group admins             the same; her CA is rotated-ca.crt
  alice                          alice, group developers         nothing
  expired, not-yet-valid, wrong-ca, wrong-usage, no-cn           nothing: the gate rejects them
  token
  {ADMIN_TOKEN:<29}  admin, group admins             everything on nodes
  {METRICS_TOKEN:<29}  service account metrics         get nodes/metrics, nodes/stats
  {PROXY_GET_TOKEN:<29}  service account reader          get nodes/proxy

Paste into another terminal:
  cd '{directory}'

  # The open kubelet: without credentials, read every pod with its secrets, and run a command.
  curl -k https://{open}/pods
  curl -k -X POST 'https://{open}/run/default/web/nginx?cmd=id'
  curl http://{read_only}/pods

  # The same through the gate: 401, 401, 410.
  curl -i --cacert ca.crt https://{gate}/pods
  curl -i --cacert ca.crt -X POST 'https://{gate}/run/default/web/nginx?cmd=id'
  curl -i http://{tombstone}/pods

  # By certificate: alice has no rights (403), the next one is of another CA (401), the API server may.
  curl_as() {{ curl --cacert ca.crt --cert \"$1.crt\" --key \"$1.key\" \"${{@:2}}\"; }}
  curl_as alice -i https://{gate}/pods
  curl_as wrong-ca -i https://{gate}/pods
  curl_as kube-apiserver-kubelet-client https://{gate}/pods
  curl_as kube-apiserver-kubelet-client -X POST 'https://{gate}/run/default/web/nginx?cmd=id'
  curl_as kube-apiserver-kubelet-client -N -m 5 'https://{gate}/containerLogs/payments/ledger/app?follow=true'

  # By token: metrics are allowed (200), pods are not (403).
  curl -i --cacert ca.crt -H 'Authorization: Bearer {METRICS_TOKEN}' https://{gate}/metrics
  curl -i --cacert ca.crt -H 'Authorization: Bearer {METRICS_TOKEN}' https://{gate}/pods

  # An ambiguous path: 400.
  curl -i --path-as-is --cacert ca.crt -H 'Authorization: Bearer {METRICS_TOKEN}' \\
    'https://{gate}/metrics/../run/default/web/nginx?cmd=id'

  # Probes of attackers' tools: past the gate, which only a seal prevents (exit 2), and through it (exit 0).
  kubelet-gate prove --address 127.0.0.1 --port {} --read-only-port {} --healthz-port 1
  kubelet-gate prove --address 127.0.0.1 --port {} --read-only-port {} --healthz-port 1

  # Metrics, readiness and audit of the gate.
  curl -s http://{admin}/metrics | grep '^kubelet_gate.*_total'
  curl 'http://{admin}/readyz?verbose'
  tail audit.log
",
        open.port(),
        read_only.port(),
        gate.port(),
        tombstone.port(),
        api = lab.api_server.address(),
        directory = lab.directory().display(),
    );
    text
}

/// Writes to standard output. An error is ignored: the reader, such as `head`, has closed it.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
