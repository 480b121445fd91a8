//! How many connections to the kubelet are open, in use and idle, of all workers together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::pool::{Counted, IdleConnections, Pool};
use crate::metrics::Metrics;

/// Counts the connections to the kubelet, and closes idle ones when there are too many.
///
/// It refuses none. Each request that uses a connection has a place, and there are as many places as
/// connections: once no connection is idle there are not too many. Streams have places of their own and are
/// not counted here.
pub(super) struct OpenConnections {
    count: Arc<AtomicUsize>,
    most: usize,
    /// The pools of all workers.
    pools: Mutex<Vec<IdleConnections>>,
}

// === impl OpenConnections ===

impl OpenConnections {
    pub(super) fn new(most: usize) -> Self {
        Self {
            count: Arc::default(),
            most,
            pools: Mutex::default(),
        }
    }

    /// A worker's pool, whose idle connections may be closed to make room.
    pub(super) fn pool(&self, capacity: usize, metrics: Arc<Metrics>) -> Pool {
        let pool = Pool::new(capacity, metrics);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push(pool.idle_connections());
        pool
    }

    /// Counts a connection that is about to be opened, after it has made room for it.
    pub(super) fn count(&self) -> Counted {
        let counted = Counted::new(&self.count);
        while self.count.load(Ordering::Relaxed) > self.most && self.close_idle() {}
        counted
    }

    /// Closes an idle connection, if there is one.
    fn close_idle(&self) -> bool {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().any(IdleConnections::close_oldest)
    }
}
