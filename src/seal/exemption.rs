//! What the running gate's own connections are known by, and where it says so to `firewall apply`.

use std::fs;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::foreign;
use super::plan::Exemption;
use crate::host::Mark;
use crate::host::sockets::Taker;

/// Bits that no wide-spread network plugin uses: clear of kube-proxy's 0xc000, portmap's 0x2000, Cilium's 0x0f00, the AWS
/// plugin's 0x80 and everything from 0x10000 up, which Calico, Weave and Tailscale take.
pub const FREE_BITS: u32 = 0x0000_107f;

/// In `firewall.runDirectory`.
const FILE: &str = "exemption.json";

/// A gate that runs, as it says itself; readable by the gate and by root alone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunningGate {
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// What its connections to the kubelet have; `None` if it may have no such thing: it runs as root, or may not mark.
    pub exemption: Option<Exemption>,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where the tombstone listens.
    pub read_only_listen: Vec<SocketAddr>,
    /// Where the admin port listens.
    pub admin: Option<SocketAddr>,
}

/// The file of a running gate cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct RunningGateError {
    /// The file.
    path: PathBuf,
    /// Why not.
    source: io::Error,
}

// === impl RunningGate ===

impl RunningGate {
    /// Whether this is the gate: its user, on its TLS port or its tombstone. Anybody may take these ports once it has ended.
    pub fn took(&self, taker: &Taker) -> bool {
        taker.uid == Some(self.uid) && self.listens_on(taker.address)
    }

    /// Whether this is where its TLS port or its tombstone is.
    pub fn listens_on(&self, address: SocketAddr) -> bool {
        self.listen.iter().chain(&self.read_only_listen).any(|listen| {
            let (ip, to) = (listen.ip().to_canonical(), address.ip().to_canonical());
            listen.port() == address.port() && (ip == to || ip.is_unspecified())
        })
    }

    /// Whether the process that wrote it still runs, as the same user.
    pub fn lives(&self) -> bool {
        let status =
            procfs::process::Process::new(self.pid.cast_signed()).and_then(|process| process.status());
        status.is_ok_and(|status| status.euid == self.uid)
    }

    /// What the gate wrote last; `None` if none has since the machine started.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Self>, RunningGateError> {
        let path = directory.join(FILE);
        let read = || match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        read().map_err(|source| RunningGateError {
            path: path.clone(),
            source,
        })
    }

    /// Says it, in one step, to nobody but the gate's own user and root.
    ///
    /// # Errors
    /// The directory is not there or not the gate's.
    pub fn write(&self, directory: &Path) -> Result<(), RunningGateError> {
        let path = directory.join(FILE);
        let write = || {
            let new = directory.join(format!("{FILE}.new"));
            // What an earlier process left behind may have other permissions.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| RunningGateError {
            path: path.clone(),
            source,
        })
    }
}

// === impl Exemption ===

impl Exemption {
    /// Of this process: its user, a new random mark in `mask` or in bits that are free, its cgroup. `None` if it could not have one: it runs as root, or
    /// may not set marks (`CAP_NET_ADMIN`).
    ///
    /// # Errors
    /// The operating system gives no random numbers.
    pub fn of_this_process(mask: Option<u32>) -> Result<Option<Self>, aws_lc_rs::error::Unspecified> {
        let uid = rustix::process::getuid().as_raw();
        if uid == 0 || !may_mark(FREE_BITS) {
            return Ok(None);
        }
        let mark = Mark::random(mask.unwrap_or_else(free_bits))?;
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Ok(Some(Self {
            uid,
            mark,
            cgroup: unified(&cgroup),
        }))
    }
}

fn may_mark(mark: u32) -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, None).is_ok_and(|socket| socket.set_mark(mark).is_ok())
}

/// Of [`FREE_BITS`], those that no rule of this node looks at. If too few are left `firewall apply` will say whose they are.
fn free_bits() -> u32 {
    const FEWEST: u32 = 4;
    let used = foreign::marks_in_use().unwrap_or_else(|error| {
        tracing::warn!("which bits of the packet mark are in use cannot be seen: {error}");
        0
    });
    let free = FREE_BITS & !used;
    if free.count_ones() < FEWEST {
        FREE_BITS
    } else {
        free
    }
}

/// The process' place below the root of cgroup v2, from `/proc/self/cgroup`. The root itself would exempt everybody, and
/// is also what a container sees that has a cgroup namespace of its own.
fn unified(cgroups: &str) -> Option<String> {
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let outside = path.is_empty() || path.starts_with("..") || path.ends_with(" (deleted)");
    (!outside).then(|| path.to_owned())
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_a_cgroup_of_ones_own_exempts() {
        for (cgroups, path) in [
            (
                "0::/system.slice/kubelet-gate.service\n",
                Some("system.slice/kubelet-gate.service"),
            ),
            ("12:cpu:/a\n1:name=systemd:/b\n0::/c/d\n", Some("c/d")),
            ("0::/\n", None),
            ("0::/../../kubepods\n", None),
            ("0::/gone (deleted)\n", None),
            ("4:memory:/a\n", None),
            ("", None),
        ] {
            assert_eq!(unified(cgroups).as_deref(), path, "{cgroups:?}");
        }
    }

    #[test]
    fn a_mark_is_random_within_its_bits_and_never_shown() {
        let marks: Vec<Mark> = (0..200).map(|_| Mark::random(FREE_BITS).unwrap()).collect();
        assert!(
            marks
                .iter()
                .all(|mark| mark.value & !FREE_BITS == 0 && mark.value != 0)
        );
        assert!(marks.iter().any(|mark| *mark != marks[0]));
        let shown = format!(
            "{:?}",
            Mark {
                value: 0x1055,
                mask: FREE_BITS
            }
        );
        assert!(!shown.contains("1055"), "{shown}");
    }

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
        fs::write(directory.path().join("exemption.json.new"), "x").unwrap();
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
