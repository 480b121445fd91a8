//! A node's kubeconfig, as far as it tells who the node is and whom it believes.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::root::{Root, broken};

/// The current context of a kubeconfig; paths in it are relative to its folder.
#[derive(Debug)]
pub(crate) struct Kubeconfig {
    pub(crate) path: String,
    pub(crate) cluster: Value,
    pub(crate) user: Value,
}

impl Kubeconfig {
    pub(crate) fn read(root: &Root, path: &str) -> Result<Self, String> {
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
    pub(crate) fn authority(&self, root: &Root) -> Result<Option<(String, Vec<u8>)>, String> {
        self.material(root, &self.cluster, "certificate-authority")
    }

    /// The program that is run for a credential.
    pub(crate) fn plugin(&self) -> Option<&str> {
        given(&self.user["exec"], "command")
    }

    /// Every file that it names.
    pub(crate) fn files(&self) -> Vec<String> {
        let user = ["client-certificate", "client-key", "tokenFile"];
        let user = user.iter().filter_map(|key| self.file(&self.user, key));
        let cluster = self.file(&self.cluster, "certificate-authority");
        user.chain(cluster).collect()
    }

    /// The certificate that its user shows the API server, and the file that it is in. `None`: it shows something else.
    pub(crate) fn client_certificate(&self, root: &Root) -> Result<Option<(String, Vec<u8>)>, String> {
        self.material(root, &self.user, "client-certificate")
    }

    /// The file that `key` names, if it counts: data beside it wins.
    pub(crate) fn file(&self, part: &Value, key: &str) -> Option<String> {
        if given(part, &format!("{key}-data")).is_some() {
            return None;
        }
        Some(self.beside(given(part, key)?))
    }

    pub(crate) fn beside(&self, path: &str) -> String {
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

/// A text; client-go does not tell an empty one from none.
pub(crate) fn given<'a>(part: &'a Value, key: &str) -> Option<&'a str> {
    part[key].as_str().filter(|text| !text.is_empty())
}
