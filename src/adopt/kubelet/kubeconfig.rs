//! A node's kubeconfig: the same file that the gate reads, found in the node's file system.

use std::io;
use std::path::Path;

use serde_json::Value;

use super::root::Root;
use crate::apiserver::{CurrentContext, KubeconfigError, Material, beside};

/// The current context of a kubeconfig, with every key as it is written; relative paths start at its folder.
pub(crate) struct NodeKubeconfig {
    /// Its path on the node.
    pub(crate) path: String,
    context: CurrentContext<Value, Value>,
}

/// Why nothing is known from a node's kubeconfig.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeKubeconfigError {
    /// It, or a file that it names, cannot be read.
    #[error("{file}: {source}")]
    Read { file: String, source: io::Error },
    /// It is not a kubeconfig.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
}

impl NodeKubeconfigError {
    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl NodeKubeconfig {
    /// Reads the file at `path` on the node.
    pub(crate) fn read(root: &Root, path: &str) -> Result<Self, NodeKubeconfigError> {
        let text = read(root, path)?;
        Ok(Self {
            path: path.to_owned(),
            context: CurrentContext::parse(Path::new(path), &text)?,
        })
    }

    pub(crate) fn cluster(&self) -> &Value {
        &self.context.cluster
    }

    pub(crate) fn user(&self) -> &Value {
        &self.context.user
    }

    /// The CA certificates by which it verifies the API server, and the file that they are in.
    pub(crate) fn authority(&self, root: &Root) -> Result<Option<(String, Vec<u8>)>, NodeKubeconfigError> {
        let (data, file) = pair(self.cluster(), "certificate-authority");
        let material = self
            .context
            .cluster_keys
            .material("certificate-authority", data, file)?;
        self.bytes(root, material)
    }

    /// The certificate that its user presents to the API server, and the file that it is in. `None`: it
    /// presents another credential.
    pub(crate) fn client_certificate(
        &self,
        root: &Root,
    ) -> Result<Option<(String, Vec<u8>)>, NodeKubeconfigError> {
        let (data, file) = pair(self.user(), "client-certificate");
        let material = self
            .context
            .user_keys
            .material("client-certificate", data, file)?;
        self.bytes(root, material)
    }

    fn bytes(
        &self,
        root: &Root,
        material: Option<Material>,
    ) -> Result<Option<(String, Vec<u8>)>, NodeKubeconfigError> {
        Ok(match material {
            None => None,
            Some(Material::Inline { bytes, .. }) => Some((self.path.clone(), bytes.to_vec())),
            Some(Material::File(file)) => {
                let file = file.display().to_string();
                let text = read(root, &file)?;
                Some((file, text.into_bytes()))
            }
        })
    }

    /// The program that is run for a credential.
    pub(crate) fn plugin(&self) -> Option<&str> {
        given(&self.user()["exec"], "command")
    }

    /// Every file that it names.
    pub(crate) fn files(&self) -> Vec<String> {
        let user = ["client-certificate", "client-key", "tokenFile"];
        let user = user.iter().filter_map(|key| self.file(self.user(), key));
        let cluster = self.file(self.cluster(), "certificate-authority");
        user.chain(cluster).collect()
    }

    /// The file that `key` names, if it is used: data beside it wins.
    pub(crate) fn file(&self, section: &Value, key: &str) -> Option<String> {
        match pair(section, key) {
            (None, Some(file)) => Some(self.beside(&file)),
            _ => None,
        }
    }

    /// A path in the kubeconfig, as the node knows it.
    pub(crate) fn beside(&self, path: &str) -> String {
        beside(Path::new(&self.path), path).display().to_string()
    }
}

fn read(root: &Root, file: &str) -> Result<String, NodeKubeconfigError> {
    root.read(file).map_err(|source| NodeKubeconfigError::Read {
        file: file.to_owned(),
        source,
    })
}

/// The data and the file that a credential's `key` may have.
fn pair(section: &Value, key: &str) -> (Option<String>, Option<String>) {
    let text = |key: &str| given(section, key).map(str::to_owned);
    (text(&format!("{key}-data")), text(key))
}

/// A text; client-go does not tell an empty one from an absent one.
fn given<'a>(section: &'a Value, key: &str) -> Option<&'a str> {
    section[key].as_str().filter(|text| !text.is_empty())
}
