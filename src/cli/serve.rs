//! `kubelet-gate serve`: run the gate.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{FAILED, GOOD, USAGE, complain};
use crate::firewall::{RunningGate, Watch};
use crate::gate::Gate;
use crate::listen;
use crate::node::{self, Confirmed, NodeError, Shown};
use crate::settings::{KubeletFlags, Settings};
use crate::start::{StartError, Started, start, unused_proxy};

/// Every file the gate reads is looked at again this often, and on SIGHUP.
const RELOAD: Duration = Duration::from_secs(10);
/// How long the start may wait for the API server's word on the Node.
const NODE: Duration = Duration::from_secs(2);
/// Until the API server is asked again about what is shown to the kubelet.
const FLEET: Duration = Duration::from_secs(60);
/// What the audit writer gets to write out its queue at the end.
const AUDIT_FLUSH: Duration = Duration::from_secs(5);

/// The arguments of `serve`.
#[derive(Args, Debug)]
pub(super) struct Serve {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How log lines are written to standard error; KUBELET_GATE_LOG filters them, such as debug (default info)
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(flatten)]
    flags: KubeletFlags,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(super) enum LogFormat {
    /// One JSON object per line
    Json,
    /// For people
    #[default]
    Text,
}

impl Serve {
    pub(super) fn run(&self) -> u8 {
        let settings = match Settings::load(&self.config, &self.flags) {
            Ok(settings) => settings,
            Err(error) => {
                complain(&error);
                return USAGE;
            }
        };
        log_to_stderr(self.log_format);
        no_core_dumps();
        gather_entropy();
        // The control runtime: accepting, reviews, the admin port, reloads. Workers have runtimes of their own.
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        };
        let code = serve(&runtime, settings);
        // A worker that does not end must not keep the process: systemd would have to kill it.
        runtime.shutdown_timeout(Duration::from_secs(1));
        code
    }
}

fn serve(runtime: &Runtime, settings: Settings) -> u8 {
    for warning in settings.warnings.iter().chain(&unused_proxy()) {
        tracing::warn!("{warning}");
    }
    let _entered = runtime.enter();
    let Started { gate, sockets, audit } = match start(settings, runtime.handle()) {
        Ok(started) => started,
        Err(error) => {
            complain(&error);
            // An address that is taken is the machine's fault, everything else the configuration's.
            return if matches!(error, StartError::Bind(_)) {
                FAILED
            } else {
                USAGE
            };
        }
    };
    match runtime.block_on(confirm_node(&gate)) {
        Ok(None) => {}
        Ok(Some(warning)) => tracing::warn!("{warning}"),
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    }
    let stop = CancellationToken::new();
    let (signalled, reloading) = match (until_signalled(stop.clone()), keep_reloading(gate.clone())) {
        (Ok(signalled), Ok(reloading)) => (signalled, reloading),
        (Err(error), _) | (_, Err(error)) => {
            complain(&error);
            return FAILED;
        }
    };
    announce(&gate, &sockets);
    let mut watch = Watch::new(gate.clone(), say_who_runs(&gate, &sockets));
    let served = runtime.block_on(async {
        tokio::spawn(signalled);
        watch.admit().await;
        tokio::spawn(stop.clone().run_until_cancelled_owned(reloading));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(warn_of_fleet_credentials(gate.clone())),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch.keep()));
        listen::serve(gate, sockets, stop).await
    });
    let written = audit.shutdown(AUDIT_FLUSH);
    match (served, written) {
        (Ok(stopped), Ok(())) => {
            tracing::info!(cut = stopped.cut, "stopped");
            GOOD
        }
        (Err(error), _) => {
            complain(&error);
            FAILED
        }
        (_, Err(error)) => {
            complain(&error);
            FAILED
        }
    }
}

/// Whether the Node is this machine, as far as the API server says so soon. Without it the gate starts as well.
async fn confirm_node(gate: &Gate) -> Result<Option<String>, NodeError> {
    let Some(api_server) = gate.api_server() else {
        return Ok(None);
    };
    Ok(match node::confirm(api_server, gate.node_name(), NODE).await? {
        Confirmed::Same => None,
        Confirmed::Unproven(why) => Some(why),
        Confirmed::Unasked(why) => Some(format!(
            "the API server does not say whether the Node {} is this machine: {why}",
            gate.node_name()
        )),
    })
}

/// Says loudly what `check` refuses, as soon as the API server can tell: a credential for every node's kubelet.
async fn warn_of_fleet_credentials(gate: Arc<Gate>) {
    let credentials = &gate.settings().upstream.credentials;
    let Some(api_server) = gate.api_server() else {
        return;
    };
    loop {
        let mut again = false;
        for shown in node::shown_to_kubelet(credentials, api_server, gate.node_name()).await {
            match shown {
                Shown::Own => {}
                Shown::Fleet(_) if credentials.allow_fleet => {}
                Shown::Fleet(error) => tracing::warn!("{error}"),
                Shown::Unknown(why) => {
                    tracing::debug!("{why}");
                    again = true;
                }
            }
        }
        if !again {
            return;
        }
        sleep(FLEET).await;
    }
}

/// Says in `firewall.runDirectory` what the gate's connections are known by: `firewall apply` reads it there.
fn say_who_runs(gate: &Gate, sockets: &listen::Sockets) -> RunningGate {
    let running = RunningGate {
        pid: std::process::id(),
        uid: rustix::process::getuid().as_raw(),
        exemption: gate.exemption().cloned(),
        listen: sockets.addresses(),
        read_only_listen: sockets.tombstone_addresses(),
        admin: sockets.admin_address(),
    };
    let settings = &gate.settings().firewall;
    if let Err(error) = running.write(&settings.run_directory) {
        // Whoever means to be sealed should know now; to others it means nothing.
        if settings.required {
            tracing::warn!("firewall.runDirectory: {error}: this node cannot be sealed around the gate");
        } else {
            tracing::debug!("firewall.runDirectory: {error}");
        }
    }
    running
}

fn announce(gate: &Gate, sockets: &listen::Sockets) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = gate.node_name(),
        listen = ?sockets.addresses(),
        admin = ?sockets.admin_address(),
        read_only_port = ?sockets.tombstone_addresses(),
        "serving"
    );
}

/// SIGTERM or SIGINT stop the gate: from this call on they no longer kill the process, and the future waits for one.
pub(super) fn until_signalled(stop: CancellationToken) -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        stop.cancel();
    })
}

/// Reads changed files again, by the clock and on SIGHUP, which also reopens the audit file.
pub(super) fn keep_reloading(gate: Arc<Gate>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move { reload_for_ever(&gate, &mut hangup).await })
}

async fn reload_for_ever(gate: &Gate, hangup: &mut Signal) {
    let mut clock = interval(RELOAD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reading the files again");
                gate.reopen_audit();
            }
        }
        gate.reload();
    }
}

pub(super) fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("KUBELET_GATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false);
    // A second subscriber in one process (a test's) is no reason to fail.
    let _ = match format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => {
            let colours =
                io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colours).try_init()
        }
    };
}

/// Keys and tokens are in this process' memory.
pub(super) fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if let Err(error) = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    ) {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
}

/// The first random number of a process costs aws-lc some 45 ms of CPU. Asked for here, it is there before the first
/// client's handshake needs it, on a core of its own if there is one.
fn gather_entropy() {
    let gather = || {
        let mut byte = [0u8; 1];
        // Whoever really needs randomness asks again, and fails for itself.
        let _ = aws_lc_rs::rand::fill(&mut byte);
    };
    if let Err(error) = std::thread::Builder::new().name("entropy".into()).spawn(gather) {
        tracing::debug!(%error, "entropy is gathered by the first handshake");
    }
}
