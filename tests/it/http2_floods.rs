//! A client of HTTP/2 can send frames by the million that cost it nothing. If the gate did work or kept
//! memory for each, one connection would take them from all others.

use crate::http2_frames::*;
use crate::patience::{eventually, patience};
use crate::world::{API_SERVER, Status as _, World};

/// Frames that a client repeats.
pub(crate) struct Http2Flood {
    pub(crate) name: &'static str,
    /// Sent once.
    pub(crate) opening: Vec<u8>,
    /// Sent so many times; the argument counts.
    pub(crate) repeated: fn(u32) -> Vec<u8>,
    pub(crate) times: u32,
    /// Whether the gate ends the connection. If not, it reads on, and answers what comes behind.
    pub(crate) ends: bool,
}

/// A request that the kubelet would answer for as long as it is open.
const LOG: &str = "/containerLogs/default/web/nginx?follow=true&tailLines=0";

/// Every kind of flood. Only an authenticated client can send them: a stranger's connection is closed after
/// its first answer.
pub(crate) fn http2_floods() -> Vec<Http2Flood> {
    let head_without_end = || frame(HEADERS, 0, 1, &post(None));
    vec![
        // CVE-2023-44487: streams that are opened and reset.
        Http2Flood {
            name: "rapid reset",
            opening: Vec::new(),
            repeated: |number| [get(number * 2 + 1, LOG), reset(number * 2 + 1)].concat(),
            times: 5_000,
            ends: true,
        },
        // CVE-2024-27316: a head that never ends.
        Http2Flood {
            name: "CONTINUATION",
            opening: head_without_end(),
            repeated: |_| {
                frame(
                    CONTINUATION,
                    0,
                    1,
                    &fields(&[(b"x-filler".to_vec(), vec![b'x'; 1000])]),
                )
            },
            times: 5_000,
            ends: true,
        },
        Http2Flood {
            name: "empty CONTINUATION",
            opening: head_without_end(),
            repeated: |_| frame(CONTINUATION, 0, 1, b""),
            times: 50_000,
            ends: true,
        },
        // CVE-2019-9518, RUSTSEC-2026-0258: a body of empty frames.
        Http2Flood {
            name: "empty DATA",
            opening: frame(HEADERS, END_HEADERS, 1, &post(None)),
            repeated: |_| frame(DATA, 0, 1, b""),
            times: 50_000,
            ends: true,
        },
        // CVE-2019-9515 and 9512: frames that must be answered, from a client that does not read the answers.
        Http2Flood {
            name: "SETTINGS",
            opening: Vec::new(),
            repeated: |_| settings(&[(INITIAL_WINDOW, 65_535)]).repeat(1000),
            times: 20_000,
            ends: true,
        },
        Http2Flood {
            name: "PING",
            opening: Vec::new(),
            repeated: |_| frame(PING, 0, 0, b"are you?").repeat(1000),
            times: 20_000,
            ends: true,
        },
        // Priorities mean nothing to the gate: it keeps none.
        Http2Flood {
            name: "PRIORITY",
            opening: Vec::new(),
            repeated: |number| frame(PRIORITY, 0, number * 2 + 1, &[0, 0, 0, 0, 16]).repeat(100),
            times: 1_000,
            ends: false,
        },
        // CVE-2016-6581: a field of 4,000 bytes in the table, and heads of a few bytes that name it
        // thousands of times.
        Http2Flood {
            name: "HPACK references",
            opening: frame(HEADERS, END_STREAM | END_HEADERS, 1, &indexed_field()),
            repeated: |number| {
                let block = [fields(&head("GET", "/healthz")), vec![0xbe; 16_000]].concat();
                frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 3, &block)
            },
            times: 500,
            ends: true,
        },
        Http2Flood {
            name: "HPACK table sizes",
            opening: Vec::new(),
            // 0 and 4096, again and again.
            repeated: |number| {
                let block = [
                    [0x20, 0x3f, 0xe1, 0x1f].repeat(4_000),
                    fields(&head("GET", "/healthz")),
                ]
                .concat();
                frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &block)
            },
            times: 500,
            ends: false,
        },
        Http2Flood {
            name: "an HPACK table over the limit",
            opening: Vec::new(),
            // 1 MiB.
            repeated: |number| {
                let block = [vec![0x3f, 0xe1, 0xff, 0x3f], fields(&head("GET", "/healthz"))].concat();
                frame(HEADERS, END_STREAM | END_HEADERS, number * 2 + 1, &block)
            },
            times: 500,
            ends: true,
        },
    ]
}

/// A request whose last field goes into the table: a literal with incremental indexing.
fn indexed_field() -> Vec<u8> {
    let mut block = fields(&head("GET", "/healthz"));
    let value = fields(&[(b"x-filler".to_vec(), vec![b'x'; 4000])]);
    block.push(0x40);
    block.extend_from_slice(&value[1..]);
    block
}

impl Http2Flood {
    /// Sends it, and yields whether the gate has ended the connection. If it neither reads on nor ends it,
    /// the flood counts as not ended.
    pub(crate) async fn send(&self, frames: &mut Frames) -> bool {
        frames.send(&self.opening).await;
        for number in 0..self.times {
            let bytes = (self.repeated)(number);
            match tokio::time::timeout(patience(), frames.send(&bytes)).await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(_) => return false,
            }
        }
        // The last bytes may still be on their way: the gate answers a PING, or has closed.
        frames.send(&frame(PING, 0, 0, b"are you?")).await;
        loop {
            match frames.next(patience()).await {
                None => return true,
                Some(frame) if frame.kind == GOAWAY && frame.code() != 0 => return true,
                Some(frame) if frame.kind == PING && frame.flags & ACK != 0 => return false,
                Some(_) => {}
            }
        }
    }
}

/// The kubelet sees no more streams than may be open at once, and no client beside notices.
///
/// Seen red: without `max_header_list_size` (the heads reached the kubelet), without the bounds on streams
/// that were reset (rapid reset went on), and without the write-stall deadline (SETTINGS and PING went on).
#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connection_or_are_read_and_forgotten() {
    let world = World::builder()
        .set("limits.writeStallTimeout", "2s")
        .start()
        .await;
    world.kubelet.adjust(|knobs| knobs.log_interval = 2 * patience());
    let mut beside = world.h2_client(API_SERVER).connect().await.unwrap();
    let mut wrong = Vec::new();
    for flood in http2_floods() {
        let mut frames = Frames::open(&world.h2_client("bob"), &[]).await;
        let ended = flood.send(&mut frames).await;
        if ended != flood.ends {
            wrong.push(format!("{}: ended: {ended}", flood.name));
        }
        assert_eq!(beside.status("/healthz").await, 200, "{}", flood.name);
        drop(frames);
        eventually(&format!("{}: nothing is in flight", flood.name), || {
            world.metric("requests_in_flight", &[]) == 0.0
        })
        .await;
        eventually(&format!("{}: the kubelet is rid of all", flood.name), || {
            world.kubelet.open_connections() as f64 == world.metric("upstream_idle_connections", &[])
        })
        .await;
        assert_eq!(
            world.h2_client(API_SERVER).status("/healthz").await,
            200,
            "{}",
            flood.name
        );
    }
    assert_eq!(wrong, [""; 0]);
    drop(beside);
    world.stop().await;
}
