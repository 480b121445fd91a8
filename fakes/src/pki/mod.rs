//! A temporary public key infrastructure, with valid and invalid certificates.
//!
//! It is made on each start, in less than a second, so that no private key is kept in the project.

mod issuer;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use time::{Duration, OffsetDateTime};

pub use issuer::{Attribute, Ca, CertificateSpec, Pair, Usage};

/// The name of the node.
pub const NODE_NAME: &str = "worker-1";

/// All CAs and certificates.
#[derive(Clone, Debug)]
pub struct Pki {
    /// The cluster's CA, CN `kubernetes`.
    pub ca: Ca,
    /// A second CA, which can be removed from the bundle while its clients are connected.
    pub rotated_ca: Ca,
    /// An untrusted CA with the name of the cluster's.
    pub untrusted_ca: Ca,
    /// The kubelet's serving certificate, for `worker-1` only, with the CA of its own that a kubelet makes at
    /// its first start.
    pub kubelet_serving: Pair,
    /// The gate's serving certificate, for 127.0.0.1, ::1, localhost and worker-1.
    pub gate_serving: Pair,
    /// The API server's serving certificate.
    pub apiserver_serving: Pair,
    /// The API server's client certificate for kubelets: group `kubeadm:cluster-admins`.
    pub apiserver_client: Pair,
    /// The gate's client certificate for the API server: the node's user.
    pub gate: Pair,
    /// A user without rights, group `developers`.
    pub alice: Pair,
    /// A user of group `admins`.
    pub bob: Pair,
    /// A user of group `admins`, with a certificate of `rotated_ca`.
    pub carol: Pair,
    /// The API server's client certificate, expired since yesterday.
    pub expired: Pair,
    /// The API server's client certificate, valid from tomorrow.
    pub not_yet_valid: Pair,
    /// The API server's client certificate, with the usage of a server.
    pub wrong_usage: Pair,
    /// The API server's client certificate, by `untrusted_ca`.
    pub wrong_ca: Pair,
    /// A client certificate with a group and without a user name.
    pub no_cn: Pair,
}

/// The credential of a kubeconfig's user. It has no `Debug`, since it may be a token.
#[derive(Clone, Copy)]
pub enum KubeconfigUser<'a> {
    /// A client certificate, as data.
    Certificate(&'a Pair),
    /// The files of a client certificate.
    CertificateFiles {
        /// `client-certificate`. A relative path is relative to the kubeconfig.
        certificate: &'a Path,
        /// `client-key`.
        key: &'a Path,
    },
    /// A bearer token.
    Token(&'a str),
}

/// A certificate or file cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls refuses a certificate or key.
    #[error("cannot use a certificate for TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A file or directory could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

// === impl Pki ===

impl Pki {
    /// Makes all keys and certificates.
    pub fn generate() -> Result<Self, PkiError> {
        let ca = Ca::generate("kubernetes")?;
        let rotated_ca = Ca::generate("kubernetes-rotated")?;
        let untrusted_ca = Ca::generate("kubernetes")?;
        let local = ["127.0.0.1", "::1", "localhost", NODE_NAME];
        let api = [
            "127.0.0.1",
            "::1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let apiserver =
            CertificateSpec::client("kube-apiserver-kubelet-client").group("kubeadm:cluster-admins");
        let (day, year) = (Duration::DAY, Duration::days(365));

        Ok(Self {
            kubelet_serving: kubelet_serving()?,
            gate_serving: ca.issue("gate-serving", &CertificateSpec::server("kubelet-gate", &local))?,
            apiserver_serving: ca.issue(
                "apiserver-serving",
                &CertificateSpec::server("kube-apiserver", &api),
            )?,
            apiserver_client: ca.issue("kube-apiserver-kubelet-client", &apiserver)?,
            gate: ca.issue(
                "gate",
                &CertificateSpec::client(&format!("system:node:{NODE_NAME}")).group("system:nodes"),
            )?,
            alice: ca.issue("alice", &CertificateSpec::client("alice").group("developers"))?,
            bob: ca.issue("bob", &CertificateSpec::client("bob").group("admins"))?,
            carol: rotated_ca.issue("carol", &CertificateSpec::client("carol").group("admins"))?,
            expired: ca.issue("expired", &apiserver.clone().valid(-year, -day))?,
            not_yet_valid: ca.issue("not-yet-valid", &apiserver.clone().valid(day, year))?,
            wrong_usage: ca.issue("wrong-usage", &apiserver.clone().usages(&[Usage::ServerAuth]))?,
            wrong_ca: untrusted_ca.issue("wrong-ca", &apiserver)?,
            no_cn: ca.issue("no-cn", &CertificateSpec::client("").group("developers"))?,
            ca,
            rotated_ca,
            untrusted_ca,
        })
    }

    /// Issues another pair by the cluster's CA.
    pub fn client(&self, name: &str, spec: &CertificateSpec) -> Result<Pair, PkiError> {
        self.ca.issue(name, spec)
    }

    /// Every pair.
    pub fn pairs(&self) -> [&Pair; 13] {
        [
            &self.kubelet_serving,
            &self.gate_serving,
            &self.apiserver_serving,
            &self.apiserver_client,
            &self.gate,
            &self.alice,
            &self.bob,
            &self.carol,
            &self.expired,
            &self.not_yet_valid,
            &self.wrong_usage,
            &self.wrong_ca,
            &self.no_cn,
        ]
    }

    /// The pair with this file name.
    pub fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs().into_iter().find(|pair| pair.name == name)
    }

    /// Writes `ca.crt`, `ca.key`, `rotated-ca.crt`, and `NAME.crt` and `NAME.key` of each pair. Yields the
    /// paths.
    ///
    /// Creates the directory (0700) if it does not exist. Keys are 0600. Existing files of these names are
    /// replaced.
    pub fn write(&self, dir: &Path) -> Result<Vec<PathBuf>, PkiError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| PkiError::Write {
                path: dir.to_owned(),
                source,
            })?;

        let mut written = vec![
            write_file(dir.join("ca.crt"), 0o644, &self.ca.certificate_pem())?,
            write_file(dir.join("ca.key"), 0o600, &self.ca.key_pem())?,
            write_file(
                dir.join("rotated-ca.crt"),
                0o644,
                &self.rotated_ca.certificate_pem(),
            )?,
        ];
        for pair in self.pairs() {
            written.extend(pair.write(dir)?);
        }
        Ok(written)
    }

    /// A TLS client with this pair that trusts the cluster's CA, and the kubelet's certificate (as
    /// `worker-1`).
    pub fn client_config(&self, client: Option<&Pair>) -> Result<ClientConfig, PkiError> {
        let kubelet_ca = self.kubelet_serving.chain.iter().skip(1);
        client_config(kubelet_ca.chain([self.ca.certificate()]), client)
    }
}

// === impl Pair ===

impl Pair {
    /// Writes `NAME.crt` and `NAME.key` (0600) into an existing directory, replacing existing files.
    pub fn write(&self, dir: &Path) -> Result<[PathBuf; 2], PkiError> {
        Ok([
            write_file(
                dir.join(format!("{}.crt", self.name)),
                0o644,
                &self.certificate_pem(),
            )?,
            write_file(dir.join(format!("{}.key", self.name)), 0o600, &self.key_pem())?,
        ])
    }
}

/// A TLS client that trusts these CAs and has this pair, if any.
pub fn client_config<'a>(
    roots: impl IntoIterator<Item = &'a CertificateDer<'static>>,
    client: Option<&Pair>,
) -> Result<ClientConfig, PkiError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store);
    Ok(match client {
        Some(pair) => builder.with_client_auth_cert(pair.chain.clone(), pair.key.clone_key())?,
        None => builder.with_no_client_auth(),
    })
}

/// A kubeconfig for the API server at this URL. It may contain the private key or token.
pub fn kubeconfig(server: &str, ca: &Ca, user: KubeconfigUser<'_>) -> String {
    let base64 = |pem: String| STANDARD.encode(pem);
    let user = match user {
        KubeconfigUser::Certificate(pair) => json!({
            "client-certificate-data": base64(pair.certificate_pem()),
            "client-key-data": base64(pair.key_pem()),
        }),
        KubeconfigUser::CertificateFiles { certificate, key } => {
            json!({"client-certificate": certificate, "client-key": key})
        }
        KubeconfigUser::Token(token) => json!({"token": token}),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "lab",
            "cluster": {"server": server, "certificate-authority-data": base64(ca.certificate_pem())},
        }],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    // JSON is YAML, with every string quoted.
    format!("{config:#}\n")
}

/// The certificate of a kubelet without `serverTLSBootstrap`. It names itself and its CA after the node and
/// the time of its first start, and has no IP address.
fn kubelet_serving() -> Result<Pair, PkiError> {
    let start = OffsetDateTime::now_utc().unix_timestamp();
    let ca = Ca::generate(&format!("{NODE_NAME}-ca@{start}"))?;
    let mut pair = ca.issue(
        "kubelet-serving",
        &CertificateSpec::server(&format!("{NODE_NAME}@{start}"), &[NODE_NAME]),
    )?;
    pair.chain.push(ca.certificate().clone());
    Ok(pair)
}

/// Writes a file that only its owner can read, as the gate demands of a key, a token, or a kubeconfig that
/// holds one.
pub fn write_secret(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<()> {
    write_new(path.as_ref(), 0o600, content.as_ref())
}

fn write_file(path: PathBuf, mode: u32, text: &str) -> Result<PathBuf, PkiError> {
    match write_new(&path, mode, text.as_bytes()) {
        Ok(()) => Ok(path),
        Err(source) => Err(PkiError::Write { path, source }),
    }
}

/// Removes an existing file before writing, so that a key is not written through a link or into a file that
/// other users can read.
fn write_new(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)
}
