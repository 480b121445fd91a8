//! The kernel leads the packets of a reset connection for another 10 s as it led them before. A sealed gate
//! that gets the port of a client, whose connection was led to the gate and reset there, would be led to
//! itself: its caller would get the gate's answer to the gate in place of the kubelet's.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::node::{GATE, Node, on_every_backend};
use crate::patience::patience;
use crate::world::request;

/// The ports of this node's clients; the gate has no other ones either.
const PORTS: std::ops::Range<u16> = 41_000..41_012;
/// As many of them were led to the gate.
const LED: usize = 4;

/// Connects from `port` to the kubelet's, which leads to the gate, and is reset there.
fn is_reset(port: u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    // The gate may hold it.
    if socket.bind(&address(port).into()).is_err() || socket.connect(&address(10250).into()).is_err() {
        return;
    }
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience())).unwrap();
    // No TLS. What the gate has not read when it closes the connection makes that a reset.
    let _ = stream.write_all(&[b'x'; 400_000]);
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).is_err());
}

/// Seen red: with a look at the gate's connections only until the seal first let one
/// through; with one attempt.
#[test]
fn the_gate_is_not_led_to_itself_by_a_clients_port() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        node.eventually_seal_is("sealed").await;
        let range = format!("{} {}", PORTS.start, PORTS.end - 1);
        node.shell(&format!("echo {range} > /proc/sys/net/ipv4/ip_local_port_range"));
        let client = node.client("bob", SocketAddr::from(([127, 0, 0, 1], GATE)));
        let mut logs = Vec::new();
        for _ in 0..6 {
            for port in PORTS.take(LED) {
                is_reset(port);
            }
            // Each has a connection to the kubelet of its own.
            let log = "/containerLogs/default/web/nginx?follow=true";
            let log = client.open(request("GET", log, &[])).await.unwrap();
            assert_eq!(log.status(), 200, "{}", node.log());
            logs.push(log);
        }
        drop(logs);
        node.stop().await;
    });
}
