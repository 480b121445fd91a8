//! By which path the gate finds a file of the node, also after the node has replaced it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::destination::Naming;
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::invocation::Invocation;

/// Folders that the unit hides from the gate, and the setting that shows them.
const HIDDEN: [(&str, &str); 5] = [
    ("/home", "ProtectHome=read-only"),
    ("/root", "ProtectHome=read-only"),
    ("/run/user", "ProtectHome=read-only"),
    ("/tmp", "PrivateTmp=no"),
    ("/var/tmp", "PrivateTmp=no"),
];

/// Turns the kubelet's paths into the gate's.
#[derive(Debug)]
pub(super) struct Paths {
    root: Root,
    naming: Naming,
    runs: bool,
}

/// Why a file of the kubelet has no path for the gate.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NoPath {
    #[error("{path}: {source}")]
    Read { path: String, source: Arc<io::Error> },
    #[error(
        "{path}: the kubelet runs in a file system of its own, and this program sees another file under this \
         name"
    )]
    OtherFile { path: String },
}

impl Paths {
    pub(super) fn new(invocation: &Invocation, naming: Naming) -> Self {
        Self {
            root: invocation.root.clone(),
            naming,
            runs: invocation.pid().is_some(),
        }
    }

    /// Whether the configuration's paths are other than the node's own.
    pub(super) fn differ(&self) -> bool {
        self.naming == Naming::Here && !self.runs && !self.root.is_here()
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// The gate's path of a file that the kubelet knows as `path`.
    ///
    /// # Errors
    /// The file cannot be found, or the gate would see another one.
    pub(super) fn named(&self, path: &str) -> Result<String, NoPath> {
        let real = self
            .root
            .resolve(Path::new(path))
            .and_then(|real| fs::metadata(&real).map(|about| (real, about)))
            .map_err(|error| NoPath::Read {
                path: path.to_owned(),
                source: Arc::new(error),
            });
        let (real, about) = real?;
        let same = |other: &Path| {
            fs::metadata(other).is_ok_and(|other| (other.dev(), other.ino()) == (about.dev(), about.ino()))
        };
        if self.runs {
            // A kubelet in a container has its own files under such paths.
            return match same(Path::new(path)) {
                true => Ok(path.to_owned()),
                false => Err(NoPath::OtherFile {
                    path: path.to_owned(),
                }),
            };
        }
        if !self.differ() {
            return Ok(path.to_owned());
        }
        // Absolute links of the node lead elsewhere on this machine. Others are kept: the kubelet switches
        // them when it rotates files.
        let below = self.below(path);
        let named = if same(&below) { below } else { real };
        Ok(named.display().to_string())
    }

    /// Whether the gate's path of this file bypasses a link that the kubelet switches.
    pub(super) fn is_behind_link(&self, path: &str) -> bool {
        self.differ()
            && self
                .named(path)
                .is_ok_and(|named| Path::new(&named) != self.below(path))
    }

    /// The systemd setting that the unit needs to see this file on the node.
    pub(super) fn hidden_by(&self, path: &str) -> Option<&'static str> {
        if self.differ() {
            return None;
        }
        let real = self.root.resolve(Path::new(path)).ok();
        let real = real.and_then(|real| Some(Path::new("/").join(real.strip_prefix(self.root.path()).ok()?)));
        let below = |folder: &str| {
            Path::new(path).starts_with(folder) || real.as_ref().is_some_and(|real| real.starts_with(folder))
        };
        HIDDEN
            .iter()
            .find_map(|(folder, setting)| below(folder).then_some(*setting))
    }

    fn below(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }
}
