//! What of the seal outlives a process: the confirmed plan with its fingerprint, what loads it at boot, and the trial.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Boot, Plan};

const CONFIRMED: &str = "confirmed.json";
const TRIAL: &str = "trial.json";
const LOCK: &str = "lock";
/// What the boot unit is called.
const UNIT: &str = "kubelet-gate-firewall.service";

/// The plan that holds until another is confirmed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Confirmed {
    /// The plan.
    pub plan: Plan,
    /// What the kernel listed right after loading it.
    pub fingerprint: String,
    /// The version of the program that listed it: another one may list the same rules otherwise.
    pub tool: String,
}

/// `firewall.stateDirectory`.
#[derive(Clone, Debug)]
pub struct State {
    directory: PathBuf,
}

/// Nobody else changes the seal while this is there.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
}

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("firewall.stateDirectory: {}: {source}", path.display())]
pub struct StateError {
    path: PathBuf,
    source: io::Error,
}

// === impl State ===

impl State {
    /// That of `directory`, which need not be there yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until nobody else changes the seal, and keeps everybody else from it until dropped. What the kernel has and
    /// what stands here are changed together by whoever holds it.
    ///
    /// # Errors
    /// The directory cannot be made, or the file in it.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.directory.join(LOCK);
        let lock = || {
            fs::create_dir_all(&self.directory)?;
            let file = fs::File::create(&path)?;
            // Whoever may open it may hold it.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(Lock { _file: file })
        };
        lock().map_err(|error| failed(&path, error))
    }

    /// The same without waiting, for whoever may only read here; `None` if somebody is changing the seal.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn try_lock(&self) -> Result<Option<Lock>, StateError> {
        let path = self.directory.join(LOCK);
        let lock = || {
            let file = fs::File::open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
                Ok(()) => Ok(Some(Lock { _file: file })),
            }
        };
        lock().map_err(|error| failed(&path, error))
    }

    /// Whether anybody ever changed the seal here.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.directory.join(LOCK).exists()
    }

    /// What was confirmed last, if anything.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn confirmed(&self) -> Result<Option<Confirmed>, StateError> {
        self.read(CONFIRMED)
    }

    /// The plan that was tried last and not confirmed. Whether it still runs, the kernel knows.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn trial(&self) -> Result<Option<Plan>, StateError> {
        self.read(TRIAL)
    }

    /// To be written before the trial is loaded, and put back if it was not; `None`: there was none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_trial(&self, plan: Option<&Plan>) -> Result<(), StateError> {
        let path = self.directory.join(TRIAL);
        match plan {
            Some(plan) => self.write(&path, &json(plan)),
            None => self.delete(&path),
        }
    }

    /// Keeps what was confirmed and what loads it at boot; there is no trial any more.
    ///
    /// # Errors
    /// It cannot be written. What is in force is not changed by that.
    pub fn keep_confirmed(&self, confirmed: &Confirmed, boot: &Boot) -> Result<(), StateError> {
        for (path, text) in &boot.files {
            self.write(path, text)?;
        }
        self.write(&self.directory.join(CONFIRMED), &json(confirmed))?;
        self.delete(&self.directory.join(TRIAL))
    }

    /// Keeps how another version of the program lists the plan that was confirmed.
    ///
    /// # Errors
    /// It cannot be written: the directory need not be the gate's.
    pub fn keep_listed(&self, confirmed: &Confirmed) -> Result<(), StateError> {
        self.write(&self.directory.join(CONFIRMED), &json(confirmed))
    }

    /// Writes the unit that runs `boot` before the kubelet starts, and yields its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn install_unit(&self, boot: &Boot, directory: &Path) -> Result<PathBuf, StateError> {
        let path = directory.join(UNIT);
        self.write(&path, &unit(boot))?;
        Ok(path)
    }

    /// Whether the boot unit is in `directory`.
    #[must_use]
    pub fn unit_installed(directory: &Path) -> bool {
        directory.join(UNIT).is_file()
    }

    /// Takes away everything but what was observed.
    ///
    /// # Errors
    /// Something is left.
    pub fn forget(&self, units: &Path) -> Result<(), StateError> {
        let mut gone = vec![
            self.directory.join(CONFIRMED),
            self.directory.join(TRIAL),
            units.join(UNIT),
        ];
        let at_boot = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        gone.extend(
            at_boot
                .map(|entry| entry.path())
                .filter(|path| path.file_stem().is_some_and(|stem| stem == "confirmed")),
        );
        gone.iter().try_for_each(|path| self.delete(path))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| failed(&path, error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// In one step, so that a power cut leaves the old or the new.
    fn write(&self, path: &Path, text: &str) -> Result<(), StateError> {
        let write = || {
            fs::create_dir_all(&self.directory)?;
            let new = path.with_extension("new");
            fs::write(&new, text)?;
            fs::File::open(&new)?.sync_all()?;
            fs::rename(&new, path)?;
            // The name, too, is to be there after a power cut.
            path.parent()
                .map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
        };
        write().map_err(|error| failed(path, error))
    }

    fn delete(&self, path: &Path) -> Result<(), StateError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
            _ => Ok(()),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> StateError {
    StateError {
        path: path.to_owned(),
        source,
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// The unit: no gate, no configuration, only the packet filter's own program and its file.
fn unit(boot: &Boot) -> String {
    let commands = boot.commands.iter().map(|words| {
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        format!("ExecStart={}\n", words.join(" "))
    });
    format!(
        "# Written by kubelet-gate firewall confirm; taken away by kubelet-gate firewall remove.\n\
         [Unit]\n\
         Description=kubelet-gate: the kubelet's ports stay closed to all but the gate, before anything listens there\n\
         DefaultDependencies=no\n\
         RequiresMountsFor=/var/lib\n\
         After=systemd-modules-load.service local-fs.target nftables.service iptables.service netfilter-persistent.service\n\
         Before=network-pre.target kubelet.service k3s.service k3s-agent.service rke2-server.service rke2-agent.service\n\
         Before=snap.microk8s.daemon-kubelite.service shutdown.target\n\
         Conflicts=shutdown.target\n\
         Wants=network-pre.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         {}\n\
         [Install]\n\
         WantedBy=sysinit.target kubelet.service\n",
        commands.collect::<String>()
    )
}

/// A word as a unit file wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped = word
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::settings::Backend;

    #[test]
    fn what_was_confirmed_is_kept_and_what_was_removed_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let (units, state) = (root.path(), State::new(&root.path().join("a/b")));
        assert_eq!((state.confirmed().unwrap(), state.trial().unwrap()), (None, None));
        let plan = Plan::sample(Backend::Nftables);
        state.keep_trial(Some(&plan)).unwrap();
        assert_eq!(state.trial().unwrap(), Some(plan.clone()));
        let confirmed = Confirmed {
            plan,
            fingerprint: "f".into(),
            tool: "nft 1".into(),
        };
        let boot = Boot {
            files: vec![(state.directory().join("confirmed.nft"), "table\n".into())],
            commands: vec![vec![
                "/usr/sbin/nft".into(),
                "-f".into(),
                "/a b/confirmed.nft".into(),
            ]],
        };
        state.keep_confirmed(&confirmed, &boot).unwrap();
        assert_eq!(
            (state.confirmed().unwrap(), state.trial().unwrap()),
            (Some(confirmed), None)
        );
        let unit = state.install_unit(&boot, units).unwrap();
        let text = fs::read_to_string(unit).unwrap();
        assert!(
            text.contains("\nExecStart=/usr/sbin/nft -f \"/a b/confirmed.nft\"\n"),
            "{text}"
        );
        assert!(!text.contains("kubelet-gate serve"), "{text}");
        state.forget(units).unwrap();
        assert_eq!(fs::read_dir(state.directory()).unwrap().count(), 0);
        let held = state.lock().unwrap();
        assert!(state.try_lock().unwrap().is_none(), "one at a time");
        drop(held);
        assert!(state.try_lock().unwrap().is_some());
        assert!(!State::unit_installed(units));
        state.forget(units).unwrap();

        fs::write(state.directory().join(CONFIRMED), "{").unwrap();
        let error = state.confirmed().unwrap_err().to_string();
        assert!(error.contains("confirmed.json"), "{error}");
    }
}
