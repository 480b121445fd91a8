//! The floods of HTTP/2 that one connection can send, all at once.

use std::sync::LazyLock;
use std::time::Duration;

use fakes::client::Alpn;
use fakes::pki::{CertificateSpec, Pair};
use futures_util::future::join_all;

use super::play::Flood;
use crate::http2_floods::http2_floods;
use crate::http2_frames::Frames;
use crate::world::PKI;

/// Only an authenticated client can send them: this one has rights, as a tenant of the cluster may.
static MALLORY: LazyLock<Pair> = LazyLock::new(|| {
    let spec = CertificateSpec::client("mallory").group("admins");
    PKI.client("mallory", &spec).unwrap()
});

/// Seen red: without `max_header_list_size`. `http2_floods` sees the other bounds.
#[test]
fn of_every_kind() {
    Flood::new(
        "HTTP/2 floods of ten kinds",
        "10 connections, as fast as the gate reads",
    )
    .play(async |attacker| {
        let each = http2_floods().into_iter().zip(0..).map(async |(flood, number)| {
            let client = attacker.client(number, Some(&MALLORY), Alpn::H2);
            let client = client.with_deadline(Duration::from_secs(5));
            loop {
                attacker.note();
                if let Some(mut frames) = Frames::try_open(&client, &[]).await {
                    flood.send(&mut frames).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        join_all(each).await;
    });
}
