//! Memory that a flood has taken must come back: on a node, the gate shares it with the pods.

use std::time::Duration;

use fakes::client::Alpn;

use super::play::{Flood, memory_after};
use super::scaled;
use crate::patience::stretched;

/// Seen red: with the memory left to the C library, 24 MB became 70 MB and stayed so.
#[test]
fn comes_back_after_many_handshakes() {
    let flood = Flood::new(
        "handshakes at once, then closed",
        "4096, each again 1 s after its end",
    );
    flood.begin_after(scaled(1024, 4096)).play_with(
        async |attacker| {
            let open = async |number: u32| {
                let stream = attacker.client(number % 64, None, Alpn::H1).stream().await.ok();
                attacker.note();
                stream
            };
            attacker.hold(scaled(1024, 4096), open).await;
        },
        async |_| {},
        async |scene, outcome| {
            let idle = outcome.before.memory;
            let (memory, seconds) = memory_after(scene, idle, stretched(Duration::from_secs(60))).await;
            assert!(
                memory < 2 * idle,
                "{memory} KiB after {seconds} s, and {idle} before"
            );
        },
    );
}
