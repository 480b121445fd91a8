//! A kubeconfig as client-go reads it (contract §8). Keys that the gate does not support are refused by name.
//!
//! `HTTPS_PROXY` and `NO_PROXY` of the environment are ignored: reviews go directly to the API server.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::context::CurrentContext;
use super::document::{ClusterSection, UserSection};
use super::exec::{self, CLUSTER_EXTENSION, Plugin};
use super::keys::{Keys, KubeconfigError};
use super::material::{ClientCertificate, Material, beside, given};
use super::plugin_run::PluginCommand;
use crate::files::{self, DOCUMENT, Guard};
use crate::host::sandbox;
use crate::tls::pem;

/// Where the kubelet puts a pod's service-account token and the cluster's CA bundle.
pub(crate) const SERVICE_ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach the API server, and the credentials for it: from the current context of a kubeconfig, or from
/// the in-cluster convention.
///
/// The files that it names are read by the client, which reads them again when they change.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    origin: KubeconfigOrigin,
    pub(super) server: ServerUrl,
    pub(super) server_name: ServerName<'static>,
    pub(super) authority: Material,
    pub(super) client_certificate: Option<ClientCertificate>,
    pub(super) token: Option<Material>,
    /// The exec plugin, if there is neither certificate nor token, as in client-go.
    pub(super) plugin: Option<Arc<Plugin>>,
}

/// The source of a [`Kubeconfig`], to read it again.
#[derive(Clone, Debug)]
enum KubeconfigOrigin {
    File(PathBuf),
    InCluster,
}

/// The parts of `server`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ServerUrl {
    /// The host name or address to connect to. An IPv6 address has no brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The `Host` header: the authority as it is written.
    pub(super) authority: String,
    /// The path before `/apis/…`, without a slash at its end; usually empty.
    pub(super) prefix: String,
}

// === impl Kubeconfig ===

impl Kubeconfig {
    /// Reads the current context of the kubeconfig at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self, KubeconfigError> {
        Self::of(path, read(path)?)
    }

    fn of(path: &Path, bytes: Vec<u8>) -> Result<Self, KubeconfigError> {
        let text = String::from_utf8(bytes).map_err(|_| KubeconfigError::Syntax {
            file: path.to_owned(),
            place: "a byte that is not UTF-8".into(),
        })?;
        let kubeconfig = Self::parse(path, &text)?;
        if kubeconfig.holds_secret() {
            files::check_guarded(path, Guard::Secret).map_err(|source| KubeconfigError::Read {
                file: path.to_owned(),
                source,
            })?;
        }
        Ok(kubeconfig)
    }

    /// Whether a key or a token is in the kubeconfig itself. Many distributions let every user read one that
    /// only names files.
    fn holds_secret(&self) -> bool {
        let key = self.client_certificate.as_ref().map(|pair| &pair.key);
        let secrets = [key, self.token.as_ref()];
        secrets
            .into_iter()
            .flatten()
            .any(|secret| matches!(secret, Material::Inline { .. }))
    }

    /// The convention for pods. `host` and `port` are the values of `KUBERNETES_SERVICE_HOST` and
    /// `KUBERNETES_SERVICE_PORT`. `directory` holds `token` and `ca.crt`; in a pod it is
    /// [`SERVICE_ACCOUNT_DIRECTORY`].
    pub(crate) fn in_cluster(
        host: Option<&str>,
        port: Option<&str>,
        directory: &Path,
    ) -> Result<Self, KubeconfigError> {
        let refuse = |key: &str, problem: &str| KubeconfigError::Key {
            file: "environment".into(),
            key: key.into(),
            problem: format!("{problem}; outside a cluster give a kubeconfig"),
        };
        let host = host
            .filter(|host| !host.is_empty())
            .ok_or_else(|| refuse("KUBERNETES_SERVICE_HOST", "not set"))?;
        let port = port
            .filter(|port| !port.is_empty())
            .ok_or_else(|| refuse("KUBERNETES_SERVICE_PORT", "not set"))?;
        let port_number = port
            .parse()
            .map_err(|_| refuse("KUBERNETES_SERVICE_PORT", "not a port number"))?;
        let server_name = ServerName::try_from(host.to_owned())
            .map_err(|_| refuse("KUBERNETES_SERVICE_HOST", "neither a host name nor an IP address"))?;
        let bracketed = if host.parse::<Ipv6Addr>().is_ok() {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let server = ServerUrl {
            host: host.to_owned(),
            port: port_number,
            authority: format!("{bracketed}:{port_number}"),
            prefix: String::new(),
        };
        Ok(Self {
            origin: KubeconfigOrigin::InCluster,
            server,
            server_name,
            authority: Material::File(directory.join("ca.crt")),
            client_certificate: None,
            token: Some(Material::File(directory.join("token"))),
            plugin: None,
        })
    }

    /// The contents of the kubeconfig now; none in a cluster.
    pub(super) fn read_again(&self) -> Result<Vec<Vec<u8>>, KubeconfigError> {
        match &self.origin {
            KubeconfigOrigin::File(path) => Ok(vec![read(path)?]),
            KubeconfigOrigin::InCluster => Ok(Vec::new()),
        }
    }

    /// The same source with these contents, which [`Self::read_again`] has read.
    pub(super) fn with_contents(&self, files: &[Vec<u8>]) -> Result<Self, KubeconfigError> {
        match (&self.origin, files) {
            (KubeconfigOrigin::File(path), [bytes]) => Self::of(path, bytes.clone()),
            _ => Ok(self.clone()),
        }
    }

    /// The kubeconfig and the files that it names.
    pub(crate) fn files(&self) -> Vec<&Path> {
        let own = match &self.origin {
            KubeconfigOrigin::File(path) => Some(path.as_path()),
            KubeconfigOrigin::InCluster => None,
        };
        let pair = self
            .client_certificate
            .iter()
            .flat_map(|pair| [&pair.chain, &pair.key]);
        let named = pair.chain([&self.authority]).chain(&self.token);
        let named = named.filter_map(|material| match material {
            Material::File(path) => Some(path.as_path()),
            Material::Inline { .. } => None,
        });
        own.into_iter().chain(named).collect()
    }

    /// The API server's port.
    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    /// Whether the API server is given by a name, which has to be resolved.
    pub(crate) fn names_host(&self) -> bool {
        self.server.host.parse::<IpAddr>().is_err()
    }

    /// What the exec plugin runs.
    pub(crate) fn plugin_command(&self) -> Option<&PluginCommand> {
        self.plugin.as_deref().map(Plugin::command)
    }

    /// Checks that a gate in its sandbox can follow it: what the sandbox opens is fixed at the start.
    pub(super) fn check_contained(&self) -> Result<(), KubeconfigError> {
        let refuse = |key: &str, problem: &str| {
            let file = self
                .files()
                .first()
                .map(|path| path.to_path_buf())
                .unwrap_or_default();
            let (key, problem) = (key.into(), format!("{problem}; restart needed"));
            Err(KubeconfigError::Key { file, key, problem })
        };
        if self.plugin_command().is_some_and(|command| !command.is_allowed()) {
            return refuse("exec", "another plugin than the gate was started with");
        }
        if !sandbox::may_connect(self.port()) {
            let problem = format!("the sandbox does not open port {}, which is new", self.port());
            return refuse("server", &problem);
        }
        if self.names_host() && !sandbox::may_resolve() {
            return refuse(
                "server",
                "a name in place of an address, and the sandbox resolves none",
            );
        }
        Ok(())
    }

    /// The last common name of the client certificate, as in Go: `system:node:NAME` in a node's kubeconfig.
    /// `None` without a certificate or a common name.
    pub(crate) fn client_certificate_common_name(&self) -> Result<Option<String>, KubeconfigError> {
        let Some(ClientCertificate { chain, .. }) = &self.client_certificate else {
            return Ok(None);
        };
        let origin = chain.origin();
        let bytes = chain
            .read(DOCUMENT, Guard::Trusted)
            .map_err(|source| KubeconfigError::Read {
                file: origin.to_owned(),
                source,
            })?;
        let certificates = pem::certificates(origin, &bytes)?;
        let unparsable = || KubeconfigError::Key {
            file: origin.to_owned(),
            key: "client certificate".into(),
            problem: "not an X.509 certificate".into(),
        };
        let leaf = certificates.first().ok_or_else(unparsable)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| unparsable())?;
        let name = leaf
            .subject()
            .iter_common_name()
            .last()
            .and_then(|name| name.as_str().ok());
        Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
    }

    /// As [`Self::load`], for a text that was read from `path`. The files that it names are not opened.
    ///
    /// # Errors
    /// The text is not a kubeconfig, or not a usable one.
    pub fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let CurrentContext {
            cluster,
            cluster_keys,
            user,
            user_keys,
            repeated,
        } = CurrentContext::<ClusterSection, UserSection>::parse(path, text)?;
        // client-go uses the last of two credentials in silence.
        if let Some((key, at)) = repeated {
            let (file, problem) = (path.to_owned(), format!("is there twice{at}; remove one"));
            return Err(KubeconfigError::Key { file, key, problem });
        }
        cluster.refuse_unsupported(&cluster_keys)?;
        user.refuse_unsupported(&user_keys)?;

        let url = given(cluster.server)
            .ok_or_else(|| cluster_keys.error("server", "not set; give https://HOST:PORT"))?;
        let server = ServerUrl::parse(&url, &cluster_keys)?;
        let tls_server_name = given(cluster.tls_server_name);
        let server_name = match tls_server_name.clone() {
            Some(name) => ServerName::try_from(name).map_err(|_| {
                cluster_keys.error("tls-server-name", "neither a host name nor an IP address")
            })?,
            None => ServerName::try_from(server.host.clone()).map_err(|_| {
                cluster_keys.error("server", "its host is neither a host name nor an IP address")
            })?,
        };
        let authority = cluster_keys
            .material(
                "certificate-authority",
                cluster.certificate_authority_data,
                cluster.certificate_authority,
            )?
            .ok_or_else(|| {
                let problem = "not set; give the cluster's CA bundle (the system's CAs are never used)";
                cluster_keys.error("certificate-authority", problem)
            })?;

        let chain = user_keys.material(
            "client-certificate",
            user.client_certificate_data,
            user.client_certificate,
        )?;
        let key = user_keys.material("client-key", user.client_key_data, user.client_key)?;
        let client_certificate = match (chain, key) {
            (Some(chain), Some(key)) => Some(ClientCertificate { chain, key }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(user_keys.error("client-key", "not set, but client-certificate is"));
            }
            (None, Some(_)) => {
                return Err(user_keys.error("client-certificate", "not set, but client-key is"));
            }
        };
        let token = match (given(user.token_file), given(user.token)) {
            (Some(file), _) => Some(Material::File(beside(path, &file))),
            (None, Some(token)) => Some(Material::Inline {
                origin: user_keys.path("token"),
                bytes: Zeroizing::new(token.into_bytes()),
            }),
            (None, None) => None,
        };
        let plugin = match user.exec {
            None => None,
            Some(exec) => {
                let extension = cluster.extensions.unwrap_or_default().into_iter();
                let told = exec::ClusterInfo {
                    server: url,
                    tls_server_name,
                    config: extension
                        .filter(|extension| extension.name == CLUSTER_EXTENSION)
                        .find_map(|extension| extension.extension),
                };
                Some(Arc::new(Plugin::new(exec, &user_keys, told)?))
            }
        };
        let fixed = client_certificate.is_some() || token.is_some();
        if !fixed && plugin.is_none() {
            let problem = "no credential; give client-certificate and client-key, tokenFile, token or exec";
            return Err(user_keys.refuse(problem));
        }
        Ok(Self {
            origin: KubeconfigOrigin::File(path.to_owned()),
            server,
            server_name,
            authority,
            client_certificate,
            token,
            plugin: plugin.filter(|_| !fixed),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    files::read_guarded(path, DOCUMENT, Guard::Trusted).map_err(|source| KubeconfigError::Read {
        file: path.to_owned(),
        source,
    })
}

// === impl ServerUrl ===

impl ServerUrl {
    fn parse(url: &str, keys: &Keys) -> Result<Self, KubeconfigError> {
        let refuse = |problem| keys.error("server", problem);
        let uri: http::Uri = url
            .parse()
            .map_err(|_| refuse("not a URL; give https://HOST:PORT"))?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(refuse(
                "not https://; reviews carry credentials and are never sent in the clear",
            ));
        }
        let authority = uri
            .authority()
            .ok_or_else(|| refuse("no host; give https://HOST:PORT"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("names a user; put credentials under users"));
        }
        if uri.query().is_some() {
            return Err(refuse("has a query; give https://HOST:PORT"));
        }
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(refuse("no host; give https://HOST:PORT"));
        }
        // `HOST:` and `HOST:99999` have a colon but no valid port.
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().len() == authority.host().len() => 443,
            None => return Err(refuse("its port is not a number from 1 to 65535")),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}
