//! How a gate contains itself before it starts its first thread, and what is said of that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::StartError;
use super::handover::process;
use super::instance::Instance;
use super::notify::ServiceManager;
use super::start::Surroundings;
use crate::adopt::kubelet::{PORT, READ_ONLY_PORT};
use crate::apiserver::PluginCommand;
use crate::files;
use crate::host::Helper;
use crate::host::sandbox::{self, Bounds, InForce, harden, no_core_dumps};
use crate::seal::State;
use crate::settings::{AdminSocket, AuditSink, Sandbox, Settings, UpstreamTrust, UpstreamUrl};

/// The subcommand by which the helper process runs this program.
pub(crate) const HELPER: &str = "helper";
/// How long the helper may take to begin: on a busy machine the start of a program takes a while.
const BEGINS: Duration = Duration::from_secs(30);
/// Where the kubelet answers health checks.
const HEALTHZ_PORT: u16 = 10248;
const DNS: u16 = 53;
/// A kubelet has three ports. More of a plan are not opened: a gate that was taken over may have written it.
const SEALED_PORTS: usize = 8;

/// What names this machine, for the comparison with its Node.
const MACHINE: [&str; 3] = [
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/sys/class/dmi/id/product_uuid",
];
/// What the C library reads to resolve a name: its settings, and modules that it loads for them. The files in
/// `/etc` are replaced by rename, so the folder stands for them.
const NAMES: [&str; 8] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// The first question to the helper.
#[derive(Deserialize, Serialize)]
pub(super) struct Begin {
    /// Whether it hardens itself as the gate does.
    pub(super) hardened: bool,
    /// The one plugin that it may run.
    pub(super) plugin: Option<PluginCommand>,
}

impl Begin {
    pub(super) const KIND: &str = "begin";
}

/// Looks at the machine, starts the helper process and enters the sandbox, as `settings`, read from
/// `configuration`, say. No other thread may run yet.
///
/// # Errors
/// The gate cannot start here, or `sandbox: Required` cannot be held.
pub(crate) fn enter(
    settings: &Settings,
    configuration: &Path,
    take_over: bool,
) -> Result<Surroundings, StartError> {
    no_core_dumps();
    let surroundings = Surroundings::look(settings)?;
    let hardened = settings.sandbox != Sandbox::Off;
    if hardened {
        // The helper inherits what can be inherited.
        harden();
    }
    let begin = Begin {
        hardened,
        plugin: surroundings
            .kubeconfig
            .as_ref()
            .and_then(|kubeconfig| kubeconfig.plugin_command().cloned()),
    };
    let helper = Helper::start(HELPER).map_err(|error| StartError::Helper(error.to_string()))?;
    let begun = helper.ask::<Vec<String>>(Begin::KIND, &begin, BEGINS);
    for failed in begun.map_err(|error| StartError::Helper(error.to_string()))? {
        tracing::warn!("the helper process runs without: {failed}");
    }
    // Here too: the gate runs plugins by its helper alone, and refuses a kubeconfig that names another one.
    PluginCommand::allow_only(begin.plugin);
    tracing::debug!(pid = helper.pid(), "the helper process runs");
    if !hardened {
        tracing::warn!("sandbox: Off: no sandbox contains this process; write BestEffort or Required");
        return Ok(surroundings);
    }
    make_run_directory(settings);
    let mut bounds = bounds(settings, configuration, &surroundings);
    // The process that it takes over from tells it where its service manager listens.
    bounds.abstract_sockets |= take_over && process::manager_is_abstract(&settings.firewall.run_directory);
    let sandbox = sandbox::enter(&bounds, settings.sandbox == Sandbox::Required)?;
    if sandbox.is_complete() {
        tracing::info!("sandbox: {}: {sandbox}", settings.sandbox.name());
    } else {
        tracing::warn!("sandbox: {}: {sandbox}", settings.sandbox.name());
    }
    Ok(surroundings)
}

/// Waits for the end of the helper process, which cannot be started again from inside the sandbox, and says
/// what is lost.
pub(super) async fn watch(instance: Arc<Instance>) {
    let Some(helper) = Helper::of_this_process() else {
        return;
    };
    let complete = sandbox::in_force().is_some_and(InForce::is_complete);
    instance.metrics().helper_running.set(1);
    instance.metrics().sandbox_complete.set(i64::from(complete));
    let ended = helper.ended().await.unwrap_or_else(|error| error.to_string());
    instance.metrics().helper_running.set(0);
    tracing::error!(
        "the helper process has ended ({ended}). Until the gate is restarted the seal cannot be looked at or \
         put back, an exec plugin issues no credential, the kubelet's next start is unknown, and no process \
         is named; what is in force stays in force"
    );
    instance.note_helper_lost(ended);
}

/// The folder for the admin socket: inside the sandbox it could not be made any more.
fn make_run_directory(settings: &Settings) {
    let folder = &settings.firewall.run_directory;
    if settings.admin.socket == AdminSocket::InRunDirectory && !folder.is_dir() {
        // What is wrong with it, the socket tells.
        let _ = std::fs::create_dir(folder);
    }
}

fn bounds(settings: &Settings, configuration: &Path, surroundings: &Surroundings) -> Bounds {
    let mut bounds = Bounds {
        abstract_sockets: ServiceManager::of_environment().is_abstract(),
        ..Bounds::default()
    };
    for (key, path) in named_files(settings, configuration) {
        bounds.read(key, &path);
    }
    bounds.readable.insert("/proc".into());
    bounds.readable.extend(MACHINE.map(PathBuf::from));
    if settings.admin.group.is_some() {
        bounds.readable.insert("/etc/group".into());
    }
    let firewall = &settings.firewall;
    bounds.write("firewall.runDirectory", &firewall.run_directory);
    bounds.seal_state(&firewall.state_directory);
    if let AuditSink::File(path) = &settings.audit.sink {
        for folder in folders(path) {
            bounds.write("audit.path", &folder);
        }
    }
    let socket = settings.admin.socket.path(&firewall.run_directory);
    if let Some(folder) = socket.as_deref().and_then(Path::parent) {
        bounds.write("admin.socket", folder);
    }

    // Every listener; 0 is also the port of a connection that asks for any.
    bounds.bind.insert(0);
    let listen = settings.listen.iter().chain(&settings.read_only_port.listen);
    bounds
        .bind
        .extend(listen.chain(&settings.admin.listen).map(|address| address.port()));

    // The kubelet's ports are dialled to see that the seal holds.
    bounds.connect.extend([PORT, READ_ONLY_PORT, HEALTHZ_PORT]);
    bounds.connect.extend(&surroundings.kubelet_ports);
    if let UpstreamUrl::Http(address) | UpstreamUrl::Https(address) = &settings.upstream.url {
        bounds.connect.insert(address.port());
    }
    let state = State::new(&firewall.state_directory);
    let confirmed = state.confirmed().ok().flatten().map(|confirmed| confirmed.plan);
    for plan in confirmed.into_iter().chain(state.trial().ok().flatten()) {
        bounds
            .connect
            .extend(plan.ports.iter().map(|port| port.port).take(SEALED_PORTS));
    }
    if let Some(kubeconfig) = &surroundings.kubeconfig {
        for file in kubeconfig.files() {
            bounds.read("kubeconfig", file);
        }
        bounds.connect.insert(kubeconfig.port());
        if kubeconfig.names_host() {
            bounds.names = true;
            bounds.readable.extend(NAMES.map(PathBuf::from));
            // Some systems have it elsewhere, behind a link.
            bounds.readable.extend(folders(Path::new("/etc/resolv.conf")));
            bounds.connect.insert(DNS);
        }
    }
    bounds
}

/// The files that the configuration names, and itself, by their keys.
fn named_files(settings: &Settings, configuration: &Path) -> Vec<(&'static str, PathBuf)> {
    let (tls, upstream) = (&settings.tls, &settings.upstream);
    let configuration = std::path::absolute(configuration).unwrap_or_else(|_| configuration.to_owned());
    let mut files = vec![
        ("--config", configuration),
        ("tlsCertFile", tls.cert_file.clone()),
        ("tlsPrivateKeyFile", tls.private_key_file.clone()),
    ];
    let mut add = |key, path: &Path| files.push((key, path.to_owned()));
    if let Some(path) = &tls.client_ca_file {
        add("authentication.x509.clientCAFile", path);
    }
    for path in &tls.crl_files {
        add("authentication.x509.crlFiles", path);
    }
    for path in &settings.authentication.deny_files {
        add("authentication.denyFiles", path);
    }
    match &upstream.trust {
        Some(UpstreamTrust::Ca { ca_file, .. }) => add("upstream.caFile", ca_file),
        Some(UpstreamTrust::Pinned(path)) => add("upstream.certificateFile", path),
        None => {}
    }
    if let Some((certificate, key)) = &upstream.credentials.client_certificate {
        add("upstream.clientCertificateFile", certificate);
        add("upstream.clientKeyFile", key);
    }
    if let Some(path) = &upstream.credentials.token_file {
        add("upstream.tokenFile", path);
    }
    files
}

impl Bounds {
    /// A file that is named by this key, and read again whenever it changes. Files are replaced by rename, so
    /// the folder stands for it.
    fn read(&mut self, key: &'static str, file: &Path) {
        for folder in folders(file) {
            if folder == Path::new("/") {
                let why = format!(
                    "later versions of {key}: {} (it lies in /; move it into a folder)",
                    file.display()
                );
                self.closed.push(why);
                self.readable.insert(file.to_owned());
            } else {
                self.readable.insert(folder);
            }
        }
    }

    /// A folder, named by this key, in which the gate makes files.
    fn write(&mut self, key: &'static str, folder: &Path) {
        if folder == Path::new("/") {
            self.closed
                .push(format!("{key} (it lies in /; name a path in a folder)"));
        } else {
            self.writable.insert(folder.to_owned());
        }
    }

    /// The folder of the seal's state, which `firewall apply` makes, as root. Until then its parent stands
    /// for it, for reading: with a folder of its own the gate could change what root loads at the next boot.
    /// If there is no parent either, or too much lies in it, a seal is seen after a restart only.
    fn seal_state(&mut self, folder: &Path) {
        if folder.exists() {
            return self.write("firewall.stateDirectory", folder);
        }
        let parent = folder.parent();
        match parent.filter(|parent| parent.is_dir() && parent.components().count() > 3) {
            Some(parent) => drop(self.readable.insert(parent.to_owned())),
            None => tracing::debug!(
                "firewall.stateDirectory: {} does not exist: restart the gate once this node is sealed",
                folder.display()
            ),
        }
    }
}

/// The folder in which a path has its file, and those of the links that it leads over: to replace one of
/// these is a way to replace the file, as in `..data/tls.crt`. A link that lies in `/` or directly below
/// leads to another part of the machine, as `/var/run` does, and is not followed to a new place.
fn folders(file: &Path) -> Vec<PathBuf> {
    let places = files::places(file).unwrap_or_default();
    let last = places.last().and_then(|place| place.parent()).map(Path::to_owned);
    let links = places.iter().filter_map(|place| place.parent());
    let links = links
        .filter(|folder| folder.components().count() > 2)
        .map(Path::to_owned);
    let named = file.parent().map(Path::to_owned);
    links.chain(named).chain(last).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A folder of `/` would open every file of the machine. (Not seen red.)
    #[test]
    fn the_root_folder_is_opened_for_nothing() {
        let mut bounds = Bounds::default();
        bounds.read("tlsCertFile", Path::new("/tls.crt"));
        bounds.write("audit.path", Path::new("/"));
        bounds.seal_state(Path::new("/kubelet-gate-has-no-such-folder"));
        assert!(bounds.writable.is_empty());
        assert_eq!(bounds.readable, [PathBuf::from("/tls.crt")].into());
        let keys = ["tlsCertFile", "audit.path"];
        assert_eq!(bounds.closed.len(), keys.len(), "{:?}", bounds.closed);
        for (closed, key) in bounds.closed.iter().zip(keys) {
            assert!(closed.contains(key), "{closed}");
        }
    }

    /// The gate starts before the node is sealed. Then it must see the seal, and not be able to change it.
    ///
    /// Seen red: with a folder that does not exist left out.
    #[test]
    fn the_seals_folder_may_be_made_later() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().join("kubelet-gate");
        std::fs::create_dir(&parent).unwrap();
        let mut bounds = Bounds::default();
        bounds.seal_state(&parent.join("firewall"));
        assert_eq!(bounds.readable, [parent.clone()].into());
        assert!(bounds.writable.is_empty() && bounds.closed.is_empty());
        std::fs::create_dir(parent.join("firewall")).unwrap();
        bounds.seal_state(&parent.join("firewall"));
        assert_eq!(bounds.writable, [parent.join("firewall")].into());
    }
}
