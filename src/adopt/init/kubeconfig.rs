//! The node's kubeconfig: its client certificate, and a copy for a gate that finds its files elsewhere or
//! needs another credential.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::paths::{NoPath, Paths};
use super::text::comment;
use crate::adopt::inspect::{CertificateRole, Inspection};
use crate::adopt::kubelet::kubeconfig::NodeKubeconfig;
use crate::tls::pem;

/// Why a kubeconfig cannot be copied.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error(transparent)]
    Rotated(NoPath),
    #[error("{kubeconfig} names {source}")]
    Named { kubeconfig: String, source: NoPath },
    #[error("{kubeconfig}: {source}")]
    Write {
        kubeconfig: String,
        source: serde_saphyr::ser::Error,
    },
}

/// The certificate by which the API server knows the node.
#[derive(Debug)]
pub(super) struct NodeCertificate {
    /// The file that it is in, which may be the kubeconfig.
    pub(super) file: String,
    /// The file of its key, if both are in files.
    pub(super) key: Option<String>,
    /// Leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The kubelet rotates it: it is not the one that the kubeconfig names.
    pub(super) rotated: bool,
}

/// A kubeconfig with only this cluster and this user, in which files have the gate's paths.
///
/// # Errors
/// A file that it names cannot be found.
pub(super) fn copied(
    kubeconfig: &NodeKubeconfig,
    paths: &Paths,
    client: Option<&NodeCertificate>,
) -> Result<String, CopyError> {
    let mut cluster = kubeconfig.cluster().clone();
    rename(kubeconfig, &mut cluster, "certificate-authority", paths)?;
    let (user, why) = match client.filter(|client| client.rotated) {
        Some(client) => {
            let file = paths.named(&client.file).map_err(CopyError::Rotated)?;
            let why = format!(
                "Not the node's {}: the kubelet rotates its certificate and presents the one in {} to the \
                 API server, not the one that its kubeconfig names.",
                kubeconfig.path, client.file
            );
            (json!({"client-certificate": file, "client-key": file}), why)
        }
        None => {
            let mut user = kubeconfig.user().clone();
            for key in ["client-certificate", "client-key", "tokenFile"] {
                rename(kubeconfig, &mut user, key, paths)?;
            }
            if let Some(command) = kubeconfig.plugin().filter(|command| command.contains('/')) {
                // A program that is not among the node's files may still be found where the gate runs.
                let node = kubeconfig.beside(command);
                user["exec"]["command"] = paths.named(&node).unwrap_or(node).into();
            }
            let why = format!(
                "The current context of the node's {}, in which files have the paths by which this machine \
                 finds them.",
                kubeconfig.path
            );
            (user, why)
        }
    };
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "node", "cluster": cluster}],
        "users": [{"name": "node", "user": user}],
        "contexts": [{"name": "node", "context": {"cluster": "node", "user": "node"}}],
        "current-context": "node",
    });
    let text = serde_saphyr::to_string(&document).map_err(|source| CopyError::Write {
        kubeconfig: kubeconfig.path.clone(),
        source,
    })?;
    Ok(comment("", &why) + &text)
}

fn rename(kubeconfig: &NodeKubeconfig, part: &mut Value, key: &str, paths: &Paths) -> Result<(), CopyError> {
    if let Some(file) = kubeconfig.file(part, key) {
        let named = paths.named(&file).map_err(|source| CopyError::Named {
            kubeconfig: kubeconfig.path.clone(),
            source,
        })?;
        part[key] = named.into();
    } else if let Some(part) = part.as_object_mut() {
        part.remove(key);
    }
    Ok(())
}

impl NodeCertificate {
    /// The one that the inspection found: the kubeconfig's, or a rotated one.
    pub(super) fn of(inspection: &Inspection, kubeconfig: Option<&NodeKubeconfig>) -> Option<Self> {
        let root = &inspection.invocation.root;
        let found = inspection
            .certificates
            .iter()
            .find(|certificate| certificate.role == CertificateRole::Client)?;
        let named = kubeconfig.and_then(|kubeconfig| {
            let (file, bytes) = kubeconfig.client_certificate(root).ok()??;
            Some((kubeconfig, file, bytes))
        });
        let (key, bytes, rotated) = match named {
            Some((kubeconfig, file, bytes)) if Path::new(&file) == Path::new(&found.file) => {
                let key = kubeconfig.file(kubeconfig.user(), "client-key");
                (key.filter(|_| file != kubeconfig.path), bytes, false)
            }
            _ => {
                let text = root.read(&found.file).ok()?;
                (Some(found.file.clone()), text.into_bytes(), true)
            }
        };
        Some(Self {
            file: found.file.clone(),
            key,
            chain: pem::certificates(Path::new(&found.file), &bytes).ok()?,
            rotated,
        })
    }
}
