#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::event::Clock;
use super::redaction::Redaction;
use super::*;
use crate::cache::Cache;
use crate::error::Station;
use crate::settings::{self, AuditCommands, AuditMode, AuditSink};

const PATIENCE: Duration = Duration::from_secs(10);

fn event() -> Event<'static> {
    Event {
        id: AuditId::random(),
        stage: EventStage::ResponseComplete,
        request_uri: b"/pods",
        verb: "get",
        user: None,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user_agent: None,
        object: None,
        code: None,
        received: UNIX_EPOCH,
        stage_time: UNIX_EPOCH,
        decision: None,
        reason: None,
        client_audit_id: None,
        error: None,
        station: None,
        stream: None,
    }
}

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

fn settings(path: &Path, mode: AuditMode) -> settings::Audit {
    settings::Audit {
        sink: AuditSink::File(path.to_owned()),
        mode,
        commands: AuditCommands::Hash,
    }
}

fn verbs(path: &Path) -> Vec<String> {
    let lines = fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["verb"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        #[expect(
            clippy::disallowed_methods,
            reason = "a plain thread polls a condition; no runtime is blocked"
        )]
        std::thread::sleep(Duration::from_millis(1));
    }
}

// The event.

#[test]
fn a_full_event_is_the_api_servers_to_the_letter() {
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
fn a_bare_event_leaves_out_what_is_not_known() {
    let event = event();
    let expected = json!({
        "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": event.id.to_string(),
        "stage": "ResponseComplete", "requestURI": "/pods", "verb": "get", "user": {}, "sourceIPs": ["127.0.0.1"],
        "requestReceivedTimestamp": "1970-01-01T00:00:00.000000Z", "stageTimestamp": "1970-01-01T00:00:00.000000Z",
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
        (&event["requestURI"], 8192),
        (&event["userAgent"], 1024),
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
    let exact = "y".repeat(1024);
    let event = parsed(&Event {
        user_agent: Some(exact.as_bytes()),
        ..self::event()
    });
    assert_eq!(text(&event["userAgent"]), exact);
}

#[test]
fn a_secret_at_the_cut_stays_hidden() {
    for padding in 8150..8200 {
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
        user_agent in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        client_audit_id in prop::option::of(prop::collection::vec(any::<u8>(), 0..100)),
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

// The writer.

#[test]
fn lines_reach_the_file_in_order_and_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 64).unwrap();
    let expected: Vec<_> = (0..64).map(|number| number.to_string()).collect();
    for verb in &expected {
        audit.reserve().unwrap().write(&Event { verb, ..event() });
    }
    eventually(|| audit.pending() == 0);
    assert_eq!(verbs(&path), expected);
    assert_eq!((audit.written(), audit.dropped(), audit.errors()), (64, 0, 0));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    thread.shutdown(PATIENCE).unwrap();
}

#[test]
fn events_beyond_the_queue_are_dropped_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 2).unwrap();
    let (first, second) = (audit.reserve().unwrap(), audit.reserve().unwrap());
    assert!(audit.reserve().is_none());
    assert_eq!((audit.dropped(), audit.pending()), (1, 2));
    drop(first);
    let third = audit.reserve().expect("a slot that is not used is given back");
    second.write(&event());
    third.write(&event());
    eventually(|| audit.pending() == 0);
    assert_eq!((audit.written(), audit.dropped()), (2, 1));
    thread.shutdown(PATIENCE).unwrap();
}

#[tokio::test]
async fn blocking_waits_for_room_and_for_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Blocking), 1).unwrap();
    assert!(audit.is_blocking());
    let slot = audit.reserve_blocking().await;
    let mut second = Box::pin(audit.reserve_blocking());
    assert!(futures_poll(second.as_mut()).is_none(), "there is no room yet");
    slot.write_and_wait(&Event {
        verb: "first",
        ..event()
    })
    .await
    .unwrap();
    assert_eq!(verbs(&path), ["first"]);
    let second = tokio::time::timeout(PATIENCE, second).await.unwrap();
    second
        .write_and_wait(&Event {
            verb: "second",
            ..event()
        })
        .await
        .unwrap();
    assert_eq!(verbs(&path), ["first", "second"]);
    // Who does not stay for the news still leaves the event.
    drop(audit.reserve_blocking().await.write_and_wait(&Event {
        verb: "third",
        ..event()
    }));
    thread.shutdown(PATIENCE).unwrap();
    assert_eq!(verbs(&path), ["first", "second", "third"]);
    let late = audit.reserve_blocking().await.write_and_wait(&event()).await;
    assert!(matches!(late, Err(AuditError::Closed)));
    assert_eq!((audit.dropped(), audit.pending()), (1, 0));
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn blocking_does_not_linger() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Blocking), 4).unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        audit
            .reserve_blocking()
            .await
            .write_and_wait(&event())
            .await
            .unwrap();
    }
    // A hundred events one after another, each lingering for company, would take five seconds.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    thread.shutdown(PATIENCE).unwrap();
}

#[test]
fn a_full_disk_delays_events_and_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    symlink("/dev/full", &path).unwrap();
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 4).unwrap();
    for verb in ["a", "b"] {
        audit.reserve().unwrap().write(&Event { verb, ..event() });
    }
    eventually(|| audit.errors() > 0);
    for verb in ["c", "d"] {
        audit.reserve().unwrap().write(&Event { verb, ..event() });
    }
    assert!(audit.reserve().is_none(), "the bound holds, and nobody waits");
    assert_eq!((audit.written(), audit.pending(), audit.dropped()), (0, 4, 1));
    fs::remove_file(&path).unwrap();
    audit.reopen();
    eventually(|| audit.pending() == 0);
    assert_eq!(verbs(&path), ["a", "b", "c", "d"]);
    assert_eq!(audit.written(), 4);
    thread.shutdown(PATIENCE).unwrap();
}

#[test]
fn a_shutdown_gives_up_at_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    symlink("/dev/full", &path).unwrap();
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 4).unwrap();
    for _ in 0..3 {
        audit.reserve().unwrap().write(&event());
    }
    let start = Instant::now();
    let error = thread.shutdown(Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, AuditError::Unwritten { events: 3 }), "{error}");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!((audit.written(), audit.dropped(), audit.pending()), (0, 3, 0));
}

#[test]
fn a_renamed_file_is_left_on_reopen() {
    let directory = tempfile::tempdir().unwrap();
    let (path, rotated) = (
        directory.path().join("audit.log"),
        directory.path().join("audit.log.1"),
    );
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 4).unwrap();
    audit.reserve().unwrap().write(&Event {
        verb: "old",
        ..event()
    });
    eventually(|| audit.written() == 1);
    fs::rename(&path, &rotated).unwrap();
    audit.reopen();
    audit.reserve().unwrap().write(&Event {
        verb: "new",
        ..event()
    });
    thread.shutdown(PATIENCE).unwrap();
    assert_eq!(
        (verbs(&rotated), verbs(&path)),
        (vec!["old".to_owned()], vec!["new".to_owned()])
    );
}

#[test]
fn a_line_that_was_cut_off_does_not_spoil_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    fs::write(&path, "{\"kind\":\"Ev").unwrap();
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 4).unwrap();
    audit.reserve().unwrap().write(&event());
    thread.shutdown(PATIENCE).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, "{\"kind\":\"Ev"));
    serde_json::from_str::<Value>(lines[1]).unwrap();
}

#[test]
fn a_missing_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/there/audit.log");
    let error = Audit::start(&settings(&path, AuditMode::Batch), 4)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains(path.to_str().unwrap()) && error.contains("create it"),
        "{error}"
    );
    let error = Audit::start(&settings(directory.path(), AuditMode::Batch), 4)
        .err()
        .unwrap();
    assert!(matches!(error, AuditError::Open { .. }), "{error}");
}

#[test]
fn a_thread_that_is_dropped_still_writes_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 4).unwrap();
    audit.reserve().unwrap().write(&event());
    drop(thread);
    eventually(|| audit.written() == 1);
}

#[tokio::test]
async fn off_takes_everything_and_keeps_nothing() {
    let off = settings::Audit {
        sink: AuditSink::Off,
        mode: AuditMode::Blocking,
        commands: AuditCommands::Hash,
    };
    let (audit, thread) = Audit::start(&off, 1).unwrap();
    assert!(!audit.is_blocking());
    let (first, second) = (audit.reserve().unwrap(), audit.reserve_blocking().await);
    first.write(&event());
    second.write_and_wait(&event()).await.unwrap();
    assert_eq!((audit.written(), audit.pending(), audit.dropped()), (0, 0, 0));
    thread.shutdown(Duration::ZERO).unwrap();
}

// Both together.

/// What a gate holds from the reservation on: however a request ends, its event is written.
struct HeldSlot {
    slot: Option<Slot>,
    code: Option<u16>,
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.write(&Event {
                code: self.code,
                ..event()
            });
        }
    }
}

/// The API server is dead, a hundred requests wait for one review, and half of the clients leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_outcome_and_one_event_each() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&settings(&path, AuditMode::Batch), 100).unwrap();
    let cache = Arc::new(Cache::<&str, Result<bool, &str>>::new(
        16,
        tokio::runtime::Handle::current(),
        Err("lost"),
    ));
    let (reviews, dead) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let (audit, cache) = (audit.clone(), Arc::clone(&cache));
            let (reviews, dead) = (Arc::clone(&reviews), Arc::clone(&dead));
            tokio::spawn(async move {
                let mut record = HeldSlot {
                    slot: Some(audit.reserve().unwrap()),
                    code: None,
                };
                let review = || {
                    reviews.fetch_add(1, Ordering::SeqCst);
                    async move {
                        dead.notified().await;
                        crate::cache::ReviewOutcome::Failed(
                            Err("connection timed out"),
                            Duration::from_secs(1),
                        )
                    }
                };
                let outcome = cache.get_or_review("may jane", review).await.value;
                record.code = Some(if outcome.is_err() { 503 } else { 200 });
                outcome
            })
        })
        .collect();
    eventually(|| audit.pending() == 100 && reviews.load(Ordering::SeqCst) == 1);
    for request in requests.iter().step_by(2) {
        request.abort();
    }
    // Those who left have their events before the review is over; the others keep their slots.
    eventually(|| audit.written() == 50 && audit.pending() == 50);
    assert_eq!(cache.in_flight(), 1);
    dead.notify_one();
    let (mut left, mut failed) = (0, 0);
    for request in requests {
        match request.await {
            Ok(outcome) => {
                assert_eq!(outcome, Err("connection timed out"));
                failed += 1;
            }
            Err(error) => {
                assert!(error.is_cancelled());
                left += 1;
            }
        }
    }
    assert_eq!((left, failed), (50, 50));
    thread.shutdown(PATIENCE).unwrap();
    assert_eq!(reviews.load(Ordering::SeqCst), 1);
    assert_eq!(
        (
            cache.in_flight(),
            audit.pending(),
            audit.dropped(),
            audit.written()
        ),
        (0, 0, 0, 100)
    );
    let text = fs::read_to_string(&path).unwrap();
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: std::collections::HashSet<_> = events
        .iter()
        .map(|event| event["auditID"].as_str().unwrap())
        .collect();
    assert_eq!((events.len(), ids.len()), (100, 100));
    assert_eq!(
        events
            .iter()
            .filter(|event| event["responseStatus"]["code"] == 503)
            .count(),
        50
    );
}
