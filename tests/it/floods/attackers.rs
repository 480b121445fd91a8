//! The attackers: one thread, on one core in the full form, that sends what costs it little.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fakes::client::{Alpn, Client};
use fakes::pki::Pair;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use super::ground::Ground;
use super::scaled;
use super::scene::{Scene, client};

/// What an attack is made with.
#[derive(Clone)]
pub(super) struct Attacker {
    pub(super) ground: Ground,
    pub(super) gate: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) read_only: SocketAddr,
    sent: Arc<AtomicU64>,
}

/// The thread. Dropping it ends it and closes its connections.
pub(super) struct Attackers {
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Duration>>,
}

// === impl Attacker ===

impl Attacker {
    pub(super) fn of(scene: &Scene) -> Self {
        Self {
            ground: scene.ground,
            gate: scene.address(),
            admin: scene.gate.admin,
            read_only: scene.read_only(scene.ground.gate()),
            sent: Arc::default(),
        }
    }

    /// Counts something as sent.
    pub(super) fn note(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    /// A client at the attacker's address of this number.
    pub(super) fn client(&self, number: u32, pair: Option<&Pair>, alpn: Alpn) -> Client {
        client(self.gate, pair, alpn).with_source(self.ground.attacker(number))
    }

    /// A TCP connection.
    pub(super) async fn tcp(&self, from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.bind(SocketAddr::new(from, 0))?;
        self.note();
        socket.connect(to).await
    }

    /// Does this so many times each second, at most so many at once.
    pub(super) async fn pace<F>(&self, per_second: u32, at_once: usize, mut work: impl FnMut(u32) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut tasks, mut ticks) = (JoinSet::new(), interval(Duration::from_secs(1) / per_second));
        for number in 0.. {
            ticks.tick().await;
            while tasks.len() >= at_once {
                tasks.join_next().await;
            }
            tasks.spawn(work(number));
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Holds so many connections. One that the gate closes is opened again after a second.
    pub(super) async fn hold<F, C>(&self, count: u32, open: impl Fn(u32) -> F)
    where
        F: Future<Output = Option<C>> + Send,
        C: AsyncRead + Unpin,
    {
        let held = (0..count).map(async |number| {
            loop {
                if let Some(mut connection) = open(number).await {
                    read_to_end(&mut connection).await;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        futures_util::future::join_all(held).await;
    }
}

// === impl Attackers ===

impl Attackers {
    /// Starts an attack, which goes on until it is stopped.
    pub(super) fn start(attacker: Attacker, attack: impl AsyncFnOnce(Attacker) + Send + 'static) -> Self {
        Self::thread(attacker.sent.clone(), move |stop| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(stop.run_until_cancelled(attack(attacker)));
        })
    }

    /// Burns this share of a core in place of an attack.
    pub(super) fn burn(share: f64) -> Self {
        Self::thread(Arc::default(), move |stop| {
            let slice = Duration::from_millis(10);
            while !stop.is_cancelled() {
                let began = Instant::now();
                while began.elapsed() < slice.mul_f64(share.min(1.0)) {
                    std::hint::spin_loop();
                }
                std::thread::sleep(slice.saturating_sub(began.elapsed()));
            }
        })
    }

    fn thread(sent: Arc<AtomicU64>, work: impl FnOnce(CancellationToken) + Send + 'static) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            if scaled(false, true) {
                let mut first = CpuSet::new();
                first.set(0);
                sched_setaffinity(None, &first).unwrap();
            }
            work(stopped);
            cpu_of_this_thread()
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// How much was sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Ends the attack and yields how much CPU time it took.
    pub(super) fn stop(mut self) -> Duration {
        self.stop.cancel();
        let thread = self.thread.take().unwrap();
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its panic is not the test's, which has one of its own.
            let _ = thread.join();
        }
    }
}

/// Reads and forgets what comes, until the connection has ended.
pub(super) async fn read_to_end(connection: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 4096];
    while matches!(connection.read(&mut bytes).await, Ok(1..)) {}
}

fn cpu_of_this_thread() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = text.split(' ').next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}
