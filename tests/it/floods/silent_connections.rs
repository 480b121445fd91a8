//! A connection that says nothing costs its client nothing, and the gate a place until a deadline passes. A
//! stranger who takes all places keeps every other client out.

use std::net::SocketAddr;

use fakes::client::Alpn;
use serde_json::json;

use super::ground::Ground;
use super::legitimate::Kind;
use super::play::Flood;
use super::scaled;

/// In the short form, the gate has room for less.
///
/// Seen red: with one pool for all connections, no new connection of the legitimate client was served.
fn flood(name: &'static str, connections: &str) -> Flood {
    let flood = Flood::new(name, format!("{connections}, each again 1 s after its end"))
        .begin_after(scaled(256, 4096));
    flood.configure(|configuration, _| {
        if scaled(true, false) {
            configuration["limits"]["connections"] = json!(256);
            configuration["limits"]["connectionsPerAddress"] = json!(32);
        }
    })
}

#[test]
fn over_tcp_from_eight_addresses() {
    flood("silent TCP connections from 8 addresses", "8 × 512").play(async |attacker| {
        let each = scaled(32, 512);
        let open = async |number: u32| {
            let from = attacker.ground.attacker(number / each);
            attacker.tcp(from, attacker.gate).await.ok()
        };
        attacker.hold(8 * each, open).await;
    });
}

/// Also seen red with no place kept for known sources and each address a source and a network of its own,
/// together. One of the three suffices here; the tests of `door` and of `source` see each by itself.
#[test]
fn over_tcp_from_one_network() {
    flood("silent TCP connections from addresses of one /64", "4096")
        .on_network()
        .play(async |attacker| {
            let open = async |number: u32| {
                let from = Ground::neighbour_v6(number as u16);
                attacker
                    .tcp(from, SocketAddr::new(Ground::gate_v6(), attacker.gate.port()))
                    .await
                    .ok()
            };
            attacker.hold(scaled(256, 4096), open).await;
        });
}

#[test]
fn after_the_handshake() {
    flood("finished handshakes, then silence, from 8 addresses", "8 × 512").play(async |attacker| {
        let each = scaled(32, 512);
        let open = async |number: u32| {
            attacker.note();
            attacker.client(number / each, None, Alpn::H1).stream().await.ok()
        };
        attacker.hold(8 * each, open).await;
    });
}

/// Of an address that the attacker shares, the connection that was there before is kept. More is not
/// promised.
#[test]
fn from_the_legitimate_clients_address() {
    let flood = flood(
        "silent TCP connections from the legitimate client's address",
        "512",
    );
    let flood = flood.begin_after(scaled(32, 512)).judge(&[Kind::Kept]);
    flood.play(async |attacker| {
        let open = async |_| attacker.tcp(attacker.ground.known(), attacker.gate).await.ok();
        attacker.hold(scaled(32, 512), open).await;
    });
}
