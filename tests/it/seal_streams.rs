//! Connections that are open when the seal is applied. If it tore a shell or a followed log, every user would
//! notice.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::node::{Node, on_every_backend};
use crate::patience::patience;

/// A connection to the kubelet's read-only port on which one request was answered.
fn open(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    assert!(lives(&mut stream), "{address}");
    stream
}

/// Whether another request is answered on this connection.
fn lives(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(patience())).unwrap();
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\nok") && stream.read_exact(&mut byte).is_ok() {
        answer.extend(byte);
    }
    asked.is_ok() && answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"ok")
}

/// Seen red: with rules that match every packet, not only the first of a connection.
#[test]
fn a_connection_that_was_open_lives_on_until_it_is_cut() {
    on_every_backend(async |mut node: Node| {
        // Connection tracking begins in a namespace with its first rule: these are older.
        let mut own = [open("127.0.0.1:10255"), open("[::1]:10255")];
        let neighbour = |address: &'static str| node.neighbour.run(move || open(address)).unwrap();
        let mut neighbours = [neighbour("192.0.2.10:10255"), neighbour("[2001:db8::10]:10255")];
        let backend = node.backend;
        let mut all_live = |expected: bool| {
            for stream in own.iter_mut().chain(&mut neighbours) {
                assert_eq!(lives(stream), expected, "{backend}: {stream:?}");
            }
        };
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let apply = "apply --confirm-within 60s --close-health-checkers";
        let said = node.firewall_exits(0, apply);
        assert_eq!(said.matches("still open past the gate").count(), 4, "{said}");
        all_live(true);
        node.firewall_exits(0, "confirm");
        all_live(true);
        // The gate's own connections live on too.
        node.api_server_calls_gate().await;
        let said = node.firewall_exits(0, &format!("{apply} --cut"));
        assert_eq!(said.matches("reset: ").count(), 4, "{said}");
        all_live(false);
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "confirm");
        node.stop().await;
    });
}
