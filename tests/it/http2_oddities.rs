//! A request in HTTP/2 becomes HTTP/1.1 on its way to the kubelet: a value that is harmless in HTTP/2 must
//! not end a line, a body or a request there. And a client that keeps to the rules of HTTP/2 must not be able
//! to hold what other clients need.

use fakes::apiserver::{Behaviour, METRICS_TOKEN};
use fakes::client::Alpn;

use crate::corpus::{bytes, rows};
use crate::http2_frames::*;
use crate::patience::{eventually, patience};
use crate::smuggling::assert_well_formed;
use crate::world::{World, assert_answer};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It passes, once.
    Passed,
    /// The gate answers with this status, and nothing passes.
    Answered(u16),
    /// The stream is reset, or the connection ended; nothing passes.
    Refused,
    /// Its head may have passed; its body is broken off, at the kubelet as at the client.
    BrokenOff,
}
use Fate::{Answered, BrokenOff, Passed, Refused};

impl Fate {
    fn of(text: &str) -> Self {
        match text {
            "Passed" => Passed,
            "Refused" => Refused,
            _ => Answered(text.strip_prefix("Answered ").expect("a fate").parse().unwrap()),
        }
    }
}

/// Sends frames on stream 1 and yields what the client sees: a status, or in a word what came instead.
async fn play(world: &World, bytes: &[u8]) -> Result<u16, &'static str> {
    let mut frames = Frames::open(&world.h2_client("bob"), &[]).await;
    frames.send(bytes).await;
    let mut status = Err("closed");
    loop {
        let Some(frame) = frames.next(patience()).await else {
            return status;
        };
        match frame.kind {
            HEADERS if status.is_err() => status = Ok(frame.status().expect("a status")),
            GOAWAY if frame.code() != 0 => return Err("goaway"),
            RST_STREAM if frame.stream == 1 => {
                // NO_ERROR: the request is answered, and the rest of its body is not wanted.
                return if frame.code() == 0 { status } else { Err("reset") };
            }
            _ => {}
        }
        if frame.stream == 1 && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
            return status;
        }
    }
}

/// Whether what the client saw and what the kubelet saw is that fate.
fn is(fate: Fate, saw: Result<u16, &'static str>, passed: usize) -> bool {
    match fate {
        Passed => saw == Ok(200) && passed == 1,
        Answered(status) => saw == Ok(status) && passed == 0,
        Refused => (saw.is_err() || saw == Ok(400)) && passed == 0,
        BrokenOff => saw.is_err() && passed <= 1,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_becomes_one_well_formed_head_or_none() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/http2_heads.tsv")) {
        let (name, fate) = (row[0], Fate::of(row[1]));
        let mut asked = Vec::new();
        for field in &row[2..] {
            match field.split_once('=') {
                None => asked.extend(head("GET", "/healthz")),
                Some((name, value)) => asked.push((bytes(name), bytes(value))),
            }
        }
        world.kubelet.clear();
        let saw = play(
            &world,
            &frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&asked)),
        )
        .await;
        let seen = world.kubelet.requests();
        for seen in &seen {
            assert_well_formed(name, seen);
            assert_eq!(
                (seen.method.as_str(), seen.target.as_str()),
                ("GET", "/healthz"),
                "{name}"
            );
            let hosts = seen
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("host"));
            assert_eq!(hosts.count(), 1, "{name}");
        }
        if !is(fate, saw, seen.len()) {
            wrong.push(format!("{name}: {fate:?}, but {saw:?} and {} passed", seen.len()));
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_answer(&world.h2_client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

fn opening(length: Option<&str>) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &post(length))
}

fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

/// A body that ends in this trailer.
fn trailer(name: &str, value: &str) -> Vec<Vec<u8>> {
    let block = fields(&[(name.into(), value.into())]);
    vec![
        opening(None),
        data(0, b"body"),
        frame(HEADERS, END_STREAM | END_HEADERS, 1, &block),
    ]
}

/// What an attacker wants the kubelet to read as a request of its own.
const SMUGGLED: &[u8] = b"0\r\n\r\nGET /pods HTTP/1.1\r\nHost: x\r\n\r\n";
const END: u8 = END_STREAM;

/// Name, what becomes of it, and frames.
#[rustfmt::skip]
fn bodies() -> Vec<(&'static str, Fate, Vec<Vec<u8>>)> {
    let (first, second) = (&post(None)[..20], &post(None)[20..]);
    let priority = |stream, on: u8| frame(PRIORITY, 0, stream, &[0, 0, 0, on, 16]);
    vec![
        ("a body without a length", Passed, vec![opening(None), data(END, SMUGGLED)]),
        ("a body of its length", Passed, vec![opening(Some("4")), data(0, b"bo"), data(END, b"dy")]),
        ("an empty body", Passed, vec![opening(Some("0")), data(END, b"")]),
        ("an empty body of no length", Passed, vec![opening(None), data(END, b"")]),
        ("less than its length", BrokenOff, vec![opening(Some("44")), data(END, b"body")]),
        ("more than its length", BrokenOff, vec![opening(Some("4")), data(END, SMUGGLED)]),
        ("more than its length, \
            later", BrokenOff, vec![opening(Some("4")), data(0, b"body"), data(END, SMUGGLED)]),
        ("more than a length of 0", BrokenOff, vec![opening(Some("0")), data(END, SMUGGLED)]),
        ("nothing of its length", BrokenOff, vec![opening(Some("4")), data(END, b"")]),
        ("data behind the end", BrokenOff, vec![opening(Some("4")), data(END, b"body"), data(END, SMUGGLED)]),
        ("a head behind the end", BrokenOff, vec![opening(Some("4")), data(END, b"body"), opening(None)]),
        ("data before the head", Refused, vec![data(END, SMUGGLED), opening(None)]),
        ("data on stream 0", Refused, vec![frame(DATA, END, 0, SMUGGLED)]),
        ("a stream of the server's", Refused, vec![frame(HEADERS, END | END_HEADERS, 2, &post(None))]),
        ("padding", Passed, vec![opening(None), frame(DATA, END | PADDED, 1, b"\x02body\0\0")]),
        ("padding that is too \
            long", BrokenOff, vec![opening(None), frame(DATA, END | PADDED, 1, &[200, b'a'])]),
        ("a frame over the limit", BrokenOff, vec![opening(None), data(END, &[b'x'; 16_385])]),
        // Trailers end at the gate, whatever their names.
        ("a trailer", Passed, trailer("x-end", "1")),
        ("a trailer that frames", Passed, trailer("content-length", "44")),
        ("a trailer that authenticates", Passed, trailer("authorization", "Bearer x")),
        ("a trailer with a path", Passed, trailer(":path", "/pods")),
        ("a trailer with a status", Passed, trailer(":status", "200")),
        ("a trailer of one connection", BrokenOff, trailer("transfer-encoding", "chunked")),
        ("a line in a trailer", BrokenOff, trailer("x-end", "1\r\n\r\nGET /pods HTTP/1.1")),
        ("trailers that do not end", BrokenOff, vec![opening(None), data(0, b"body"), opening(None)]),
        ("a head in \
            pieces", Passed, vec![frame(HEADERS, END, 1, first), frame(CONTINUATION, END_HEADERS, 1, second)]),
        ("a frame between the pieces of a head", Refused,
            vec![frame(HEADERS, 0, 1, first), data(END, b"x"), frame(CONTINUATION, END_HEADERS, 1, second)]),
        ("a continuation of nothing", Refused, vec![frame(CONTINUATION, END_HEADERS, 1, &post(None))]),
        ("half a field block", Refused, vec![frame(HEADERS, END | END_HEADERS, 1, first)]),
        ("a table index that is \
            none", Refused, vec![frame(HEADERS, END | END_HEADERS, 1, &[0xff, 0xff, 0x7f])]),
        ("a reset before the end", BrokenOff, vec![opening(Some("44")), data(0, b"body"), reset(1)]),
        ("a stream that depends on itself", Refused, vec![priority(1, 1), opening(None), data(END, b"")]),
        ("priorities of many streams", Passed,
            vec![(0..500).flat_map(|number| priority(number * 2 + 1, 0)).collect(), opening(None), data(END, b"")]),
        ("a priority of stream 0", Refused, vec![priority(0, 3), opening(None), data(END, b"")]),
        ("frames of an unknown kind", Passed,
            vec![frame(0xbe, 0xff, 1, b"what?"), opening(None), frame(0xef, 0, 1, b""), data(END, b"")]),
        ("a push", Refused, vec![frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &post(None)].concat())]),
        ("a window that overflows", BrokenOff, vec![opening(None), window(0, 0x7fff_ffff)]),
        ("a window that grows by nothing", BrokenOff, vec![opening(None), window(1, 0)]),
        ("settings of half a value", Refused, vec![frame(SETTINGS, 0, 0, &[0, 4, 0])]),
        ("a window setting that is too large", Refused, vec![settings(&[(INITIAL_WINDOW, 0x8000_0000)])]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_ends_where_its_stream_ends_or_is_broken_off() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for (name, fate, frames) in bodies() {
        world.kubelet.clear();
        let saw = if fate == BrokenOff && name.starts_with("a reset") {
            let mut connection = Frames::open(&world.h2_client("bob"), &[]).await;
            connection.send(&frames.concat()).await;
            Err("silence")
        } else {
            play(&world, &frames.concat()).await
        };
        eventually("nothing is in flight", || {
            world.metric("requests_in_flight", &[]) == 0.0
        })
        .await;
        eventually("the kubelet has no request half read", || {
            world.kubelet.open_connections() as f64 == world.metric("upstream_idle_connections", &[])
        })
        .await;
        let seen = world.kubelet.requests();
        for seen in &seen {
            assert_eq!(
                (seen.method.as_str(), seen.target.as_str()),
                ("POST", "/lab/echo"),
                "{name}"
            );
            if fate == Passed {
                assert_well_formed(name, seen);
                for named in ["x-end", "authorization", "trailer"] {
                    assert_eq!(seen.header(named), None, "{name}");
                }
            } else if let Some(length) = seen
                .header("content-length")
                .filter(|_| !name.contains("behind the end"))
            {
                assert_ne!(length, seen.body_len.to_string(), "{name}: it is whole");
            }
        }
        if !is(fate, saw, seen.len()) {
            wrong.push(format!("{name}: {fate:?}, but {saw:?} and {} passed", seen.len()));
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_answer(&world.h2_client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

// === windows that stay closed ===

const SHORT: &str = "400ms";
/// More than all windows and buffers on the way hold.
const MUCH: &str = "/lab/bytes?n=10000000";
/// A followed log without a line for longer than any test takes.
const QUIET: &str = "/containerLogs/default/web/nginx?follow=true&tailLines=0";

fn stalls(world: &World) -> f64 {
    world.metric("rejections_total", &[("reason", "write_stall")])
}

/// Each such stream would hold a connection to the kubelet for ever, and one connection has room for a
/// hundred.
///
/// Seen red: with `Streams` polling the stream alone, no reset came.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_window_stays_closed_is_reset_and_the_others_go_on() {
    let world = World::builder()
        .set("limits.writeStallTimeout", SHORT)
        .start()
        .await;
    world.kubelet.adjust(|knobs| knobs.log_interval = 2 * patience());
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 0)]).await;
    // This stream has nothing to send: it stays.
    frames.send(&get(1, QUIET)).await;
    assert_eq!(
        frames.find(HEADERS, 1, patience()).await.unwrap().status(),
        Some(200)
    );
    for (number, stream) in [(1, 3), (2, 5), (3, 7)] {
        frames.send(&get(stream, MUCH)).await;
        if stream == 7 {
            // The client takes some of it, and then no more.
            frames.send(&window(7, 200_000)).await;
        }
        let reset = frames.find(RST_STREAM, 0, patience()).await.expect("a reset");
        assert_eq!((reset.stream, reset.code()), (stream, 8), "CANCEL");
        eventually("it is counted", || stalls(&world) == f64::from(number)).await;
        eventually("the kubelet is rid of it", || {
            world.kubelet.open_connections() == 1
        })
        .await;
    }
    assert_eq!(world.metric("requests_in_flight", &[]), 1.0, "the log goes on");

    // A slow client gets all of it.
    frames.send(&get(9, MUCH)).await;
    let (mut taken, mut given) = (0, 0);
    while taken < 10_000_000 {
        while given < taken + 100_000 {
            given += 100_000;
            frames
                .send(&[window(0, 100_000), window(9, 100_000)].concat())
                .await;
        }
        let data = frames.find(DATA, 9, patience()).await.expect("more");
        taken += data.payload.len();
    }
    assert_eq!(stalls(&world), 3.0);
    drop(frames);
    world.stop().await;
}

/// The same with the window of the connection, which the client never opens. Seen red in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn streams_on_a_connection_whose_window_stays_closed_are_reset() {
    let world = World::builder()
        .set("limits.writeStallTimeout", SHORT)
        .start()
        .await;
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 1 << 20)]).await;
    frames
        .send(&[get(1, MUCH), get(3, MUCH), get(5, MUCH)].concat())
        .await;
    for _ in 0..3 {
        assert!(frames.find(RST_STREAM, 0, patience()).await.is_some());
    }
    eventually("the kubelet is rid of them", || {
        world.kubelet.open_connections() == 0
    })
    .await;
    assert_eq!(stalls(&world), 3.0);
    drop(frames);
    world.stop().await;
}

// === strangers ===

/// The status of a request with this token, and whether the connection stays: no GOAWAY comes.
async fn status_and_stay(frames: &mut Frames, stream: u32, token: Option<&str>) -> (u16, bool) {
    let mut asked = head("GET", "/metrics");
    asked.extend(token.map(|token| (b"authorization".to_vec(), format!("Bearer {token}").into_bytes())));
    let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(&asked));
    frames.send(&request).await;
    let mut status = None;
    loop {
        let frame = frames.next(patience()).await.expect("an answer");
        match frame.kind {
            HEADERS if frame.stream == stream && status.is_none() => {
                status = Some(frame.status().expect("a status"));
                // A GOAWAY would come before the answer to this.
                frames.send(&self::frame(PING, 0, 0, b"anything")).await;
            }
            GOAWAY => return (status.expect("an answer before it leaves"), false),
            PING if frame.flags & ACK != 0 => return (status.expect("an answer"), true),
            _ => {}
        }
    }
}

/// If every failed review closed the client's connection, a broken API server would cost the gate a handshake
/// for each request. A stranger's connection is closed.
///
/// Seen red: with every failure treated as a stranger's, GOAWAY behind the 503.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_review_failed_keeps_its_connection() {
    let world = World::start().await;
    let client = world.tls_client(None, Alpn::H2);
    let mut frames = Frames::open(&client, &[]).await;
    world.api.behave_all(Behaviour::Fail(500));
    // (Each status once: HPACK would send a second one as an index into its table, which these tests do not
    // read.)
    assert_eq!(status_and_stay(&mut frames, 1, Some("one")).await, (503, true));
    world.api.heal();
    let answer = status_and_stay(&mut frames, 3, Some(METRICS_TOKEN)).await;
    assert_eq!(answer, (200, true), "on the same connection");
    // Once a client was authenticated on it, a refused request does not end it.
    assert_eq!(status_and_stay(&mut frames, 5, None).await, (401, true));
    drop(frames);

    let mut frames = Frames::open(&client, &[]).await;
    assert_eq!(status_and_stay(&mut frames, 1, None).await, (401, false));
    drop(frames);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_the_limit_is_refused() {
    let world = World::builder()
        .set("limits.requestHeadBytes", 16384)
        .start()
        .await;
    for number in 1..=4 {
        world.kubelet.clear();
        let mut head = head("GET", "/healthz");
        head.extend(std::iter::repeat_n((b"x-big".to_vec(), vec![b'x'; 8000]), number));
        let block = fields(&head);
        let mut frames = Frames::open(&world.h2_client("bob"), &[]).await;
        let (first, rest) = block.split_at(block.len().min(16_000));
        let flags = if rest.is_empty() { END_HEADERS } else { 0 };
        frames.send(&frame(HEADERS, END_STREAM | flags, 1, first)).await;
        if !rest.is_empty() {
            for piece in rest.chunks(16_000) {
                let last = std::ptr::eq(piece.as_ptr_range().end, block.as_ptr_range().end);
                let flags = if last { END_HEADERS } else { 0 };
                frames.send(&frame(CONTINUATION, flags, 1, piece)).await;
            }
        }
        let answer = frames.find(HEADERS, 1, patience()).await;
        let status = answer.and_then(|answer| answer.status());
        if number <= 2 {
            assert_eq!(status, Some(200));
        } else {
            assert_eq!((number, status), (number, Some(431)));
            world.assert_nothing_forwarded();
        }
    }
    world.stop().await;
}
