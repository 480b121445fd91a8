//! The file is rotated, and the disk bounded.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{PATIENCE, event, eventually, file_settings, verbs};
use crate::audit::sink::Sink;
use crate::audit::{Audit, Event, EventRate};
use crate::settings::{AuditMode, AuditRotation};

/// A file of at most this many bytes.
fn rotation(bytes: u64, backups: Option<usize>) -> Option<AuditRotation> {
    Some(AuditRotation { bytes, backups })
}

fn start(path: &Path, bytes: u64, backups: Option<usize>) -> (Audit, crate::audit::AuditThread) {
    let settings = crate::settings::Audit {
        rotation: rotation(bytes, backups),
        ..file_settings(path, AuditMode::Batch)
    };
    Audit::start(&settings, 100_000).unwrap()
}

/// The rotated files, oldest first.
fn backups(path: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}.", path.file_name().unwrap().to_str().unwrap());
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix))
        .collect();
    found.sort();
    found
}

fn write(audit: &Audit, verb: &str) {
    audit.reserve().unwrap().write(&Event {
        verb,
        rate: EventRate::Unlimited,
        ..event()
    });
}

/// Seen red: with lines split where the file was full.
#[test]
fn every_event_is_whole_in_one_of_the_files_and_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, 10_000, None);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let audit = audit.clone();
            std::thread::spawn(move || {
                for number in 0..500 {
                    write(&audit, &format!("{}", writer * 500 + number));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    thread.shutdown(PATIENCE).unwrap();
    let mut files = backups(&path);
    assert!(files.len() > 50, "{}", files.len());
    files.push(path);
    let mut found: Vec<usize> = Vec::new();
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() <= 10_000);
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        found.extend(verbs(file).iter().map(|verb| verb.parse::<usize>().unwrap()));
    }
    // The files are in order: the events of each writer are.
    for writer in 0..4 {
        let of_writer: Vec<_> = found.iter().filter(|number| *number / 500 == writer).collect();
        assert!(of_writer.is_sorted());
    }
    found.sort_unstable();
    assert_eq!(found, (0..2000).collect::<Vec<_>>());
    assert_eq!((audit.written(), audit.dropped(), audit.errors()), (2000, 0, 0));
}

#[test]
fn the_oldest_files_go_and_nothing_that_was_not_made_here() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let others = [
        "audit.log.1",
        "audit.log.gz",
        "audit.log.2026-01-02T03-04-05.123456Zx",
        "other.log",
    ];
    for name in others {
        fs::write(directory.path().join(name), name).unwrap();
    }
    let elsewhere = directory.path().join("precious");
    fs::write(&elsewhere, "precious").unwrap();
    let link = directory.path().join("audit.log.2020-01-01T00-00-00.000000Z");
    symlink(&elsewhere, &link).unwrap();
    let old = directory.path().join("audit.log.2021-01-01T00-00-00.000000Z");
    fs::write(&old, "old\n").unwrap();
    // A file of a time to come: the clock was set back. The next name is later still.
    let future = directory.path().join("audit.log.2999-01-01T00-00-00.000000Z");
    fs::write(&future, "future\n").unwrap();
    let (audit, thread) = start(&path, 1000, Some(2));
    for number in 0..20 {
        write(&audit, &number.to_string());
    }
    thread.shutdown(PATIENCE).unwrap();
    for name in others {
        assert_eq!(fs::read_to_string(directory.path().join(name)).unwrap(), name);
    }
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(!old.exists() && !future.exists());
    let kept: Vec<_> = backups(&path)
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains("2999-01-01T00-00-00.0000"))
        .collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let mut found: Vec<String> = kept.iter().chain([&path]).flat_map(|path| verbs(path)).collect();
    assert_eq!(found.pop().unwrap(), "19", "the newest are kept");
}

/// Seen red: with a failed rotation that ended the writing.
#[test]
fn a_rotation_that_fails_loses_nothing_and_is_tried_again_later() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real.log");
    fs::write(&real, "").unwrap();
    let path = directory.path().join("audit.log");
    symlink(&real, &path).unwrap();
    let (audit, thread) = start(&path, 1000, Some(2));
    for number in 0..20 {
        write(&audit, &number.to_string());
    }
    thread.shutdown(PATIENCE).unwrap();
    assert_eq!(verbs(&real).len(), 20, "the link's file goes on");
    assert!(
        fs::symlink_metadata(&path).unwrap().is_symlink(),
        "the link is left alone"
    );
    assert_eq!(backups(&path), [] as [PathBuf; 0]);
    assert_eq!((audit.written(), audit.errors()), (20, 1), "said once");
}

#[test]
fn a_device_is_not_rotated() {
    let mut sink = Sink::file(Path::new("/dev/null"), rotation(10, Some(1))).unwrap();
    for _ in 0..100 {
        sink.write(b"x\n").unwrap();
    }
    assert_eq!(sink.room_for(b"x\n"), 0);
    sink.rotate().unwrap();
    assert_eq!(sink.room_for(b"x\n"), 2);
    assert!(fs::metadata("/dev/null").is_ok());
}

#[test]
fn a_line_that_is_longer_than_a_file_may_be_has_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let mut sink = Sink::file(&path, rotation(10, None)).unwrap();
    assert_eq!(sink.room_for(b"abc\ndefgh\nij\n"), 10);
    assert_eq!(sink.room_for(b"abcdefghijklmnop\nq\n"), 17);
    sink.write(b"abc\n").unwrap();
    assert_eq!(sink.room_for(b"abcdefghijklmnop\nq\n"), 0);
    sink.rotate().unwrap();
    assert_eq!(sink.room_for(b"abcdefghijklmnop\nq\n"), 17);
    assert_eq!(fs::read_to_string(&backups(&path)[0]).unwrap(), "abc\n");
}

/// Beside logrotate: it renames the file before it sends SIGHUP, or empties it.
#[test]
fn a_file_that_was_renamed_or_emptied_by_another_program_is_not_renamed_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let mut sink = Sink::file(&path, rotation(10, Some(3))).unwrap();
    sink.write(b"12345678\n").unwrap();
    let renamed = directory.path().join("audit.log.1");
    fs::rename(&path, &renamed).unwrap();
    sink.rotate().unwrap();
    sink.write(b"b\n").unwrap();
    assert_eq!(fs::read_to_string(&renamed).unwrap(), "12345678\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
    // With a file of its own in place, whose mode it has chosen.
    let renamed = directory.path().join("audit.log.2");
    fs::rename(&path, &renamed).unwrap();
    fs::write(&path, "theirs\n").unwrap();
    sink.rotate().unwrap();
    sink.write(b"c\n").unwrap();
    assert_eq!(fs::read_to_string(&renamed).unwrap(), "b\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs\nc\n");
    assert_eq!(sink.room_for(b"d\n"), 0);
    // Emptied in place.
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    sink.rotate().unwrap();
    assert_eq!(sink.room_for(b"d\n"), 2);
    assert_eq!(backups(&path).len(), 2, "none was made here");
    // The mode is kept.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    sink.write(b"e\n").unwrap();
    sink.rotate().unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_reopen_goes_on_beside_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let (audit, thread) = start(&path, 1000, None);
    write(&audit, "first");
    eventually(|| audit.written() == 1);
    let renamed = directory.path().join("renamed");
    fs::rename(&path, &renamed).unwrap();
    audit.reopen();
    for number in 0..20 {
        write(&audit, &number.to_string());
    }
    thread.shutdown(PATIENCE).unwrap();
    assert_eq!(verbs(&renamed), ["first"]);
    let files = backups(&path);
    assert!(files.len() > 2);
    let found: Vec<_> = files.iter().chain([&path]).flat_map(|path| verbs(path)).collect();
    assert_eq!(
        found,
        (0..20).map(|number| number.to_string()).collect::<Vec<_>>()
    );
}
