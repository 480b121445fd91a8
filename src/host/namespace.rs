//! Work on a thread of its own that is in another network namespace, or belongs to another user.

use std::io;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_gid, set_thread_groups, set_thread_res_uid,
};

/// A new network namespace with `lo` up. It is removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// This is not root, or `ip` is missing.
    pub fn new(name: &str) -> io::Result<Self> {
        let namespace = Self {
            // The process id tells it from one that a killed process left behind.
            name: format!("{name}-{}", std::process::id()),
        };
        ip(&["netns", "add", &namespace.name])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// What `ip netns` calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in this namespace.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        ip(&[&["-n", self.name.as_str()][..], arguments].concat())
    }

    /// Runs `work` on a thread of its own in this namespace. Sockets that it makes stay in the namespace,
    /// also when other threads use them.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// As `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_network(&format!("/run/netns/{}", self.name), work)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its interfaces go with it.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Runs `work` on a thread of its own in the network namespace of this process. The rest of the thread's
/// world, such as its file system, stays this program's.
///
/// # Errors
/// There is no such process, or its namespace cannot be entered.
///
/// # Panics
/// As `work` does.
pub fn in_network_of<T: Send>(pid: i32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_network(&format!("/proc/{pid}/ns/net"), work)
}

fn in_network<T: Send>(file: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let enter = || {
        Ok(move_into_link_name_space(
            file.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?)
    };
    elsewhere(enter, work)
}

/// Runs `work` on a thread of its own that belongs to this user and has no privileges. The rest of the
/// process stays what it is: to Linux, users are a matter of threads.
///
/// # Errors
/// This is not root.
///
/// # Panics
/// As `work` does.
pub fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let become_user = || {
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(uid))?;
        let uid = Uid::from_raw(uid);
        // A change from root to another user drops the capabilities.
        Ok(set_thread_res_uid(uid, uid, uid)?)
    };
    elsewhere(become_user, work)
}

fn elsewhere<T: Send>(
    go: impl FnOnce() -> io::Result<()> + Send,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let there = scope.spawn(|| go().map(|()| work()));
        there
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `ip` in this thread's network namespace.
///
/// # Errors
/// It is missing, or fails.
pub fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("ip (of iproute2): {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "ip {}: {}",
        arguments.join(" "),
        why.trim()
    )))
}
