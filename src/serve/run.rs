//! A gate from its start to its end: signals, reloads, and the watches over the seal, over the kubelet's next
//! start and over the Node.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::containment;
use super::ends::Ends;
use super::error::StartError;
use super::handover::{Offering, Predecessors, TakeError, Taken, Taking, process, tell_command};
use super::instance::Instance;
use super::next_start::NextStartWatch;
use super::node::{self, NodeError, NodeWatch, Shown};
use super::notify::{Notifier, ServiceManager};
use super::reload::keep_reloading;
use super::sockets::listed;
use super::start::{Started, Surroundings, prepare, start_in, take_sockets, unused_proxy};
use super::watch::Watch;
use super::watchdog::keep_alive;
use super::{Inherited, Ports, Sockets, Stopped};
use crate::audit::AuditError;
use crate::seal::RunningGate;
use crate::settings::{KubeletFlags, Settings};

/// How long a process that takes over waits for the API server's answer about the Node.
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
    /// The gate that serves goes on.
    #[error(transparent)]
    TakeOver(#[from] TakeError),
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
            Self::Audit(_) | Self::Io(_) | Self::TakeOver(_) => false,
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
    /// Takes over from the gate that serves, which has been told so.
    pub(crate) take_over: bool,
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
        take_over,
    } = configuration;
    for warning in settings.warnings.iter().chain(&unused_proxy()) {
        tracing::warn!("{warning}");
    }
    let _entered = runtime.enter();
    let (started, taken) = if take_over {
        let (started, taken) = runtime.block_on(succeed(settings.clone(), surroundings))?;
        (started, Some(taken))
    } else {
        let started = start_in(settings.clone(), surroundings, inherited, runtime.handle())?;
        (started, None)
    };
    let Started {
        instance,
        sockets,
        audit,
    } = started;
    instance.follow_configuration(path.to_owned(), flags.clone(), settings);
    instance.warn_of_certificates(&instance.settings.tls);
    instance.warn_of_left_out();
    let served = runtime.block_on(serve_until_ended(instance, sockets, taken));
    let written = audit.shutdown(AUDIT_FLUSH);
    let stopped = served?;
    written?;
    Ok(stopped)
}

/// Makes a gate with the sockets of the one that serves. Whatever fails, that one goes on.
async fn succeed(settings: Settings, surroundings: Surroundings) -> Result<(Started, Taken), RunError> {
    let taking = Taking::begin(&settings.firewall.run_directory).await?;
    let (instance, audit) = prepare(settings, surroundings, taking.exemption(), &Handle::current())?;
    // Once this process is the gate, its Node is not asked about as at a start.
    let node = NodeWatch::new(instance.api_server.clone(), instance.node.clone());
    node.ask_before_start(NODE).await?;
    let mut taken = taking.take().await?;
    // The old process has left the file that was there before.
    instance.gate.audit.reopen();
    instance.holding.give_up(std::mem::take(&mut taken.let_go));
    instance.seal.store(Arc::new(taken.seal.clone()));
    let inherited = Inherited::handed_over(std::mem::take(&mut taken.listeners))?;
    let sockets = take_sockets(&instance, inherited)?;
    let started = Started {
        instance,
        sockets,
        audit,
    };
    Ok((started, taken))
}

async fn serve_until_ended(
    instance: Arc<Instance>,
    sockets: Sockets,
    taken: Option<Taken>,
) -> Result<Stopped, RunError> {
    let manager = taken.as_ref().map(Taken::manager);
    let notifier = Notifier::to(manager.unwrap_or_else(ServiceManager::of_environment));
    let ends = Ends::new();
    let (until_stopped, until_ended) = (|| ends.stop.clone(), || ends.leave.clone());
    let (signalled, reloading, successors) = (
        until_signalled(ends.stop.clone())?,
        keep_reloading(instance.clone(), notifier.clone())?,
        signal(SignalKind::user_defined2())?,
    );
    let predecessors = Predecessors::new(instance.clone(), ends.leave.clone());
    let offering = Offering {
        instance: instance.clone(),
        admin: sockets.admin_descriptors()?,
        predecessors: predecessors.clone(),
        ends: ends.clone(),
        notifier: notifier.clone(),
    };
    let line = Announcement::of(&instance, &sockets);
    let running = running_gate(&instance, &sockets);
    let next_start = NextStartWatch::new(instance.holding.clone());
    let mut watch = Watch::new(instance.clone(), running.clone());
    let told = notifier.clone();
    tokio::spawn(async move {
        signalled.await;
        told.stopping();
    });
    let ports = match taken {
        None => {
            line.log();
            publish(&instance, &running, notifier.manager());
            watch.admit().await;
            Ports::open(instance.clone(), sockets, ends.clone())?
        }
        // Until the last word the old process watches the kubelet's next start, answers on the admin port,
        // and has the seal. The seal knows both.
        Some(taken) => {
            instance.gate.kubelet.set_sealed(true);
            let ports = Ports::open(instance.clone(), sockets, ends.clone())?;
            if let Err(error) = taken.commit(&predecessors, &ends.stop).await {
                // What was accepted is served to its end.
                ends.stop.cancel();
                ports.until_ended().await;
                return Err(error.into());
            }
            instance.metrics().upgrade("ok");
            line.log();
            publish(&instance, &running, notifier.manager());
            ports
        }
    };
    let ports = ports.open_admin()?;
    tokio::spawn(until_ended().run_until_cancelled_owned(next_start.keep()));
    tokio::spawn(until_stopped().run_until_cancelled_owned(reloading));
    tokio::spawn(until_ended().run_until_cancelled_owned(warn_of_fleet_credentials(instance.clone())));
    tokio::spawn(until_ended().run_until_cancelled_owned(watch.keep()));
    let signs = keep_alive(instance.threads.clone(), notifier.clone());
    tokio::spawn(until_ended().run_until_cancelled_owned(signs));
    tokio::spawn(offering.keep(successors));
    tokio::spawn(until_stopped().run_until_cancelled_owned(containment::watch(instance.clone())));
    let node = NodeWatch::new(instance.api_server.clone(), instance.node.clone());
    let confirming = tokio::spawn(node.keep(ends.clone()));
    notifier.ready();
    tell_command("serving");
    let stopped = ports.until_ended().await;
    ends.stop.cancel();
    // A panic is in the log.
    confirming.await.unwrap_or(Ok(()))?;
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

/// By what the gate's connections are known, and where it listens: also where it waits
/// until a kubelet lets it.
fn running_gate(instance: &Instance, sockets: &Sockets) -> RunningGate {
    let with_missing = |mut addresses: Vec<SocketAddr>, configured: &[SocketAddr]| {
        addresses.extend(instance.holding.not_held(configured));
        addresses
    };
    let settings = &instance.settings;
    RunningGate {
        pid: std::process::id(),
        uid: rustix::process::getuid().as_raw(),
        exemption: instance.exemption.clone(),
        listen: with_missing(sockets.addresses(), &settings.listen),
        read_only_listen: with_missing(sockets.tombstone_addresses(), &settings.read_only_port.listen),
        admin: sockets.admin_address(),
    }
}

/// Writes to `firewall.runDirectory` which gate serves: `firewall apply` and `upgrade` read it there.
fn publish(instance: &Instance, running: &RunningGate, manager: &ServiceManager) {
    let settings = &instance.settings.firewall;
    if let Err(error) = process::write(&settings.run_directory, manager) {
        tracing::warn!(
            "firewall.runDirectory: {error}: no other process can take over from this one; mend that and \
             restart the gate"
        );
    }
    if let Err(error) = running.write(&settings.run_directory) {
        // An operator who requires the seal should know now. Without a seal the file is not needed.
        if settings.required {
            tracing::warn!("firewall.runDirectory: {error}: this node cannot be sealed around the gate");
        } else {
            tracing::debug!("firewall.runDirectory: {error}");
        }
    }
}

/// The log line that says that the gate serves, and where.
struct Announcement {
    node: Arc<str>,
    listen: String,
    admin: String,
    admin_socket: String,
    read_only_port: String,
}

impl Announcement {
    fn of(instance: &Instance, sockets: &Sockets) -> Self {
        Self {
            node: instance.gate.node_name.clone(),
            listen: listed(&sockets.addresses()),
            admin: listed(sockets.admin_address().as_slice()),
            admin_socket: sockets.admin_socket_path().unwrap_or_else(|| "none".to_owned()),
            read_only_port: listed(&sockets.tombstone_addresses()),
        }
    }

    fn log(&self) {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            node = &*self.node,
            listen = self.listen,
            admin = self.admin,
            admin_socket = self.admin_socket,
            read_only_port = self.read_only_port,
            "serving"
        );
    }
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
