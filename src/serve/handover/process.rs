//! Which process is the gate that serves, as it says itself in `firewall.runDirectory`.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use procfs::process::Process;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::super::notify::ServiceManager;
use crate::host::RunningProcess;
use crate::seal::{FileError, file};

/// In `firewall.runDirectory`.
const FILE: &str = "process.json";

/// The file's content. It is readable by the gate and by root alone.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
struct ServingProcess {
    pid: i32,
    /// In the kernel's ticks. Another process that gets the id later has started later.
    started: u64,
    /// The file that it runs.
    program: Option<Program>,
    /// Its service manager listens in the abstract namespace.
    abstract_manager: bool,
}

/// A program's file. While a process runs it, no other file gets its number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Program {
    device: u64,
    inode: u64,
}

/// The gate that serves, found and judged: it may be sent signals.
pub(crate) struct OldProcess {
    process: RunningProcess,
    program: Option<Program>,
}

/// No process can be told to hand over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// No gate has written the file.
    #[error(
        "{}: it is not there, so no gate serves with this firewall.runDirectory: start the gate instead \
         (kubelet-gate serve, or systemctl start); a gate that was started with another \
         firewall.runDirectory has to be restarted to change it", path.display()
    )]
    NoGate {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("which process serves cannot be read: {0}")]
    File(#[from] FileError),
    /// The process has ended.
    #[error(
        "{}: process {pid} has written it and has ended: no gate serves with this firewall.runDirectory; \
         start it instead (kubelet-gate serve, or systemctl start)", path.display()
    )]
    Ended {
        /// The file.
        path: PathBuf,
        /// The process.
        pid: i32,
    },
    /// Another process is asked for.
    #[error(
        "{name} is {given}, and the gate that serves with this firewall.runDirectory is process {pid}, as {} \
         says: leave {name} out, or give the configuration of process {given}", path.display()
    )]
    Another {
        /// Where the process was named.
        name: &'static str,
        /// That process.
        given: i32,
        /// The file.
        path: PathBuf,
        /// The process in it.
        pid: i32,
    },
    /// It is another user's.
    #[error("process {pid} is user {uid}'s, and this command user {own}'s: run it as user {uid}, or as root")]
    User {
        /// The process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// This process' user.
        own: u32,
    },
    /// It would be ended by the signal.
    #[error(
        "process {pid} does not wait for SIGUSR2, by which a gate hands over: it has begun to stop, or is no \
         gate; wait for its end, and start the gate"
    )]
    Deaf {
        /// The process.
        pid: i32,
    },
    /// It is the first process of a container.
    #[error(
        "process 1 is the gate that serves: with it the container ends, so no other process can take over \
         from it; replace the pod or the container instead"
    )]
    First,
    /// `/proc` or the program's file cannot be read.
    #[error("{what} cannot be read: {source}")]
    Unseen {
        /// What.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// Writes which process serves: this one.
///
/// # Errors
/// The directory does not exist or is not the gate's.
pub(in crate::serve) fn write(run_directory: &Path, manager: &ServiceManager) -> Result<(), FindError> {
    let pid = std::process::id().cast_signed();
    let unseen = |what: &str| {
        let what = what.to_owned();
        move |source| FindError::Unseen { what, source }
    };
    let process = RunningProcess::open(pid).map_err(unseen("/proc/self/stat"))?;
    let serving = ServingProcess {
        pid,
        started: process.started(),
        program: Program::at(Path::new("/proc/self/exe")).ok(),
        abstract_manager: manager.is_abstract(),
    };
    let path = run_directory.join(FILE);
    Ok(file::replace(&path, &file::json(&serving), file::PRIVATE)?)
}

/// Whether the service manager of the gate that serves listens in the abstract namespace. True if that is not
/// known.
pub(in crate::serve) fn manager_is_abstract(run_directory: &Path) -> bool {
    let serving = file::read::<ServingProcess>(&run_directory.join(FILE));
    serving
        .ok()
        .flatten()
        .is_none_or(|serving| serving.abstract_manager)
}

// === impl Program ===

impl Program {
    /// The program in this file.
    ///
    /// # Errors
    /// It is not there.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let about = std::fs::metadata(path)?;
        Ok(Self {
            device: about.dev(),
            inode: about.ino(),
        })
    }
}

// === impl OldProcess ===

impl OldProcess {
    /// The gate that serves with this `firewall.runDirectory`. `given` is where a
    /// process was named, and which.
    ///
    /// # Errors
    /// There is none, or it is not the one that was named, or it cannot be told to hand over.
    pub(crate) fn find(run_directory: &Path, given: Option<(&'static str, i32)>) -> Result<Self, FindError> {
        let path = run_directory.join(FILE);
        let serving: Option<ServingProcess> = file::read(&path)?;
        let Some(ServingProcess {
            pid,
            started,
            program,
            ..
        }) = serving
        else {
            return Err(FindError::NoGate { path });
        };
        let running = RunningProcess::open(pid).ok();
        let Some(process) = running.filter(|process| process.started() == started) else {
            return Err(FindError::Ended { path, pid });
        };
        if let Some((name, given)) = given.filter(|(_, given)| *given != pid) {
            return Err(FindError::Another {
                name,
                given,
                path,
                pid,
            });
        }
        if pid == 1 {
            return Err(FindError::First);
        }
        let status = Process::new(pid).and_then(|process| process.status());
        let status = status.map_err(|error| FindError::Unseen {
            what: format!("/proc/{pid}/status"),
            source: io::Error::other(error),
        })?;
        let own = rustix::process::geteuid().as_raw();
        if own != 0 && status.euid != own {
            let uid = status.euid;
            return Err(FindError::User { pid, uid, own });
        }
        // Another process' default is to end by it.
        let mask = 1_u64 << (Signal::USR2.as_raw() - 1);
        if status.sigcgt & mask == 0 {
            return Err(FindError::Deaf { pid });
        }
        Ok(Self { process, program })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Whether it runs this file.
    pub(crate) fn runs(&self, program: Program) -> bool {
        self.program == Some(program)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        self.process.signal(signal)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::process::{Child, Command};

    use super::*;

    /// Whether a process was sent a signal is seen by its end: `sleep` catches none.
    struct Bystander(Child);

    impl Drop for Bystander {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn says(directory: &Path, pid: i32, started: u64) {
        let serving = ServingProcess {
            pid,
            started,
            program: None,
            abstract_manager: false,
        };
        fs::write(directory.join(FILE), file::json(&serving)).unwrap();
    }

    fn refused(directory: &Path, given: Option<(&'static str, i32)>) -> String {
        OldProcess::find(directory, given).err().unwrap().to_string()
    }

    /// (Not seen red.)
    #[test]
    fn a_process_that_is_not_the_gate_is_never_signalled() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path();
        let said = refused(directory, None);
        assert!(said.contains("process.json: it is not there"), "{said}");

        let mut bystander = Bystander(Command::new("sleep").arg("60").spawn().unwrap());
        let pid = bystander.0.id().cast_signed();
        let started = RunningProcess::open(pid).unwrap().started();
        says(directory, pid, started + 1);
        let said = refused(directory, None);
        assert!(
            said.contains(&format!("process {pid} has written it and has ended")),
            "{said}"
        );
        says(directory, pid, started);
        let said = refused(directory, Some(("--pid", 1)));
        assert!(said.contains("--pid is 1, and the gate"), "{said}");
        let said = refused(directory, Some(("--pid", pid)));
        assert!(said.contains("does not wait for SIGUSR2"), "{said}");
        assert!(bystander.0.try_wait().unwrap().is_none());
        fs::write(directory.join(FILE), "{").unwrap();
        assert!(refused(directory, None).contains("which process serves cannot be read"));
    }

    #[test]
    fn a_process_names_itself_and_its_program() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &ServiceManager::default()).unwrap();
        assert!(!manager_is_abstract(folder.path()));
        let serving: ServingProcess = file::read(&folder.path().join(FILE)).unwrap().unwrap();
        assert_eq!(serving.pid, std::process::id().cast_signed());
        let program = Program::at(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(serving.program, Some(program));
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(write(&folder.path().join("none"), &ServiceManager::default()).is_err());
    }
}
