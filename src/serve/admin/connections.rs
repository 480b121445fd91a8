//! Which connections are served, and for how long.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::answer::Answers;
use crate::host::ConnectionOwners;
use crate::listen::Acceptor;
use crate::metrics::Metrics;
use crate::quota::{Quota, Share};

/// Connections at once of root and of the gate's own user; and as many of all others together.
const PLACES: usize = 32;
/// Connections at once of one of the other users. All whose user is not known count as one.
const EACH: usize = 8;
/// How long a connection may last: one request and its answer.
const LIFE: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const HEAD: usize = 16 * 1024;
/// Waited when the process or the machine has run out of descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The bound sockets. None belongs to a runtime yet.
pub(in crate::serve) struct Listeners {
    pub(in crate::serve) port: Option<std::net::TcpListener>,
    pub(in crate::serve) socket: Option<std::os::unix::net::UnixListener>,
}

/// Serves every connection that has a place.
pub(super) struct Connections {
    answers: Arc<Answers>,
    metrics: Arc<Metrics>,
    places: Places,
    tasks: TaskTracker,
}

/// The kept places, and those of the others. A strange user cannot take the places of a probe.
struct Places {
    gate: u32,
    kept: Arc<Quota<Option<u32>>>,
    others: Arc<Quota<Option<u32>>>,
}

// === impl Connections ===

impl Connections {
    pub(super) fn new(answers: Answers, metrics: Arc<Metrics>) -> Self {
        Self {
            answers: Arc::new(answers),
            metrics,
            places: Places {
                gate: rustix::process::geteuid().as_raw(),
                kept: Quota::new(PLACES, PLACES),
                others: Quota::new(PLACES, EACH),
            },
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts until `left` resolves. Then it closes the listeners, and waits for the connections it has.
    pub(super) async fn serve(self, listeners: Listeners, left: impl Future<Output = ()>) {
        tokio::select! {
            () = self.accept(listeners) => {}
            () = left => {}
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Accepts for ever.
    async fn accept(&self, listeners: Listeners) {
        let Listeners { port, socket } = listeners;
        let port = async {
            match port.map(TcpListener::from_std).transpose() {
                Ok(Some(port)) => self.accept_on_port(port).await,
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "admin.listen cannot be served"),
            }
        };
        let socket = async {
            match socket.map(UnixListener::from_std).transpose() {
                Ok(Some(socket)) => self.accept_on_socket(socket).await,
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "admin.socket cannot be served"),
            }
        };
        tokio::join!(port, socket);
    }

    async fn accept_on_port(&self, listener: TcpListener) {
        let mut acceptor = Acceptor::new(listener, "admin", self.metrics.clone());
        let owners = ConnectionOwners::open()
            .inspect_err(|error| {
                tracing::warn!(
                    %error,
                    "the kernel does not say whose a connection is: on admin.listen no place is kept for root"
                );
            })
            .ok();
        loop {
            let (stream, peer) = acceptor.accept().await;
            let user = stream
                .local_addr()
                .ok()
                .and_then(|here| owners.as_ref()?.user_of(peer, here));
            self.serve_one(stream, user);
        }
    }

    async fn accept_on_socket(&self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let user = stream.peer_cred().ok().map(|peer| peer.uid());
                    self.serve_one(stream, user);
                }
                Err(error) => {
                    self.metrics.rejected("accept_failed");
                    tracing::debug!(%error, "accept failed on admin.socket");
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }

    /// Serves the connection of `user` by a task of its own, if there is a place.
    fn serve_one(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, user: Option<u32>) {
        let Some(place) = self.places.take(user) else {
            return self.metrics.rejected("admin_connections");
        };
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            let service = service_fn(async |request| Ok::<_, Infallible>(answers.answer(request).await));
            let conversation = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .max_buf_size(HEAD)
                .serve_connection(TokioIo::new(io), service);
            // One deadline for a client that sends no head, stops within it, or does not read the answer.
            let _ = timeout(LIFE, conversation).await;
            drop(place);
        });
    }
}

// === impl Places ===

impl Places {
    fn take(&self, user: Option<u32>) -> Option<Share<Option<u32>>> {
        let kept = user.is_some_and(|user| user == 0 || user == self.gate);
        let places = if kept { &self.kept } else { &self.others };
        places.take(user).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Seen red: with one quota for all, the second root had no place.
    #[test]
    fn strange_users_take_neither_the_kept_places_nor_each_others() {
        let places = Places {
            gate: 990,
            kept: Quota::new(PLACES, PLACES),
            others: Quota::new(PLACES, EACH),
        };
        let mut taken = Vec::new();
        for user in [None, Some(1000), Some(1001), Some(1002), Some(1003)] {
            for _ in 0..100 {
                taken.extend(places.take(user));
            }
        }
        assert_eq!(taken.len(), PLACES);
        let kept: Vec<_> = (0..100)
            .filter_map(|n| places.take(Some([0, 990][n % 2])))
            .collect();
        assert_eq!(kept.len(), PLACES);
        taken.drain(..EACH);
        assert!(places.take(Some(1001)).is_none(), "it has its share");
        assert!(places.take(Some(1003)).is_some());
    }
}
