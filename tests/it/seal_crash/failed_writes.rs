//! A disk that is full at each write, and files that cannot be deleted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kubelet_gate::seal::Case;
use rustix::fs::statvfs;

use super::{Before, Crash, Ports, Verb, configure};
use crate::node::{Node, on_every_backend, shell};

/// More files than a change writes.
const MANY: u64 = 20;

/// A small file system, with a bound of files.
struct Disk(PathBuf);

impl Disk {
    fn mount(directory: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        shell(&format!(
            "mount -t tmpfs -o mode=755,nr_inodes=100 tmpfs {}",
            directory.display()
        ));
        Self(directory.to_owned())
    }

    /// Leaves room for so many more files.
    fn leave(&self, free: u64) {
        let about = statvfs(&self.0).unwrap();
        let files = about.f_files - about.f_ffree + free;
        shell(&format!(
            "mount -o remount,nr_inodes={files} {}",
            self.0.display()
        ));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Seen red: with the boot files written before the plan that is confirmed, and with files that are not
/// replaced in one step.
#[test]
fn a_disk_that_is_full_at_any_write_leaves_a_seal_that_every_command_knows() {
    on_every_backend(async |node: Node| {
        let disk = Disk::mount(&node.file("state"));
        let crash = Crash::start(node).await;
        disk.leave(0);
        // The lock cannot be made.
        crash.exits(1, Verb::ApplyB);
        let mut failures = 1;
        crash.agrees("no lock").await;
        for (before, verb) in [
            (Before::Nothing, Verb::ApplyB),
            (Before::SealedByA, Verb::ApplyB),
            (Before::TrialOfB, Verb::Confirm),
            (Before::TrialOfBOverA, Verb::Confirm),
            (Before::UnfinishedB, Verb::Confirm),
            (Before::SealedByA, Verb::Confirm),
        ] {
            for free in 0..MANY {
                disk.leave(MANY);
                crash.prepare(before);
                disk.leave(free);
                configure(&crash.node, verb);
                let output = crash.node.firewall(Crash::words(verb)).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                let context = format!("{before:?}, {verb:?} with room for {free}: {said}");
                if output.status.success() {
                    assert!(free > 0, "{context}: everything was written");
                    break;
                }
                failures += 1;
                assert_eq!(output.status.code(), Some(1), "{context}");
                assert!(said.contains("No space left"), "{context}");
                let (case, ports) = crash.agrees(&context).await;
                assert_eq!(ports, before.ports(), "{context}");
                let begun = case == Some(Case::Unfinished) && before != Before::UnfinishedB;
                assert!(free > 0 || !begun, "{context}: found before the kernel's step");
                disk.leave(MANY);
                crash.goes_on(verb, verb.ports(before), &context).await;
            }
        }
        // Nothing is written to remove a seal.
        crash.prepare(Before::SealedByA);
        disk.leave(0);
        crash.goes_on(Verb::Remove, Ports::Open, "on a full disk").await;
        println!("{}: {failures} failed writes", crash.node.backend);
        crash.node.stop().await;
        drop(disk);
    });
}

/// Seen red: with a unit that cannot be written ending the confirmation, and without a second confirm that
/// mends it.
#[test]
fn a_unit_that_cannot_be_written_is_written_by_another_confirm() {
    on_every_backend(async |node: Node| {
        let crash = Crash::start(node).await;
        crash.prepare(Before::TrialOfBOverA);
        let old = fs::read_to_string(crash.unit().path()).unwrap();
        let blocked = crash.node.file("kubelet-gate-firewall.new");
        fs::create_dir(&blocked).unwrap();
        let said = crash.exits(1, Verb::Confirm);
        assert!(said.contains("would not be loaded at the next boot"), "{said}");
        let (case, ports) = crash.agrees("no unit").await;
        assert_eq!((case, ports), (Some(Case::InForce), Ports::PlanB));
        let status = crash.node.firewall_exits(0, "status --no-namespace");
        assert!(
            status.contains("does not load the confirmed plan at boot"),
            "{status}"
        );
        // The old one still has its files: the node would be sealed as it was before.
        assert_eq!(fs::read_to_string(crash.unit().path()).unwrap(), old);
        crash.boots();
        assert_eq!(crash.ports().await, Ports::PlanA);
        assert!(matches!(
            crash.agrees("the old unit").await.0,
            Some(Case::Changed)
        ));
        fs::remove_dir(&blocked).unwrap();
        crash.goes_on(Verb::ApplyB, Ports::PlanB, "repaired").await;
        crash.goes_on(Verb::Confirm, Ports::PlanB, "repaired").await;
        for _ in 0..2 {
            let said = crash.exits(0, Verb::Confirm);
            assert!(said.starts_with("already confirmed, and in force"), "{said}");
        }
        let status = crash.node.firewall_exits(0, "status --no-namespace");
        assert!(!status.contains("at boot"), "{status}");
        crash.boots();
        assert_eq!(
            crash.agrees("the new unit").await,
            (Some(Case::InForce), Ports::PlanB)
        );
        crash.exits(0, Verb::Remove);
        crash.node.stop().await;
    });
}

/// Seen red: with the confirmed plan forgotten before the unit.
#[test]
fn a_file_that_cannot_be_deleted_leaves_a_seal_that_every_command_knows() {
    on_every_backend(async |node: Node| {
        let crash = Crash::start(node).await;
        let confirmed = |crash: &Crash| {
            let files = fs::read_dir(crash.node.file("state")).unwrap();
            let name = |entry: fs::DirEntry| format!("state/{}", entry.file_name().to_string_lossy());
            let names = files.map(|entry| name(entry.unwrap()));
            names
                .filter(|name| name.starts_with("state/confirmed-"))
                .collect::<Vec<_>>()
        };
        let mut failures = 0;
        for (before, verb) in [
            (Before::TrialOfBOverA, Verb::Confirm),
            (Before::TrialOfBOverA, Verb::Remove),
        ] {
            crash.prepare(before);
            let mut files = confirmed(&crash);
            assert!(!files.is_empty());
            files.push("state/trial.json".into());
            if verb == Verb::Remove {
                files.extend(["kubelet-gate-firewall.service", "state/confirmed.json"].map(str::to_owned));
            }
            for file in files {
                crash.prepare(before);
                let code = beside_a_mount(&crash, &file, verb);
                let context = format!("{verb:?}, {file} cannot be deleted");
                assert_eq!(code, Some(1), "{context}");
                failures += 1;
                let (_, ports) = crash.agrees(&context).await;
                assert!(
                    [before.ports(), verb.ports(before)].contains(&ports),
                    "{context}: {ports:?}"
                );
                if verb == Verb::Remove {
                    // What still loads rules at boot has a state to go by.
                    crash.boots();
                    crash.agrees(&format!("{context}, then a new start")).await;
                }
                crash.goes_on(verb, verb.ports(before), &context).await;
            }
        }
        println!("{}: {failures} failed deletions", crash.node.backend);
        crash.exits(0, Verb::Remove);
        crash.node.stop().await;
    });
}

/// Runs the command where `file` is a mount point, of its own mount namespace: it can be neither deleted nor
/// replaced.
fn beside_a_mount(crash: &Crash, file: &str, verb: Verb) -> Option<i32> {
    configure(&crash.node, verb);
    let file = crash.node.file(file).display().to_string();
    let firewall = crash.node.firewall(Crash::words(verb));
    let mut command = Command::new("unshare");
    command.args([
        "-m",
        "sh",
        "-ec",
        "f=$1; shift; mount --bind $f $f; exec \"$@\"",
        "sh",
        &file,
    ]);
    command.arg(firewall.get_program()).args(firewall.get_args());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.unwrap().code()
}
