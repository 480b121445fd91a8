//! Accepting on the ports beside the main one, which few ask: the admin port and the tombstone.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::ACCEPT_BACKOFF;

/// Connections at once; more wait in the socket's queue.
const CONNECTIONS: usize = 64;

/// Has each connection served by a task of its own, until `stop` is cancelled. `port` is its name in log lines.
pub(crate) async fn accept_each<F>(
    listener: TcpListener,
    port: &'static str,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = serve(stream);
                    tokio::spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(port, %error, "accept failed");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}
