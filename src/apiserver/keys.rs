//! The keys of a kubeconfig: errors that name one, and the bytes that one holds.

use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::material::{Material, beside, given};
use crate::tls::PemError;

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
    /// It is not YAML, or a value has the wrong type. The parser's message may quote the file with its
    /// tokens, so only the place is given.
    #[error("{}: not a kubeconfig: broken YAML or a value of the wrong type near {place}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line and column, if the parser knows.
        place: String,
    },
    /// A key is missing, wrong, or not supported.
    #[error("{}: {key}: {problem}", file.display())]
    Key {
        /// The file (or the environment, in a cluster).
        file: PathBuf,
        /// Path of the key.
        key: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The client certificate does not parse.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// The keys of one cluster or user, as messages name them.
pub(crate) struct Keys {
    /// The kubeconfig.
    pub(super) file: PathBuf,
    /// The path of the key that holds them.
    pub(super) prefix: String,
}

impl Keys {
    /// An error about all of them: what is wrong, and what to do.
    pub(super) fn refuse(&self, problem: &str) -> KubeconfigError {
        KubeconfigError::Key {
            file: self.file.clone(),
            key: self.prefix.clone(),
            problem: problem.to_owned(),
        }
    }

    /// An error about one of them: what is wrong, and what to do.
    pub(super) fn error(&self, key: &str, problem: &str) -> KubeconfigError {
        KubeconfigError::Key {
            file: self.file.clone(),
            key: format!("{}.{key}", self.prefix),
            problem: problem.to_owned(),
        }
    }

    /// File and key, for messages.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        format!("{}: {}.{key}", self.file.display(), self.prefix).into()
    }

    /// A credential that may stand in the kubeconfig or in a file. `KEY-data` wins over `KEY`, as in
    /// client-go.
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
                bytes: bytes.into(),
            }));
        }
        Ok(given(file).map(|file| Material::File(beside(&self.file, &file))))
    }
}
