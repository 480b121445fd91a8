//! The process at the other end of a hand-over: whether it may be there.

use std::io;
use std::os::fd::BorrowedFd;

use crate::files::{self, DOCUMENT};
use crate::host::RunningProcess;

/// The process at the other end of a unix socket.
pub(super) struct Peer {
    pub(super) process: RunningProcess,
    pub(super) uid: u32,
}

/// Why a process may not take part in a hand-over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stranger {
    /// It is another user's.
    #[error(
        "process {pid} is user {uid}'s, and a gate hands over to user {own} or root alone: run kubelet-gate \
         upgrade as user {own}, as systemctl reload does"
    )]
    User {
        /// The process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// The user of this process.
        own: u32,
    },
    /// It is in another cgroup.
    #[error(
        "process {pid} is in the cgroup {cgroup}, and this gate in {own}: the service manager starts both in \
         the same one (systemctl reload); by hand, start kubelet-gate upgrade where the gate was started"
    )]
    Cgroup {
        /// The process.
        pid: i32,
        /// Its cgroup.
        cgroup: String,
        /// The cgroup of this process.
        own: String,
    },
    /// The kernel or `/proc` does not say.
    #[error("which process is at the other end cannot be seen: {0}")]
    Unseen(#[from] io::Error),
}

// === impl Peer ===

impl Peer {
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let (process, uid) = RunningProcess::at_other_end(socket)?;
        Ok(Self { process, uid })
    }

    /// Checks that it may take over from this process: it is of the same user, or root's, and in the same
    /// cgroup.
    ///
    /// # Errors
    /// It is not, or it cannot be seen.
    pub(super) fn judge_successor(&self) -> Result<(), Stranger> {
        self.judge(self.uid == 0)
    }

    /// Checks that this process may take over from it, by the same rule.
    ///
    /// # Errors
    /// As [`Self::judge_successor`].
    pub(super) fn judge_predecessor(&self) -> Result<(), Stranger> {
        self.judge(rustix::process::geteuid().is_root())
    }

    fn judge(&self, successor_is_root: bool) -> Result<(), Stranger> {
        let pid = self.process.pid();
        let own = rustix::process::geteuid().as_raw();
        if self.uid != own && !successor_is_root {
            let uid = self.uid;
            return Err(Stranger::User { pid, uid, own });
        }
        let cgroup = |process: &str| files::read_text(format!("/proc/{process}/cgroup"), DOCUMENT);
        let (theirs, own) = (cgroup(&pid.to_string())?, cgroup("self")?);
        // What was read may be another process', which got the id of one that has ended.
        if !self.process.runs() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")).into());
        }
        if !same_cgroup(&theirs, &own) {
            let line = |text: &str| text.trim().replace('\n', " ");
            return Err(Stranger::Cgroup {
                pid,
                cgroup: line(&theirs),
                own: line(&own),
            });
        }
        Ok(())
    }
}

/// Compares two texts of `/proc/PID/cgroup`. Each hierarchy counts. A text without any line says nothing.
fn same_cgroup(theirs: &str, own: &str) -> bool {
    !own.trim().is_empty() && theirs == own
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// (Not seen red.)
    #[test]
    fn a_cgroup_is_the_same_in_every_hierarchy_and_never_without_one() {
        for (theirs, own, same) in [
            (
                "0::/system.slice/gate.service\n",
                "0::/system.slice/gate.service\n",
                true,
            ),
            ("0::/\n", "0::/\n", true),
            (
                "0::/system.slice/other.service\n",
                "0::/system.slice/gate.service\n",
                false,
            ),
            (
                "0::/system.slice/gate.service/x\n",
                "0::/system.slice/gate.service\n",
                false,
            ),
            ("0::/../x\n", "0::/\n", false),
            ("1:name=systemd:/a\n0::/\n", "1:name=systemd:/b\n0::/\n", false),
            ("", "0::/\n", false),
            ("", "", false),
            ("0::/gone (deleted)\n", "0::/gone\n", false),
        ] {
            assert_eq!(same_cgroup(theirs, own), same, "{theirs:?} {own:?}");
        }
    }

    #[test]
    fn this_process_may_talk_to_itself_and_another_user_may_not() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut peer = Peer::of(one.as_fd()).unwrap();
        assert_eq!(peer.process.pid(), std::process::id().cast_signed());
        peer.judge_successor().unwrap();
        peer.judge_predecessor().unwrap();
        peer.uid = rustix::process::geteuid().as_raw() + 1;
        let said = peer.judge_successor().unwrap_err().to_string();
        assert!(said.contains(&format!("user {}'s", peer.uid)), "{said}");
    }
}
