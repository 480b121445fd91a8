//! The bytes of a credential, in the kubeconfig itself or in a file that it names.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The largest file that is read. Kubeconfigs, certificates, keys and tokens are far smaller; a larger file
/// is a wrong path.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
        bytes: Vec<u8>,
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

    pub(super) fn read(&self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Inline { bytes, .. } => Ok(bytes.clone()),
            Self::File(path) => read_file(path),
        }
    }
}

/// Inline material may be a private key or a token, so its bytes are not shown.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin().display())
    }
}

/// Reads a regular file of at most [`MAX_FILE_BYTES`].
pub(super) fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    // Opening a FIFO would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(bytes)
}

/// A relative path in a kubeconfig is relative to the kubeconfig.
pub(crate) fn beside(kubeconfig: &Path, path: &str) -> PathBuf {
    kubeconfig.parent().unwrap_or_else(|| Path::new("")).join(path)
}

/// An empty value counts as absent, as in client-go.
pub(super) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}
