//! A chain that a stranger sends for nothing and the gate judges for seconds keeps a worker from all its
//! clients.

use fakes::client::Alpn;

use super::chains::{EXPENSIVE, LARGE, WORST};
use super::play::Flood;
use super::scaled;

/// Seen red: on a gate that let webpki search for a path by itself, each judgement took seconds of a worker.
#[test]
fn chains_of_one_name() {
    Flood::new(
        "chains of 16 certificates of one name",
        "4 connections, each again when answered",
    )
    .play(async |attacker| {
        let forever = async |number: u32| {
            loop {
                attacker.note();
                let _ = attacker.client(number, Some(&WORST), Alpn::H1).get("/pods").await;
            }
        };
        tokio::join!(forever(0), forever(1), forever(2), forever(3));
    });
}

/// A connection stays open after a refusal: its chain must not be judged with each request.
#[test]
fn refused_chains_on_kept_connections() {
    let connections = scaled(16, 150);
    Flood::new(
        "kept connections with a refused chain",
        "150, each asks every second",
    )
    .play(async move |attacker| {
        let forever = async |number: u32| {
            let client = attacker.client(number / 16, Some(&EXPENSIVE), Alpn::H1);
            loop {
                attacker.note();
                if let Ok(mut connection) = client.connect().await {
                    while connection.get("/pods").await.is_ok() {
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        attacker.note();
                    }
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        };
        futures_util::future::join_all((0..connections).map(forever)).await;
    });
}

#[test]
fn large_leaves() {
    Flood::new("leaves of 52 KB", "330 connections/s").play(async |attacker| {
        let client = attacker.client(0, Some(&LARGE), Alpn::H1);
        let work = |_| {
            let (client, attacker) = (client.clone(), attacker.clone());
            async move {
                attacker.note();
                let _ = client.get("/pods").await;
            }
        };
        attacker.pace(scaled(20, 330), 16, work).await;
    });
}
