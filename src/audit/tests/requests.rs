//! Events and reviews of requests whose clients leave.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;

use super::{PATIENCE, event, eventually, file_settings};
use crate::audit::{Audit, Event, Slot};
use crate::cache::{Cache, Freshness, ReviewOutcome};
use crate::settings::AuditMode;

/// What a gate holds after the reservation: however a request ends, its event is written.
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

/// The API server is down, a hundred requests wait for one review, and half of the clients leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_outcome_and_one_event_each() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 100).unwrap();
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
                        ReviewOutcome::Failed(Err("connection timed out"), Duration::from_secs(1))
                    }
                };
                let outcome = cache
                    .get_or_review("may jane", Freshness::Remembered, review)
                    .await
                    .value;
                record.code = Some(if outcome.is_err() { 503 } else { 200 });
                outcome
            })
        })
        .collect();
    eventually(|| audit.pending() == 100 && reviews.load(Ordering::SeqCst) == 1);
    for request in requests.iter().step_by(2) {
        request.abort();
    }
    // The events of the clients that left are written before the review ends; the others keep their slots.
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
