//! The gates before this one, as far as they still leave: what they say of themselves.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::super::instance::Instance;
use super::super::leaving::Leaving;
use super::channel::Channel;

/// The most gates before this one that may leave at the same time.
pub(super) const MOST: usize = 2;

/// A connection to each gate before this one that still leaves. It ends with that process.
pub(in crate::serve) struct Predecessors {
    instance: Arc<Instance>,
    /// By process id.
    channels: Mutex<BTreeMap<u32, Arc<Channel>>>,
    /// Cancelled when this process leaves itself: its successor listens then.
    leave: CancellationToken,
}

impl Predecessors {
    pub(in crate::serve) fn new(instance: Arc<Instance>, leave: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            instance,
            channels: Mutex::default(),
            leave,
        })
    }

    /// Notes what a process says, until it has ended. Must be called on a tokio runtime.
    pub(super) fn follow(self: &Arc<Self>, pid: u32, channel: Channel) {
        let channel = Arc::new(channel);
        self.lock().insert(pid, channel.clone());
        let following = self.clone();
        let hear = async move {
            while let Ok((leaving, _)) = channel.receive::<Leaving>().await {
                if leaving.pid == pid {
                    following.note(leaving);
                }
            }
            tracing::info!(pid, "a process that had handed over has ended");
            following.lock().remove(&pid);
            let instance = &following.instance;
            instance.leaving.remove(pid, instance.metrics());
        };
        tokio::spawn(self.leave.clone().run_until_cancelled_owned(hear));
    }

    /// Notes what a process said last.
    pub(super) fn note(&self, leaving: Leaving) {
        self.instance.leaving.note(leaving, self.instance.metrics());
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The connections once more, each with what its process said last.
    pub(super) fn descriptors(&self) -> io::Result<Vec<(Leaving, OwnedFd)>> {
        let said = self.instance.leaving.list();
        let channels = self.lock();
        let of = |leaving: Leaving| {
            let channel = channels.get(&leaving.pid)?;
            Some(
                channel
                    .as_fd()
                    .try_clone_to_owned()
                    .map(|descriptor| (leaving, descriptor)),
            )
        };
        said.into_iter().filter_map(of).collect()
    }

    /// Closes the connections: the gate after this one has them.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
