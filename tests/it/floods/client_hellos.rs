//! A recorded ClientHello costs its sender nothing, and the gate a signature with its key.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::play::Flood;
use super::scaled;
use crate::world::PKI;

#[test]
fn from_forty_addresses() {
    replayed("a recorded ClientHello, from 40 addresses", 40, 1500);
}

#[test]
fn from_one_address() {
    replayed("a recorded ClientHello, from one address", 1, 300);
}

fn replayed(name: &'static str, addresses: u32, per_second: u32) {
    let hello: Arc<[u8]> = record().into();
    let pace = scaled(per_second / 20, per_second);
    let flood = Flood::new(name, format!("{per_second}/s")).new_connections_in_time(0.99);
    flood.play(async move |attacker| {
        let work = |number| {
            let (attacker, hello) = (attacker.clone(), hello.clone());
            async move {
                let from = attacker.ground.attacker(number % addresses);
                let Ok(mut connection) = attacker.tcp(from, attacker.gate).await else {
                    return;
                };
                // The gate has signed when it answers. The attacker does not wait long for it.
                let answer = async {
                    connection.write_all(&hello).await?;
                    connection.read(&mut [0; 4096]).await
                };
                let _ = timeout(Duration::from_millis(500), answer).await;
            }
        };
        attacker.pace(pace, 1024, work).await;
    });
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
