//! A small service manager, for what systemd does around the gate: it starts the program with `NOTIFY_SOCKET`
//! and with sockets of a socket unit, runs `ExecReload=`, follows `MAINPID=`, and believes the main process
//! alone (`NotifyAccess=main`).

use std::ffi::OsString;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::patience::{eventually, patience};

/// The text of a unit, as far as the tests need it.
pub(crate) struct Unit {
    /// It becomes the program.
    command: Command,
    configuration: PathBuf,
    sockets: Vec<(String, OwnedFd)>,
    watchdog: Option<Duration>,
}

/// One unit and its processes.
pub(crate) struct ServiceManager {
    unit: Unit,
    /// Holds the notification socket and the log.
    folder: TempDir,
    watched: Arc<Watched>,
    reader: Option<JoinHandle<()>>,
    started: Vec<Child>,
    /// Configuration files of earlier versions of the unit.
    earlier: Vec<PathBuf>,
}

/// What the thread at the notification socket shares with the tests.
#[derive(Default)]
struct Watched {
    state: Mutex<State>,
    ends: AtomicBool,
}

#[derive(Clone, Default)]
struct State {
    main: Option<u32>,
    told: Vec<Told>,
}

/// One notification.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The process that sent it, as the kernel says.
    pub(crate) pid: u32,
    pub(crate) text: String,
    /// Whether it came from the main process.
    pub(crate) accepted: bool,
}

// === impl Unit ===

impl Unit {
    /// A unit of a command that becomes the program, with this configuration file.
    pub(crate) fn new(command: Command, configuration: impl Into<PathBuf>) -> Self {
        Self {
            command,
            configuration: configuration.into(),
            sockets: Vec::new(),
            watchdog: None,
        }
    }

    /// Passes this socket on at each start, by this `FileDescriptorName=`.
    pub(crate) fn socket(mut self, name: &str, socket: impl Into<OwnedFd>) -> Self {
        self.sockets.push((name.to_owned(), socket.into()));
        self
    }

    /// `WatchdogSec=`.
    pub(crate) fn watchdog(self, interval: Duration) -> Self {
        Self {
            watchdog: Some(interval),
            ..self
        }
    }
}

// === impl ServiceManager ===

impl ServiceManager {
    /// `systemctl daemon-reload` after the unit's `--config` has changed.
    pub(crate) fn change_configuration(&mut self, file: impl Into<PathBuf>) {
        let old = std::mem::replace(&mut self.unit.configuration, file.into());
        self.earlier.push(old);
    }

    /// Loads the unit and starts it.
    pub(crate) async fn start_unit(unit: Unit) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The gate may have another user.
        open_to_all(folder.path(), 0o755);
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        open_to_all(&path, 0o777);
        sockopt::set_socket_passcred(socket.as_fd(), true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let watched = Arc::new(Watched::default());
        let reading = watched.clone();
        let mut manager = Self {
            unit,
            folder,
            watched,
            reader: Some(std::thread::spawn(move || reading.read(&socket))),
            started: Vec::new(),
            earlier: Vec::new(),
        };
        manager.start().await;
        manager
    }

    /// Starts the main process and waits for its `READY=1`.
    pub(crate) async fn start(&mut self) {
        let mut exported = String::from("export NOTIFY_SOCKET=$1; shift");
        let sockets = &self.unit.sockets;
        if !sockets.is_empty() {
            let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
            let (count, names) = (names.len(), names.join(":"));
            exported += &format!("; export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names}");
        }
        if let Some(interval) = self.unit.watchdog {
            exported += &format!("; export WATCHDOG_PID=$$ WATCHDOG_USEC={}", interval.as_micros());
        }
        let notify = self.folder.path().join("notify").into_os_string();
        let mut command = self.command(&format!("{exported}; exec \"$@\""), &[notify], "serve");
        let mappings = (3..).zip(sockets).map(|(child_fd, (_, socket))| FdMapping {
            parent_fd: socket.try_clone().unwrap(),
            child_fd,
        });
        command.fd_mappings(mappings.collect()).unwrap();
        let told = {
            // The process is the main one before its first notification is read.
            let mut state = self.watched.state();
            let child = command.spawn().unwrap();
            state.main = Some(child.id());
            self.started.push(child);
            state.told.len()
        };
        let main = self.main();
        eventually("the unit is started", || {
            assert!(is_alive(main), "it ended before it was ready:\n{}", self.log());
            self.watched.is_ready(main, told)
        })
        .await;
    }

    /// `systemctl stop`: SIGTERM for every process of the unit. Waits for their end.
    pub(crate) async fn stop(&mut self) {
        self.signal_all(Signal::TERM);
        eventually("every process of the unit has ended", || {
            self.processes().is_empty()
        })
        .await;
        for mut child in self.started.drain(..) {
            let status = child.wait().unwrap();
            // A main process of an earlier start may have been killed by the test.
            assert!(status.code() == Some(0) || status.code().is_none(), "{status}");
        }
        self.watched.state().main = None;
    }

    /// `systemctl restart`.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// What follows the end of the main process with `Restart=always`: the unit's other processes are
    /// stopped, and only when they have ended it is started again.
    pub(crate) async fn recover(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// The command of `ExecReload=`, which gets the main process' id, and neither sockets nor the
    /// notification socket.
    pub(crate) fn exec_reload(&self) -> Command {
        let main = OsString::from(self.main().to_string());
        self.command("export MAINPID=$1; shift; exec \"$@\"", &[main], "upgrade")
    }

    /// `systemctl reload`. Yields how `ExecReload=` ended. What it printed is in the log.
    pub(crate) async fn reload(&self) -> ExitStatus {
        // The new process outlives it, and has its standard error.
        let mut running = tokio::process::Command::from(self.exec_reload()).spawn().unwrap();
        let ended = timeout(patience(), running.wait()).await;
        ended.expect("ExecReload= does not end").unwrap()
    }

    /// The same, and it must lead to a new main process that is ready.
    pub(crate) async fn upgrade(&self) {
        let (old, told) = (self.main(), self.watched.state().told.len());
        let status = self.reload().await;
        assert!(status.success(), "{status}\n{}", self.log());
        eventually("a new main process is ready", || {
            let main = self.main();
            main != old && self.watched.is_ready(main, told)
        })
        .await;
    }

    /// Has the main process read its files again.
    pub(crate) fn hang_up(&self) {
        signal(self.main(), Signal::HUP);
    }

    /// The main process.
    #[track_caller]
    pub(crate) fn main(&self) -> u32 {
        self.watched.state().main.expect("the unit is not started")
    }

    /// Every process of the unit that has not ended: its command line names the configuration file.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let files: Vec<_> = self.earlier.iter().chain([&self.unit.configuration]).collect();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let names = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            words.any(|word| files.iter().any(|file| file.as_os_str().as_bytes() == word))
        };
        ids.filter(names).filter(|pid| is_alive(*pid)).collect()
    }

    /// The processes beside the main one: those that drain, and a new one before it has taken over.
    pub(crate) fn others(&self) -> Vec<u32> {
        let main = self.main();
        let mut processes = self.processes();
        processes.retain(|pid| *pid != main);
        processes
    }

    /// Waits until at most so many processes drain.
    pub(crate) async fn eventually_others(&self, at_most: usize) {
        eventually(&format!("at most {at_most} processes drain"), || {
            self.others().len() <= at_most
        })
        .await;
    }

    /// Every notification so far.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.watched.state().told.clone()
    }

    /// What the unit's processes have logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            self::signal(pid, signal);
        }
    }

    /// The unit's command behind this script, with this subcommand, in the unit's environment.
    fn command(&self, script: &str, before: &[OsString], subcommand: &str) -> Command {
        let inner = &self.unit.command;
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh"]).args(before);
        command.arg(inner.get_program()).args(inner.get_args());
        command.args([subcommand, "--log-format", "json", "--config"]);
        command.arg(&self.unit.configuration);
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.folder.path().join("log"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        command
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        self.signal_all(Signal::KILL);
        for child in &mut self.started {
            let _ = child.wait();
        }
        self.watched.ends.store(true, Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("the unit said:\n{}", self.log());
        }
    }
}

// === impl Watched ===

impl Watched {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process said so in a notification after the first `seen`.
    fn is_ready(&self, main: u32, seen: usize) -> bool {
        let state = self.state();
        let ready = |told: &Told| told.pid == main && told.text.lines().any(|line| line == "READY=1");
        state.told[seen..].iter().any(|told| told.accepted && ready(told))
    }

    fn read(&self, socket: &UnixDatagram) {
        while !self.ends.load(Relaxed) {
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let Ok(received) = recvmsg(socket, &mut into, &mut control, RecvFlags::empty()) else {
                continue;
            };
            let sender = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
                _ => None,
            });
            let pid = sender.unwrap().as_raw_nonzero().get().cast_unsigned();
            let text = String::from_utf8(bytes[..received.bytes].to_vec()).unwrap();
            let mut state = self.state();
            let accepted = state.main == Some(pid);
            let named = text.lines().find_map(|line| line.strip_prefix("MAINPID="));
            if let (true, Some(named)) = (accepted, named) {
                state.main = Some(named.parse().unwrap());
            }
            state.told.push(Told { pid, text, accepted });
        }
    }
}

/// Whether a process has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// Sends a signal to a process that may have ended.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    let _ = kill_process(pid, signal);
}

fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A listening socket as a socket unit makes it.
pub(crate) fn listening(address: std::net::SocketAddr) -> std::net::TcpListener {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}
