//! From settings to a gate that can serve: reads every file, makes every part and binds every socket,
//! or fails with one error.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::admin;
use super::descriptors;
use super::error::StartError;
use super::holding::Holding;
use super::inherited::Inherited;
use super::instance::Instance;
use super::leaving::LeavingProcesses;
use super::node;
use super::reviewing::Reviewing;
use super::sockets::Sockets;
use super::tombstone::Census;
use crate::adopt::kubelet::running_kubelets;
use crate::apiserver::{ApiServer, ApiServerError, ClientLimits, Kubeconfig, SERVICE_ACCOUNT_DIRECTORY};
use crate::audit::{Audit, AuditThread};
use crate::authn::{Budget, DenyList, KnownApiServer, Verdicts};
use crate::forward::{Kubelet, KubeletProbe};
use crate::gate::{Gate, Places, Witness};
use crate::host::host_name;
use crate::metrics::Metrics;
use crate::seal::Exemption;
use crate::settings::{AuthorizationMode, Settings};
use crate::source::Known;
use crate::tls::Serving;

/// A gate that is ready to be served.
pub struct Started {
    /// The gate.
    pub instance: Arc<Instance>,
    /// Its bound sockets.
    pub sockets: Sockets,
    /// The thread that writes its audit events; to be shut down after serving.
    pub audit: AuditThread,
}

/// What a gate finds on the machine before it enters its sandbox: some of it cannot be seen from inside.
pub(crate) struct Surroundings {
    /// The gate's addresses on a kubelet's port.
    pub(super) at_stake: Vec<SocketAddr>,
    /// What the kubelets that run bind.
    pub(super) kubelet_ports: Vec<u16>,
    /// How to reach the API server, if any setting needs it.
    pub(super) kubeconfig: Option<Kubeconfig>,
    /// The name of the Node.
    pub(super) node_name: Arc<str>,
}

/// Makes a gate of `settings`, and takes its sockets from `inherited` or binds them. Reviews will run on
/// `control`, the runtime this is called on.
///
/// # Errors
/// Something cannot be used. Nothing stays bound or running.
pub fn start(settings: Settings, inherited: Inherited, control: &Handle) -> Result<Started, StartError> {
    let surroundings = Surroundings::look(&settings)?;
    start_in(settings, surroundings, inherited, control)
}

/// As [`start`], after a look at the machine.
pub(super) fn start_in(
    mut settings: Settings,
    surroundings: Surroundings,
    mut inherited: Inherited,
    control: &Handle,
) -> Result<Started, StartError> {
    if let Some(warning) = descriptors::fit(&mut settings) {
        tracing::warn!("{warning}");
    }
    let mut sockets = Sockets::bind(&settings, &mut inherited)?;
    // Last: of two gates with this configuration, only one has come so far.
    sockets.admin_socket = admin::socket::listen(&settings, &mut inherited)?;
    inherited.finish()?;
    let exemption = Exemption::of_this_process(settings.firewall.mark)?;
    let (instance, audit) = assemble(settings, surroundings, exemption, control)?;
    Ok(Started {
        instance: Arc::new(instance),
        sockets,
        audit,
    })
}

/// Makes a gate of `settings` that takes over from another one. The other one has the sockets meanwhile: the
/// files come first. `exemption` is the other one's.
///
/// # Errors
/// Something cannot be used. The other one does not notice.
pub(super) fn prepare(
    mut settings: Settings,
    surroundings: Surroundings,
    exemption: Option<Exemption>,
    control: &Handle,
) -> Result<(Arc<Instance>, AuditThread), StartError> {
    if let Some(warning) = descriptors::fit(&mut settings) {
        tracing::warn!("{warning}");
    }
    let exemption = match exemption {
        None => Exemption::of_this_process(settings.firewall.mark)?,
        handed_over => handed_over,
    };
    let (instance, audit) = assemble(settings, surroundings, exemption, control)?;
    Ok((Arc::new(instance), audit))
}

/// Takes the sockets of a gate from `inherited`, or binds them; not those that the gate
/// before it has let go of.
///
/// # Errors
/// A socket cannot be had.
pub(super) fn take_sockets(instance: &Instance, mut inherited: Inherited) -> Result<Sockets, StartError> {
    let mut settings = instance.settings.clone();
    let let_go = instance.holding.let_go();
    for addresses in [&mut settings.listen, &mut settings.read_only_port.listen] {
        addresses.retain(|address| !let_go.contains(address));
    }
    let mut sockets = Sockets::bind(&settings, &mut inherited)?;
    sockets.admin_socket = admin::socket::listen(&settings, &mut inherited)?;
    inherited.finish()?;
    Ok(sockets)
}

/// Reads every file and makes every part.
fn assemble(
    settings: Settings,
    surroundings: Surroundings,
    exemption: Option<Exemption>,
    control: &Handle,
) -> Result<(Instance, AuditThread), StartError> {
    let metrics = Arc::new(Metrics::new());
    let known = Arc::new(Known::default());
    let serving = Arc::new(ArcSwap::from_pointee(Serving::load(&settings.tls)?));
    let denied = Arc::new(ArcSwap::from_pointee(deny_list(&settings)?));
    let kubelet = Kubelet::new(
        settings.upstream.clone(),
        &settings.limits,
        exemption.as_ref().map(|exemption| exemption.mark),
        metrics.clone(),
    )?;
    let Surroundings {
        at_stake,
        kubeconfig,
        node_name,
        ..
    } = surroundings;
    let api_server = api_server(kubeconfig, &settings)?;
    let reviewing = Reviewing {
        verdicts: Arc::new(Verdicts::new(
            serving.clone(),
            denied.clone(),
            Budget::new(settings.limits.refused_certificates_per_address, known.clone()),
            metrics.clone(),
        )),
        denied,
        rejected_tokens: Budget::new(settings.limits.rejected_tokens_per_address, known.clone()),
        api_server: api_server.clone(),
        node_name: node_name.clone(),
        control: control.clone(),
        known: known.clone(),
        metrics: metrics.clone(),
    };
    let rules = reviewing.rules(&settings)?;
    let (audit, audit_thread) = Audit::start(&settings.audit, settings.limits.audit_queue)?;
    let gate = Gate {
        rules: Arc::new(ArcSwap::from_pointee(rules)),
        changes: watch::Sender::new(()),
        requests: Places::new(
            "requests",
            settings.limits.upstream_connections,
            settings.limits.requests_per_identity,
        ),
        streams: Places::new(
            "streams",
            settings.limits.streams,
            settings.limits.streams_per_identity,
        ),
        checkpoints: Semaphore::new(1),
        known,
        witness: Witness::new(&settings.firewall.api_server_users),
        audit,
        kubelet,
        metrics,
        node_name,
    };
    let instance = Instance {
        holding: Arc::new(Holding::new(at_stake, gate.metrics.clone())),
        node: Arc::new(node::NodeStanding::new(
            gate.node_name.clone(),
            gate.metrics.clone(),
        )),
        gate: Arc::new(gate),
        probe: KubeletProbe::default(),
        census: Census::new(),
        threads: Arc::default(),
        reloading: Mutex::default(),
        helper_lost: OnceLock::new(),
        configuration: OnceLock::new(),
        leaving: LeavingProcesses::default(),
        not_in_force: ArcSwap::default(),
        seal: ArcSwap::default(),
        seal_turn: Arc::default(),
        serving,
        api_server,
        reviewing,
        exemption,
        settings,
    };
    instance.publish_expiry();
    instance.publish_denials();
    Ok((instance, audit_thread))
}

/// The deny lists of the settings. The API server was not seen yet: of it only the
/// configured users are known.
pub(super) fn deny_list(settings: &Settings) -> Result<DenyList, StartError> {
    let api_server = KnownApiServer {
        users: &settings.firewall.api_server_users,
        seen: &[],
    };
    Ok(DenyList::load(&settings.authentication.deny_files, api_server)?)
}

/// A warning if the environment names a proxy: client-go would use it, the gate does not.
pub(crate) fn unused_proxy() -> Option<String> {
    let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let name = ["HTTPS_PROXY", "https_proxy"].into_iter().find(set)?;
    Some(format!(
        "{name} is in the environment and is not used: the gate connects to the API server directly"
    ))
}

/// The client for reviews, if any setting needs one, and the name of the Node that they are about.
pub(crate) fn api_server_and_node_name(
    settings: &Settings,
) -> Result<(Option<ApiServer>, Arc<str>), StartError> {
    let (kubeconfig, node_name) = kubeconfig_and_node_name(settings)?;
    Ok((api_server(kubeconfig, settings)?, node_name))
}

fn api_server(
    kubeconfig: Option<Kubeconfig>,
    settings: &Settings,
) -> Result<Option<ApiServer>, ApiServerError> {
    let limits = ClientLimits {
        timeout: settings.limits.review_timeout,
        concurrent: settings.limits.concurrent_reviews,
    };
    kubeconfig
        .map(|kubeconfig| ApiServer::new(kubeconfig, limits))
        .transpose()
}

// === impl Surroundings ===

impl Surroundings {
    /// Looks at the kubelets that run, at the kubeconfig, and at what names the Node.
    ///
    /// # Errors
    /// The gate must not listen where it should, or there is no kubeconfig or name.
    pub(super) fn look(settings: &Settings) -> Result<Self, StartError> {
        let kubelets = running_kubelets(Path::new("/proc"));
        let at_stake = node::may_listen(settings, &kubelets)?;
        let (kubeconfig, node_name) = kubeconfig_and_node_name(settings)?;
        Ok(Self {
            at_stake,
            kubelet_ports: kubelets
                .iter()
                .flat_map(|kubelet| kubelet.binds.iter().flatten().map(SocketAddr::port))
                .collect(),
            kubeconfig,
            node_name,
        })
    }
}

fn kubeconfig_and_node_name(settings: &Settings) -> Result<(Option<Kubeconfig>, Arc<str>), StartError> {
    let reviewed = settings.authorization.mode == AuthorizationMode::Webhook;
    if !reviewed && !settings.authentication.webhook {
        // Only audit events name the Node then.
        let name = node::name(settings, None).unwrap_or_else(|_| host_name().unwrap_or_default());
        return Ok((None, name.into()));
    }
    let kubeconfig = match &settings.kubeconfig {
        Some(path) => Kubeconfig::load(path)?,
        None => {
            let variable = |name| std::env::var(name).ok();
            let (host, port) = (
                variable("KUBERNETES_SERVICE_HOST"),
                variable("KUBERNETES_SERVICE_PORT"),
            );
            if host.is_none() {
                return Err(StartError::NoApiServer);
            }
            Kubeconfig::in_cluster(
                host.as_deref(),
                port.as_deref(),
                Path::new(SERVICE_ACCOUNT_DIRECTORY),
            )?
        }
    };
    let common_name = kubeconfig.client_certificate_common_name()?;
    let name = node::name(settings, common_name.as_deref())?;
    Ok((Some(kubeconfig), name.into()))
}
