//! Fuzz target: whatever a request says, its event is one line of JSON that says the same, without its
//! secrets.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target tells what it found"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::event::{AuditId, Clock, Decision, Event, EventRate, EventStage, ObjectRef, StreamEnd, UserJson};
use super::redaction::Redaction;
use crate::settings::AuditCommands;

/// What no line may show.
const SECRET: &str = "S3CR3T-MARK";

/// A byte of choices, then texts that end with NUL: target, user agent, the client's audit id, user, uid,
/// group, verb, node, subresource, reason, error.
///
/// # Panics
/// The line is not one of valid JSON, says something else than the event, or shows a secret.
pub(crate) fn audit_line(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    if rest.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()) {
        return;
    }
    let texts: Vec<&[u8]> = rest.split(|byte| *byte == 0).collect();
    let bytes = |at: usize| texts.get(at).copied();
    let text = |at: usize| bytes(at).map(|text| String::from_utf8_lossy(text).into_owned());
    let set = |bit: u8| choice & 1 << bit != 0;
    let named = |at: usize| text(at).unwrap_or_default();
    let (username, uid, groups) = (named(3), named(4), vec![named(5)]);
    let user = UserJson::new(&username, &uid, &groups, &BTreeMap::new());
    let (verb, node, subresource) = (named(6), named(7), named(8));
    let (reason, error) = (text(9), text(10));
    // Secrets of the kinds that a client of the kubelet puts into a target, wherever that ends.
    let secrets = format!("access_token={SECRET}&command={SECRET}&x=1&y=Bearer%20{SECRET}&token={SECRET}");
    let target = bytes(0).unwrap_or_default();
    let mark: &[u8] = if target.contains(&b'?') { b"&" } else { b"?" };
    let request_uri = [target, mark, secrets.as_bytes()].concat();
    let micros = u64::try_from(rest.len()).unwrap_or_default() * 999_999_937;
    let received = UNIX_EPOCH + Duration::from_micros(micros);
    let event = Event {
        id: AuditId::random(),
        rate: EventRate::User,
        outcome: "allow",
        stage: if set(0) {
            EventStage::ResponseStarted
        } else {
            EventStage::Panic
        },
        request_uri: &request_uri,
        verb: &verb,
        user: set(1).then_some(&user),
        peer: if set(2) {
            IpAddr::V6(Ipv4Addr::new(192, 0, 2, *choice).to_ipv6_mapped())
        } else {
            IpAddr::V6(Ipv6Addr::from(u128::from(*choice)))
        },
        user_agent: bytes(1),
        object: set(3).then_some(ObjectRef {
            node: &node,
            subresource: &subresource,
        }),
        code: set(4).then_some(u16::from(*choice)),
        received,
        stage_time: received,
        decision: set(5).then_some(Decision::Forbid),
        reason: reason.as_deref(),
        stale: None,
        client_audit_id: bytes(2),
        error: error.as_deref(),
        station: None,
        stream: set(6).then_some(StreamEnd {
            bytes_received: micros,
            bytes_sent: u64::MAX,
            ended_by: "idle",
        }),
    };
    let redaction = Redaction::new(if set(7) {
        AuditCommands::Hash
    } else {
        AuditCommands::Omit
    });
    let mut line = Vec::new();
    event.write(
        &mut line,
        &mut Clock::default(),
        &redaction.expect("random numbers"),
    );
    let line = String::from_utf8(line).expect("text");
    assert!(!line.contains(SECRET), "{line}");
    let content = line.strip_suffix('\n').expect("a line");
    assert!(!content.contains(char::is_control), "{content:?}");
    let value: Value = serde_json::from_str(content).expect("JSON");
    let annotations = &value["annotations"];
    is_said(&value["userAgent"], text(1).as_deref(), 512);
    is_said(
        &annotations["kubelet-gate.dev/client-audit-id"],
        text(2).as_deref(),
        128,
    );
    is_said(
        &annotations["authorization.k8s.io/reason"],
        reason.as_deref(),
        512,
    );
    is_said(&annotations["kubelet-gate.dev/error"], error.as_deref(), 512);
    let of_user = |text: &str| (set(1) && !text.is_empty()).then(|| text.to_owned());
    assert_eq!(value["user"]["username"].as_str(), of_user(&username).as_deref());
    assert_eq!(value["user"]["uid"].as_str(), of_user(&uid).as_deref());
    assert_eq!(
        value["user"]["groups"][0].as_str(),
        set(1).then_some(groups[0].as_str())
    );
    assert_eq!(value["verb"], verb);
    assert_eq!(
        value["objectRef"]["name"].as_str(),
        set(3).then_some(node.as_str())
    );
    let subresource = set(3).then_some(subresource.as_str());
    assert_eq!(value["objectRef"]["subresource"].as_str(), subresource);
    assert_eq!(
        value["responseStatus"]["code"].as_u64(),
        set(4).then_some(u64::from(*choice))
    );
    assert_eq!(
        annotations["authorization.k8s.io/decision"].as_str(),
        set(5).then_some("forbid")
    );
    assert_eq!(value["sourceIPs"][0], event.peer.to_canonical().to_string());
    assert_eq!(value["auditID"], event.id.to_string());
}

/// Whether a value is this text, cut where it is longer than the limit.
fn is_said(value: &Value, text: Option<&str>, limit: usize) {
    match (value.as_str(), text) {
        (None, None) => {}
        (Some(said), Some(text)) if text.len() <= limit => assert_eq!(said, text),
        (Some(said), Some(text)) => {
            let same = said
                .bytes()
                .zip(text.bytes())
                .take_while(|(said, byte)| said == byte);
            // The length and the hash of the rest, and at most three bytes of a character that did not fit.
            let least = limit - 60;
            assert!(
                same.count() >= least && said.len() < limit + 20,
                "{said:?} for {text:?}"
            );
        }
        (said, text) => panic!("{said:?} for {text:?}"),
    }
}
