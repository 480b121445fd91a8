//! A stranger who can write the node's disk full, or who can push out what the audit has of others, has won
//! without a credential.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use fakes::client::{Client, Connection};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::world::{Status as _, World, WorldBuilder, request};

/// A world whose audit file outlives it: the last summary is written at the end.
fn world() -> (WorldBuilder, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log").to_str().unwrap().to_owned();
    (World::builder().set("audit.path", path), directory)
}

/// The events of all files of a directory: those in full, and the summaries.
fn events(directory: &Path) -> (Vec<Value>, Vec<Value>) {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let lines = files.iter().map(|file| fs::read_to_string(file).unwrap());
    let events: Vec<Value> = lines
        .flat_map(|text| {
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    events
        .into_iter()
        .partition(|event| annotation(event, "summary").is_none())
}

fn annotation<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event["annotations"][format!("kubelet-gate.dev/{name}")].as_str()
}

/// How many requests these summaries count.
fn counted(summaries: &[Value]) -> u64 {
    let counts = summaries
        .iter()
        .map(|summary| annotation(summary, "summarised").unwrap());
    counts.map(|count| count.parse::<u64>().unwrap()).sum()
}

/// Asks this many times on one connection, or on another one where the gate has closed it.
async fn ask(client: Client, target: String, times: usize) {
    let mut connection: Option<Connection> = None;
    let mut answered = 0;
    while answered < times {
        let mut open = match connection.take() {
            Some(open) => open,
            None => client.connect().await.unwrap(),
        };
        if open.get(&target).await.is_ok() {
            answered += 1;
            connection = (!open.is_closed()).then_some(open);
        }
    }
}

async fn all(mut asking: JoinSet<()>) {
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
}

/// Seen red: with `Rates::allow` always true (60 MB), and with the summary not written at the end.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_refusals_are_bounded_in_bytes_and_each_is_counted_once() {
    let (builder, directory) = world();
    let world = builder.start().await;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..4 {
        let target = format!("/pods?number={number}&padding={}", "x".repeat(2500));
        asking.spawn(ask(world.stranger(), target, 5000));
    }
    // Meanwhile, what is never summarised.
    let (alice, expired) = (world.client("alice"), world.client("expired"));
    for _ in 0..20 {
        assert_eq!(alice.status("/pods").await, 403);
        assert_eq!(expired.status("/pods").await, 401);
        assert_eq!(
            world
                .stranger()
                .status("/exec/default/web/nginx?command=id")
                .await,
            401
        );
    }
    all(asking).await;
    let seconds = began.elapsed().as_secs() + 1;
    let summarised = world.metric("audit_events_total", &[("reason", "summarised")]);
    assert_eq!(summarised, 0.0, "the admin port takes it over");
    let metrics = world.admin_client().get("/metrics").await.unwrap();
    assert_eq!(metrics.status(), 200);
    let summarised = world.metric("audit_events_total", &[("reason", "summarised")]);
    world.stop().await;

    // At once, a second, the event that used it up, the summaries, and what is never summarised.
    let most = 256 * 1024 + seconds * 32 * 1024 + 4096 + (seconds / 10 + 2) * 4096 + 60 * 2048;
    let bytes = fs::metadata(directory.path().join("audit.log")).unwrap().len();
    assert!(bytes <= most, "{bytes} bytes, at most {most}");
    let (full, summaries) = events(directory.path());
    assert_eq!(full.len() as u64 + counted(&summaries), 20_060);
    assert_eq!(counted(&summaries) as f64, summarised);
    for summary in &summaries {
        assert_eq!(annotation(summary, "summary-of"), Some("strangers"));
        assert_eq!(summary["sourceIPs"], json!(["127.0.0.1"]));
        let counts: Vec<Value> = serde_json::from_str(annotation(summary, "summary").unwrap()).unwrap();
        assert_eq!(counts.len(), 1);
        for (what, of) in [
            ("statuses", "401"),
            ("reasons", "no_credentials"),
            ("subresources", "pods"),
        ] {
            assert_eq!(
                counts[0][what],
                json!({of: counted(std::slice::from_ref(summary))})
            );
        }
        assert!((1..=3).contains(&counts[0]["uris"].as_array().unwrap().len()));
    }
    let of = |name: &str| {
        full.iter()
            .filter(|event| event["user"]["username"] == name)
            .count()
    };
    let with = |start: &str| {
        full.iter()
            .filter(|event| event["requestURI"].as_str().unwrap().starts_with(start))
            .count()
    };
    let said = |text: &str| {
        full.iter()
            .filter(|event| annotation(event, "error").unwrap().contains(text))
            .count()
    };
    assert_eq!((of("alice"), with("/exec/"), said("has expired")), (20, 20, 20));
}

/// Seen red: with `Rates::allow` always true.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_summarised_with_the_rest_is_no_way_to_flood() {
    let (builder, directory) = world();
    let world = builder.start().await;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for client in [world.stranger(), world.client("expired")] {
        let target = format!("/exec/default/web/nginx?x={}", "x".repeat(3000));
        asking.spawn(ask(client, target, 1000));
    }
    all(asking).await;
    let seconds = began.elapsed().as_secs() + 1;
    world.stop().await;
    let most = 256 * 1024 + seconds * 64 * 1024 + 4096 + (seconds / 10 + 2) * 4096;
    let bytes = fs::metadata(directory.path().join("audit.log")).unwrap().len();
    assert!(bytes <= most, "{bytes} bytes, at most {most}");
    let (full, summaries) = events(directory.path());
    assert_eq!(full.len() as u64 + counted(&summaries), 2000);
    assert!(
        summaries
            .iter()
            .all(|summary| annotation(summary, "summary-of") == Some("notable"))
    );
}

/// Seen red: without the bound on the sources of a summary.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_sources_sixty_four_are_counted_one_by_one() {
    let (builder, directory) = world();
    let world = builder.start().await;
    let target = format!("/pods?x={}", "x".repeat(3500));
    for _ in 0..5 {
        let mut asking = JoinSet::new();
        for number in 1..=100 {
            let client = world.stranger().with_source(IpAddr::from([127, 0, 1, number]));
            asking.spawn(ask(client, target.clone(), 4));
        }
        all(asking).await;
    }
    world.stop().await;
    let (full, summaries) = events(directory.path());
    assert_eq!(full.len() as u64 + counted(&summaries), 2000);
    // The rounds before may have been summarised apart.
    let summary = summaries.last().expect("no summary");
    let counts: Vec<Value> = serde_json::from_str(annotation(summary, "summary").unwrap()).unwrap();
    let rest: Value = serde_json::from_str(annotation(summary, "summary-rest").unwrap()).unwrap();
    assert_eq!(
        (counts.len(), summary["sourceIPs"].as_array().unwrap().len()),
        (64, 64)
    );
    let one_by_one: u64 = counts
        .iter()
        .map(|counts| counts["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(
        one_by_one + rest["requests"].as_u64().unwrap(),
        counted(std::slice::from_ref(summary))
    );
}

/// Seen red: with the setting not looked at: 80 events and a summary.
#[tokio::test(flavor = "multi_thread")]
async fn with_full_every_refusal_has_its_event() {
    let (builder, directory) = world();
    let world = builder.set("audit.strangers", "full").start().await;
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        asking.spawn(ask(
            world.stranger(),
            format!("/pods?x={}", "x".repeat(3000)),
            500,
        ));
    }
    all(asking).await;
    world.stop().await;
    let (full, summaries) = events(directory.path());
    assert_eq!((full.len(), summaries.len()), (2000, 0));
}

/// Seen red: with the summary not written at the end.
#[tokio::test(flavor = "multi_thread")]
async fn in_blocking_mode_a_flood_of_strangers_holds_up_no_user() {
    let (builder, directory) = world();
    let world = builder
        .set("audit.mode", "blocking")
        .set("limits.auditQueue", 4)
        .start()
        .await;
    let mut asking = JoinSet::new();
    for _ in 0..8 {
        asking.spawn(ask(world.stranger(), "/pods".to_owned(), 250));
    }
    let mut bob = world.client("bob").connect().await.unwrap();
    for number in 0..50 {
        let target = format!("/healthz?number={number}");
        assert_eq!(
            bob.send(request("GET", &target, &[])).await.unwrap().status(),
            200
        );
        // Read without waiting.
        let text = fs::read_to_string(directory.path().join("audit.log")).unwrap();
        assert!(text.contains(&target));
    }
    all(asking).await;
    drop(bob);
    world.stop().await;
    let (full, summaries) = events(directory.path());
    assert_eq!(full.len() as u64 + counted(&summaries), 2050);
}

/// Seen red: with lines split where the file was full.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_under_load_loses_nothing() {
    let (builder, directory) = world();
    let world = builder
        .set("audit.maxSizeMB", 1)
        .set("audit.maxBackups", 100)
        .start()
        .await;
    let mut asking = JoinSet::new();
    for number in 0..4 {
        let target = format!("/healthz?number={number}&x={}", "x".repeat(3500));
        asking.spawn(ask(world.client("bob"), target, 400));
    }
    all(asking).await;
    world.stop().await;
    let files: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        assert!(file.metadata().unwrap().len() <= 1024 * 1024, "{file:?}");
    }
    let (full, summaries) = events(directory.path());
    assert_eq!((full.len(), summaries.len()), (1600, 0));
    let mut ids: Vec<&str> = full
        .iter()
        .map(|event| event["auditID"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 1600);
}

/// A gate at the size of an earlier one's file rotates it before the first event.
///
/// Seen red: with no rotated file removed.
#[tokio::test(flavor = "multi_thread")]
async fn only_as_many_rotated_files_are_kept_as_the_settings_say() {
    let (builder, directory) = world();
    fs::write(
        directory.path().join("audit.log"),
        format!("{{\"x\":\"{}\"}}\n", "x".repeat(1 << 20)),
    )
    .unwrap();
    let world = builder
        .set("audit.maxSizeMB", 1)
        .set("audit.maxBackups", 1)
        .start()
        .await;
    ask(
        world.client("bob"),
        format!("/healthz?x={}", "x".repeat(3500)),
        600,
    )
    .await;
    let began = Instant::now();
    world.stop().await;
    assert!(began.elapsed() < Duration::from_secs(60));
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names[1].starts_with("audit.log.2") && names[1].ends_with('Z'),
        "{names:?}"
    );
}
