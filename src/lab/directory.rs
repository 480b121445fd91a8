//! The directory of a lab's files: a temporary one, removed when the lab ends, or a given one, which is kept.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A directory that only its owner can read.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    /// A new temporary directory.
    pub(super) fn temporary() -> io::Result<Self> {
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("kubelet-gate-lab-{:016x}", u64::from_be_bytes(random));
        let path = std::path::absolute(std::env::temp_dir())?.join(name);
        // Not recursive: it is an error if another user has created the directory.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self {
            path,
            temporary: true,
        })
    }

    /// This directory, which is created if it does not exist.
    pub(super) fn kept(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self {
            path,
            temporary: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            // If it cannot be removed, the system's cleaning of temporary files does it.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_temporary_directory_is_private_and_is_removed() {
        let directory = Directory::temporary().unwrap();
        let path = directory.path().to_owned();
        std::fs::write(path.join("key"), "secret").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_directory_is_kept() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/b");
        drop(Directory::kept(&path).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
