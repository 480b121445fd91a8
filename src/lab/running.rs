//! A running lab: an open kubelet, an API server, and a gate in front of the kubelet, started as `serve`
//! starts it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::directory::Directory;
use super::reserved_ports::ReservedPorts;
use crate::audit::{AuditError, AuditThread};
use crate::serve::start::{Started, start};
use crate::serve::{Ends, Inherited, Instance, StartError, Stopped, serve};
use crate::settings::{AdminSocket, KubeletFlags, Settings, SettingsError};
use fakes::apiserver::FakeApiServer;
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use fakes::pki::{self, KubeconfigUser, Pki, PkiError};

/// Time for the audit writer to write its queue at the end.
const AUDIT_FLUSH: Duration = Duration::from_secs(5);

/// The options of a lab.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// Keeps the files here. `None` uses a temporary directory, which is removed when the lab ends.
    pub directory: Option<PathBuf>,
    /// The gate's port. 0 takes a free one.
    pub port: u16,
}

/// A running lab. Dropping it ends it at once; [`Lab::stop`] also waits for the end.
pub struct Lab {
    /// All certificates.
    pub pki: Pki,
    /// The kubelet behind the gate: an open one, with a read-only port.
    pub kubelet: FakeKubelet,
    /// The API server.
    pub api_server: FakeApiServer,
    /// The gate.
    pub gate: Arc<Instance>,
    address: SocketAddr,
    tombstone: SocketAddr,
    admin: SocketAddr,
    read_only: SocketAddr,
    serving: JoinHandle<io::Result<Stopped>>,
    stop: DropGuard,
    audit: AuditThread,
    directory: Directory,
    _reserved: ReservedPorts,
}

/// The lab cannot start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The audit writer could not write everything.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A fake server cannot listen.
    #[error("{what} cannot be started: {source}")]
    Fake {
        /// The server.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Certificates cannot be made or written.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The gate ended with an error.
    #[error("the gate did not serve: {0}")]
    Serve(io::Error),
    /// The configuration is refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The gate cannot start.
    #[error(transparent)]
    Start(#[from] StartError),
}

// === impl Lab ===

impl Lab {
    /// Starts everything on the current runtime. On return, every server answers.
    ///
    /// # Errors
    /// A file cannot be written, or a socket cannot be bound.
    pub async fn start(options: LabOptions) -> Result<Self, LabError> {
        let directory = match &options.directory {
            Some(path) => Directory::kept(path).map_err(|error| file_error(path, error)),
            None => Directory::temporary().map_err(|error| file_error(&std::env::temp_dir(), error)),
        }?;
        let pki = Pki::generate()?;
        pki.write(directory.path())?;

        let fake = |what| move |source| LabError::Fake { what, source };
        let kubelet = FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((
                pki.kubelet_serving.chain.clone(),
                pki.kubelet_serving.key.clone_key(),
            )),
            read_only_port: true,
            ..FakeKubeletOptions::default()
        })
        .await
        .map_err(fake("the kubelet"))?;
        let api_server = FakeApiServer::start(&pki).await.map_err(fake("the API server"))?;
        // As its kubelet would, so that the gate finds that the Node is this machine.
        api_server.set_node(pki::NODE_NAME, fakes::kubelet::node_info());

        // The gate refuses a configuration that others may change, which a umask of 002 would let a group do.
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            pki::write_secret(&path, text).map_err(|error| file_error(&path, error))
        };
        write(CLIENT_CAS, bundle(&pki))?;
        let user = KubeconfigUser::CertificateFiles {
            certificate: Path::new("gate.crt"),
            key: Path::new("gate.key"),
        };
        write("kubeconfig", api_server.kubeconfig(&pki, user))?;
        let reserved = ReservedPorts::new().map_err(LabError::Serve)?;
        write(CONFIGURATION, configuration(&reserved, kubelet.address()))?;

        let mut settings = Settings::load(&directory.path().join(CONFIGURATION), &KubeletFlags::default())?;
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        settings.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, options.port))];
        settings.read_only_port.listen = vec![any_port];
        settings.admin.listen = Some(any_port);
        settings.admin.socket = AdminSocket::Off;
        let Started {
            instance: gate,
            sockets,
            audit,
        } = start(settings, Inherited::default(), &Handle::current())?;
        let bound = |address: Option<SocketAddr>| {
            address.ok_or_else(|| LabError::Serve(io::Error::other("a socket is missing")))
        };
        let address = bound(sockets.addresses().first().copied())?;
        let tombstone = bound(sockets.tombstone_addresses().first().copied())?;
        let admin = bound(sockets.admin_address())?;
        let read_only = bound(kubelet.read_only_address())?;
        let ends = Ends::new();
        let stop = ends.stop.clone();
        let serving = tokio::spawn(serve(gate.clone(), sockets, ends));
        Ok(Self {
            pki,
            kubelet,
            api_server,
            gate,
            address,
            tombstone,
            admin,
            read_only,
            serving,
            stop: stop.drop_guard(),
            audit,
            directory,
            _reserved: reserved,
        })
    }

    /// Stops the gate as SIGTERM does, then the fakes, and removes the directory if it is temporary.
    ///
    /// # Errors
    /// The gate ended with an error.
    pub async fn stop(self) -> Result<(), LabError> {
        drop(self.stop);
        let served = self.serving.await.map_err(io::Error::other).flatten();
        let audit = self.audit;
        let flushed = tokio::task::spawn_blocking(move || audit.shutdown(AUDIT_FLUSH)).await;
        self.kubelet.shutdown().await;
        self.api_server.shutdown().await;
        served.map_err(LabError::Serve)?;
        flushed.map_err(|error| LabError::Serve(io::Error::other(error)))??;
        Ok(())
    }

    /// Makes the gate trust only the cluster's CA, or also the second one. It is in force on return.
    ///
    /// # Errors
    /// The bundle cannot be written.
    pub fn trust_rotated_ca(&self, trusted: bool) -> io::Result<()> {
        let text = if trusted {
            bundle(&self.pki)
        } else {
            self.pki.ca.certificate_pem()
        };
        std::fs::write(self.directory().join(CLIENT_CAS), text)?;
        self.gate.reload();
        Ok(())
    }

    /// The directory of its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The gate's TLS port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gate's tombstone on the read-only port.
    #[must_use]
    pub fn tombstone(&self) -> SocketAddr {
        self.tombstone
    }

    /// The gate's admin port: `/livez`, `/readyz`, `/metrics`.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The kubelet's read-only port.
    #[must_use]
    pub fn read_only(&self) -> SocketAddr {
        self.read_only
    }
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab")
            .field("address", &self.address)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// The CAs that the gate trusts: the cluster's and the second one.
fn bundle(pki: &Pki) -> String {
    pki.ca.certificate_pem() + &pki.rotated_ca.certificate_pem()
}

/// The configuration of the lab's gate, which listens on other ports, and of a second one that is started
/// from the file. Paths are relative to its directory.
fn configuration(reserved: &ReservedPorts, kubelet: SocketAddr) -> String {
    format!(
        "apiVersion: kubelet-gate.dev/v1alpha1
kind: KubeletGateConfiguration
# The lab's own gate has this configuration, but other ports: `serve` starts a second gate beside it.
# The name of the node, {node}, is in the certificate that the kubeconfig names.
listen: [\"{tls}\"]
kubeconfig: kubeconfig
upstream:
  url: https://{kubelet}
  certificateFile: kubelet-serving.crt
tlsCertFile: gate-serving.crt
tlsPrivateKeyFile: gate-serving.key
authentication:
  anonymous: {{enabled: false}}
  x509: {{clientCAFile: {CLIENT_CAS}}}
  webhook: {{enabled: true}}
authorization:
  mode: Webhook
readOnlyPort:
  listen: [\"{read_only}\"]
limits:
  # So that a lab ends soon.
  shutdownTimeout: 2s
audit:
  path: {AUDIT_LOG}
admin:
  listen: {admin}
  socket: admin.sock
",
        node = pki::NODE_NAME,
        tls = reserved.tls,
        read_only = reserved.read_only,
        admin = reserved.admin,
    )
}

fn file_error(path: &Path, source: io::Error) -> LabError {
    LabError::File {
        path: path.to_owned(),
        source,
    }
}

const AUDIT_LOG: &str = "audit.log";
const CLIENT_CAS: &str = "client-cas.crt";
const CONFIGURATION: &str = "kubelet-gate.yaml";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lab_starts_and_removes_its_files() {
        let lab = Lab::start(LabOptions::default()).await.unwrap();
        let directory = lab.directory().to_owned();
        assert!(directory.join(AUDIT_LOG).exists());
        assert_eq!(&*lab.gate.gate.node_name, pki::NODE_NAME);
        lab.stop().await.unwrap();
        assert!(!directory.exists());
    }
}
