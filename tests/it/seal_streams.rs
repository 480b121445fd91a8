//! Streams that run while the seal goes up. A shell or a followed log that is torn by it would be noticed by everybody.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::node::{Node, on_every_backend};

/// A connection to the stand-in for the read-only port, on which one request was answered.
fn open(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(lives(&mut stream), "{address}");
    stream
}

/// Whether another request is answered on it.
fn lives(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 12];
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n");
    let answered =
        asked.is_ok() && stream.read_exact(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200");
    if answered {
        // The rest of it.
        let mut rest = [0; 4096];
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        while stream.read(&mut rest).is_ok_and(|length| length > 0) {}
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    answered
}

/// Seen red: with rules that match every packet, not only the first of a connection.
#[test]
fn what_was_open_before_lives_on_until_it_is_cut() {
    on_every_backend("streams", async |mut node: Node| {
        // Nobody has looked at a connection in this namespace before.
        let mut own = [open("127.0.0.1:10255"), open("[::1]:10255")];
        let neighbour = |address: &'static str| node.neighbour.run(move || open(address)).unwrap();
        let mut neighbours = [neighbour("192.0.2.10:10255"), neighbour("[2001:db8::10]:10255")];
        node.start_gate().await;
        node.api_server_comes().await;
        let said = node.firewall_ends(0, "apply --confirm-within 60s --close-health-checkers");
        assert_eq!(said.matches("still open past the gate").count(), 4, "{said}");
        for stream in own.iter_mut().chain(&mut neighbours) {
            assert!(lives(stream), "{}: {stream:?}", node.backend);
        }
        node.firewall_ends(0, "confirm");
        for stream in own.iter_mut().chain(&mut neighbours) {
            assert!(lives(stream), "{}: {stream:?}", node.backend);
        }
        // The gate's own connections live on too.
        node.api_server_comes().await;
        let said = node.firewall_ends(0, "apply --confirm-within 60s --close-health-checkers --cut");
        assert_eq!(said.matches("reset: ").count(), 4, "{said}");
        for stream in own.iter_mut().chain(&mut neighbours) {
            assert!(!lives(stream), "{}: {stream:?}", node.backend);
        }
        node.api_server_comes().await;
        node.firewall_ends(0, "confirm");
        node.stop().await;
    });
}
