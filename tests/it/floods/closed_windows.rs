//! An HTTP/2 client whose windows are closed makes the gate keep answers that it never takes, and connections
//! to the kubelet. A token that may read metrics and no more would use up the gate's descriptors.

use fakes::client::Alpn;
use futures_util::future::join_all;

use super::play::Flood;
use super::scaled;
use super::scene::SCRAPER_TOKEN;
use crate::http2_frames::{END_HEADERS, END_STREAM, Frames, HEADERS, INITIAL_WINDOW, fields, frame, head};

/// Seen red: without a bound on requests in flight of one user, the descriptors ended and clients got 502.
#[test]
fn of_a_metrics_token() {
    let (connections, streams) = scaled((8, 100), (90, 100));
    let flood = Flood::new("streams with closed windows, by a metrics token", "90 × 100");
    let flood = flood.begin_after(u64::from(connections * streams));
    // In the short form, fewer streams take the descriptors.
    let flood = flood.descriptors(scaled(Some(600), None));
    flood.play(async move |attacker| {
        let mut asked = head("GET", "/metrics");
        asked.push((
            b"authorization".to_vec(),
            format!("Bearer {SCRAPER_TOKEN}").into_bytes(),
        ));
        let asked = fields(&asked);
        let each = (0..connections).map(async |_| {
            let client = attacker.client(0, None, Alpn::H2);
            loop {
                if let Some(mut frames) = Frames::try_open(&client, &[(INITIAL_WINDOW, 0)]).await {
                    for number in 0..streams {
                        attacker.note();
                        let stream = number * 2 + 1;
                        frames
                            .send(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &asked))
                            .await;
                    }
                    while frames.next(std::time::Duration::from_secs(3600)).await.is_some() {}
                }
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        });
        join_all(each).await;
    });
}
