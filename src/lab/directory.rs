//! Where a lab keeps its files: a directory of its own that goes when the lab goes, or a given one that stays.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A directory that only its owner can read.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    thrown_away: bool,
}

impl Directory {
    /// A new one among the temporary files.
    pub(super) fn temporary() -> io::Result<Self> {
        let mut random = [0_u8; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("kubelet-gate-lab-{:016x}", u64::from_be_bytes(random));
        let path = std::path::absolute(std::env::temp_dir())?.join(name);
        // Not recursive: a directory that somebody else has put there is an error.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self {
            path,
            thrown_away: true,
        })
    }

    /// This one, made if need be.
    pub(super) fn kept(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self {
            path,
            thrown_away: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.thrown_away {
            // What cannot be removed is for the system's own cleaning of temporary files.
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
    fn a_temporary_directory_is_private_and_goes() {
        let directory = Directory::temporary().unwrap();
        let path = directory.path().to_owned();
        std::fs::write(path.join("key"), "secret").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_directory_stays() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/b");
        drop(Directory::kept(&path).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
}
