//! Over HTTP/2 a request has no lines to break out of, but it becomes HTTP/1.1 on its way to the kubelet: what passes as a
//! value here must not end a line, a body or a request there. And a client that keeps the rules of HTTP/2 but not its
//! spirit must not hold what others need.

use std::time::Duration;

use kubelet_gate::lab::client::Alpn;
use kubelet_gate::lab::fake_kubelet::Fault;

use crate::http2_frames::*;
use crate::smuggling::assert_well_formed;
use crate::world::{PATIENCE, PKI, World, assert_answer, eventually};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It passes, once.
    Passed,
    /// The gate answers this, and nothing passes.
    Answered(u16),
    /// The stream is reset, or the connection ended; nothing passes.
    Refused,
    /// Its head may have passed; its body is broken off, there as here.
    BrokenOff,
}
use Fate::{Answered, BrokenOff, Passed, Refused};

type Field = (&'static [u8], &'static [u8]);

const METHOD: Field = (b":method", b"GET");
const SCHEME: Field = (b":scheme", b"https");
const PATH: Field = (b":path", b"/healthz");
const AUTHORITY: Field = (b":authority", b"node");

/// A good head, and these fields behind it.
fn with(more: &[Field]) -> Vec<Field> {
    [&[METHOD, SCHEME, PATH, AUTHORITY][..], more].concat()
}

/// A good head with another path.
fn path(path: &'static [u8]) -> Vec<Field> {
    vec![METHOD, SCHEME, (b":path", path), AUTHORITY]
}

/// Name, head, and what becomes of it. There is no body.
fn heads() -> Vec<(&'static str, Vec<Field>, Fate)> {
    vec![
        ("a good head", with(&[]), Passed),
        // Fields of one connection, which HTTP/2 does not have.
        ("connection", with(&[(b"connection", b"close")]), Refused),
        (
            "connection: upgrade",
            with(&[(b"connection", b"upgrade"), (b"upgrade", b"websocket")]),
            Refused,
        ),
        ("keep-alive", with(&[(b"keep-alive", b"timeout=5")]), Refused),
        (
            "proxy-connection",
            with(&[(b"proxy-connection", b"keep-alive")]),
            Refused,
        ),
        ("upgrade", with(&[(b"upgrade", b"websocket")]), Refused),
        (
            "transfer-encoding",
            with(&[(b"transfer-encoding", b"chunked")]),
            Refused,
        ),
        (
            "transfer-encoding: identity",
            with(&[(b"transfer-encoding", b"identity")]),
            Refused,
        ),
        ("te: chunked", with(&[(b"te", b"chunked")]), Refused),
        (
            "te: trailers",
            with(&[
                // Trailers end at the gate, whatever they are called.
                (b"te", b"trailers"),
            ]),
            Passed,
        ),
        (
            "te: trailers, deflate",
            with(&[(b"te", b"trailers, deflate")]),
            Refused,
        ),
        (
            "http2-settings",
            with(&[(b"http2-settings", b"AAMAAABk")]),
            Passed,
        ),
        // Names and values that are none.
        ("an upper-case name", with(&[(b"X-Upper", b"1")]), Refused),
        ("an empty name", with(&[(b"", b"1")]), Refused),
        ("a space in a name", with(&[(b"x y", b"1")]), Refused),
        ("a colon in a name", with(&[(b"x:y", b"1")]), Refused),
        ("a CR in a name", with(&[(b"x\ry", b"1")]), Refused),
        ("a LF in a name", with(&[(b"x\ny", b"1")]), Refused),
        ("a NUL in a name", with(&[(b"x\0y", b"1")]), Refused),
        (
            "a byte beyond ASCII in a name",
            with(&[(b"x\xffy", b"1")]),
            Refused,
        ),
        ("a CR in a value", with(&[(b"x-y", b"a\rb")]), Refused),
        ("a LF in a value", with(&[(b"x-y", b"a\nb")]), Refused),
        (
            "a line in a value",
            with(&[(b"x-y", b"a\r\nContent-Length: 44")]),
            Refused,
        ),
        (
            "a request in a value",
            with(&[(b"x-y", b"a\r\n\r\nGET /pods HTTP/1.1\r\nHost: x\r\n\r\n")]),
            Refused,
        ),
        ("a NUL in a value", with(&[(b"x-y", b"a\0b")]), Refused),
        (
            "bytes beyond ASCII in a value",
            with(&[(b"x-y", b"\xc3\xa9\xff")]),
            Passed,
        ),
        // Pseudo-fields.
        ("no :method", vec![SCHEME, PATH, AUTHORITY], Refused),
        ("no :scheme", vec![METHOD, PATH, AUTHORITY], Refused),
        ("no :path", vec![METHOD, SCHEME, AUTHORITY], Refused),
        ("no :authority", vec![METHOD, SCHEME, PATH], Passed),
        (
            "a host instead of :authority",
            vec![METHOD, SCHEME, PATH, (b"host", b"node")],
            Passed,
        ),
        ("two :method", with(&[METHOD]), Refused),
        ("two :path", with(&[(b":path", b"/pods")]), Refused),
        ("two :authority", with(&[(b":authority", b"other")]), Refused),
        ("two :scheme", with(&[SCHEME]), Refused),
        ("an unknown pseudo-field", with(&[(b":user", b"admin")]), Refused),
        ("a :status", with(&[(b":status", b"200")]), Refused),
        (
            "a pseudo-field behind a field",
            vec![METHOD, SCHEME, AUTHORITY, (b"x-y", b"1"), PATH],
            Refused,
        ),
        (
            ":protocol (RFC 8441)",
            vec![
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                SCHEME,
                PATH,
                AUTHORITY,
            ],
            Refused,
        ),
        (
            "CONNECT",
            vec![(b":method", b"CONNECT"), (b":authority", b"node:10250")],
            Answered(405),
        ),
        (
            "an empty method",
            vec![(b":method", b""), SCHEME, PATH, AUTHORITY],
            Refused,
        ),
        (
            "a line in the method",
            vec![
                (b":method", b"GET /pods HTTP/1.1\r\nX: "),
                SCHEME,
                PATH,
                AUTHORITY,
            ],
            Refused,
        ),
        (
            "an unknown method",
            vec![(b":method", b"FOO"), SCHEME, PATH, AUTHORITY],
            Answered(405),
        ),
        // T15 and T16: one target, one host.
        ("an empty path", path(b""), Refused),
        ("an asterisk", path(b"*"), Answered(400)),
        (
            "OPTIONS *",
            vec![(b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), AUTHORITY],
            Answered(405),
        ),
        ("a path without a slash", path(b"healthz"), Refused),
        ("an absolute path", path(b"https://node/healthz"), Refused),
        ("a path of another host", path(b"//evil/healthz"), Answered(400)),
        ("a space in the path", path(b"/healthz /pods"), Refused),
        (
            "a version in the path",
            path(b"/healthz HTTP/1.1\r\nX: y"),
            Refused,
        ),
        ("a tab in the path", path(b"/healthz\t"), Refused),
        ("a LF in the path", path(b"/healthz\n"), Refused),
        ("a NUL in the path", path(b"/healthz\0"), Refused),
        // Cut off when the head is read: what is judged is what passes.
        ("a fragment", path(b"/healthz#/pods"), Passed),
        ("a dot segment", path(b"/healthz/../pods"), Answered(400)),
        ("an encoded slash", path(b"/healthz%2fping"), Answered(400)),
        ("a backslash", path(b"/healthz\\ping"), Answered(400)),
        (
            "an empty authority",
            vec![METHOD, SCHEME, PATH, (b":authority", b"")],
            Refused,
        ),
        (
            "a host that contradicts :authority",
            with(&[(b"host", b"other")]),
            Answered(400),
        ),
        ("a host like :authority", with(&[(b"host", b"NODE")]), Passed),
        (
            "two hosts",
            with(&[(b"host", b"node"), (b"host", b"other")]),
            Answered(400),
        ),
        (
            "a line in :authority",
            vec![METHOD, SCHEME, PATH, (b":authority", b"node\r\nX: y")],
            Refused,
        ),
        (
            "a space in :authority",
            vec![METHOD, SCHEME, PATH, (b":authority", b"no de")],
            Refused,
        ),
        (
            "a path in :authority",
            vec![METHOD, SCHEME, PATH, (b":authority", b"node/pods")],
            Refused,
        ),
        (
            "another scheme",
            vec![METHOD, (b":scheme", b"ftp"), PATH, AUTHORITY],
            Passed,
        ),
        // What ends at the gate whatever it says.
        ("expect", with(&[(b"expect", b"100-continue")]), Passed),
        (
            "another expectation",
            with(&[(b"expect", b"the-unexpected")]),
            Answered(417),
        ),
        (
            "a content-length without a body",
            with(&[(b"content-length", b"5")]),
            Refused,
        ),
        (
            "a content-length that is no number",
            with(&[(b"content-length", b"0x0")]),
            Refused,
        ),
        (
            "two content-lengths",
            with(&[(b"content-length", b"0"), (b"content-length", b"5")]),
            Refused,
        ),
        (
            "a list of content-lengths",
            with(&[(b"content-length", b"0, 0")]),
            Refused,
        ),
    ]
}

/// Sends frames on stream 1 and tells what came back, in terms of [`Fate`] as far as the client can see.
async fn play(world: &World, bytes: &[u8]) -> Result<u16, &'static str> {
    let mut frames = Frames::open(&world.h2_client("bob"), &[]).await;
    frames.send(bytes).await;
    let mut status = Err("closed");
    loop {
        let Some(frame) = frames.next(PATIENCE).await else {
            return status;
        };
        match frame.kind {
            HEADERS if status.is_err() => status = Ok(frame.status().expect("a status")),
            GOAWAY if frame.code() != 0 => return Err("goaway"),
            RST_STREAM if frame.stream == 1 => {
                // Of an answered request whose body is not wanted any more: NO_ERROR.
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
    for (name, head, fate) in heads() {
        world.kubelet.clear();
        let saw = play(
            &world,
            &frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&head)),
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

/// A POST of the echo, with this Content-Length if any.
fn post(length: Option<&'static str>) -> Vec<u8> {
    let mut head: Vec<Field> = vec![(b":method", b"POST"), SCHEME, (b":path", b"/lab/echo"), AUTHORITY];
    if let Some(length) = length {
        head.push((b"content-length", length.as_bytes()));
    }
    fields(&head)
}

fn opening(length: Option<&'static str>) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &post(length))
}

fn data(flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, bytes)
}

/// What an attacker wants the kubelet to read as a request of its own.
const SMUGGLED: &[u8] = b"0\r\n\r\nGET /pods HTTP/1.1\r\nHost: x\r\n\r\n";

/// Name, frames, and what becomes of them.
fn bodies() -> Vec<(&'static str, Vec<Vec<u8>>, Fate)> {
    vec![
        (
            "a body without a length",
            vec![opening(None), data(END_STREAM, SMUGGLED)],
            Passed,
        ),
        (
            "a body of its length",
            vec![opening(Some("4")), data(0, b"bo"), data(END_STREAM, b"dy")],
            Passed,
        ),
        (
            "an empty body",
            vec![opening(Some("0")), data(END_STREAM, b"")],
            Passed,
        ),
        (
            "an empty body of no length",
            vec![opening(None), data(END_STREAM, b"")],
            Passed,
        ),
        (
            "less than its length",
            vec![opening(Some("44")), data(END_STREAM, b"body")],
            BrokenOff,
        ),
        (
            "more than its length",
            vec![opening(Some("4")), data(END_STREAM, SMUGGLED)],
            BrokenOff,
        ),
        (
            "more than its length, later",
            vec![opening(Some("4")), data(0, b"body"), data(END_STREAM, SMUGGLED)],
            BrokenOff,
        ),
        (
            "more than a length of 0",
            vec![opening(Some("0")), data(END_STREAM, SMUGGLED)],
            BrokenOff,
        ),
        (
            "nothing of its length",
            vec![opening(Some("4")), data(END_STREAM, b"")],
            BrokenOff,
        ),
        (
            "data behind the end",
            vec![
                opening(Some("4")),
                data(END_STREAM, b"body"),
                data(END_STREAM, SMUGGLED),
            ],
            BrokenOff,
        ),
        (
            "a head behind the end",
            vec![opening(Some("4")), data(END_STREAM, b"body"), opening(None)],
            BrokenOff,
        ),
        (
            "data before the head",
            vec![data(END_STREAM, SMUGGLED), opening(None)],
            Refused,
        ),
        (
            "data on stream 0",
            vec![frame(DATA, END_STREAM, 0, SMUGGLED)],
            Refused,
        ),
        (
            "a stream of the server's",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 2, &fields(&with(&[])))],
            Refused,
        ),
        (
            "trailers",
            vec![
                opening(None),
                data(0, b"body"),
                frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(&[(b"x-end", b"1")])),
            ],
            Passed,
        ),
        (
            "trailers that frame",
            vec![
                opening(None),
                data(0, b"body"),
                frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &fields(&[
                        (b"content-length", b"44"),
                        (b"host", b"x"),
                        (b"authorization", b"Bearer x"),
                    ]),
                ),
            ],
            Passed,
        ),
        (
            "trailers that upgrade",
            vec![
                opening(None),
                data(0, b"body"),
                frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &fields(&[(b"transfer-encoding", b"chunked")]),
                ),
            ],
            BrokenOff,
        ),
        (
            "trailers with a path",
            vec![
                opening(None),
                data(0, b"body"),
                frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &fields(&[(b":path", b"/pods")]),
                ),
            ],
            Passed,
        ),
        (
            "trailers with a status",
            vec![
                opening(None),
                data(0, b"body"),
                frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &fields(&[(b":status", b"200")]),
                ),
            ],
            Passed,
        ),
        (
            "trailers that do not end",
            vec![
                opening(None),
                data(0, b"body"),
                frame(HEADERS, END_HEADERS, 1, &fields(&[(b"x-end", b"1")])),
            ],
            BrokenOff,
        ),
        (
            "a line in a trailer",
            vec![
                opening(None),
                data(0, b"body"),
                frame(
                    HEADERS,
                    END_STREAM | END_HEADERS,
                    1,
                    &fields(&[(b"x-end", b"1\r\n\r\nGET /pods HTTP/1.1")]),
                ),
            ],
            BrokenOff,
        ),
        (
            "padding that is longer than the frame",
            vec![opening(None), frame(DATA, END_STREAM | 8, 1, &[200, b'a'])],
            BrokenOff,
        ),
        (
            "padding",
            vec![opening(None), frame(DATA, END_STREAM | 8, 1, b"\x02body\0\0")],
            Passed,
        ),
        (
            "a frame over the limit",
            vec![opening(None), data(END_STREAM, &[b'x'; 16_385])],
            BrokenOff,
        ),
        (
            "a head in pieces",
            vec![
                frame(HEADERS, END_STREAM, 1, &post(None)[..20]),
                frame(CONTINUATION, END_HEADERS, 1, &post(None)[20..]),
            ],
            Passed,
        ),
        (
            "another frame between the pieces of a head",
            vec![
                frame(HEADERS, 0, 1, &post(None)[..20]),
                data(END_STREAM, b"x"),
                frame(CONTINUATION, END_HEADERS, 1, &post(None)[20..]),
            ],
            Refused,
        ),
        (
            "a continuation of nothing",
            vec![frame(CONTINUATION, END_HEADERS, 1, &post(None))],
            Refused,
        ),
        (
            "half a field block",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &post(None)[..20])],
            Refused,
        ),
        (
            "a table index that is none",
            vec![frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0x7f])],
            Refused,
        ),
        (
            "a reset before the end",
            vec![
                opening(Some("44")),
                data(0, b"body"),
                frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()),
            ],
            BrokenOff,
        ),
        (
            "a stream that depends on itself",
            vec![
                frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]),
                opening(None),
                data(END_STREAM, b""),
            ],
            Refused,
        ),
        (
            "priorities of all streams",
            vec![
                (0..500)
                    .flat_map(|stream| frame(PRIORITY, 0, stream * 2 + 1, &[0, 0, 0, 0, 16]))
                    .collect(),
                opening(None),
                data(END_STREAM, b""),
            ],
            Passed,
        ),
        (
            "a priority of stream 0",
            vec![
                frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 16]),
                opening(None),
                data(END_STREAM, b""),
            ],
            Refused,
        ),
        (
            "frames of an unknown kind",
            vec![
                frame(0xbe, 0xff, 1, b"what?"),
                opening(None),
                frame(0xef, 0, 1, b""),
                data(END_STREAM, b""),
            ],
            Passed,
        ),
        (
            "a push",
            vec![frame(
                5,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2][..], &post(None)].concat(),
            )],
            Refused,
        ),
        (
            "a window that overflows",
            vec![
                opening(None),
                frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()),
            ],
            BrokenOff,
        ),
        (
            "a window that grows by nothing",
            vec![opening(None), frame(WINDOW_UPDATE, 0, 1, &0u32.to_be_bytes())],
            BrokenOff,
        ),
        (
            "settings of half a value",
            vec![frame(SETTINGS, 0, 0, &[0, 4, 0])],
            Refused,
        ),
        (
            "a window setting that is too large",
            vec![settings(&[(INITIAL_WINDOW, 0x8000_0000)])],
            Refused,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_ends_where_its_stream_ends_or_is_broken_off() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for (name, frames, fate) in bodies() {
        world.kubelet.clear();
        let saw = if fate == BrokenOff && name.starts_with("a reset") {
            let mut connection = Frames::open(&world.h2_client("bob"), &[]).await;
            connection.send(&frames.concat()).await;
            Err("nobody is told")
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

// === windows that stay shut ===

const SHORT: &str = "400ms";
/// More than any window or buffer on the way takes.
const MUCH: &[u8] = b"/lab/bytes?n=10000000";
/// A followed log that says nothing for longer than any test takes.
const QUIET: &[u8] = b"/containerLogs/default/web/nginx?follow=true&tailLines=0";

fn get(stream: u32, path: &'static [u8]) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &fields(&self::path(path)),
    )
}

fn window(stream: u32, size: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &size.to_be_bytes())
}

fn stalls(world: &World) -> f64 {
    world.metric("rejections_total", &[("reason", "write_stall")])
}

/// Each of them would hold a connection to the kubelet for good, and a hundred fit on one connection.
///
/// Seen red with `Streams` polling the stream and nothing else: no reset came.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_window_stays_shut_is_reset_and_the_others_go_on() {
    let world = World::builder()
        .set("limits.writeStallTimeout", SHORT)
        .start()
        .await;
    world
        .kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_secs(60));
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 0)]).await;
    // Nothing comes of this one that could be taken: it stays.
    frames.send(&get(1, QUIET)).await;
    assert_eq!(
        frames.find(HEADERS, 1, PATIENCE).await.unwrap().status(),
        Some(200)
    );
    for (number, stream) in [(1, 3), (2, 5), (3, 7)] {
        frames.send(&get(stream, MUCH)).await;
        if stream == 7 {
            // Some of it is taken, and then no more.
            frames.send(&window(7, 200_000)).await;
        }
        let reset = frames.find(RST_STREAM, 0, PATIENCE).await.expect("a reset");
        assert_eq!((reset.stream, reset.code()), (stream, 8), "CANCEL");
        eventually("it is counted", || stalls(&world) == f64::from(number)).await;
        eventually("the kubelet is rid of it", || {
            world.kubelet.open_connections() == 1
        })
        .await;
    }
    assert_eq!(world.metric("requests_in_flight", &[]), 1.0, "the log goes on");

    // A client that takes its time takes all.
    frames.send(&get(9, MUCH)).await;
    let (mut taken, mut given) = (0, 0);
    while taken < 10_000_000 {
        while given < taken + 100_000 {
            given += 100_000;
            frames
                .send(&[window(0, 100_000), window(9, 100_000)].concat())
                .await;
        }
        let data = frames.find(DATA, 9, PATIENCE).await.expect("more");
        taken += data.payload.len();
    }
    assert_eq!(stalls(&world), 3.0);
    drop(frames);
    world.stop().await;
}

/// The same by the window of the whole connection, which the client never opens for any stream.
#[tokio::test(flavor = "multi_thread")]
async fn streams_on_a_connection_whose_window_stays_shut_are_reset() {
    let world = World::builder()
        .set("limits.writeStallTimeout", SHORT)
        .start()
        .await;
    let mut frames = Frames::open(&world.h2_client("bob"), &[(INITIAL_WINDOW, 1 << 20)]).await;
    frames
        .send(&[get(1, MUCH), get(3, MUCH), get(5, MUCH)].concat())
        .await;
    for _ in 0..3 {
        assert!(frames.find(RST_STREAM, 0, PATIENCE).await.is_some());
    }
    eventually("the kubelet is rid of them", || {
        world.kubelet.open_connections() == 0
    })
    .await;
    assert_eq!(stalls(&world), 3.0);
    drop(frames);
    world.stop().await;
}

// === floods ===

/// Sends these bytes over and over until the gate has had enough; true if it has.
async fn flood(frames: &mut Frames, times: usize, bytes: impl Fn(u32) -> Vec<u8>) -> bool {
    for number in 0..times {
        let bytes = bytes(u32::try_from(number).unwrap());
        match tokio::time::timeout(PATIENCE, frames.send(&bytes)).await {
            Ok(true) => {}
            Ok(false) => return true,
            // It neither takes more nor closes.
            Err(_) => return false,
        }
    }
    // What was sent last may still be on its way: the gate answers a PING, or has closed.
    frames.send(&frame(PING, 0, 0, b"anybody?")).await;
    loop {
        match frames.next(PATIENCE).await {
            None => return true,
            Some(frame) if frame.kind == GOAWAY && frame.code() != 0 => return true,
            Some(frame) if frame.kind == PING && frame.flags & ACK != 0 => return false,
            Some(_) => {}
        }
    }
}

/// By somebody who is signed in: the connection of a stranger is closed after its first answer.
#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_and_nothing_else() {
    let world = World::builder()
        .set("limits.writeStallTimeout", SHORT)
        .start()
        .await;
    let open = async |world: &World| Frames::open(&world.h2_client("bob"), &[]).await;
    let head = |stream| frame(HEADERS, END_HEADERS, stream, &post(None));

    // CVE-2024-27316: a head that never ends.
    let mut frames = open(&world).await;
    frames.send(&frame(HEADERS, 0, 1, &post(None))).await;
    let piece = fields(&[(b"x-filler", &[b'x'; 1000])]);
    assert!(
        flood(&mut frames, 5_000, |_| frame(CONTINUATION, 0, 1, &piece)).await,
        "CONTINUATION"
    );

    // Of nothing at all.
    let mut frames = open(&world).await;
    frames.send(&frame(HEADERS, 0, 1, &post(None))).await;
    assert!(
        flood(&mut frames, 50_000, |_| frame(CONTINUATION, 0, 1, b"")).await,
        "empty CONTINUATION"
    );

    // CVE-2019-9518, RUSTSEC-2026-0258: a body of nothing.
    let mut frames = open(&world).await;
    frames.send(&head(1)).await;
    assert!(
        flood(&mut frames, 50_000, |_| frame(DATA, 0, 1, b"")).await,
        "empty DATA"
    );

    // CVE-2019-9512 and 9515: a question that must be answered, by somebody who does not read the answers.
    for (name, bytes) in [
        ("SETTINGS", settings(&[(INITIAL_WINDOW, 65_535)])),
        ("PING", frame(PING, 0, 0, b"anybody?")),
    ] {
        let mut frames = open(&world).await;
        let many = bytes.repeat(1000);
        assert!(flood(&mut frames, 20_000, |_| many.clone()).await, "{name}");
    }

    eventually("nothing is in flight", || {
        world.metric("requests_in_flight", &[]) == 0.0
    })
    .await;
    assert_answer(&world.h2_client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

/// CVE-2023-44487: streams that are opened and reset cost the kubelet no more than their number at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_rapid_reset_leaves_nothing_at_the_kubelet() {
    let world = World::start().await;
    world.kubelet.fail("/lab/hang", Fault::Hang);
    let mut frames = Frames::open(&world.h2_client("bob"), &[]).await;
    flood(&mut frames, 2_000, |number| {
        let stream = number * 2 + 1;
        [
            get(stream, b"/lab/hang"),
            frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()),
        ]
        .concat()
    })
    .await;
    drop(frames);
    eventually("nothing is in flight", || {
        world.metric("requests_in_flight", &[]) == 0.0
    })
    .await;
    eventually("the kubelet is rid of all", || {
        world.kubelet.open_connections() <= 1
    })
    .await;
    assert_answer(&world.h2_client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_the_limit_is_refused() {
    let world = World::builder()
        .set("limits.requestHeadBytes", 16384)
        .start()
        .await;
    let value = [b'x'; 8000];
    for number in 1..=4 {
        world.kubelet.clear();
        let mut head = vec![METHOD, SCHEME, PATH, AUTHORITY];
        head.extend(std::iter::repeat_n((&b"x-big"[..], &value[..]), number));
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
        let answer = frames.find(HEADERS, 1, PATIENCE).await;
        let status = answer.and_then(|answer| answer.status());
        if number == 1 {
            assert_eq!(status, Some(200));
        } else {
            assert_eq!((number, status), (number, Some(431)));
            world.assert_nothing_forwarded();
        }
    }
    world.stop().await;
}
