//! By which path the gate finds a file of the node, and whether it goes on to find it there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Naming;
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::invocation::Invocation;

/// What the unit hides from the gate, and the setting that shows it.
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
        let below = self.below(path);
        let named = if same(&below) { below } else { real };
        Ok(named.display().to_string())
    }

    /// Whether the gate's path of this file is one behind a link of the node's that it does not see switched.
    pub(super) fn is_behind_link(&self, path: &str) -> bool {
        self.differ()
            && self
                .named(path)
                .is_ok_and(|named| Path::new(&named) != self.below(path))
    }

    /// The setting of systemd's by which the unit, on the node, would not see this file.
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
