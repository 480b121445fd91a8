//! Answers that take work to build: built once for all who wait, and bounded in number.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// An answer is built at most this often. A request that comes sooner waits, and gets a new one.
const INTERVAL: Duration = Duration::from_millis(250);
/// Builds that are still being sent to slow clients. While there are so many, the last one is sent again.
const VERSIONS: usize = 4;

/// One such answer.
#[derive(Default)]
pub(super) struct Report {
    last: Mutex<Option<Built>>,
}

struct Built {
    began: Instant,
    bytes: Bytes,
    /// The builds that some client may still hold.
    versions: Vec<Weak<[u8]>>,
}

impl Report {
    /// The answer as it is now or a little later, by `build` if no other request has it built meanwhile.
    /// `build` runs on a thread of its own. `None` if it panicked.
    pub(super) async fn get(&self, build: impl FnOnce() -> Vec<u8> + Send + 'static) -> Option<Bytes> {
        let asked = Instant::now();
        // The waiting are served in their order.
        let mut last = self.last.lock().await;
        let mut versions = Vec::new();
        if let Some(built) = &mut *last {
            built.versions.retain(|version| version.strong_count() > 0);
            if built.began >= asked || built.versions.len() >= VERSIONS {
                return Some(built.bytes.clone());
            }
            sleep_until(built.began + INTERVAL).await;
            versions = built.versions.clone();
        }
        let began = Instant::now();
        let version: Arc<[u8]> = spawn_blocking(build).await.ok()?.into();
        versions.push(Arc::downgrade(&version));
        let bytes = Bytes::from_owner(version);
        *last = Some(Built {
            began,
            bytes: bytes.clone(),
            versions,
        });
        Some(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// A report that says how often it was built.
    struct Counted {
        report: Report,
        builds: Arc<AtomicUsize>,
    }

    impl Counted {
        fn new() -> Self {
            Self {
                report: Report::default(),
                builds: Arc::default(),
            }
        }

        async fn get(&self) -> Bytes {
            let builds = self.builds.clone();
            let build = move || (builds.fetch_add(1, Relaxed) + 1).to_string().into_bytes();
            self.report.get(build).await.unwrap()
        }
    }

    /// Seen red: with each request building its own, 100 builds.
    #[tokio::test]
    async fn all_that_wait_share_a_build_and_none_gets_one_from_before_it_asked() {
        let counted = Counted::new();
        let mut asking: tokio::task::JoinSet<Bytes> = tokio::task::JoinSet::new();
        let counted = Arc::new(counted);
        for _ in 0..100 {
            let counted = counted.clone();
            asking.spawn(async move { counted.get().await });
        }
        let answers = asking.join_all().await;
        assert_eq!(answers.len(), 100);
        let builds = counted.builds.load(Relaxed);
        assert!(builds <= 2, "{builds}");
        let next = counted.get().await;
        assert_eq!(next, (builds + 1).to_string(), "a new one for a later request");
    }

    /// Seen red: without the count, the fifth was built.
    #[tokio::test]
    async fn no_more_builds_are_held_for_slow_clients_than_the_bound() {
        let counted = Counted::new();
        let mut held = Vec::new();
        for number in 1..=VERSIONS + 3 {
            held.push(counted.get().await);
            let newest = number.min(VERSIONS);
            assert_eq!(held.last().unwrap(), &newest.to_string());
        }
        held.remove(0);
        assert_eq!(counted.get().await, (VERSIONS + 1).to_string());
    }
}
