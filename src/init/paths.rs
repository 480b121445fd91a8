//! By which path the gate finds a file of the node.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::Naming;
use crate::node::Root;
use crate::node::invocation::Invocation;

/// Turns the kubelet's paths into the gate's.
#[derive(Debug)]
pub(super) struct Paths {
    root: Root,
    naming: Naming,
    runs: bool,
}

/// A path for the configuration, or why there is none.
pub(super) type Named = Result<String, String>;

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

    /// The gate's path of a file that the kubelet knows as `path`; it must be there.
    pub(super) fn named(&self, path: &str) -> Named {
        let real = self
            .root
            .resolve(Path::new(path))
            .and_then(|real| fs::metadata(&real).map(|about| (real, about)))
            .map_err(|error| format!("{path}: {error}"));
        let (real, about) = real?;
        let same = |other: &Path| {
            fs::metadata(other).is_ok_and(|other| (other.dev(), other.ino()) == (about.dev(), about.ino()))
        };
        if self.runs {
            // A kubelet in a container has files that the gate does not see by this path.
            return match same(Path::new(path)) {
                true => Ok(path.to_owned()),
                false => Err(format!(
                    "{path}: the kubelet's own file of this name is not the one that is seen here: it runs in a file system of \
                     its own"
                )),
            };
        }
        if !self.differ() {
            return Ok(path.to_owned());
        }
        // Links that start at the node's root lead elsewhere here; others are kept, for they are switched when files rotate.
        let below = self.root.path().join(path.trim_start_matches('/'));
        let named = if same(&below) { below } else { real };
        Ok(named.display().to_string())
    }
}
