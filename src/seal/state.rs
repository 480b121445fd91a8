//! What of the seal outlives a process: the confirmed plan, what loads it at boot, and the trial.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::boot::Boot;
use super::file::{self, FileError};
use super::iptables::Builtins;
use super::plan::Plan;
use crate::files;

const CONFIRMED: &str = "confirmed.json";
const TRIAL: &str = "trial.json";
const BUILTINS: &str = "builtins.json";
const LOCK: &str = "lock";
/// In `firewall.runDirectory`.
const LISTED: &str = "listed.json";

/// The plan that holds until another is confirmed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confirmed {
    /// The plan.
    pub plan: Plan,
    /// The digest of what the kernel listed right after loading it.
    pub fingerprint: String,
    /// The version of the program that listed it: another one may list the same rules in another way.
    pub tool: String,
}

/// `firewall.stateDirectory`.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

/// While a process has this no other one changes the seal.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

// === impl State ===

impl State {
    /// The state in `directory`, which need not exist yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until no other process changes the seal, and keeps the others from it until dropped. The
    /// kernel's rules and these files are changed together, by the process that has the lock.
    ///
    /// # Errors
    /// The directory cannot be made, or the file in it.
    pub fn lock(&self) -> Result<Lock, FileError> {
        let path = self.directory.join(LOCK);
        let lock = || {
            fs::create_dir_all(&self.directory)?;
            // Root opens it in a folder that may be another user's: no link is followed, nothing is cut.
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = fs::File::from(rustix::fs::open(
                &path,
                flags,
                Mode::from_raw_mode(file::PRIVATE),
            )?);
            // A process that may open the file may hold the lock.
            file.set_permissions(fs::Permissions::from_mode(file::PRIVATE))?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(Lock { _file: file })
        };
        lock().map_err(|error| FileError::new(&path, error))
    }

    /// The same without waiting, for a process that may only read here; `None` if another one is changing the
    /// seal.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn try_lock(&self) -> Result<Option<Lock>, FileError> {
        let path = self.directory.join(LOCK);
        let lock = || {
            let file = files::open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
                Ok(()) => Ok(Some(Lock { _file: file })),
            }
        };
        lock().map_err(|error| FileError::new(&path, error))
    }

    /// Whether the seal was ever changed here.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.directory.join(LOCK).exists()
    }

    /// What was confirmed last, if anything.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn confirmed(&self) -> Result<Option<Confirmed>, FileError> {
        file::read(&self.directory.join(CONFIRMED))
    }

    /// The plan that was tried last and not confirmed. Whether the trial still runs, the kernel knows.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn trial(&self) -> Result<Option<Plan>, FileError> {
        file::read(&self.directory.join(TRIAL))
    }

    /// Whether a plan was confirmed or tried, and not removed since.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub fn holds_a_plan(&self) -> Result<bool, FileError> {
        Ok(self.confirmed()?.is_some() || self.trial()?.is_some())
    }

    /// How the kernel lists the confirmed plan since the gate has loaded it again, if the gate could note it
    /// in `run_directory` only.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn listed(&self, run_directory: &Path) -> Result<Option<Confirmed>, FileError> {
        file::read(&run_directory.join(LISTED))
    }

    /// The tables and chains of iptables-nft that were there before the seal; `None`: nothing was noted.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub(super) fn builtins(&self) -> Result<Option<Builtins>, FileError> {
        file::read(&self.directory.join(BUILTINS))
    }

    /// Notes them; `None`: there is no seal any more.
    pub(super) fn keep_builtins(&self, before: Option<&Builtins>) -> Result<(), FileError> {
        let path = self.directory.join(BUILTINS);
        match before {
            Some(before) => file::replace(&path, &file::json(before), file::READABLE),
            None => file::delete(&path),
        }
    }

    /// Keeps the plan that is tried; `None`: there is none any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_trial(&self, plan: Option<&Plan>) -> Result<(), FileError> {
        let path = self.directory.join(TRIAL);
        match plan {
            Some(plan) => file::replace(&path, &file::json(plan), file::READABLE),
            None => file::delete(&path),
        }
    }

    /// Keeps what was confirmed; `None`: nothing is any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_confirmed(&self, confirmed: Option<&Confirmed>) -> Result<(), FileError> {
        let path = self.directory.join(CONFIRMED);
        match confirmed {
            Some(confirmed) => file::replace(&path, &file::json(confirmed), file::READABLE),
            None => file::delete(&path),
        }
    }

    /// Keeps how another version of the program lists the confirmed plan: here, or, if this directory is not
    /// the gate's, in `run_directory`.
    ///
    /// # Errors
    /// It can be written to neither.
    pub fn keep_listed(&self, run_directory: &Path, listed: &Confirmed) -> Result<(), FileError> {
        let here = self.keep_confirmed(Some(listed));
        here.or_else(|_| file::replace(&run_directory.join(LISTED), &file::json(listed), file::READABLE))
    }

    /// Deletes the files for the boot, but for those of `kept`.
    pub(super) fn delete_boot_files(&self, kept: Option<&Boot>) -> Result<(), FileError> {
        let kept: Vec<&Path> = kept
            .into_iter()
            .flat_map(|boot| &boot.files)
            .map(|(path, _)| path.as_path())
            .collect();
        let for_boot = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("confirmed") && name != CONFIRMED
        };
        let entries = fs::read_dir(&self.directory);
        let files = match entries {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(FileError::new(&self.directory, error)),
            Ok(entries) => entries.flatten().map(|entry| entry.path()),
        };
        files
            .filter(|path| for_boot(path) && !kept.contains(&path.as_path()))
            .try_for_each(|path| file::delete(&path))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::settings::Backend;

    #[test]
    fn what_was_confirmed_is_kept_and_what_was_removed_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let state = State::new(&root.path().join("a/b"));
        assert_eq!((state.confirmed().unwrap(), state.trial().unwrap()), (None, None));
        assert!(!state.begun());
        let held = state.lock().unwrap();
        assert!(state.try_lock().unwrap().is_none(), "one at a time");
        drop(held);
        assert!(state.try_lock().unwrap().is_some());
        assert!(state.begun());

        let plan = Plan::sample(Backend::Nftables);
        state.keep_trial(Some(&plan)).unwrap();
        assert_eq!(state.trial().unwrap(), Some(plan.clone()));
        state.keep_trial(None).unwrap();
        assert_eq!(state.trial().unwrap(), None);
        let confirmed = Confirmed {
            plan,
            fingerprint: "f".into(),
            tool: "nft 1".into(),
        };
        state.keep_confirmed(Some(&confirmed)).unwrap();
        assert_eq!(state.confirmed().unwrap(), Some(confirmed.clone()));

        let at = |name: &str| state.directory().join(name);
        let boot = Boot {
            files: vec![(at("confirmed-2.v4"), String::new())],
            commands: Vec::new(),
        };
        for name in [
            "confirmed-1.v4",
            "confirmed-2.v4",
            "confirmed-2.new",
            "observed.json",
        ] {
            fs::write(at(name), "").unwrap();
        }
        state.delete_boot_files(Some(&boot)).unwrap();
        assert!(at("confirmed-2.v4").exists() && !at("confirmed-1.v4").exists());
        assert_eq!(state.confirmed().unwrap(), Some(confirmed));
        state.delete_boot_files(None).unwrap();
        state.keep_confirmed(None).unwrap();
        let left: Vec<_> = fs::read_dir(state.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "the lock and what was observed: {left:?}");

        fs::write(at(CONFIRMED), "{").unwrap();
        let error = state.confirmed().unwrap_err().to_string();
        assert!(error.contains("confirmed.json"), "{error}");
    }

    #[test]
    fn a_listing_that_cannot_be_kept_with_the_state_is_noted_in_the_run_directory() {
        let (root, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = State::new(root.path());
        let listed = Confirmed {
            plan: Plan::sample(Backend::Nftables),
            fingerprint: "as nft 2 lists it".into(),
            tool: "nft 2".into(),
        };
        // Blocks the file's replacement, as a directory of another user does.
        fs::create_dir(root.path().join("confirmed.new")).unwrap();
        state.keep_listed(run.path(), &listed).unwrap();
        assert_eq!(state.listed(run.path()).unwrap(), Some(listed.clone()));
        fs::create_dir(run.path().join("listed.new")).unwrap();
        assert!(state.keep_listed(run.path(), &listed).is_err());
    }
}
