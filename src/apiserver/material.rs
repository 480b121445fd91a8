//! The bytes of a credential, in the kubeconfig itself or in a file that it names.

use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::{self, Guard};

/// A client certificate and its key. Each may be a file or inline data.
#[derive(Clone, Debug)]
pub(super) struct ClientCertificate {
    pub(super) chain: Material,
    pub(super) key: Material,
}

/// Bytes in the kubeconfig or in a file of their own.
#[derive(Clone)]
pub(crate) enum Material {
    /// From the kubeconfig itself; `origin` names file and key.
    Inline {
        origin: PathBuf,
        /// Overwritten when they are dropped.
        bytes: Zeroizing<Vec<u8>>,
    },
    File(PathBuf),
}

// === impl Material ===

impl Material {
    /// The file, or the kubeconfig and the key of inline data, for messages.
    pub(super) fn origin(&self) -> &Path {
        match self {
            Self::Inline { origin, .. } => origin,
            Self::File(path) => path,
        }
    }

    /// Its bytes, of a file at most `most`.
    pub(super) fn read(&self, most: u64, guard: Guard) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Inline { bytes, .. } => Ok(bytes.to_vec()),
            Self::File(path) => files::read_guarded(path, most, guard),
        }
    }
}

/// Inline material may be a private key or a token, so its bytes are not shown.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin().display())
    }
}

/// A relative path in a kubeconfig is relative to the kubeconfig.
pub(crate) fn beside(kubeconfig: &Path, path: &str) -> PathBuf {
    kubeconfig.parent().unwrap_or_else(|| Path::new("")).join(path)
}

/// An empty value counts as absent, as in client-go.
pub(super) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}
