//! The node's kubeconfig: what it shows the API server, and a copy for a gate that finds its files elsewhere or has to show
//! something else.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::configuration::comment;
use super::paths::Paths;
use crate::adopt::inspect::{Inspection, Role};
use crate::adopt::kubelet::kubeconfig::{Kubeconfig, given};
use crate::tls::pem;

/// What the copy is called.
pub(super) const NAME: &str = "kubeconfig";

/// The certificate by which the API server knows the node.
#[derive(Debug)]
pub(super) struct Client {
    /// The file it is in, which may be the kubeconfig.
    pub(super) file: String,
    /// The file of its key, if both are in files.
    pub(super) key: Option<String>,
    /// Leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// It is not the kubeconfig's: the kubelet rotates it by itself.
    pub(super) rotated: bool,
}

/// A kubeconfig with this cluster and this user alone, whose files have the gate's paths.
///
/// # Errors
/// A file that is named is not there.
pub(super) fn copied(
    kubeconfig: &Kubeconfig,
    paths: &Paths,
    client: Option<&Client>,
) -> Result<String, String> {
    let mut cluster = kubeconfig.cluster.clone();
    rename(kubeconfig, &mut cluster, "certificate-authority", paths)?;
    let (user, why) = match client.filter(|client| client.rotated) {
        Some(client) => {
            let file = paths.named(&client.file)?;
            let why = format!(
                "Not the node's {}: since it rotates its certificate, the kubelet shows the API server what is in {}, whatever its \
                 kubeconfig names.",
                kubeconfig.path, client.file
            );
            (json!({"client-certificate": file, "client-key": file}), why)
        }
        None => {
            let mut user = kubeconfig.user.clone();
            for key in ["client-certificate", "client-key", "tokenFile"] {
                rename(kubeconfig, &mut user, key, paths)?;
            }
            if let Some(command) = given(&user["exec"], "command").filter(|command| command.contains('/')) {
                // One that is not among the node's files is left to be found, or not, where the gate runs.
                let node = kubeconfig.beside(command);
                user["exec"]["command"] = paths.named(&node).unwrap_or(node).into();
            }
            let why = format!(
                "The current context of the node's {}, in which files have the paths by which they are found from here.",
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
    let text = serde_saphyr::to_string(&document).map_err(|error| format!("{}: {error}", kubeconfig.path))?;
    Ok(comment("", &why) + &text)
}

fn rename(kubeconfig: &Kubeconfig, part: &mut Value, key: &str, paths: &Paths) -> Result<(), String> {
    if let Some(file) = kubeconfig.file(part, key) {
        let named = paths
            .named(&file)
            .map_err(|error| format!("{} names {error}", kubeconfig.path))?;
        part[key] = named.into();
    } else if let Some(part) = part.as_object_mut() {
        part.remove(key);
    }
    Ok(())
}

impl Client {
    /// The one that was found by the inspection, which knows whether the kubelet uses its kubeconfig's.
    pub(super) fn of(inspection: &Inspection, kubeconfig: Option<&Kubeconfig>) -> Option<Self> {
        let root = &inspection.invocation.root;
        let found = inspection
            .certificates
            .iter()
            .find(|certificate| certificate.role == Role::Client)?;
        let named = kubeconfig.and_then(|kubeconfig| {
            let (file, bytes) = kubeconfig.client_certificate(root).ok()??;
            Some((kubeconfig, file, bytes))
        });
        let (key, bytes, rotated) = match named {
            Some((kubeconfig, file, bytes)) if Path::new(&file) == Path::new(&found.file) => {
                let key = kubeconfig.file(&kubeconfig.user, "client-key");
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
