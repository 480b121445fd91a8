//! Clients share addresses: behind NAT, and as pods with the node's network. What a neighbour at the same
//! address spends must not be charged to a certificate that was judged before.

use fakes::client::Alpn;
use serde_json::json;

use super::chains::{EXPENSIVE, varied};
use super::legitimate::Kind;
use super::play::Flood;
use super::scaled;
use super::scene::client;

/// Seen red: on a gate whose budget counted by address alone, the certificate was answered 429.
#[test]
fn chains_from_the_same_address() {
    let flood = Flood::new("junk chains from the legitimate client's address", "50/s");
    let flood = flood
        .judge(&[Kind::Kept, Kind::Certificate])
        .configure(|configuration, _| {
            if scaled(true, false) {
                configuration["limits"]["refusedCertificatesPerAddress"] = json!(1);
            }
        });
    flood.begin_after(scaled(10, 100)).play(async |attacker| {
        let work = |number| {
            let attacker = attacker.clone();
            async move {
                let junk = client(attacker.gate, Some(&varied(&EXPENSIVE, number)), Alpn::H1)
                    .with_source(attacker.ground.known());
                let _ = junk.get("/pods").await;
                attacker.note();
            }
        };
        attacker.pace(scaled(20, 50), 8, work).await;
    });
}
