//! Signs of life for the service manager, as long as every thread that serves answers. A thread that is stuck
//! would hold its connections for ever: the service manager ends the process then, and starts another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::notify::Notifier;

/// The threads that must answer while the gate serves, by their runtimes.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    threads: Mutex<Vec<(String, Handle)>>,
}

// === impl Threads ===

impl Threads {
    /// Counts a thread in.
    pub(super) fn add(&self, name: impl Into<String>, runtime: Handle) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push((name.into(), runtime));
    }

    /// Gives each of them something to do, and yields what ends once it has done it.
    fn ask(&self) -> Vec<(String, JoinHandle<()>)> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = threads.iter();
        asked
            .map(|(name, runtime)| (name.clone(), runtime.spawn(async {})))
            .collect()
    }
}

/// Tells the service manager at half of its interval that the gate is alive, while each of the threads
/// answers, and this one, on which it runs. Ends if no sign of life is wanted, or a thread has ended.
pub(super) async fn keep_alive(threads: Arc<Threads>, notifier: Notifier) {
    let Some(interval) = notifier.watchdog() else {
        return;
    };
    let half = interval / 2;
    // A process that has taken over is waited for since the last sign of the one before it.
    notifier.alive();
    let mut at = Instant::now();
    loop {
        at = (at + half).max(Instant::now());
        sleep_until(at).await;
        for (name, mut answer) in threads.ask() {
            let answered = match timeout(half, &mut answer).await {
                Ok(answered) => answered,
                Err(_) => {
                    report_silence(&name, half);
                    answer.await
                }
            };
            if answered.is_err() {
                return tracing::error!(
                    "the thread {name} has ended, so that the service manager is told no more that the gate \
                     is alive, and restarts it"
                );
            }
        }
        notifier.alive();
    }
}

fn report_silence(name: &str, waited: Duration) {
    tracing::error!(
        "the thread {name} has not answered for {waited:?}; the service manager restarts the gate unless it \
         does soon"
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::net::UnixDatagram;
    use tokio::runtime::Builder;

    use super::super::notify::ServiceManager;
    use super::*;

    async fn hears(socket: &UnixDatagram, patience: Duration) -> bool {
        let mut said = [0; 64];
        match timeout(patience, socket.recv(&mut said)).await {
            Ok(length) => {
                assert_eq!(&said[..length.unwrap()], b"WATCHDOG=1\n");
                true
            }
            Err(_) => false,
        }
    }

    #[tokio::test]
    async fn a_thread_that_is_stuck_ends_the_signs_of_life_until_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (threads, mut ends) = (Threads::default(), Vec::new());
        for name in ["worker-0", "worker-1", "admin"] {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            threads.add(name, runtime.handle().clone());
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            ends.push(end);
            std::thread::spawn(move || runtime.block_on(ended));
        }
        let worker = threads.threads.lock().unwrap()[1].1.clone();
        let notifier = Notifier::to(ServiceManager {
            socket: Some(path.display().to_string()),
            watchdog: Some(20_000),
        });
        let keeping = tokio::spawn(keep_alive(Arc::new(threads), notifier));
        let long = Duration::from_secs(60);
        assert!(hears(&socket, long).await && hears(&socket, long).await);

        let (go_on, stuck) = channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        worker.spawn(async move {
            let _ = begin.send(());
            let _ = stuck.recv();
        });
        begun.await.unwrap();
        // What was under way when it got stuck may still be told.
        while hears(&socket, Duration::from_millis(300)).await {}
        assert!(!hears(&socket, Duration::from_millis(300)).await);
        drop(go_on);
        assert!(hears(&socket, long).await);

        // A thread that has ended never comes back.
        ends.truncate(1);
        timeout(long, keeping).await.unwrap().unwrap();
    }
}
