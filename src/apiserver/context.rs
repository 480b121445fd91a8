//! What the current context of a kubeconfig names: one cluster and one user.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;

use super::document::{Document, NamedEntry};
use super::material::{Material, beside, given};
use crate::tls::pem::PemError;

/// The cluster and the user of the current context. `C` and `U` are what is read of them: the keys that the
/// gate uses, or everything as it is written.
pub(crate) struct CurrentContext<C, U> {
    pub(crate) cluster: C,
    pub(crate) cluster_keys: SectionKeys,
    pub(crate) user: U,
    pub(crate) user_keys: SectionKeys,
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file, or one that it names, cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML, or a value of the wrong type. The parser's own words may quote the file, tokens included, so
    /// only the place is told.
    #[error("{}: not a kubeconfig: broken YAML or a value of the wrong type near {place}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line and column, if the parser knows.
        place: String,
    },
    /// A key is missing, wrong, or asks for what the gate does not do.
    #[error("{}: {key}: {problem}", file.display())]
    Key {
        /// The file (or the environment, in a cluster).
        file: PathBuf,
        /// Path of the key.
        key: String,
        /// What is wrong, and the way out.
        problem: String,
    },
    /// The client certificate does not parse.
    #[error(transparent)]
    Pem(#[from] PemError),
}

// === impl CurrentContext ===

impl<C: Default + DeserializeOwned, U: Default + DeserializeOwned> CurrentContext<C, U> {
    /// Reads `text`, of the kubeconfig at `path`.
    ///
    /// # Errors
    /// The text is not a kubeconfig, or its current context names nothing that is there.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let document: Document<C, U> =
            serde_saphyr::from_str(text).map_err(|error| KubeconfigError::Syntax {
                file: path.to_owned(),
                place: error.location().map_or_else(
                    || "an unknown line".to_owned(),
                    |location| format!("line {}, column {}", location.line(), location.column()),
                ),
            })?;
        let refuse = |key: &str, problem: &str| KubeconfigError::Key {
            file: path.to_owned(),
            key: key.to_owned(),
            problem: problem.to_owned(),
        };
        let current = given(document.current_context)
            .ok_or_else(|| refuse("current-context", "not set; name the context to use"))?;
        let context = pick(path, "contexts", document.contexts, &current)?;
        let context_key = format!("contexts[{current}].context");
        let cluster = given(context.cluster)
            .ok_or_else(|| refuse(&format!("{context_key}.cluster"), "not set; name one of clusters"))?;
        let user = given(context.user)
            .ok_or_else(|| refuse(&format!("{context_key}.user"), "not set; name one of users"))?;
        let keys = |prefix| SectionKeys {
            file: path.to_owned(),
            prefix,
        };
        Ok(Self {
            cluster_keys: keys(format!("clusters[{cluster}].cluster")),
            cluster: pick(path, "clusters", document.clusters, &cluster)?,
            user_keys: keys(format!("users[{user}].user")),
            user: pick(path, "users", document.users, &user)?,
        })
    }
}

/// The entry of a list that bears a name; client-go refuses a list that has it twice.
fn pick<T: Default>(
    file: &Path,
    list: &str,
    entries: Option<Vec<NamedEntry<T>>>,
    name: &str,
) -> Result<T, KubeconfigError> {
    let mut found = entries
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.name == name);
    let refuse = |problem: String| KubeconfigError::Key {
        file: file.to_owned(),
        key: list.to_owned(),
        problem,
    };
    let entry = found
        .next()
        .ok_or_else(|| refuse(format!("nothing in it is named {name:?}")))?;
    match found.next() {
        Some(_) => Err(refuse(format!("has {name:?} twice; remove one"))),
        None => Ok(entry.content.unwrap_or_default()),
    }
}

/// Where the keys of one cluster or user stand, for messages.
pub(crate) struct SectionKeys {
    file: PathBuf,
    prefix: String,
}

impl SectionKeys {
    /// Refuses the section as a whole.
    pub(super) fn refuse(&self, problem: &str) -> KubeconfigError {
        KubeconfigError::Key {
            file: self.file.clone(),
            key: self.prefix.clone(),
            problem: problem.to_owned(),
        }
    }

    pub(super) fn error(&self, key: &str, problem: &str) -> KubeconfigError {
        KubeconfigError::Key {
            file: self.file.clone(),
            key: format!("{}.{key}", self.prefix),
            problem: problem.to_owned(),
        }
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        format!("{}: {}.{key}", self.file.display(), self.prefix).into()
    }

    /// `KEY-data` wins over `KEY`, as in client-go.
    pub(crate) fn material(
        &self,
        key: &str,
        data: Option<String>,
        file: Option<String>,
    ) -> Result<Option<Material>, KubeconfigError> {
        if let Some(data) = given(data) {
            let key = format!("{key}-data");
            let compact: String = data.split_ascii_whitespace().collect();
            let bytes = BASE64_STANDARD
                .decode(compact)
                .map_err(|_| self.error(&key, "not base64"))?;
            return Ok(Some(Material::Inline {
                origin: self.path(&key),
                bytes,
            }));
        }
        Ok(given(file).map(|file| Material::File(beside(&self.file, &file))))
    }
}
