//! Accepting connections, also while some of them fail.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;

/// Waited when the process or the machine has run out of descriptors or memory, so that
/// connections can end meanwhile.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// At most one log line about failures per port in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The errors of `accept` that concern the connection at the head of the queue and not the listener:
/// accept(2) passes on what its network has seen, and a firewall may forbid it.
const OF_ONE_CONNECTION: [Errno; 13] = [
    Errno::CONNABORTED,
    Errno::CONNRESET,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::INTR,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::NONET,
    Errno::NOPROTOOPT,
    Errno::OPNOTSUPP,
    Errno::PERM,
    Errno::PROTO,
    Errno::TIMEDOUT,
];

/// A listener that never gives up: every failure is counted, and logged at a bounded rate.
pub(crate) struct Acceptor {
    listener: TcpListener,
    /// Its name in log lines.
    port: &'static str,
    metrics: Arc<Metrics>,
    failures: Failures,
    /// Given up when the process has no descriptor left, so that the client at the head of the queue is told.
    spare: Option<OwnedFd>,
}

/// Failures that are not in the log yet.
#[derive(Default)]
struct Failures {
    unlogged: u64,
    logged: Option<Instant>,
}

impl Acceptor {
    pub(crate) fn new(listener: TcpListener, port: &'static str, metrics: Arc<Metrics>) -> Self {
        Self {
            spare: spare(&listener),
            listener,
            port,
            metrics,
            failures: Failures::default(),
        }
    }

    /// The next connection, and its client's address.
    pub(crate) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            self.metrics.rejected("accept_failed");
            if let Some(failures) = self.failures.note(Instant::now()) {
                tracing::warn!(port = self.port, %error, failures, "accept failed");
            }
            if !is_of_one_connection(&error) && !self.accept_and_close().await {
                sleep(EXHAUSTED).await;
            }
        }
    }

    /// Accepts one connection by the spare descriptor, and closes it, so that its client does not wait. False
    /// if that does not help.
    async fn accept_and_close(&mut self) -> bool {
        if self.spare.take().is_none() {
            self.spare = spare(&self.listener);
            return false;
        }
        let accepted = std::future::poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx))).await;
        let closed = matches!(accepted, Poll::Ready(Ok(_)));
        drop(accepted);
        self.spare = spare(&self.listener);
        closed
    }
}

/// A descriptor that needs nothing but a free number.
fn spare(listener: &TcpListener) -> Option<OwnedFd> {
    listener.as_fd().try_clone_to_owned().ok()
}

impl Failures {
    /// Counts a failure. Yields how many there were since the last log line, if it is time for another line.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|logged| now < logged + LOG_INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| OF_ONE_CONNECTION.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen red: with every error waited for, and with none.
    #[test]
    fn only_exhaustion_is_waited_for() {
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::PERM] {
            assert!(is_of_one_connection(&errno.into()), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_of_one_connection(&errno.into()), "{errno}");
        }
    }

    /// Seen red: with each failure logged, and with those of the interval not counted.
    #[test]
    fn failures_are_logged_once_in_an_interval_and_none_is_left_out_of_the_count() {
        let mut failures = Failures::default();
        let start = Instant::now();
        assert_eq!(failures.note(start), Some(1));
        for _ in 0..1000 {
            assert_eq!(failures.note(start + LOG_INTERVAL / 2), None);
        }
        assert_eq!(failures.note(start + LOG_INTERVAL), Some(1001));
    }
}
