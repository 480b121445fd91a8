//! The queue and the thread that writes it to a file.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, event, eventually, file_settings, verbs};
use crate::audit::{Audit, AuditError, Event, Holder};
use crate::settings::{self, AuditMode, AuditSink};

#[test]
fn lines_reach_the_file_in_order_and_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 64).unwrap();
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
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 2).unwrap();
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
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Blocking), 1).unwrap();
    assert!(audit.is_blocking());
    let slot = audit.reserve_blocking(Holder::User).await;
    let mut second = Box::pin(audit.reserve_blocking(Holder::User));
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
    // The event is written even if its future is dropped.
    drop(audit.reserve_blocking(Holder::User).await.write_and_wait(&Event {
        verb: "third",
        ..event()
    }));
    thread.shutdown(PATIENCE).unwrap();
    assert_eq!(verbs(&path), ["first", "second", "third"]);
    let late = audit
        .reserve_blocking(Holder::User)
        .await
        .write_and_wait(&event())
        .await;
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
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Blocking), 4).unwrap();
    let start = Instant::now();
    for _ in 0..100 {
        audit
            .reserve_blocking(Holder::User)
            .await
            .write_and_wait(&event())
            .await
            .unwrap();
    }
    // A hundred events one after another, each with its own linger time, would take five seconds.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    thread.shutdown(PATIENCE).unwrap();
}

#[test]
fn a_full_disk_delays_events_and_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    symlink("/dev/full", &path).unwrap();
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 4).unwrap();
    for verb in ["a", "b"] {
        audit.reserve().unwrap().write(&Event { verb, ..event() });
    }
    eventually(|| audit.errors() > 0);
    for verb in ["c", "d"] {
        audit.reserve().unwrap().write(&Event { verb, ..event() });
    }
    assert!(audit.reserve().is_none(), "the limit holds, and no request waits");
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
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 4).unwrap();
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
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 4).unwrap();
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
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 4).unwrap();
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
    let error = Audit::start(&file_settings(&path, AuditMode::Batch), 4)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains(path.to_str().unwrap()) && error.contains("create it"),
        "{error}"
    );
    let error = Audit::start(&file_settings(directory.path(), AuditMode::Batch), 4)
        .err()
        .unwrap();
    assert!(matches!(error, AuditError::Open { .. }), "{error}");
}

#[test]
fn a_thread_that_is_dropped_still_writes_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = Audit::start(&file_settings(&path, AuditMode::Batch), 4).unwrap();
    audit.reserve().unwrap().write(&event());
    drop(thread);
    eventually(|| audit.written() == 1);
}

#[tokio::test]
async fn off_accepts_every_event_and_writes_none() {
    let off = settings::Audit {
        sink: AuditSink::Off,
        ..file_settings(Path::new(""), AuditMode::Blocking)
    };
    let (audit, thread) = Audit::start(&off, 1).unwrap();
    assert!(!audit.is_blocking());
    let (first, second) = (
        audit.reserve().unwrap(),
        audit.reserve_blocking(Holder::User).await,
    );
    first.write(&event());
    second.write_and_wait(&event()).await.unwrap();
    assert_eq!((audit.written(), audit.pending(), audit.dropped()), (0, 0, 0));
    thread.shutdown(Duration::ZERO).unwrap();
}
