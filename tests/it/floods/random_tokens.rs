//! A token that the gate does not know costs the API server a review. Strangers who invent tokens would use
//! the API server up, and the reviews of all other clients.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fakes::client::Alpn;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Duration, sleep};

use super::play::Flood;
use super::scaled;
use crate::world::request;

/// Lines that strangers may have the gate log.
const LINES: usize = 20;

/// Seen red: while a source that has spent nothing could always ask, there were 308 reviews, and 127 lines.
#[test]
fn from_four_hundred_addresses() {
    let addresses = scaled(200, 400);
    // Of one address: in each second, and ten times as many at once. Of all together: five times as many.
    let each = scaled(1, 10);
    let flood =
        Flood::new("random tokens", "2000/s from 400 addresses").configure(move |configuration, _| {
            configuration["limits"]["rejectedTokensPerAddress"] = json!(each);
        });
    flood.begin_after(scaled(400, 1)).play_with(
        async move |attacker| {
            let number = AtomicU64::new(0);
            let forever = async |address| {
                let client = attacker.client(address, None, Alpn::H1);
                loop {
                    if let Ok(mut connection) = client.connect().await {
                        loop {
                            let token = format!("Bearer invented-{}", number.fetch_add(1, Relaxed));
                            attacker.note();
                            let asked = request("GET", "/metrics", &[("authorization", &token)]);
                            if connection.send(asked).await.is_err() {
                                break;
                            }
                            sleep(Duration::from_millis(200)).await;
                        }
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            };
            join_all((0..addresses).map(forever)).await;
        },
        async |_| {},
        async move |_, outcome| {
            let reviews = outcome.during.reviews - outcome.before.reviews;
            // The legitimate client's tokens, each with a review of its rights at most.
            let own: u32 = outcome.experience.values().map(|answers| 2 * answers.asked).sum();
            let seconds = outcome.took.as_secs_f64().ceil() as usize + 2;
            let bound = 5 * each * (10 + seconds) + own as usize;
            assert!(reviews <= bound, "{reviews} reviews, more than {bound}");
            let lines = outcome.during.log_lines - outcome.before.log_lines;
            assert!(lines <= LINES, "{lines} lines logged, more than {LINES}");
        },
    );
}
