//! One event as a line of JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::event;
use crate::audit::event::Clock;
use crate::audit::redaction::Redaction;
use crate::audit::{AuditId, Decision, Event, ObjectRef, StreamEnd, UserJson};
use crate::error::Station;
use crate::settings::AuditCommands;

fn line(event: &Event<'_>) -> String {
    let mut out = Vec::new();
    event.write(
        &mut out,
        &mut Clock::default(),
        &Redaction::new(AuditCommands::Hash).unwrap(),
    );
    String::from_utf8(out).unwrap()
}

fn parsed(event: &Event<'_>) -> Value {
    let line = line(event);
    assert!(
        line.ends_with('\n') && line.matches('\n').count() == 1,
        "{line:?}"
    );
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_full_event_equals_the_api_servers() {
    let extra = BTreeMap::from([(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec!["X509SHA256=ab".to_owned()],
    )]);
    let user = UserJson::new(
        "jane \"J\"",
        "7",
        &["dev".to_owned(), "system:authenticated".to_owned()],
        &extra,
    );
    let event = Event {
        request_uri: b"/exec/ns/pod/c?access_token=x",
        verb: "create",
        user: Some(&user),
        peer: "::ffff:192.0.2.7".parse().unwrap(),
        user_agent: Some(b"kubectl/v1.36"),
        object: Some(ObjectRef {
            node: "worker-1",
            subresource: "proxy",
        }),
        code: Some(101),
        received: UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_042),
        stage_time: UNIX_EPOCH + Duration::from_micros(1_700_000_001_999_999),
        decision: Some(Decision::Allow),
        reason: Some("RBAC: allowed"),
        client_audit_id: Some(b"mine"),
        error: Some("connection reset"),
        station: Some(Station::Forward),
        stream: Some(StreamEnd {
            bytes_received: 1,
            bytes_sent: 22,
            ended_by: "idle",
        }),
        ..event()
    };
    let expected = concat!(
        r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"ID","#,
        r#""stage":"ResponseComplete","requestURI":"/exec/ns/pod/c?access_token=redacted","verb":"create","#,
        r#""user":{"username":"jane \"J\"","uid":"7","groups":["dev","system:authenticated"],"#,
        r#""extra":{"authentication.kubernetes.io/credential-id":["X509SHA256=ab"]}},"#,
        r#""sourceIPs":["192.0.2.7"],"userAgent":"kubectl/v1.36","#,
        r#""objectRef":{"resource":"nodes","name":"worker-1","apiVersion":"v1","subresource":"proxy"},"#,
        r#""responseStatus":{"metadata":{},"code":101},"#,
        r#""requestReceivedTimestamp":"2023-11-14T22:13:20.000042Z","stageTimestamp":"2023-11-14T22:13:21.999999Z","#,
        r#""annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed","#,
        r#""kubelet-gate.dev/client-audit-id":"mine","kubelet-gate.dev/error":"connection reset","#,
        r#""kubelet-gate.dev/station":"forward","kubelet-gate.dev/bytes-received":"1","#,
        r#""kubelet-gate.dev/bytes-sent":"22","kubelet-gate.dev/ended-by":"idle"}}"#,
        "\n",
    );
    assert_eq!(
        line(&event),
        expected.replace("\"ID\"", &format!("\"{}\"", event.id))
    );
}

#[test]
fn an_event_leaves_out_unknown_fields() {
    let event = event();
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata",
        "auditID": event.id.to_string(),
        "stage": "ResponseComplete", "requestURI": "/pods", "verb": "get", "user": {},
        "sourceIPs": ["127.0.0.1"],
        "requestReceivedTimestamp": "1970-01-01T00:00:00.000000Z",
        "stageTimestamp": "1970-01-01T00:00:00.000000Z",
    });
    assert_eq!(parsed(&event), expected);
    let forbidden = Event {
        decision: Some(Decision::Forbid),
        ..event
    };
    assert_eq!(
        parsed(&forbidden)["annotations"],
        json!({"authorization.k8s.io/decision": "forbid"})
    );
}

#[test]
fn long_fields_are_cut_on_a_character() {
    let long = "x€".repeat(4000);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let event = parsed(&Event {
        request_uri: long.as_bytes(),
        user_agent: Some(long.as_bytes()),
        reason: Some(&long),
        error: Some(&long),
        client_audit_id: Some(long.as_bytes()),
        ..event()
    });
    let annotations = &event["annotations"];
    for (value, limit) in [
        (&annotations["authorization.k8s.io/reason"], 512),
        (&annotations["kubelet-gate.dev/error"], 512),
        (&annotations["kubelet-gate.dev/client-audit-id"], 128),
    ] {
        let cut = text(value);
        let cut = cut.strip_suffix("...TRUNCATED").unwrap();
        assert!(
            long.starts_with(cut) && (limit - 3..=limit).contains(&cut.len()),
            "{}",
            cut.len()
        );
    }
}

/// Seen red: with the invalid bytes counted before they became three bytes each.
#[test]
fn a_long_target_and_agent_end_with_the_length_and_hash_of_the_rest() {
    let redaction = Redaction::new(AuditCommands::Hash).unwrap();
    let shown = |uri: &[u8], agent: &[u8]| {
        let event = Event {
            request_uri: uri,
            user_agent: Some(agent),
            ..event()
        };
        let mut out = Vec::new();
        event.write(&mut out, &mut Clock::default(), &redaction);
        let value: Value = serde_json::from_slice(&out).unwrap();
        [&value["requestURI"], &value["userAgent"]].map(|text| text.as_str().unwrap().to_owned())
    };
    for (uri, agent) in [(4096, 512), (4097, 513), (100_000, 100_000)] {
        for unit in ["y", "€", "\u{80}"] {
            let long = |bytes: usize| unit.repeat(bytes / unit.len() + 1)[..].to_owned();
            for (text, limit) in shown(long(uri).as_bytes(), long(agent).as_bytes())
                .iter()
                .zip([4096, 512])
            {
                assert!(text.len() <= limit && text.len() > limit - 64, "{}", text.len());
                assert!(
                    text.ends_with(')') && text.contains(" bytes more, hmac:"),
                    "{text}"
                );
            }
        }
        let [uri, agent] = shown(&vec![0xff; uri], &vec![0xff; agent]);
        assert!(uri.len() <= 4096 && agent.len() <= 512);
    }
    let exact = ["x".repeat(4096), "y".repeat(512)];
    assert_eq!(shown(exact[0].as_bytes(), exact[1].as_bytes()), exact);
    // Two that differ only in what is left out can be told apart, and equal ones are equal.
    let end = |end: &str| shown(format!("{}{end}", "x".repeat(9000)).as_bytes(), b"")[0].clone();
    assert_ne!(end("a"), end("b"));
    assert_eq!(end("a"), end("a"));
    assert!(end("a").ends_with(&format!(
        "({} bytes more, {})",
        9001 - 4040,
        redaction.hash(&[&b"x".repeat(9000 - 4040)[..], b"a"].concat())
    )));
}

/// Seen red: with serde_json's own escapes, all but those below U+0020 were written raw.
#[test]
fn nothing_in_a_line_acts_on_a_terminal_or_hides() {
    let hidden = "\u{7f}\u{80}\u{9b}31m\u{9f}\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\
                  \u{fff9}\u{e0041}\u{1}\r\n\t";
    let user = UserJson::new(hidden, hidden, &[hidden.to_owned()], &BTreeMap::new());
    let event = Event {
        request_uri: hidden.as_bytes(),
        verb: hidden,
        user: Some(&user),
        user_agent: Some(hidden.as_bytes()),
        object: Some(ObjectRef {
            node: hidden,
            subresource: hidden,
        }),
        reason: Some(hidden),
        client_audit_id: Some(hidden.as_bytes()),
        error: Some(hidden),
        ..event()
    };
    let line = line(&event);
    let raw = line
        .trim_end_matches('\n')
        .chars()
        .find(|char| !matches!(char, ' '..='~'));
    assert_eq!(raw, None, "{line:?}");
    let value: Value = serde_json::from_str(&line).unwrap();
    for text in [
        &value["requestURI"],
        &value["userAgent"],
        &value["user"]["username"],
    ] {
        assert_eq!(text, hidden, "a reader gets back what was sent");
    }
    // What has a shape stays legible.
    let name = UserJson::new("jürgen 東京 €", "", &[], &BTreeMap::new());
    assert!(format!("{name:?}").contains("jürgen 東京 €"));
}

#[test]
fn a_secret_at_the_cut_stays_hidden() {
    for padding in 3990..4110 {
        let uri = format!("/exec/a/b/c?x={}&token=SECRETSECRETSECRET", "y".repeat(padding));
        assert!(
            !line(&Event {
                request_uri: uri.as_bytes(),
                ..event()
            })
            .contains("SEC")
        );
    }
}

#[test]
fn ids_are_distinct_version_4_uuids() {
    let threads: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(|| (0..25_000).map(|_| AuditId::random()).collect::<Vec<_>>()))
        .collect();
    let ids: Vec<_> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    for id in ids.iter().take(1000) {
        let text = id.to_string();
        let parts: Vec<_> = text.split('-').collect();
        assert_eq!(
            parts.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(
            parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']),
            "{text}"
        );
        assert!(
            parts
                .concat()
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
            "{text}"
        );
    }
    assert_eq!(
        ids.iter().collect::<std::collections::HashSet<_>>().len(),
        100_000
    );
}

#[test]
fn the_clock_follows_time_in_both_directions() {
    let mut clock = Clock::default();
    for (micros, expected) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
        (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        (951_782_399_000_010, "2000-02-28T23:59:59.000010Z"),
    ] {
        let mut out = Vec::new();
        clock.write(&mut out, UNIX_EPOCH + Duration::from_micros(micros));
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let mut out = Vec::new();
    clock.write(&mut out, UNIX_EPOCH - Duration::from_secs(1));
    assert_eq!(
        out, b"1970-01-01T00:00:00.000000Z",
        "a clock before 1970 is no reason to panic"
    );
}

proptest! {
    #[test]
    fn every_line_reads_back_as_what_was_written(
        uri in prop::collection::vec(any::<u8>(), 0..300),
        user_agent in prop::option::of(prop::collection::vec(any::<u8>(), 0..170)),
        client_audit_id in prop::option::of(prop::collection::vec(any::<u8>(), 0..42)),
        username in any::<String>(),
        group in any::<String>(),
        verb in any::<String>(),
        node in any::<String>(),
        subresource in any::<String>(),
        reason in prop::option::of("\\PC{0,100}"),
        error in prop::option::of(any::<String>()),
        peer in any::<IpAddr>(),
        code in prop::option::of(any::<u16>()),
        micros in 0u64..4_000_000_000_000_000,
    ) {
        let user = UserJson::new(&username, "", std::slice::from_ref(&group), &BTreeMap::new());
        let received = UNIX_EPOCH + Duration::from_micros(micros);
        let value = parsed(&Event {
            request_uri: &uri,
            user_agent: user_agent.as_deref(),
            client_audit_id: client_audit_id.as_deref(),
            user: Some(&user),
            verb: &verb,
            object: Some(ObjectRef { node: &node, subresource: &subresource }),
            reason: reason.as_deref(),
            error: error.as_deref(),
            peer,
            code,
            received,
            ..event()
        });
        let shown = Redaction::new(AuditCommands::Show).unwrap().uri(&uri).into_owned();
        if shown == uri {
            prop_assert_eq!(&value["requestURI"], &*String::from_utf8_lossy(&uri));
        }
        let user_agent = user_agent.as_deref().map(String::from_utf8_lossy);
        prop_assert_eq!(value["userAgent"].as_str(), user_agent.as_deref());
        let annotations = &value["annotations"];
        let id = client_audit_id.as_deref().map(String::from_utf8_lossy);
        prop_assert_eq!(annotations["kubelet-gate.dev/client-audit-id"].as_str(), id.as_deref());
        prop_assert_eq!(annotations["authorization.k8s.io/reason"].as_str(), reason.as_deref());
        prop_assert_eq!(annotations["kubelet-gate.dev/error"].as_str(), error.as_deref());
        prop_assert_eq!(value["user"]["username"].as_str().unwrap_or(""), username);
        prop_assert_eq!(&value["user"]["groups"], &json!([group]));
        prop_assert_eq!(&value["verb"], &*verb);
        prop_assert_eq!(&value["objectRef"]["name"], &*node);
        prop_assert_eq!(&value["objectRef"]["subresource"], &*subresource);
        prop_assert_eq!(&value["sourceIPs"], &json!([peer.to_canonical().to_string()]));
        prop_assert_eq!(value["responseStatus"]["code"].as_u64(), code.map(u64::from));
        let time = value["requestReceivedTimestamp"].as_str().unwrap();
        let time = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).unwrap();
        prop_assert_eq!(SystemTime::from(time), received);
    }
}
