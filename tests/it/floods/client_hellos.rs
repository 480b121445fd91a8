//! A recorded ClientHello costs its sender nothing, and the gate a signature with its key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fakes::client::Alpn;
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::play::Flood;
use super::scaled;
use super::scene::client;
use crate::patience::patience;
use crate::world::{PKI, Status as _};

/// Answered hellos that a request on an open connection may wait for. Its turns take half of the time.
const HELLOS: u64 = 32;

#[test]
fn from_forty_addresses() {
    replayed("a recorded ClientHello, from 40 addresses", 40, 1500);
}

#[test]
fn from_one_address() {
    replayed("a recorded ClientHello, from one address", 1, 300);
}

/// In the short form, there are always more of them than the gate answers.
///
/// Seen red: with handshakes that take no turns, 204 hellos at least were answered before each request.
fn replayed(name: &'static str, addresses: u32, per_second: u32) {
    let hello: Arc<[u8]> = record().into();
    let (pace, at_once) = scaled((20_000, 128), (per_second, 1024));
    let answered = Arc::new(AtomicU64::new(0));
    let counted = answered.clone();
    let flood = Flood::new(name, format!("{per_second}/s")).new_connections_in_time(0.99);
    flood.play_with(
        async move |attacker| {
            let work = |number| {
                let (attacker, hello, answered) = (attacker.clone(), hello.clone(), answered.clone());
                async move {
                    let from = attacker.ground.attacker(number % addresses);
                    let Ok(mut connection) = attacker.tcp(from, attacker.gate).await else {
                        return;
                    };
                    // The gate has signed when it answers. In full, the attacker does not wait long for it.
                    let answer = async {
                        connection.write_all(&hello).await?;
                        connection.read(&mut [0; 4096]).await
                    };
                    let longest = scaled(patience(), Duration::from_millis(500));
                    if let Ok(Ok(1..)) = timeout(longest, answer).await {
                        answered.fetch_add(1, Relaxed);
                    }
                }
            };
            attacker.pace(pace, at_once, work).await;
        },
        async |scene| {
            let known = client(scene.address(), Some(&PKI.bob), Alpn::H1).with_source(scene.ground.known());
            let mut connection = known.connect().await.unwrap();
            // The fewest count: on a busy machine the client may come late to its answer.
            let mut fewest = u64::MAX;
            for _ in 0..20 {
                let before = counted.load(Relaxed);
                assert_eq!(connection.status("/pods").await, 200);
                fewest = fewest.min(counted.load(Relaxed) - before);
            }
            assert!(
                fewest <= HELLOS,
                "{fewest} hellos were answered before each request"
            );
        },
        async |_, _| {},
    );
}

/// The first flight of a client.
fn record() -> Vec<u8> {
    let config = Arc::new(PKI.client_config(None).unwrap());
    let mut connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).unwrap();
    }
    hello
}
