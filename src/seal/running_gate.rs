//! The gate that runs on this node, as it describes itself in `firewall.runDirectory`.

use std::net::SocketAddr;
use std::path::Path;

use procfs::process::Process;
use serde::{Deserialize, Serialize};

use super::exemption::Exemption;
use super::file::{self, FileError};
use crate::host::sockets::Taker;

/// In `firewall.runDirectory`.
const FILE: &str = "exemption.json";

/// A gate that runs; its file is readable by the gate and by root alone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunningGate {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// How the seal recognizes its connections to the kubelet; `None` if it cannot: the gate runs as root, or
    /// may not mark.
    pub exemption: Option<Exemption>,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where the tombstone listens.
    pub read_only_listen: Vec<SocketAddr>,
    /// Where the admin port listens.
    pub admin: Option<SocketAddr>,
}

// === impl RunningGate ===

impl RunningGate {
    /// Stands for a gate that does not run: no process is taken for it, least of all one that has its ports.
    #[must_use]
    pub fn absent(listen: &[SocketAddr], read_only_listen: &[SocketAddr]) -> Self {
        Self {
            pid: 0,
            uid: u32::MAX,
            exemption: None,
            listen: listen.to_vec(),
            read_only_listen: read_only_listen.to_vec(),
            admin: None,
        }
    }

    /// Whether this is the gate: its user, on its TLS port or its tombstone. Once it has ended, any process
    /// may take these ports.
    #[must_use]
    pub fn took(&self, taker: &Taker) -> bool {
        taker.uid == Some(self.uid) && self.listens_on(taker.address)
    }

    /// Whether its TLS port or its tombstone is here.
    #[must_use]
    pub fn listens_on(&self, address: SocketAddr) -> bool {
        self.listen.iter().chain(&self.read_only_listen).any(|listen| {
            let (ip, to) = (listen.ip().to_canonical(), address.ip().to_canonical());
            listen.port() == address.port() && (ip == to || ip.is_unspecified())
        })
    }

    /// Whether the process that wrote the file still runs, as the same user.
    #[must_use]
    pub fn lives(&self) -> bool {
        let status = Process::new(self.pid.cast_signed()).and_then(|process| process.status());
        status.is_ok_and(|status| status.euid == self.uid)
    }

    /// What the last gate wrote; `None` if none has since the machine started.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, FileError> {
        file::read(&directory.join(FILE))
    }

    /// Writes the file, for the gate's own user and root alone.
    ///
    /// # Errors
    /// The directory does not exist or is not the gate's.
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        file::replace(&directory.join(FILE), &file::json(self), file::PRIVATE)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::host::Mark;

    #[test]
    fn what_a_gate_says_of_itself_is_for_its_own_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(RunningGate::read(directory.path()).unwrap(), None);
        let gate = RunningGate {
            pid: 7,
            uid: 990,
            exemption: Some(Exemption {
                uid: 990,
                mark: Mark { value: 1, mask: 3 },
                cgroup: None,
            }),
            listen: vec!["0.0.0.0:19443".parse().unwrap()],
            read_only_listen: Vec::new(),
            admin: None,
        };
        // Left behind by a process that was killed.
        fs::write(directory.path().join("exemption.new"), "x").unwrap();
        gate.write(directory.path()).unwrap();
        assert_eq!(RunningGate::read(directory.path()).unwrap(), Some(gate));
        let mode = fs::metadata(directory.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(directory.path().join(FILE), "{").unwrap();
        let error = RunningGate::read(directory.path()).unwrap_err().to_string();
        assert!(error.contains(FILE), "{error}");
    }
}
