//! A running process whose end can be waited for.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

use crate::files::{self, DOCUMENT};

/// How often the process is looked at where the kernel does not announce its end: a service manager may start
/// its successor as soon.
const LOOK: Duration = Duration::from_millis(100);

/// A process. Another one that gets its id later is not taken for it.
#[derive(Debug)]
pub(crate) struct RunningProcess {
    pid: i32,
    /// When it started, in the kernel's ticks since the machine did.
    started: u64,
    /// By which the kernel announces its end: from Linux 5.3 on, and unless a filter of system calls forbids
    /// it.
    descriptor: Option<OwnedFd>,
}

impl RunningProcess {
    /// The process that has this id now.
    ///
    /// # Errors
    /// There is none, or `/proc` does not show it.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let started = started(pid).ok_or(io::ErrorKind::NotFound)?;
        let id = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let process = Self {
            pid,
            started,
            descriptor: pidfd_open(id, PidfdFlags::empty()).ok(),
        };
        // Another process may have got the id before the descriptor was made.
        match process.runs() {
            true => Ok(process),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The process that connected a unix socket, or that listens on it, and its user.
    ///
    /// # Errors
    /// It has ended, or is in a process namespace that cannot be seen from here.
    pub(crate) fn at_other_end(socket: BorrowedFd<'_>) -> io::Result<(Self, u32)> {
        let peer = getsockopt(&socket, PeerCredentials)?;
        let descriptor = match getsockopt(&socket, PeerPidfd) {
            Ok(descriptor) => Some(descriptor),
            // Linux before 6.5: the process is then the one that has the id now.
            Err(Errno::ENOPROTOOPT) => None,
            Err(error) => return Err(error.into()),
        };
        let mut process = Self::open(peer.pid())?;
        if let Some(descriptor) = descriptor {
            // As long as the kernel names the id, no other process has got it.
            let info = files::read_text(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()), DOCUMENT)?;
            let mut lines = info.lines().filter_map(|line| line.strip_prefix("Pid:"));
            if lines.next().and_then(|pid| pid.trim().parse().ok()) != Some(process.pid) {
                return Err(io::ErrorKind::NotFound.into());
            }
            process.descriptor = Some(descriptor);
        }
        Ok((process, peer.uid()))
    }

    /// Its id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// When it started, in the kernel's ticks since the machine did. With its id it names a process that no
    /// other is taken for.
    pub(crate) fn started(&self) -> u64 {
        self.started
    }

    /// Sends a signal to this process, and to no other that has got its id.
    ///
    /// # Errors
    /// It has ended, or this process may not.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.runs() {
            return Err(io::ErrorKind::NotFound.into());
        }
        match (&self.descriptor, Pid::from_raw(self.pid)) {
            (Some(descriptor), _) => pidfd_send_signal(descriptor, signal)?,
            (None, Some(pid)) => kill_process(pid, signal)?,
            (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    /// Whether it still runs. What was read of `/proc/PID` before is then about this process.
    pub(crate) fn runs(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Waits for its end: until the kernel announces it, else by looking again and again.
    pub(crate) async fn ended(mut self) {
        // To tokio it is a pipe, which is all that counts for waiting until it is readable.
        let announced = self
            .descriptor
            .take()
            .and_then(|descriptor| Receiver::from_owned_fd_unchecked(descriptor).ok());
        if let Some(descriptor) = announced
            && descriptor.readable().await.is_ok()
        {
            return;
        }
        while self.runs() {
            sleep(LOOK).await;
        }
    }
}

/// When a process started; `None` if it has ended, whether or not its parent has noticed.
fn started(pid: i32) -> Option<u64> {
    let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
    (!matches!(stat.state, 'Z' | 'X' | 'x')).then_some(stat.starttime)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use tokio::time::timeout;

    use super::*;

    /// Seen red: with a process that has ended, and that its parent has not waited for, taken for one that
    /// runs: without a descriptor it never ended.
    #[tokio::test]
    async fn the_end_is_noticed_with_and_without_the_kernels_announcement() {
        for announced in [true, false] {
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            let mut process = RunningProcess::open(child.id().cast_signed()).unwrap();
            if !announced {
                process.descriptor = None;
            }
            assert!(process.runs());
            let mut ended = std::pin::pin!(process.ended());
            assert!(timeout(Duration::from_millis(50), &mut ended).await.is_err());
            child.kill().unwrap();
            timeout(Duration::from_secs(20), ended).await.unwrap();
            child.wait().unwrap();
        }
    }

    /// Seen red: with the time of its start not compared.
    #[test]
    fn another_process_with_its_id_is_not_taken_for_it() {
        let mut process = RunningProcess::open(std::process::id().cast_signed()).unwrap();
        assert!(process.runs());
        process.started += 1;
        assert!(!process.runs());
        assert!(RunningProcess::open(i32::MAX).is_err());
    }
}
