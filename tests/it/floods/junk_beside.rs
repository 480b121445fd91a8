//! Clients share addresses: behind NAT, and as pods with the node's network. What a neighbour at the same
//! address spends must not be charged to a certificate that was judged before.

use std::time::Duration;

use fakes::client::Alpn;
use serde_json::json;

use super::chains::EXPENSIVE;
use super::legitimate::Kind;
use super::play::Flood;
use super::scaled;
use super::scene::client;

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
        let junk = client(attacker.gate, Some(&EXPENSIVE), Alpn::H1)
            .with_source(attacker.ground.known())
            .with_deadline(Duration::from_secs(5));
        let work = |_| {
            let (junk, attacker) = (junk.clone(), attacker.clone());
            async move {
                let _ = junk.get("/pods").await;
                attacker.note();
            }
        };
        attacker.pace(scaled(20, 50), 8, work).await;
    });
}
