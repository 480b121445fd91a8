//! A client that has gone must not leave its request at the kubelet: a followed log would go on for ever, a
//! command run on, and each hold one of the kubelet's streams. However the client goes, and whatever it
//! waited for, the connection to the kubelet is closed at once.

use fakes::client::Duplex;
use fakes::kubelet::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http2_frames::*;
use crate::patience::{eventually, patience};
use crate::world::World;

/// What a client is doing when it leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doing {
    /// Waiting for a head that never comes.
    Waiting,
    /// Following a log without lines.
    Following,
    /// Downloading, and reading nothing of it.
    Downloading,
    /// In the middle of a body.
    Uploading,
    /// Waiting for a 101 that never comes.
    Upgrading,
    /// Holding an open stream without traffic.
    Streaming,
}
use Doing::{Downloading, Following, Streaming, Upgrading, Uploading, Waiting};

/// How it leaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leaving {
    /// The connection is closed without TLS's goodbye.
    Dropping,
    /// TLS's goodbye is sent, and the socket stays open.
    Ending,
}

impl Doing {
    /// Method, path, headers and the beginning of a body.
    fn request(self) -> (&'static str, &'static str, &'static str, &'static str) {
        let upgrade =
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
        match self {
            Waiting => ("GET", "/lab/hang", "", ""),
            Following => (
                "GET",
                "/containerLogs/default/web/nginx?follow=true&tailLines=0",
                "",
                "",
            ),
            Downloading => ("GET", "/lab/bytes?n=1000000000", "", ""),
            Uploading => ("POST", "/lab/sink", "Content-Length: 10\r\n", "half"),
            Upgrading => ("POST", "/attach/default/web/nginx?output=1", upgrade, ""),
            Streaming => ("POST", "/exec/default/web/nginx?command=cat&input=1", upgrade, ""),
        }
    }

    /// Whether the client has the head of its answer by then.
    fn answered(self) -> bool {
        matches!(self, Following | Downloading | Streaming)
    }
}

/// A world whose kubelet sends nothing.
async fn quiet() -> World {
    let world = World::start().await;
    world.kubelet.adjust(|knobs| knobs.log_interval = 2 * patience());
    world.kubelet.fail("/lab/hang", Fault::Hang);
    world.kubelet.fail("/attach", Fault::Hang);
    world
}

/// Waits until the kubelet has what it will get of the request.
async fn arrived(world: &World, doing: Doing) {
    eventually(&format!("{doing:?}: the request is at the kubelet"), || {
        let seen = world.kubelet.requests();
        seen.len() == 1 && seen[0].body_len == doing.request().3.len() as u64
    })
    .await;
}

async fn gone(world: &World, what: &str) {
    eventually(&format!("{what}: the kubelet is rid of it"), || {
        world.kubelet.open_connections() == 0
    })
    .await;
    eventually(&format!("{what}: the gate too"), || {
        world.metric("requests_in_flight", &[]) == 0.0 && world.metric("streams", &[]) == 0.0
    })
    .await;
    world.kubelet.clear();
}

/// Seen red: with `half_close` switched on in `listen::connection`, the gate did not notice that the client
/// was gone.
#[tokio::test(flavor = "multi_thread")]
async fn over_http1_the_request_ends_with_the_client() {
    let world = quiet().await;
    for doing in [Waiting, Following, Downloading, Uploading, Upgrading, Streaming] {
        for leaving in [Leaving::Dropping, Leaving::Ending] {
            let (method, path, headers, body) = doing.request();
            let mut stream: Box<dyn Duplex> = world.client("bob").stream().await.unwrap();
            let message = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
            stream.write_all(message.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            arrived(&world, doing).await;
            if doing.answered() {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                assert_eq!(&head, b"HTTP/1.1 ");
            }
            if leaving == Leaving::Ending {
                stream.shutdown().await.unwrap();
                gone(&world, &format!("{doing:?}, {leaving:?}")).await;
            }
            drop(stream);
            gone(&world, &format!("{doing:?}, {leaving:?}")).await;
        }
    }
    world.stop().await;
}

/// One stream ends and the connection goes on; or the connection ends with all its streams.
#[tokio::test(flavor = "multi_thread")]
async fn over_http2_the_request_ends_with_its_stream() {
    let world = quiet().await;
    let mut kept = Frames::open(&world.h2_client("bob"), &[]).await;
    let mut stream = 1;
    for doing in [Waiting, Following, Downloading, Uploading] {
        for reset in [true, false] {
            let (method, path, _, body) = doing.request();
            let mut head: Vec<(Vec<u8>, Vec<u8>)> = [
                (":method", method),
                (":scheme", "https"),
                (":path", path),
                (":authority", "node"),
            ]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec();
            let mut message = Vec::new();
            if body.is_empty() {
                message.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&head)));
            } else {
                head.push((b"content-length".to_vec(), b"10".to_vec()));
                message.extend(frame(HEADERS, END_HEADERS, stream, &fields(&head)));
                message.extend(frame(DATA, 0, stream, body.as_bytes()));
            }
            kept.send(&message).await;
            arrived(&world, doing).await;
            if doing.answered() {
                let answer = kept.find(HEADERS, stream, patience()).await.unwrap();
                assert_eq!(answer.status(), Some(200));
            }
            if reset {
                // CANCEL.
                kept.send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()))
                    .await;
                stream += 2;
            } else {
                kept = Frames::open(&world.h2_client("bob"), &[]).await;
                stream = 1;
            }
            gone(&world, &format!("{doing:?}, reset: {reset}")).await;
        }
    }
    kept.send(&frame(PING, 0, 0, b"are you?")).await;
    assert!(kept.find(PING, 0, patience()).await.is_some());
    drop(kept);
    world.stop().await;
}
