//! The processes of the gate that have handed their sockets over and still serve what they had accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::gauge::Gauge;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;
use crate::settings::Upgrade;
use crate::timestamp::timestamp;

/// A process that leaves, as it says itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Leaving {
    pub(crate) pid: u32,
    /// When it handed its sockets over, in RFC 3339.
    pub(crate) since: String,
    /// When it cuts what is left, in RFC 3339.
    pub(crate) deadline: String,
    /// Connections that are open, without those that have become streams.
    pub(crate) connections: i64,
    /// Upgraded streams and followed logs.
    pub(crate) streams: i64,
}

impl Leaving {
    /// This process, which has been leaving since then, for at most `upgrade.drainTimeout`.
    pub(super) fn this_process(since: SystemTime, upgrade: &Upgrade, metrics: &Metrics) -> Self {
        Self {
            pid: std::process::id(),
            since: timestamp(since),
            deadline: timestamp(since + upgrade.drain_timeout),
            connections: metrics.connections.get(),
            streams: metrics.streams.get() + metrics.followed_logs.get(),
        }
    }
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "process {}, which has handed its sockets over, still serves {} connections and {} streams, until \
             {} at the latest",
            self.pid, self.connections, self.streams, self.deadline
        )
    }
}

/// What the processes that leave have said last, by their ids.
#[derive(Default)]
pub(crate) struct LeavingProcesses(Mutex<BTreeMap<u32, Leaving>>);

// === impl LeavingProcesses ===

impl LeavingProcesses {
    /// Notes what a process says.
    pub(super) fn note(&self, leaving: Leaving, metrics: &Metrics) {
        let mut processes = self.lock();
        processes.insert(leaving.pid, leaving);
        publish(&processes, metrics);
    }

    /// Notes that a process has ended.
    pub(super) fn remove(&self, pid: u32, metrics: &Metrics) {
        let mut processes = self.lock();
        processes.remove(&pid);
        publish(&processes, metrics);
    }

    /// All of them.
    pub(super) fn list(&self) -> Vec<Leaving> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Leaving>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn publish(processes: &BTreeMap<u32, Leaving>, metrics: &Metrics) {
    let set = |gauge: &Gauge, each: fn(&Leaving) -> i64| {
        gauge.set(processes.values().map(each).fold(0, i64::saturating_add));
    };
    set(&metrics.leaving_processes, |_| 1);
    set(&metrics.leaving_connections, |leaving| leaving.connections);
    set(&metrics.leaving_streams, |leaving| leaving.streams);
}
