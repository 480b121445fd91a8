//! Which server takes a connection.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fakes::client::{Client, ClientTls};
use kubelet_gate::host::Namespace;

use crate::patience::{patience, stretched};

/// The server that answers at this address: `gate`, `kubelet`, or `none`, where the connection is refused or
/// nothing comes back.
pub(crate) async fn server_at(address: &str) -> &'static str {
    let address: SocketAddr = address.parse().unwrap();
    // The rules may change between a connection and its answer: what is true then is asked once more.
    match asked(address).await {
        Ok(server) => server,
        Err(_) => asked(address)
            .await
            .unwrap_or_else(|error| panic!("{address}: {error}")),
    }
}

async fn asked(address: SocketAddr) -> Result<&'static str, String> {
    // The kernel takes a connection at once, however busy the server is: only that has a short deadline.
    if TcpStream::connect_timeout(&address, stretched(Duration::from_secs(1))).is_err() {
        return Ok("none");
    }
    let client = if address.port() == 10250 {
        Client::new(address, ClientTls::default()).unwrap()
    } else {
        Client::plain(address)
    };
    match client.with_deadline(patience()).get("/pods").await {
        Ok(answer) if answer.status() == 200 => Ok("kubelet"),
        Ok(answer) if matches!(answer.status().as_u16(), 401 | 410) => Ok("gate"),
        Ok(answer) => panic!("{address}: {answer:?}"),
        Err(error) => Err(format!("{error:?}")),
    }
}

/// The same, seen from another network.
pub(crate) fn server_seen_from(namespace: &Namespace, address: &str) -> &'static str {
    namespace
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(server_at(address))
        })
        .unwrap()
}
