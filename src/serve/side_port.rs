//! Accepting on the port beside the TLS port that gets few requests: the tombstone.

use std::net::Ipv4Addr;
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::door::{Bounds, Door};
use crate::listen::Acceptor;
use crate::metrics::Metrics;
use crate::source::{Known, Source};

/// Connections from other machines at the same time.
const OUTSIDE: Bounds = Bounds {
    total: 64,
    unauthenticated: 64,
    per_source: 16,
};
/// Connections of this machine's processes, which no other machine can take. They are one source: when there
/// are more, the oldest goes.
const LOOPBACK: Bounds = Bounds {
    total: 64,
    unauthenticated: 64,
    per_source: 64,
};

/// Serves each connection by a task of its own, which is one of `tasks`, until it is dropped. When a newcomer
/// finds no place, the oldest connection of the source that holds most is closed.
pub(crate) async fn accept_each<F>(
    mut acceptor: Acceptor,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let door = |bounds| {
        let known = Arc::new(Known::default());
        Door::new(bounds, known, metrics.clone(), Gauge::default())
    };
    let (outside, loopback) = (door(OUTSIDE), door(LOOPBACK));
    loop {
        let (stream, peer) = acceptor.accept().await;
        let source = Source::of(peer.ip());
        let entry = if source.is_loopback() {
            loopback.enter(Source::of(Ipv4Addr::LOCALHOST.into()))
        } else {
            outside.enter(source)
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(full) => {
                metrics.rejected(full.reason());
                continue;
            }
        };
        let admission = entry.admission().clone();
        let serving = serve(stream);
        let task = tasks.spawn(async move {
            serving.await;
            drop(entry);
        });
        admission.set_task(task.abort_handle());
    }
}
