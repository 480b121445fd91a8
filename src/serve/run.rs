//! A gate from its start to its end: signals, reloads, and the watches over the seal, over the kubelet's next
//! start and over the Node.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::containment;
use super::ends::Ends;
use super::error::StartError;
use super::instance::Instance;
use super::next_start::NextStartWatch;
use super::node::{self, NodeError, NodeWatch, Shown};
use super::notify::{Notifier, ServiceManager};
use super::reload::keep_reloading;
use super::start::{Started, Surroundings, start_in, unused_proxy};
use super::watch::Watch;
use super::watchdog::keep_alive;
use super::{Inherited, Sockets, Stopped, serve};
use crate::audit::AuditError;
use crate::seal::RunningGate;
use crate::settings::{KubeletFlags, Settings};

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

/// A configuration, and where it comes from.
pub(crate) struct Configuration<'a> {
    pub(crate) path: &'a Path,
    /// Flags of the command line, which win over the file.
    pub(crate) flags: &'a KubeletFlags,
    pub(crate) settings: Settings,
    /// What was found before the sandbox was entered.
    pub(crate) surroundings: Surroundings,
    /// Sockets that this process need not bind.
    pub(crate) inherited: Inherited,
}

/// Runs a gate of this configuration until SIGTERM or SIGINT. `runtime` is the control runtime.
///
/// # Errors
/// It cannot start, or did not end well.
pub(crate) fn run(runtime: &Runtime, configuration: Configuration<'_>) -> Result<Stopped, RunError> {
    let Configuration {
        path,
        flags,
        settings,
        surroundings,
        inherited,
    } = configuration;
    for warning in settings.warnings.iter().chain(&unused_proxy()) {
        tracing::warn!("{warning}");
    }
    let _entered = runtime.enter();
    let Started {
        instance,
        sockets,
        audit,
    } = start_in(settings.clone(), surroundings, inherited, runtime.handle())?;
    instance.follow_configuration(path.to_owned(), flags.clone(), settings);
    instance.warn_of_certificates(&instance.settings.tls);
    let ends = Ends::new();
    let notifier = Notifier::to(ServiceManager::of_environment());
    let (signalled, reloading) = (
        until_signalled(ends.stop.clone())?,
        keep_reloading(instance.clone(), notifier.clone())?,
    );
    announce(&instance, &sockets);
    let next_start = NextStartWatch::new(instance.holding.clone());
    instance.warn_of_left_out();
    let watched = instance.clone();
    let mut watch = Watch::new(instance.clone(), publish_running_gate(&instance, &sockets));
    let (served, confirmed) = runtime.block_on(async {
        let told = notifier.clone();
        tokio::spawn(async move {
            signalled.await;
            told.stopping();
        });
        watch.admit().await;
        let (until_stopped, until_ended) = (|| ends.stop.clone(), || ends.leave.clone());
        tokio::spawn(until_stopped().run_until_cancelled_owned(reloading));
        tokio::spawn(until_ended().run_until_cancelled_owned(warn_of_fleet_credentials(instance.clone())));
        tokio::spawn(until_ended().run_until_cancelled_owned(watch.keep()));
        let signs = keep_alive(instance.threads.clone(), notifier.clone());
        tokio::spawn(until_ended().run_until_cancelled_owned(signs));
        tokio::spawn(until_ended().run_until_cancelled_owned(next_start.keep()));
        tokio::spawn(until_stopped().run_until_cancelled_owned(containment::watch(watched)));
        let node = NodeWatch::new(instance.api_server.clone(), instance.node.clone());
        let confirming = tokio::spawn(node.keep(ends.clone()));
        notifier.ready();
        let served = serve(instance, sockets, ends.clone()).await;
        ends.stop.cancel();
        // A panic is in the log.
        (served, confirming.await.unwrap_or(Ok(())))
    });
    let written = audit.shutdown(AUDIT_FLUSH);
    confirmed?;
    let stopped = served?;
    written?;
    Ok(stopped)
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
