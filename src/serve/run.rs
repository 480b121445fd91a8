//! A gate from its start to its end: signals, reloads, the watch over the seal, and what the API
//! server says of its Node.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::StartError;
use super::instance::Instance;
use super::node::{self, NodeError, SameMachine, Shown};
use super::start::{Started, start, unused_proxy};
use super::watch::Watch;
use super::{Sockets, Stopped, serve};
use crate::audit::AuditError;
use crate::files;
use crate::repeats;
use crate::seal::RunningGate;
use crate::settings::Settings;

/// Every file the gate reads is looked at again this often, and on SIGHUP.
const RELOAD: Duration = Duration::from_secs(10);
/// After this time without an end, reading is reported. It goes on.
const SLOW: Duration = Duration::from_secs(10);
/// How long the start may wait for the API server's answer about the Node.
const NODE: Duration = Duration::from_secs(2);
/// Until the API server is asked again about the credential shown to the kubelet.
const FLEET: Duration = Duration::from_secs(60);
/// How long the audit writer may take to write out its queue at the end.
const AUDIT_FLUSH: Duration = Duration::from_secs(5);

/// Why a gate did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The audit writer could not write everything.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A worker cannot be started, or a signal cannot be waited for.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The Node is another machine.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The gate cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl RunError {
    /// Whether the operator must change the configuration. An address that is taken is
    /// a fault of this machine, and so is a socket that cannot be made.
    pub(crate) fn is_configuration(&self) -> bool {
        match self {
            Self::Start(error) => !matches!(error, StartError::AdminSocket(_) | StartError::Bind(_)),
            Self::Node(_) => true,
            Self::Audit(_) | Self::Io(_) => false,
        }
    }
}

/// Runs a gate of `settings` until SIGTERM or SIGINT. `runtime` is the control runtime.
///
/// # Errors
/// It cannot start, or did not end well.
pub(crate) fn run(runtime: &Runtime, settings: Settings) -> Result<Stopped, RunError> {
    for warning in settings.warnings.iter().chain(&unused_proxy()) {
        tracing::warn!("{warning}");
    }
    let _entered = runtime.enter();
    let Started {
        instance,
        sockets,
        audit,
    } = start(settings, runtime.handle())?;
    instance.warn_of_certificates();
    if let Some(warning) = runtime.block_on(confirm_node(&instance))? {
        tracing::warn!("{warning}");
    }
    let stop = CancellationToken::new();
    let (signalled, reloading) = (until_signalled(stop.clone())?, keep_reloading(instance.clone())?);
    announce(&instance, &sockets);
    let mut watch = Watch::new(instance.clone(), publish_running_gate(&instance, &sockets));
    let served = runtime.block_on(async {
        tokio::spawn(signalled);
        watch.admit().await;
        let until_stopped = || stop.clone();
        tokio::spawn(until_stopped().run_until_cancelled_owned(reloading));
        tokio::spawn(until_stopped().run_until_cancelled_owned(warn_of_fleet_credentials(instance.clone())));
        tokio::spawn(until_stopped().run_until_cancelled_owned(watch.keep()));
        serve(instance, sockets, stop).await
    });
    let written = audit.shutdown(AUDIT_FLUSH);
    let stopped = served?;
    written?;
    Ok(stopped)
}

/// Whether the Node is this machine, as far as the API server says so soon. Without its answer
/// the gate starts as well.
async fn confirm_node(instance: &Instance) -> Result<Option<String>, NodeError> {
    let Some(api_server) = &instance.api_server else {
        return Ok(None);
    };
    let name = &instance.gate.node_name;
    Ok(match node::confirm(api_server, name, NODE).await? {
        SameMachine::Yes => None,
        SameMachine::Unproven(why) => Some(why),
        SameMachine::Unasked(why) => Some(format!(
            "the API server does not say whether the Node {name} is this machine: {why}"
        )),
    })
}

/// Warns of what `check` refuses, as soon as the API server can tell: a credential that
/// every node's kubelet accepts.
async fn warn_of_fleet_credentials(instance: Arc<Instance>) {
    let credentials = &instance.settings.upstream.credentials;
    let Some(api_server) = &instance.api_server else {
        return;
    };
    loop {
        let mut again = false;
        for shown in node::shown_to_kubelet(credentials, api_server, &instance.gate.node_name).await {
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

/// Writes to `firewall.runDirectory` by what the gate's connections are known:
/// `firewall apply` reads it there.
fn publish_running_gate(instance: &Instance, sockets: &Sockets) -> RunningGate {
    let running = RunningGate {
        pid: std::process::id(),
        uid: rustix::process::getuid().as_raw(),
        exemption: instance.exemption.clone(),
        listen: sockets.addresses(),
        read_only_listen: sockets.tombstone_addresses(),
        admin: sockets.admin_address(),
    };
    let settings = &instance.settings.firewall;
    if let Err(error) = running.write(&settings.run_directory) {
        // An operator who requires the seal should know now. Without a seal the file is not needed.
        if settings.required {
            tracing::warn!("firewall.runDirectory: {error}: this node cannot be sealed around the gate");
        } else {
            tracing::debug!("firewall.runDirectory: {error}");
        }
    }
    running
}

fn announce(instance: &Instance, sockets: &Sockets) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = &*instance.gate.node_name,
        listen = super::sockets::listed(&sockets.addresses()),
        admin = super::sockets::listed(sockets.admin_address().as_slice()),
        admin_socket = sockets.admin_socket_path().as_deref().unwrap_or("none"),
        read_only_port = super::sockets::listed(&sockets.tombstone_addresses()),
        "serving"
    );
}

/// SIGTERM or SIGINT stop the gate: from this call on they no longer kill the process, and
/// the future waits for one.
pub(crate) fn until_signalled(stop: CancellationToken) -> io::Result<impl Future<Output = ()>> {
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
pub(crate) fn keep_reloading(instance: Arc<Instance>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        let wanted = Notify::new();
        let hear = async {
            loop {
                hangup.recv().await;
                tracing::info!("SIGHUP: reading the files again");
                instance.gate.audit.reopen();
                wanted.notify_one();
            }
        };
        tokio::join!(hear, reload_forever(&instance, &wanted), report_repeats());
    })
}

async fn reload_forever(instance: &Arc<Instance>, wanted: &Notify) {
    let mut clock = interval_at(Instant::now() + RELOAD, RELOAD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = wanted.notified() => {}
        }
        let instance = instance.clone();
        let mut reading = pin!(files::aside(move || instance.reload()));
        let read = match timeout(SLOW, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                tracing::warn!(
                    "the files that the configuration names have been read for {SLOW:?} without an end; the \
                     last good ones stay in force. Is one of them on a file system that does not answer?"
                );
                reading.await
            }
        };
        if let Err(error) = read {
            tracing::warn!(%error, "the files cannot be read again");
        }
    }
}

/// Reports the log lines that were held back, also while a reload waits for a file.
async fn report_repeats() {
    let mut clock = interval_at(Instant::now() + RELOAD, RELOAD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        repeats::report();
    }
}
