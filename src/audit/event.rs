//! The `audit.k8s.io/v1` Event, written by hand into a buffer: each request makes one, on the hot path.
//!
//! The fields are in the API server's order. Text from outside is escaped, and cut to a limit.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::redaction::Redaction;
use super::text::{cut_string, json_text, shortened, string};
use crate::error::Station;
use crate::hex;
use crate::timestamp::timestamp;

/// What happened to one request; borrows from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event<'a> {
    /// The same on both lines of a stream.
    pub id: AuditId,
    /// The rate that it counts against.
    pub rate: EventRate,
    /// What became of the request, in one word: `allow`, or why not.
    pub outcome: &'static str,
    /// The stage that the request has reached.
    pub stage: EventStage,
    /// Path and query as received. Commands and credentials are hidden when it is written.
    pub request_uri: &'a [u8],
    /// The verb that was authorized (`get`, `create` …); empty before that is known.
    pub verb: &'a str,
    /// The user; `None` if the request was not authenticated.
    pub user: Option<&'a UserJson>,
    /// The TCP peer. `X-Forwarded-For` is ignored: any client can set it.
    pub peer: IpAddr,
    /// The `User-Agent` header's bytes.
    pub user_agent: Option<&'a [u8]>,
    /// What was asked for; `None` if the request was refused before that was known.
    pub object: Option<ObjectRef<'a>>,
    /// The status of the answer; `None` if the client left before there was one.
    pub code: Option<u16>,
    /// When the request's head was read.
    pub received: SystemTime,
    /// When it reached `stage`.
    pub stage_time: SystemTime,
    /// The decision of authorization; `None` if there was none.
    pub decision: Option<Decision>,
    /// The reason for the decision, in the API server's words or the gate's.
    pub reason: Option<&'a str>,
    /// The reviews whose earlier answers were used, because the API server is unreachable.
    pub stale: Option<&'static str>,
    /// The `Audit-ID` header's bytes. They are recorded for correlation and never used as the event's id: the
    /// client chooses them.
    pub client_audit_id: Option<&'a [u8]>,
    /// What went wrong, for people to read.
    pub error: Option<&'a str>,
    /// The station that refused it, or at which it failed.
    pub station: Option<Station>,
    /// How an upgraded stream ended, on its second line.
    pub stream: Option<StreamEnd<'a>>,
}

/// The rate that an event counts against. Beyond it, requests are counted in a summary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EventRate {
    /// None: an interactive request that was allowed is always written.
    Unlimited,
    /// The rate of its user.
    User,
    /// The rate of its source for what an operator wants to see each time, though no user is known: refused
    /// certificates of a configured CA, tokens that were good once, interactive paths.
    Notable,
    /// The rate of its source for everything else without a user.
    Stranger,
}

/// A random version 4 UUID.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub(crate) struct AuditId([u8; 36]);

/// The stages that the gate writes; it writes no `RequestReceived`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EventStage {
    /// A stream's answer has begun; its end is still to come.
    ResponseStarted,
    /// The request is complete.
    ResponseComplete,
    /// The gate panicked.
    Panic,
}

/// `user`, serialised once per identity and copied into each of its events.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct UserJson {
    name: Box<str>,
    json: Box<str>,
}

/// `objectRef`: always this node's Node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectRef<'a> {
    /// The Node's name.
    pub node: &'a str,
    /// `proxy`, `metrics`, `pods` …
    pub subresource: &'a str,
}

/// `authorization.k8s.io/decision`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Decision {
    /// `allow`
    Allow,
    /// `forbid`
    Forbid,
}

/// How an upgraded stream ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamEnd<'a> {
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// `client`, `kubelet`, `idle`, `shutdown` …
    pub ended_by: &'a str,
}

/// The text of the second that was written last. Thousands of events share a second, so only the microseconds
/// are formatted for each; [`timestamp`] writes the second itself.
#[derive(Default)]
pub(super) struct Clock {
    second: Option<u64>,
    second_text: String,
}

// === impl Event ===

impl Event<'_> {
    /// Appends the event to `out`, as one line.
    pub(super) fn write(&self, out: &mut Vec<u8>, clock: &mut Clock, redaction: &Redaction) {
        out.extend_from_slice(
            br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":""#,
        );
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(br#"","stage":""#);
        out.extend_from_slice(self.stage.as_str().as_bytes());
        out.extend_from_slice(br#"","requestURI":"#);
        // Secrets are hidden before the text is cut: after a cut within a name, its value would not be
        // recognised.
        let uri = redaction.uri(self.request_uri);
        string(out, shortened(&uri, URI_LIMIT, redaction).as_bytes());
        out.extend_from_slice(br#","verb":"#);
        string(out, self.verb.as_bytes());
        out.extend_from_slice(br#","user":"#);
        out.extend_from_slice(self.user.map_or("{}", |user| &user.json).as_bytes());
        out.extend_from_slice(br#","sourceIPs":[""#);
        formatted(out, format_args!("{}", self.peer.to_canonical()));
        out.extend_from_slice(br#""]"#);
        if let Some(user_agent) = self.user_agent {
            out.extend_from_slice(br#","userAgent":"#);
            string(out, shortened(user_agent, USER_AGENT_LIMIT, redaction).as_bytes());
        }
        if let Some(object) = self.object {
            out.extend_from_slice(br#","objectRef":{"resource":"nodes","name":"#);
            string(out, object.node.as_bytes());
            out.extend_from_slice(br#","apiVersion":"v1","subresource":"#);
            string(out, object.subresource.as_bytes());
            out.push(b'}');
        }
        if let Some(code) = self.code {
            out.extend_from_slice(br#","responseStatus":{"metadata":{},"code":"#);
            formatted(out, format_args!("{code}"));
            out.push(b'}');
        }
        out.extend_from_slice(br#","requestReceivedTimestamp":""#);
        clock.write(out, self.received);
        out.extend_from_slice(br#"","stageTimestamp":""#);
        clock.write(out, self.stage_time);
        out.push(b'"');
        self.write_annotations(out);
        out.extend_from_slice(b"}\n");
    }

    fn write_annotations(&self, out: &mut Vec<u8>) {
        let mut before: &[u8] = br#","annotations":{""#;
        let mut name = |out: &mut Vec<u8>, name: &str| {
            out.extend_from_slice(before);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(br#"":"#);
            before = br#",""#;
        };
        if let Some(decision) = self.decision {
            name(out, "authorization.k8s.io/decision");
            out.extend_from_slice(match decision {
                Decision::Allow => br#""allow""#,
                Decision::Forbid => br#""forbid""#,
            });
        }
        if let Some(reason) = self.reason {
            name(out, "authorization.k8s.io/reason");
            cut_string(out, reason.as_bytes(), TEXT_LIMIT);
        }
        if let Some(stale) = self.stale {
            name(out, "kubelet-gate.dev/stale");
            string(out, stale.as_bytes());
        }
        if let Some(id) = self.client_audit_id {
            name(out, "kubelet-gate.dev/client-audit-id");
            cut_string(out, id, CLIENT_ID_LIMIT);
        }
        if let Some(error) = self.error {
            name(out, "kubelet-gate.dev/error");
            cut_string(out, error.as_bytes(), TEXT_LIMIT);
        }
        if let Some(station) = self.station {
            name(out, "kubelet-gate.dev/station");
            string(out, station.as_str().as_bytes());
        }
        if let Some(stream) = self.stream {
            // Annotations map strings to strings, so numbers are written as strings.
            name(out, "kubelet-gate.dev/bytes-received");
            formatted(out, format_args!("\"{}\"", stream.bytes_received));
            name(out, "kubelet-gate.dev/bytes-sent");
            formatted(out, format_args!("\"{}\"", stream.bytes_sent));
            name(out, "kubelet-gate.dev/ended-by");
            cut_string(out, stream.ended_by.as_bytes(), TEXT_LIMIT);
        }
        if before == br#",""# {
            out.push(b'}');
        }
    }
}

// === impl AuditId ===

impl AuditId {
    /// A new one.
    ///
    /// It is the SipHash of a counter under two random keys of this thread: unique, unpredictable from other
    /// ids, infallible, and ten times faster than the random generator.
    pub(crate) fn random() -> Self {
        thread_local! {
            static IDS: (RandomState, RandomState, Cell<u64>) =
                (RandomState::new(), RandomState::new(), Cell::new(0));
        }
        IDS.with(|(high, low, counter)| {
            let number = counter.get();
            counter.set(number.wrapping_add(1));
            Self::from_random(u128::from(high.hash_one(number)) << 64 | u128::from(low.hash_one(number)))
        })
    }

    fn from_random(random: u128) -> Self {
        let mut bytes = random.to_be_bytes();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at..at + 2].copy_from_slice(&hex::digits(*byte));
            at += 2;
        }
        Self(text)
    }
}

impl fmt::Display for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for AuditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl UserJson ===

impl UserJson {
    /// `user` with these fields. Empty ones are left out, as Kubernetes does.
    pub(crate) fn new(
        username: &str,
        uid: &str,
        groups: &[String],
        extra: &BTreeMap<String, Vec<String>>,
    ) -> Self {
        #[derive(Serialize)]
        struct UserFields<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            username: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            uid: &'a str,
            #[serde(skip_serializing_if = "<[String]>::is_empty")]
            groups: &'a [String],
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            extra: &'a BTreeMap<String, Vec<String>>,
        }
        let json = json_text(&UserFields {
            username,
            uid,
            groups,
            extra,
        });
        Self {
            name: username.into(),
            json: json.into_boxed_str(),
        }
    }

    /// The user's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for UserJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.json)
    }
}

// === impl EventStage ===

impl EventStage {
    fn as_str(self) -> &'static str {
        match self {
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

// === impl Clock ===

impl Clock {
    /// As [`Self::write`], as text.
    pub(super) fn text(&mut self, time: SystemTime) -> String {
        let mut out = Vec::new();
        self.write(&mut out, time);
        String::from_utf8(out).unwrap_or_default()
    }

    /// RFC 3339 with microseconds in UTC, as Kubernetes' `MicroTime`.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second_text = timestamp(UNIX_EPOCH + Duration::from_secs(since.as_secs()));
            self.second = Some(since.as_secs());
        }
        out.extend_from_slice(self.second_text.trim_end_matches('Z').as_bytes());
        let mut micros = since.subsec_micros();
        let mut digits = *b".000000Z";
        for digit in digits[1..7].iter_mut().rev() {
            *digit += (micros % 10) as u8;
            micros /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

fn formatted(out: &mut Vec<u8>, arguments: fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(arguments);
}

const URI_LIMIT: usize = 4 * 1024;
const USER_AGENT_LIMIT: usize = 512;
const TEXT_LIMIT: usize = 512;
const CLIENT_ID_LIMIT: usize = 128;
