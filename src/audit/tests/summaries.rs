//! What is beyond a rate is counted in a summary, and every request is in the file once: as an event, or as a
//! count.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, event, eventually, file_settings};
use crate::audit::{Audit, AuditThread, Event, EventRate, Holder, ObjectRef, UserJson};
use crate::settings::{AuditMode, AuditStrangers};

fn start(path: &Path, mode: AuditMode, queue: usize) -> (Audit, AuditThread) {
    Audit::start(&file_settings(path, mode), queue).unwrap()
}

fn refusal(peer: IpAddr) -> Event<'static> {
    Event {
        rate: EventRate::Stranger,
        outcome: "no_credentials",
        code: Some(401),
        peer,
        object: Some(ObjectRef {
            node: "worker-1",
            subresource: "pods",
        }),
        ..event()
    }
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn annotation<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event["annotations"][format!("kubelet-gate.dev/{name}")].as_str()
}

/// The events in full, and the summaries of each kind.
fn sorted(path: &Path) -> (Vec<Value>, BTreeMap<String, Vec<Value>>) {
    let (summaries, full): (Vec<_>, Vec<_>) = lines(path)
        .into_iter()
        .partition(|line| annotation(line, "summary").is_some());
    let mut by_kind: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for summary in summaries {
        let of = annotation(&summary, "summary-of").unwrap().to_owned();
        by_kind.entry(of).or_default().push(summary);
    }
    (full, by_kind)
}

fn counts(summary: &Value) -> Vec<Value> {
    serde_json::from_str(annotation(summary, "summary").unwrap()).unwrap()
}

fn summarised(summary: &Value) -> u64 {
    annotation(summary, "summarised").unwrap().parse().unwrap()
}

/// Seen red: with `Rates::allow` always true, and with the summary not written at the end.
#[test]
fn a_flood_is_bounded_and_every_request_is_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 8192);
    let uri = format!("/pods?{}", "x".repeat(3000));
    for number in 0..20_000 {
        audit.write_unreserved_now(&Event {
            request_uri: if number % 2 == 0 { b"/pods" } else { uri.as_bytes() },
            code: Some(if number % 4 == 0 { 400 } else { 401 }),
            ..refusal(address(1))
        });
    }
    thread.shutdown(PATIENCE).unwrap();
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(bytes < 1_000_000, "{bytes} bytes");
    let (full, summaries) = sorted(&path);
    let summary = &summaries["strangers"][0];
    assert_eq!((summaries.len(), summaries["strangers"].len()), (1, 1));
    assert_eq!(full.len() as u64 + summarised(summary), 20_000);
    assert_eq!(summarised(summary), audit.summarised());
    assert!(full.len() > 50, "{}", full.len());
    let counts = &counts(summary)[0];
    assert_eq!(counts["address"], "10.0.0.1");
    let statuses = |events: &[Value], status: u64| {
        let events = events
            .iter()
            .filter(|event| event["responseStatus"]["code"] == status);
        events.count() as u64 + counts["statuses"][status.to_string()].as_u64().unwrap()
    };
    assert_eq!((statuses(&full, 400), statuses(&full, 401)), (5000, 15_000));
    assert_eq!(counts["requests"], summarised(summary));
    assert_eq!(counts["reasons"]["no_credentials"], summarised(summary));
    assert_eq!(counts["subresources"]["pods"], summarised(summary));
    let samples = counts["uris"].as_array().unwrap();
    assert_eq!(samples.len(), 2, "those that differ");
    assert!(
        samples
            .iter()
            .all(|sample| sample.as_str().unwrap().len() <= 256 + "...TRUNCATED".len())
    );
    // It has the shape of the example on the page.
    let page = include_str!("../../../docs/operations.md");
    let mut examples = page
        .lines()
        .filter(|line| line.starts_with('{') && line.contains("/summarised"));
    let example: Value = serde_json::from_str(examples.next().unwrap()).unwrap();
    let keys = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&example), keys(summary));
    assert_eq!(keys(&example["annotations"]), keys(&summary["annotations"]));
    assert_eq!(keys(&self::counts(&example)[0]), keys(counts));
    // It is an event as others are.
    for (key, value) in [
        ("kind", "Event"),
        ("apiVersion", "audit.k8s.io/v1"),
        ("level", "Metadata"),
    ] {
        assert_eq!(summary[key], value);
    }
    assert_eq!(summary["sourceIPs"], serde_json::json!(["10.0.0.1"]));
    let annotations = summary["annotations"].as_object().unwrap();
    assert!(annotations.values().all(Value::is_string));
}

/// Seen red: without the bound (100 were counted one by one), and with the rest not counted.
#[test]
fn sixty_four_sources_are_counted_one_by_one_and_the_rest_together() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 8192);
    for _ in 0..200 {
        for number in 0..100 {
            audit.write_unreserved_now(&refusal(address(number)));
        }
    }
    thread.shutdown(PATIENCE).unwrap();
    let (full, summaries) = sorted(&path);
    let summary = &summaries["strangers"][0];
    let counts = counts(summary);
    assert_eq!(counts.len(), 64);
    assert_eq!(summary["sourceIPs"].as_array().unwrap().len(), 64);
    let rest: Value = serde_json::from_str(annotation(summary, "summary-rest").unwrap()).unwrap();
    assert_eq!(rest["address"], Value::Null);
    let counted: u64 = counts
        .iter()
        .map(|counts| counts["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(counted + rest["requests"].as_u64().unwrap(), summarised(summary));
    assert_eq!(full.len() as u64 + summarised(summary), 20_000);
    assert!(fs::metadata(&path).unwrap().len() < 1_000_000);
}

/// A host has a /64 of IPv6 addresses.
///
/// Seen red: with all bits of an address counted.
#[test]
fn the_addresses_of_a_network_share_a_rate() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 8192);
    for number in 0..5000_u128 {
        let address = IpAddr::V6((0x2001_0db8_u128 << 96 | number).into());
        audit.write_unreserved_now(&refusal(address));
    }
    thread.shutdown(PATIENCE).unwrap();
    let (_, summaries) = sorted(&path);
    assert_eq!(counts(&summaries["strangers"][0]).len(), 1);
}

/// Seen red: with one rate for both kinds.
#[test]
fn strangers_do_not_use_up_the_rate_of_what_is_notable_or_of_users() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 8192);
    for _ in 0..5000 {
        audit.write_unreserved_now(&refusal(address(1)));
    }
    for _ in 0..50 {
        audit.write_unreserved_now(&Event {
            rate: EventRate::Notable,
            outcome: "revoked",
            ..refusal(address(1))
        });
    }
    let user = UserJson::new("bob", "", &[], &BTreeMap::new());
    for _ in 0..50 {
        audit.reserve().unwrap().write(&Event {
            user: Some(&user),
            ..event()
        });
    }
    thread.shutdown(PATIENCE).unwrap();
    let (full, summaries) = sorted(&path);
    assert_eq!(summaries.keys().collect::<Vec<_>>(), ["strangers"]);
    let of_bob = full
        .iter()
        .filter(|event| event["user"]["username"] == "bob")
        .count();
    assert_eq!(of_bob, 50);
    assert_eq!(full.len() as u64 + summarised(&summaries["strangers"][0]), 5100);
}

/// Seen red: with notable events always allowed.
#[test]
fn what_is_notable_is_bounded_too_and_then_has_a_summary_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 8192);
    for _ in 0..20_000 {
        audit.write_unreserved_now(&Event {
            rate: EventRate::Notable,
            outcome: "expired",
            ..refusal(address(1))
        });
    }
    thread.shutdown(PATIENCE).unwrap();
    let (full, summaries) = sorted(&path);
    assert_eq!(full.len() as u64 + summarised(&summaries["notable"][0]), 20_000);
    assert!(fs::metadata(&path).unwrap().len() < 1_000_000);
}

/// Seen red: with `Rates::allow` always true.
#[test]
fn a_user_beyond_the_rate_is_named_in_a_summary_and_other_users_and_commands_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 200_000);
    // Long events are copied, and cost the test little.
    let groups = ["g".repeat(100_000)];
    let users: Vec<UserJson> = (0..2)
        .map(|number| UserJson::new(&format!("user-{number}"), "", &groups, &BTreeMap::new()))
        .collect();
    let write = |user: &UserJson, rate: EventRate| {
        eventually(|| audit.pending() < 20);
        audit.reserve().unwrap().write(&Event {
            user: Some(user),
            rate,
            ..event()
        });
    };
    // More than the rate of all users together, and then that of one, allow at once.
    for _ in 0..2000 {
        write(&users[0], EventRate::User);
    }
    for _ in 0..100 {
        write(&users[1], EventRate::User);
        write(&users[0], EventRate::Unlimited);
    }
    thread.shutdown(PATIENCE).unwrap();
    let (full, summaries) = sorted(&path);
    assert_eq!(summaries.keys().collect::<Vec<_>>(), ["user"]);
    let summary = &summaries["user"][0];
    assert_eq!(summary["user"]["username"], "user-0");
    let of = |name: &str| {
        full.iter()
            .filter(|event| event["user"]["username"] == name)
            .count() as u64
    };
    assert_eq!(of("user-1"), 100);
    let counted: u64 = summaries["user"].iter().map(summarised).sum();
    assert_eq!(of("user-0") + counted, 2100);
    assert!(counted > 500, "{counted}");
}

/// Seen red: with all places open to strangers.
#[tokio::test]
async fn strangers_hold_half_of_the_places_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    for mode in [AuditMode::Batch, AuditMode::Blocking] {
        let (audit, thread) = start(&path, mode, 8);
        let held: Vec<_> = std::iter::from_fn(|| audit.try_reserve(Holder::Stranger)).collect();
        assert_eq!(held.len(), 4);
        // A stranger's request is counted then, and does not wait.
        let refusal = refusal(address(1));
        let written = tokio::time::timeout(PATIENCE, audit.write_unreserved(&refusal)).await;
        written.expect("it does not wait").unwrap();
        assert_eq!(audit.summarised(), 1);
        let users: Vec<_> = (0..4).map(|_| audit.reserve().unwrap()).collect();
        assert_eq!(audit.pending(), 8);
        drop((held, users));
        assert_eq!(audit.pending(), 0);
        assert!(
            audit.try_reserve(Holder::Stranger).is_some(),
            "places are given back"
        );
        tokio::task::spawn_blocking(|| thread.shutdown(PATIENCE))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((audit.written(), audit.dropped()), (1, 0), "the summary");
        fs::remove_file(&path).unwrap();
    }
}

/// Seen red: with all places open to strangers, the user waited.
#[tokio::test]
async fn with_full_every_event_is_written_and_strangers_wait_for_their_own_places() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let settings = crate::settings::Audit {
        strangers: AuditStrangers::Full,
        ..file_settings(&path, AuditMode::Blocking)
    };
    let (audit, thread) = Audit::start(&settings, 4).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| audit.try_reserve(Holder::Stranger)).collect();
    let asking = tokio::spawn({
        let audit = audit.clone();
        async move { audit.write_unreserved(&refusal(address(1))).await }
    });
    let of_user = tokio::time::timeout(PATIENCE, audit.reserve_blocking(Holder::User)).await;
    let of_user = of_user.expect("strangers left places");
    of_user.write_and_wait(&event()).await.unwrap();
    assert!(!asking.is_finished());
    drop(held);
    asking.await.unwrap().unwrap();
    for _ in 0..3000 {
        audit.write_unreserved(&refusal(address(1))).await.unwrap();
    }
    tokio::task::spawn_blocking(|| thread.shutdown(PATIENCE))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(lines(&path).len(), 3002);
    assert_eq!(audit.summarised(), 0);
}

/// It is due ten seconds after the first request that it counts, though nothing else happens.
///
/// Seen red: with no time set at which it is due.
#[test]
fn a_summary_is_written_while_the_gate_is_idle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, AuditMode::Batch, 2);
    let held = audit.try_reserve(Holder::Stranger).unwrap();
    audit.write_unreserved_now(&refusal(address(1)));
    drop(held);
    assert_eq!(audit.written(), 0);
    let deadline = std::time::Instant::now() + 3 * PATIENCE;
    while audit.written() == 0 {
        assert!(std::time::Instant::now() < deadline, "no summary");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let (full, summaries) = sorted(&path);
    assert_eq!((full.len(), summarised(&summaries["strangers"][0])), (0, 1));
    thread.shutdown(PATIENCE).unwrap();
    audit.write_unreserved_now(&refusal(address(1)));
    assert_eq!(audit.dropped(), 1, "after the end");
}
