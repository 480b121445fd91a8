//! A shell that outlives the right to it is a hole that no new request shows: its user was fired, its
//! certificate revoked, its token deleted, and it still runs commands on the node.

use std::fs;
use std::time::Duration;

use fakes::apiserver::{ADMIN_TOKEN, Behaviour, PROXY_GET_TOKEN, Rule, Subject, User};
use fakes::client::{Alpn, Client, ClientError, SpdyStream, Streaming, WsSession};
use fakes::pki::{CertificateSpec, Pair};
use http::Response;
use kubelet_gate::settings::{KubeletFlags, Settings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::deny_lists::{deny, listing};
use crate::patience::{eventually, patience};
use crate::trust_changes::{revocation_list, revoking};
use crate::world::{PKI, World, WorldBuilder, request};

const CAT: &str = "/exec/default/web/nginx?command=cat&input=1&output=1";
const LOG: &str = "/containerLogs/default/web/nginx?follow=true";

/// The kinds of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    WebSocket,
    Spdy,
    Http1Log,
    Http2Log,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::WebSocket, Kind::Spdy, Kind::Http1Log, Kind::Http2Log];

/// A client's end of a stream.
pub(crate) enum Live {
    Socket(WsSession),
    Spdy(SpdyStream),
    Log(Response<Streaming>),
}

/// What a client shows.
#[derive(Clone, Copy)]
pub(crate) enum Shows<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

// === impl Live ===

impl Live {
    pub(crate) async fn open(world: &World, kind: Kind, shows: Shows<'_>) -> Self {
        let (pair, bearer) = match shows {
            Shows::Certificate(pair) => (Some(pair), None),
            Shows::Token(token) => (None, Some(format!("Bearer {token}"))),
        };
        let headers: Vec<_> = bearer
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        let client = |alpn| -> Client { world.tls_client(pair, alpn) };
        match kind {
            Kind::WebSocket => {
                let answer = client(Alpn::H1)
                    .websocket(CAT, &["v5.channel.k8s.io"], &headers)
                    .await;
                Self::Socket(answer.unwrap().switched().expect("a 101"))
            }
            Kind::Spdy => {
                let answer = client(Alpn::H1).spdy("POST", CAT, &headers).await.unwrap();
                Self::Spdy(answer.switched().expect("a 101"))
            }
            Kind::Http1Log | Kind::Http2Log => {
                let alpn = if matches!(kind, Kind::Http1Log) {
                    Alpn::H1
                } else {
                    Alpn::H2
                };
                let answer = client(alpn).open(request("GET", LOG, &headers)).await.unwrap();
                assert_eq!(answer.status(), 200);
                Self::Log(answer)
            }
        }
    }

    pub(crate) async fn open_all(world: &World, shows: Shows<'_>) -> Vec<Self> {
        let mut open = Vec::new();
        for kind in KINDS {
            open.push(Self::open(world, kind, shows).await);
        }
        for live in &mut open {
            live.assert_alive().await;
        }
        open
    }

    /// Checks that bytes still pass.
    pub(crate) async fn assert_alive(&mut self) {
        match self {
            Self::Socket(session) => {
                session.send_stdin(b"meow").await.unwrap();
                assert_eq!(session.read_stdout(4).await.unwrap(), b"meow");
            }
            Self::Spdy(stream) => {
                stream.write_all(b"x").await.unwrap();
                stream.flush().await.unwrap();
                let read = timeout(patience(), stream.read_u8()).await.unwrap();
                assert_eq!(read.unwrap(), b'x');
            }
            Self::Log(answer) => {
                assert!(answer.body_mut().next().await.unwrap().is_some(), "the log ended");
            }
        }
    }

    /// Waits for the end. A WebSocket client is told why; of a log, the client sees that it is cut.
    pub(crate) async fn assert_ended(self, code: u16, why: &str) {
        match self {
            Self::Socket(mut session) => {
                let close = session.next_close().await.unwrap();
                assert_eq!(close, Some((code, why.to_owned())));
            }
            Self::Spdy(mut stream) => {
                let ended = timeout(patience(), stream.read_to_end(&mut Vec::new())).await;
                // A reset is an end as well.
                let _ = ended.expect("it goes on");
            }
            Self::Log(mut answer) => loop {
                match answer.body_mut().next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the log looks complete"),
                    Err(ClientError::Timeout(_)) => panic!("it goes on"),
                    Err(_) => return,
                }
            },
        }
    }
}

/// A world that looks at its streams often, and whose logs have many lines.
pub(crate) fn watchful(builder: WorldBuilder) -> WorldBuilder {
    builder.set("streams.recheckInterval", "200ms")
}

async fn start(builder: WorldBuilder) -> World {
    let world = builder.start().await;
    world
        .kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_millis(20));
    world
}

pub(crate) async fn no_stream_is_left(world: &World) {
    for gauge in ["streams", "followed_logs", "requests_in_flight"] {
        eventually(&format!("{gauge} is back to 0"), || {
            world.metric(gauge, &[]) == 0.0
        })
        .await;
    }
    eventually("the kubelet is rid of them", || {
        world.kubelet.open_streams() == 0 && world.kubelet.open_connections() == 0
    })
    .await;
}

/// Waits until so many streams have ended so.
async fn ended(world: &World, by: &str, count: f64) {
    eventually(&format!("{count} streams ended by {by}"), || {
        world.metric("stream_ends_total", &[("ended_by", by)]) == count
    })
    .await;
}

/// Waits until all streams have ended so, on both sides, and finds the cause in the audit and the metric.
async fn all_end(world: &World, open: Vec<Live>, by: &str, why: &str) {
    let count = open.len();
    for live in open {
        live.assert_ended(1008, why).await;
    }
    no_stream_is_left(world).await;
    ended(world, by, count as f64).await;
    let ends = || {
        let events = world.audit().into_iter();
        let ends = events.filter(|event| event["annotations"]["kubelet-gate.dev/ended-by"] == by);
        ends.collect::<Vec<_>>()
    };
    eventually("the ends are in the audit", || ends().len() == count).await;
    for end in ends() {
        assert_eq!(end["stage"], "ResponseComplete");
        assert_ne!(end["annotations"]["kubelet-gate.dev/bytes-sent"], "0", "{end}");
        if by != "lifetime" {
            assert!(end["annotations"]["kubelet-gate.dev/error"].is_string(), "{end}");
        }
    }
}

/// Seen red: with `changes` not subscribed to.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_whose_ca_is_removed_ends_its_streams_at_once() {
    // Only the announcement can be as quick as this.
    let world = World::builder()
        .set("streams.recheckInterval", "1h")
        .set("streams.maxUnverified", "2h");
    let world = start(world).await;
    let both = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()];
    fs::write(world.file("ca.crt"), both.concat()).unwrap();
    world.gate.reload();
    let carol = Live::open_all(&world, Shows::Certificate(&PKI.carol)).await;
    let mut bob = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    fs::write(world.file("ca.crt"), &both[0]).unwrap();
    world.gate.reload();
    for live in carol {
        live.assert_ended(1008, "the credential is no longer accepted")
            .await;
    }
    for live in &mut bob {
        live.assert_alive().await;
    }
    drop(bob);
    no_stream_is_left(&world).await;
    ended(&world, "revoked", 4.0).await;
    ended(&world, "client", 4.0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_a_list_revokes_ends_its_streams_at_once() {
    let world = revoking(&[])
        .set("streams.recheckInterval", "1h")
        .set("streams.maxUnverified", "2h");
    let world = start(world).await;
    let open = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    let list = revocation_list(&PKI.ca, &[&PKI.bob], time::Duration::DAY);
    fs::write(world.file("ca.crl"), list).unwrap();
    world.gate.reload();
    all_end(&world, open, "revoked", "the credential is no longer accepted").await;
    world.stop().await;
}

/// Seen red: without waiting for the end, since the rounds are an hour apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_ends_its_streams() {
    let world = World::builder()
        .set("streams.recheckInterval", "1h")
        .set("streams.maxUnverified", "2h");
    let world = start(world).await;
    let life = time::Duration::seconds(4);
    let spec = CertificateSpec::client("bob")
        .group("admins")
        .valid(-time::Duration::HOUR, life);
    let short = PKI.client("short", &spec).unwrap();
    let open = Live::open_all(&world, Shows::Certificate(&short)).await;
    all_end(&world, open, "expired", "the credential has expired").await;
    world.stop().await;
}

/// The list that was in force when the stream began is renewed. The certificate's own end is noticed.
///
/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_after_its_list_was_renewed_ends_its_streams() {
    let world = revoking(&[])
        .set("streams.recheckInterval", "1h")
        .set("streams.maxUnverified", "2h");
    let world = start(world).await;
    let take_up = |life| {
        fs::write(world.file("ca.crl"), revocation_list(&PKI.ca, &[], life)).unwrap();
        world.gate.reload();
    };
    take_up(time::Duration::seconds(5));
    let spec = CertificateSpec::client("bob")
        .group("admins")
        .valid(-time::Duration::HOUR, time::Duration::seconds(8));
    let short = PKI.client("short", &spec).unwrap();
    let open = Live::open_all(&world, Shows::Certificate(&short)).await;
    take_up(time::Duration::DAY);
    all_end(&world, open, "expired", "the credential has expired").await;
    world.stop().await;
}

/// Seen red: with an expired token left to the API server, which knows this one still.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_ends_its_streams() {
    use base64::Engine as _;
    let world = World::builder()
        .set("streams.recheckInterval", "1h")
        .set("streams.maxUnverified", "2h");
    let world = start(world).await;
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let exp = time::OffsetDateTime::now_utc().unix_timestamp() + 4;
    let token = format!(
        "{}.{}.c2ln",
        part(json!({"alg": "RS256"})),
        part(json!({"exp": exp}))
    );
    world.api.add_token(&token, User::new("bob", &["admins"]));
    let open = Live::open_all(&world, Shows::Token(&token)).await;
    all_end(&world, open, "expired", "the credential has expired").await;
    world.stop().await;
}

/// Seen red: with the remembered review of the token taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_api_server_rejects_ends_its_streams() {
    let world = start(watchful(World::builder())).await;
    let open = Live::open_all(&world, Shows::Token(ADMIN_TOKEN)).await;
    world.api.revoke_token(ADMIN_TOKEN);
    all_end(&world, open, "revoked", "the credential is no longer accepted").await;
    let again = world.token_client(ADMIN_TOKEN).get("/healthz").await.unwrap();
    assert_eq!(again.status(), 401, "the remembered review is replaced");
    world.stop().await;
}

/// A token whose user is another one now is no longer this stream's. Seen red: without
/// the comparison of names.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_becomes_another_users_ends_its_streams() {
    let world = start(watchful(World::builder())).await;
    let open = Live::open_all(&world, Shows::Token(ADMIN_TOKEN)).await;
    world
        .api
        .add_token(ADMIN_TOKEN, User::new("mallory", &["admins"]));
    all_end(&world, open, "revoked", "the credential is no longer accepted").await;
    world.stop().await;
}

/// Seen red: with remembered reviews taken, for as long as they live.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_withdrawn_ends_the_streams_of_its_user_and_of_no_other() {
    let world = start(watchful(World::builder())).await;
    world.api.set_rules(vec![
        Rule::allow(Subject::user("alice"), &["*"], &["*"]),
        Rule::allow(Subject::user("bob"), &["*"], &["*"]),
    ]);
    let bob = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    let mut alice = Live::open_all(&world, Shows::Certificate(&PKI.alice)).await;
    world
        .api
        .set_rules(vec![Rule::allow(Subject::user("alice"), &["*"], &["*"])]);
    for live in bob {
        live.assert_ended(1008, "the user is no longer allowed this")
            .await;
    }
    assert_eq!(
        world
            .client("bob")
            .get("/containerLogs/default/web/nginx")
            .await
            .unwrap()
            .status(),
        403,
        "the remembered allow is replaced"
    );
    for live in &mut alice {
        live.assert_alive().await;
    }
    // A group's right ends as well, and with it what alice has.
    world.api.set_rules(Vec::new());
    for live in alice {
        live.assert_ended(1008, "the user is no longer allowed this")
            .await;
    }
    no_stream_is_left(&world).await;
    ended(&world, "not_allowed", 8.0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_its_longest_life() {
    let world = start(World::builder().set("streams.maxLifetime", "1s")).await;
    let began = std::time::Instant::now();
    let open = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    all_end(
        &world,
        open,
        "lifetime",
        "the stream has lasted as long as it may",
    )
    .await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    world.stop().await;
}

/// An idle shell is ended by the gate as well, and its client is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_client_is_told_of_every_end_that_the_gate_makes() {
    let world = World::builder()
        .set("streamingConnectionIdleTimeout", "300ms")
        .start()
        .await;
    let idle = Live::open(&world, Kind::WebSocket, Shows::Certificate(&PKI.bob)).await;
    idle.assert_ended(1008, "no byte has passed for too long").await;
    world.stop().await;
}

/// While the client reads a flood of data, a close frame anywhere but between two frames would be data.
///
/// Seen red: with the close frame written at once: the client sees a broken frame, or none.
#[tokio::test(flavor = "multi_thread")]
async fn the_close_frame_comes_between_two_frames_of_a_busy_stream() {
    let world = watchful(World::builder()).start().await;
    // 40 MB in frames of odd sizes.
    let mut flood = Vec::new();
    for number in 0..400_u32 {
        let payload = 70_001 + 173 * number;
        flood.extend_from_slice(&[0x82, 127, 0, 0, 0, 0]);
        flood.extend_from_slice(&payload.to_be_bytes());
        flood.resize(flood.len() + payload as usize, 0x88);
    }
    world.kubelet.adjust(move |knobs| {
        knobs.raw_websockets = true;
        knobs.early_stream_bytes = flood.into();
    });
    let answer = world
        .client("bob")
        .websocket(CAT, &["v5.channel.k8s.io"], &[])
        .await;
    let mut session = answer.unwrap().switched().unwrap();
    let mut frames = 0;
    let mut read = async || -> Option<usize> { Some(session.next().await.unwrap()?.len()) };
    while frames < 20 {
        assert_eq!(read().await, Some(70_001 + 173 * frames));
        frames += 1;
    }
    world.api.set_rules(Vec::new());
    let mut slowly = tokio::time::interval(Duration::from_millis(10));
    while let Some(length) = read().await {
        assert_eq!(length, 70_001 + 173 * frames);
        frames += 1;
        assert!(frames < 400, "the flood is over");
        slowly.tick().await;
    }
    no_stream_is_left(&world).await;
    ended(&world, "not_allowed", 1.0).await;
    world.stop().await;
}

/// A client that reads nothing cannot be told, and must not live on for that.
///
/// Seen red: without the deadline for the goodbye, and with the follow's end left to its
/// body, which is not polled.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_all_the_same() {
    let world = watchful(World::builder()).start().await;
    let flood = bytes::Bytes::from(vec![0; 40 << 20]);
    let log = [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2800000\r\n"[..],
        &flood,
    ];
    let fault = fakes::kubelet::Fault::Raw {
        bytes: log.concat().into(),
        close: false,
    };
    world.kubelet.fail("/containerLogs", fault);
    world.kubelet.adjust(move |knobs| {
        knobs.raw_websockets = true;
        knobs.early_stream_bytes = flood;
    });
    let mut open = Vec::new();
    for kind in KINDS {
        open.push(Live::open(&world, kind, Shows::Certificate(&PKI.bob)).await);
    }
    world.api.set_rules(Vec::new());
    no_stream_is_left(&world).await;
    ended(&world, "not_allowed", 4.0).await;
    drop(open);
    world.stop().await;
}

/// Changes the configuration while the gate runs, as an operator does with SIGHUP.
fn reconfigure(world: &World, key: &str, value: Value) {
    let path = world.file("kubelet-gate.yaml");
    let mut file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let mut at = &mut file;
    for name in key.split('.') {
        at = &mut at[name];
    }
    *at = value;
    fs::write(&path, file.to_string()).unwrap();
    world.gate.reload();
}

/// New rules count for what is running: an operator who takes a name off a list means the shells, too.
///
/// Seen red: with a stream judged by the rules that it began under.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_change_end_the_streams_that_they_refuse_at_once() {
    use Kind::{Http1Log, Http2Log, Spdy, WebSocket};
    let (shells, logs) = ([WebSocket, Spdy], [Http1Log, Http2Log]);
    let bob = Shows::Certificate(&PKI.bob);
    let revoked = "the credential is no longer accepted";
    let not_allowed = "the user is no longer allowed this";
    for (key, before, after, shows, end, stay, why) in [
        (
            "authorization.interactive.allowedUsers",
            json!(["bob"]),
            json!(["alice"]),
            bob,
            &shells[..],
            &logs[..],
            not_allowed,
        ),
        (
            "authorization.paths.deny",
            json!([]),
            json!(["/containerLogs"]),
            bob,
            &logs[..],
            &shells[..],
            not_allowed,
        ),
        (
            "authorization.mode",
            json!("AlwaysAllow"),
            json!("Webhook"),
            Shows::Certificate(&PKI.alice),
            &KINDS[..],
            &[],
            not_allowed,
        ),
        (
            "authorization.interactive.requireCreate",
            json!(false),
            json!(true),
            Shows::Token(PROXY_GET_TOKEN),
            &[WebSocket],
            &logs[..],
            not_allowed,
        ),
        (
            "authentication.webhook.enabled",
            json!(true),
            json!(false),
            Shows::Token(ADMIN_TOKEN),
            &KINDS[..],
            &[],
            revoked,
        ),
    ] {
        let world = World::builder()
            .set("streams.recheckInterval", "1h")
            .set("streams.maxUnverified", "2h")
            .set(key, before);
        let world = start(world).await;
        let path = world.file("kubelet-gate.yaml");
        let flags = KubeletFlags::default();
        let settings = Settings::load(&path, &flags).unwrap();
        world.gate.follow_configuration(path, flags, settings);
        let (mut ending, mut staying) = (Vec::new(), Vec::new());
        for kind in end {
            ending.push(Live::open(&world, *kind, shows).await);
        }
        for kind in stay {
            staying.push(Live::open(&world, *kind, shows).await);
        }
        for live in ending.iter_mut().chain(&mut staying) {
            live.assert_alive().await;
        }
        reconfigure(&world, key, after);
        assert_eq!(
            world.metric("reloads_total", &[("what", "configuration"), ("result", "ok")]),
            1.0,
            "{key}"
        );
        let count = ending.len() as f64;
        for live in ending {
            live.assert_ended(1008, why).await;
        }
        for live in &mut staying {
            live.assert_alive().await;
        }
        let by = if why == revoked { "revoked" } else { "not_allowed" };
        ended(&world, by, count).await;
        drop(staying);
        world.stop().await;
    }
}

/// A deny list stands above what is remembered, and above an API server that does not answer.
///
/// Seen red: with the lists asked about the identity only after the review of its token.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_a_deny_list_ends_the_streams_that_it_names_at_once() {
    let bob = Shows::Certificate(&PKI.bob);
    let admin = Shows::Token(ADMIN_TOKEN);
    let key = PKI.bob.certificate_pem();
    for (entries, shows, by, why) in [
        (
            key.as_str(),
            bob,
            "revoked",
            "the credential is no longer accepted",
        ),
        (
            "user bob\n",
            bob,
            "not_allowed",
            "the user is no longer allowed this",
        ),
        (
            "group admins\n",
            admin,
            "not_allowed",
            "the user is no longer allowed this",
        ),
    ] {
        let world = listing()
            .set("streams.recheckInterval", "1h")
            .set("streams.maxUnverified", "2h");
        let world = start(world).await;
        let open = Live::open_all(&world, shows).await;
        world.api.behave_all(Behaviour::Hang);
        deny(&world, entries);
        all_end(&world, open, by, why).await;
        world.api.heal();
        world.stop().await;
    }
}
