//! A running process whose end can be waited for.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

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

    /// When it started, in the kernel's ticks since the machine did.
    pub(crate) fn started(&self) -> u64 {
        self.started
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
