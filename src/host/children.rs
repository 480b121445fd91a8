//! The process groups that this process has started, and that must not outlive it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

static GROUPS: Mutex<Groups> = Mutex::new(Groups {
    running: BTreeSet::new(),
    ended: false,
});

struct Groups {
    running: BTreeSet<i32>,
    /// No other group may be started.
    ended: bool,
}

/// A process group that runs. Drop it once its leader has been waited for.
pub(crate) struct Group(i32);

/// Starts the leader of a process group. `id` tells its process id.
///
/// # Errors
/// It cannot be started, or [`end_all`] was called.
pub(crate) fn start<C>(
    spawn: impl FnOnce() -> io::Result<C>,
    id: impl FnOnce(&C) -> Option<u32>,
) -> io::Result<(C, Group)> {
    // Locked until the group is listed: otherwise it might be started after the end.
    let mut groups = groups();
    if groups.ended {
        return Err(io::Error::other("this process is ending"));
    }
    let child = spawn()?;
    let group = id(&child)
        .and_then(|id| i32::try_from(id).ok())
        .unwrap_or_default();
    groups.running.insert(group);
    Ok((child, Group(group)))
}

/// Kills every group, and lets no other one be started.
pub(crate) fn end_all() {
    let mut groups = groups();
    groups.ended = true;
    groups.running.iter().copied().for_each(kill);
}

fn groups() -> MutexGuard<'static, Groups> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        // It may just have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

// === impl Group ===

impl Group {
    /// Kills it. Its leader must not have been waited for: its number could be another group's by then.
    pub(crate) fn kill(&self) {
        kill(self.0);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        groups().running.remove(&self.0);
    }
}
