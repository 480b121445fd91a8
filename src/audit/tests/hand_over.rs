//! One process leaves the file to another, or goes on if that fails.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use super::{PATIENCE, event, eventually, file_settings, verbs};
use crate::audit::{Audit, AuditThread, Event, EventRate};
use crate::settings::{AuditMode, AuditRotation};

/// Starts the writer of one process; the file is rotated at this size, and one rotated file is kept.
fn start(path: &Path, bytes: u64) -> (Audit, AuditThread) {
    let settings = crate::settings::Audit {
        rotation: Some(AuditRotation {
            bytes,
            backups: Some(1),
        }),
        ..file_settings(path, AuditMode::Batch)
    };
    Audit::start(&settings, 100_000).unwrap()
}

fn write(audit: &Audit, verb: &str) {
    audit.reserve().unwrap().write(&Event {
        verb,
        rate: EventRate::Unlimited,
        ..event()
    });
}

/// Writes so many events and waits until they are in the file.
fn write_all(audit: &Audit, name: &str, count: u64) {
    let before = audit.written();
    (0..count).for_each(|number| write(audit, &format!("{name}-{number}")));
    eventually(|| audit.written() == before + count);
}

/// The rotated files of `audit.log`, oldest first.
fn rotated(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_rotated = |path: &PathBuf| path.to_str().unwrap().contains("audit.log.");
    let mut found: Vec<PathBuf> = paths.filter(is_rotated).collect();
    found.sort();
    found
}

fn numbered(name: &str, count: u64) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// A process that leaves keeps its own lines, however often the other one rotates.
///
/// Seen red: with the file rotated while away (the old process took the new one's file away), and with the
/// lock not looked at (the other process removed the file that was still written to).
#[tokio::test]
async fn each_process_has_a_file_of_its_own_and_no_event_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (old, old_thread) = start(&path, 100_000);
    write_all(&old, "before", 20);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    old.leave_path().await;
    let own = rotated(directory.path()).pop().unwrap();
    assert_eq!(verbs(&own), numbered("before", 20));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // Neither SIGHUP nor new bounds bring it back to the path.
    old.reopen();
    old.set_policy(&crate::settings::Audit {
        rotation: Some(AuditRotation {
            bytes: 1000,
            backups: Some(1),
        }),
        ..file_settings(&path, AuditMode::Batch)
    });
    write_all(&old, "leaving", 20);

    let (new, new_thread) = start(&path, 1000);
    for round in 0..10 {
        write_all(&new, &format!("new{round}"), 10);
        write_all(&old, &format!("late{round}"), 2);
    }
    let files = rotated(directory.path());
    assert_eq!(files.len(), 2, "its own, and the one that is kept: {files:?}");
    let found = verbs(&own);
    assert_eq!(found.len(), 60);
    assert!(found.iter().all(|verb| !verb.starts_with("new")), "{found:?}");
    for file in [&own, &path] {
        let mode = fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{}", file.display());
    }
    assert_eq!((old.dropped(), old.errors(), new.errors()), (0, 0, 0));

    // Once it has ended, its file is one among the others.
    old_thread.shutdown(PATIENCE).unwrap();
    write_all(&new, "after", 10);
    assert!(!own.exists());
    assert_eq!(rotated(directory.path()).len(), 1);
    new_thread.shutdown(PATIENCE).unwrap();
}

/// Seen red: with the file not opened again (the lines went on to the renamed one).
#[tokio::test]
async fn a_process_that_stays_goes_on_where_the_other_one_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (old, old_thread) = start(&path, 1_000_000);
    write_all(&old, "before", 3);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    old.leave_path().await;
    write_all(&old, "leaving", 3);
    let (new, new_thread) = start(&path, 1_000_000);
    write_all(&new, "new", 3);
    new_thread.shutdown(PATIENCE).unwrap();
    old.return_to_path().await;
    write_all(&old, "back", 3);
    let expected = [numbered("new", 3), numbered("back", 3)].concat();
    assert_eq!(verbs(&path), expected);
    let expected = [numbered("before", 3), numbered("leaving", 3)].concat();
    assert_eq!(verbs(&rotated(directory.path())[0]), expected);

    // Again, and the other process removes what it made.
    old.leave_path().await;
    fs::remove_file(&path).unwrap();
    old.return_to_path().await;
    write_all(&old, "again", 3);
    assert_eq!(verbs(&path), numbered("again", 3));
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    // It is rotated as before.
    old.set_policy(&crate::settings::Audit {
        rotation: Some(AuditRotation {
            bytes: 1000,
            backups: Some(1),
        }),
        ..file_settings(&path, AuditMode::Batch)
    });
    write_all(&old, "rotated", 20);
    assert!(fs::metadata(&path).unwrap().len() <= 1000);
    assert_eq!((old.dropped(), old.errors()), (0, 0));
    old_thread.shutdown(PATIENCE).unwrap();
}

/// logrotate renames the file and may remove it once it is compressed: lines there would be lost.
///
/// (Not seen red.)
#[tokio::test]
async fn a_file_that_another_program_has_renamed_is_not_written_to_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (old, thread) = start(&path, 1_000_000);
    write_all(&old, "before", 3);
    let theirs = directory.path().join("theirs.log");
    fs::rename(&path, &theirs).unwrap();
    old.leave_path().await;
    write_all(&old, "leaving", 3);
    assert_eq!(verbs(&theirs), numbered("before", 3));
    assert_eq!(verbs(&rotated(directory.path())[0]), numbered("leaving", 3));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "for the next process");
    thread.shutdown(PATIENCE).unwrap();
}

/// Seen red: with the symbolic link renamed (the new process wrote to another file than the operator named).
#[tokio::test]
async fn where_the_file_cannot_be_renamed_both_append_whole_lines_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real.log");
    let path = directory.path().join("audit.log");
    symlink(&real, &path).unwrap();
    fs::write(&real, "").unwrap();
    let (old, old_thread) = start(&path, 1_000_000);
    write_all(&old, "before", 3);
    old.leave_path().await;
    assert_eq!(old.errors(), 1);
    let (new, new_thread) = start(&path, 1_000_000);
    for number in 0..500 {
        write(&old, &format!("old-{number}"));
        write(&new, &format!("new-{number}"));
    }
    old_thread.shutdown(PATIENCE).unwrap();
    new_thread.shutdown(PATIENCE).unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    let found: BTreeSet<String> = verbs(&real).into_iter().collect();
    assert_eq!(found.len(), 1003, "each line is whole");
}

/// Seen red: with a batch written at once (lines of both processes within each other).
#[tokio::test]
async fn two_processes_write_whole_lines_to_one_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // Open for both, it needs no other end, and has none of its own.
    let pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (old, old_thread) = start(&path, 1_000_000);
    old.leave_path().await;
    let (new, new_thread) = start(&path, 1_000_000);
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().take(2000);
        lines.map(|line| line.unwrap()).collect::<Vec<String>>()
    });
    let long = "x".repeat(1500);
    for number in 0..1000 {
        write(&old, &format!("old-{number}-{long}"));
        write(&new, &format!("new-{number}-{long}"));
    }
    let lines = reader.join().unwrap();
    let whole = lines
        .iter()
        .filter(|line| serde_json::from_str::<Value>(line).is_ok());
    assert_eq!(whole.count(), 2000);
    assert_eq!((old.errors(), new.errors()), (0, 0), "there is nothing to rename");
    old_thread.shutdown(PATIENCE).unwrap();
    new_thread.shutdown(PATIENCE).unwrap();
}
