//! The node's kubeconfig: what it shows the API server, and a copy for a gate that finds its files elsewhere or has to show
//! something else.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};

use super::configuration::comment;
use super::paths::Paths;
use crate::inspect::{Inspection, Role};
use crate::node::{Root, broken};
use crate::tls::pem;

/// What the copy is called.
pub(super) const NAME: &str = "kubeconfig";

/// The current context of a kubeconfig; paths in it are relative to its folder.
#[derive(Debug)]
pub(super) struct Kubeconfig {
    path: String,
    cluster: Value,
    user: Value,
}

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

impl Kubeconfig {
    pub(super) fn read(root: &Root, path: &str) -> Result<Self, String> {
        let text = root.read(path).map_err(|error| format!("{path}: {error}"))?;
        let document: Value = serde_saphyr::from_str(&text)
            .map_err(|error| format!("{path}: not a kubeconfig: {}", broken(&error)))?;
        let named = |list: &str, part: &str, name: &Value| {
            let entries = document[list].as_array()?;
            let entry = entries.iter().find(|entry| entry["name"] == *name)?;
            Some(entry[part].clone())
        };
        let context = named("contexts", "context", &document["current-context"])
            .ok_or_else(|| format!("{path}: its current-context names no context that it has"))?;
        let part = |list: &str, part: &str| {
            named(list, part, &context[part])
                .ok_or_else(|| format!("{path}: its current-context names no {part} that it has"))
        };
        Ok(Self {
            path: path.to_owned(),
            cluster: part("clusters", "cluster")?,
            user: part("users", "user")?,
        })
    }

    /// The certificates by which it knows the API server, and the file they are in.
    pub(super) fn authority(&self, root: &Root) -> Result<Option<(String, Vec<u8>)>, String> {
        self.material(root, &self.cluster, "certificate-authority")
    }

    /// The program that is run for a credential.
    pub(super) fn plugin(&self) -> Option<&str> {
        given(&self.user["exec"], "command")
    }

    /// Every file that it names.
    pub(super) fn files(&self) -> Vec<String> {
        let user = ["client-certificate", "client-key", "tokenFile"];
        let user = user.iter().filter_map(|key| self.file(&self.user, key));
        let cluster = self.file(&self.cluster, "certificate-authority");
        user.chain(cluster).collect()
    }

    /// A kubeconfig with this cluster and this user alone, whose files have the gate's paths.
    ///
    /// # Errors
    /// A file that is named is not there.
    pub(super) fn copy(&self, paths: &Paths, client: Option<&Client>) -> Result<String, String> {
        let mut cluster = self.cluster.clone();
        self.rename(&mut cluster, "certificate-authority", paths)?;
        let (user, why) = match client.filter(|client| client.rotated) {
            Some(client) => {
                let file = paths.named(&client.file)?;
                let why = format!(
                    "Not the node's {}: since it rotates its certificate, the kubelet shows the API server what is in {}, whatever its \
                     kubeconfig names.",
                    self.path, client.file
                );
                (json!({"client-certificate": file, "client-key": file}), why)
            }
            None => {
                let mut user = self.user.clone();
                for key in ["client-certificate", "client-key", "tokenFile"] {
                    self.rename(&mut user, key, paths)?;
                }
                if let Some(command) = given(&user["exec"], "command").filter(|command| command.contains('/'))
                {
                    // One that is not among the node's files is left to be found, or not, where the gate runs.
                    let node = self.beside(command);
                    user["exec"]["command"] = paths.named(&node).unwrap_or(node).into();
                }
                let why = format!(
                    "The current context of the node's {}, in which files have the paths by which they are found from here.",
                    self.path
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
        let text = serde_saphyr::to_string(&document).map_err(|error| format!("{}: {error}", self.path))?;
        Ok(comment("", &why) + &text)
    }

    fn rename(&self, part: &mut Value, key: &str, paths: &Paths) -> Result<(), String> {
        if let Some(file) = self.file(part, key) {
            let named = paths
                .named(&file)
                .map_err(|error| format!("{} names {error}", self.path))?;
            part[key] = named.into();
        } else if let Some(part) = part.as_object_mut() {
            part.remove(key);
        }
        Ok(())
    }

    /// The file that `key` names, if it counts: data beside it wins.
    fn file(&self, part: &Value, key: &str) -> Option<String> {
        if given(part, &format!("{key}-data")).is_some() {
            return None;
        }
        Some(self.beside(given(part, key)?))
    }

    fn beside(&self, path: &str) -> String {
        let folder = Path::new(&self.path)
            .parent()
            .map(PathBuf::from)
            .unwrap_or_default();
        folder.join(path).display().to_string()
    }

    fn material(&self, root: &Root, part: &Value, key: &str) -> Result<Option<(String, Vec<u8>)>, String> {
        if let Some(data) = given(part, &format!("{key}-data")) {
            let compact: String = data.split_ascii_whitespace().collect();
            let bytes = BASE64_STANDARD
                .decode(compact)
                .map_err(|_| format!("{}: {key}-data is no base64", self.path))?;
            return Ok(Some((self.path.clone(), bytes)));
        }
        let Some(file) = self.file(part, key) else {
            return Ok(None);
        };
        let text = root.read(&file).map_err(|error| format!("{file}: {error}"))?;
        Ok(Some((file, text.into_bytes())))
    }
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
            let (file, bytes) = kubeconfig
                .material(root, &kubeconfig.user, "client-certificate")
                .ok()??;
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

/// A text; client-go does not tell an empty one from none.
fn given<'a>(part: &'a Value, key: &str) -> Option<&'a str> {
    part[key].as_str().filter(|text| !text.is_empty())
}
