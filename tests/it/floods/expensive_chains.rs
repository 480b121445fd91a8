//! A chain that a stranger sends for nothing and the gate judges for seconds keeps a worker from all its
//! clients.

use std::time::Duration;

use fakes::client::Alpn;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use super::attackers::Attacker;
use super::chains::{EXPENSIVE, LARGE, WORST, varied};
use super::legitimate::Kind;
use super::play::Flood;
use super::scaled;

/// Seen red: on a gate that let webpki search for a path by itself, each judgement took seconds of a worker,
/// and no request of the legitimate client was answered.
#[test]
fn chains_of_one_name() {
    chains("chains of 16 certificates of one name").play(search_for_paths);
}

/// A certificate that must be good to finish the handshake is judged during it.
///
/// Seen red: without the bounds on elements, on intermediates of one subject and on those of a path,
/// together.
#[test]
fn chains_of_one_name_where_a_certificate_is_required() {
    let flood = chains("the same where a certificate is required");
    let flood = flood.configure(|configuration, _| {
        configuration["authentication"]["x509"]["clientCertificates"] = json!("Require");
    });
    // Without a certificate no token is heard.
    flood
        .judge(&[Kind::Kept, Kind::Certificate])
        .play(search_for_paths);
}

fn chains(name: &'static str) -> Flood {
    Flood::new(name, "4 connections, each again when answered")
}

async fn search_for_paths(attacker: Attacker) {
    let forever = async |number: u32| {
        for round in 0.. {
            attacker.note();
            let chain = varied(&WORST, 4 * round + number);
            let _ = attacker.client(number, Some(&chain), Alpn::H1).get("/pods").await;
        }
    };
    tokio::join!(forever(0), forever(1), forever(2), forever(3));
}

/// A connection stays open after a refusal: its chain must not be judged with each request.
///
/// Seen red: with refusals remembered neither on the connection nor for others, 70 judgements of 16 chains.
#[test]
fn refused_chains_on_kept_connections() {
    let connections = scaled(16, 150);
    let name = "kept connections with a refused chain";
    let flood = Flood::new(name, "150, each asks every second");
    flood.begin_after(3 * u64::from(connections)).play_with(
        async move |attacker| {
            let forever = async |number: u32| {
                let chain = varied(&EXPENSIVE, number);
                let client = attacker.client(number / 16, Some(&chain), Alpn::H1);
                loop {
                    attacker.note();
                    if let Ok(mut connection) = client.connect().await {
                        while connection.get("/pods").await.is_ok() {
                            sleep(Duration::from_secs(1)).await;
                            attacker.note();
                        }
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            };
            join_all((0..connections).map(forever)).await;
        },
        async |_| {},
        async move |scene, _| {
            let judged = scene
                .metric("certificate_judgements_total", &[("result", "refused")])
                .await;
            let chains = f64::from(connections);
            assert!(judged <= chains, "{judged} judgements of {chains} refused chains");
        },
    );
}

/// The budget of an address counts work: such a leaf costs as much as several ordinary ones.
///
/// Seen red: with one unit charged for each refusal, and with none.
#[test]
fn large_leaves() {
    let each = scaled(1, 500);
    let flood = Flood::new("leaves of 52 KB", "330 connections/s").configure(move |configuration, _| {
        configuration["limits"]["refusedCertificatesPerAddress"] = json!(each);
    });
    flood.begin_after(scaled(40, 1)).play_with(
        async |attacker| {
            let work = |number| {
                let attacker = attacker.clone();
                async move {
                    attacker.note();
                    let leaf = varied(&LARGE, number);
                    let _ = attacker.client(0, Some(&leaf), Alpn::H1).get("/pods").await;
                }
            };
            attacker.pace(scaled(20, 330), 16, work).await;
        },
        async |_| {},
        async move |scene, outcome| {
            let judged = scene
                .metric("certificate_judgements_total", &[("result", "refused")])
                .await;
            // What may be spent at once and since the first of them; the last may cost more than is left.
            let seconds = outcome.took.as_secs_f64() + scaled(4.0, 2.0);
            let most = (10.0 + seconds) * f64::from(each) / 2.0 + 1.0;
            assert!(
                (1.0..=most).contains(&judged),
                "{judged} judgements, at most {most}"
            );
        },
    );
}
