//! What each process of the gate holds, from its start to its end. A process is compared with itself: as soon
//! as its clients have come, and when it is replaced.

use std::time::{Duration, Instant};

use procfs::process::Process;

use super::scaled;
use crate::load::Site;
use crate::patience::{eventually_answers, patience};
use crate::service_manager::ServiceManager;
use crate::world::sum;

/// The processes, one after the other.
pub(super) struct Generations {
    /// The first one, before there were clients.
    pub(super) before: Holdings,
    pub(super) each: Vec<Generation>,
    /// The last one, once the clients have gone.
    pub(super) after: Holdings,
    warm_after: Duration,
}

/// One of them.
pub(super) struct Generation {
    pid: u32,
    began: Instant,
    pub(super) warm: Option<Holdings>,
    pub(super) end: Option<Holdings>,
}

/// What a process has at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holdings {
    /// Resident memory, in KiB.
    pub(super) memory: u64,
    pub(super) descriptors: usize,
    /// Descriptors that are no connection of a client or to the kubelet.
    pub(super) others: usize,
    pub(super) connections: usize,
    pub(super) threads: i64,
}

/// What may differ: an allocator keeps some memory, connections to the API server come and go, and a thread
/// reads files.
const MEMORY: u64 = 12 << 10;
const DESCRIPTORS: usize = 64;
const THREADS: i64 = 3;

impl Generations {
    /// A gate without clients.
    pub(super) async fn begin(manager: &ServiceManager, site: &Site) -> Self {
        let before = Holdings::of(manager.main(), site).await;
        Self {
            before,
            each: vec![Generation::new(manager.main())],
            after: before,
            // By then each idle client has asked.
            warm_after: scaled(Duration::from_secs(1), Duration::from_secs(65)),
        }
    }

    /// Looks at a process once it has served for a while.
    pub(super) async fn is_warm(&mut self, manager: &ServiceManager, site: &Site) {
        let main = manager.main();
        if self.each.last().is_none_or(|last| last.pid != main) {
            self.each.push(Generation::new(main));
        }
        let (last, warm_after) = (self.each.last_mut().unwrap(), self.warm_after);
        if last.warm.is_none() && last.began.elapsed() >= warm_after {
            last.warm = Some(Holdings::of(main, site).await);
        }
    }

    /// Looks at the process that is about to be replaced. Of a moment's peak, the lowest of some looks counts.
    pub(super) async fn ends(&mut self, manager: &ServiceManager, site: &Site) {
        let mut lowest = Holdings::of(manager.main(), site).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = Holdings::of(manager.main(), site).await;
            lowest = Holdings {
                memory: lowest.memory.min(now.memory),
                others: lowest.others.min(now.others),
                threads: lowest.threads.min(now.threads),
                ..now
            };
        }
        self.each.last_mut().unwrap().end = Some(lowest);
    }

    /// Looks at the last process once its clients have gone.
    pub(super) async fn is_quiet(&mut self, manager: &ServiceManager, site: &Site) {
        eventually_answers("no connection is left", async || {
            site.metric("connections", &[]).await == 0.0
        })
        .await;
        let until = Instant::now() + patience();
        loop {
            self.after = Holdings::of(manager.main(), site).await;
            if self.after.memory < 2 * self.before.memory || Instant::now() > until {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Fails if a process held more at its end than when it was warm, or the last one more than the first.
    pub(super) fn assert_no_leak(&self) {
        let mut pairs = vec![(self.before, self.after, 2.0)];
        let pair = |each: &Generation| Some((each.warm?, each.end?, 1.25));
        pairs.extend(self.each.iter().filter_map(pair));
        let mut warm = self.each.iter().filter_map(|each| each.warm);
        if let (Some(first), Some(last)) = (warm.next(), warm.next_back()) {
            pairs.push((first, last, 1.25));
        }
        for (before, after, factor) in pairs {
            let memory = (before.memory as f64 * factor) as u64 + MEMORY;
            assert!(after.memory <= memory, "memory: {before:?} became {after:?}");
            let others = before.others + DESCRIPTORS;
            assert!(after.others <= others, "descriptors: {before:?} became {after:?}");
            let threads = before.threads + THREADS;
            assert!(after.threads <= threads, "threads: {before:?} became {after:?}");
        }
    }
}

impl Generation {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            began: Instant::now(),
            warm: None,
            end: None,
        }
    }
}

impl Holdings {
    async fn of(pid: u32, site: &Site) -> Self {
        let process = Process::new(pid.cast_signed()).unwrap();
        let metrics = site.admin("/metrics").await;
        let count = |name| sum(&metrics, name, &[]) as usize;
        let connections = count("connections");
        let upstream = count("upstream_idle_connections") + count("requests_in_flight") + count("streams");
        let descriptors = process.fd_count().unwrap();
        Self {
            memory: process.status().unwrap().vmrss.unwrap(),
            descriptors,
            others: descriptors.saturating_sub(connections + upstream),
            connections,
            threads: process.stat().unwrap().num_threads,
        }
    }
}
