//! Accepting on the port beside the TLS port that gets few requests: the tombstone.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::listen::Acceptor;

/// Connections at the same time; more wait in the socket's queue.
const CONNECTIONS: usize = 64;

/// Serves each connection by a task of its own, until `stop` is cancelled.
pub(crate) async fn accept_each<F>(
    mut acceptor: Acceptor,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            let (stream, _) = acceptor.accept().await;
            let serving = serve(stream);
            tokio::spawn(async move {
                serving.await;
                drop(place);
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
}
