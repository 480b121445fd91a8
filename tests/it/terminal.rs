//! A table that a terminal breaks in the middle of words is not read, and escape sequences in a log file are
//! no colours.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::program::{code, kubelet_gate};
use crate::trees::tree;

/// What a terminal of so many columns is sent. With `TERM` set, or this would be a terminal without colours.
fn on_terminal(columns: u16, mut command: Command) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let size = Winsize {
        ws_col: columns,
        ws_row: 24,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let program = || File::from(open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
    command.stdout(program()).stderr(program());
    let mut child = command.spawn().unwrap();
    // Without its own ends in this process, the terminal is at its end when the program is.
    drop(command);
    let mut shown = Vec::new();
    let mut terminal = File::from(terminal);
    let mut part = [0; 4096];
    // At its end a terminal reports an error.
    while let Ok(length @ 1..) = terminal.read(&mut part) {
        shown.extend_from_slice(&part[..length]);
    }
    child.wait().unwrap();
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

fn gate(arguments: &[&str]) -> Command {
    let mut command = kubelet_gate();
    command.args(arguments).env("TERM", "xterm");
    for name in ["NO_COLOR", "COLUMNS", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command
}

fn bare(text: &str) -> String {
    let mut bare = text.to_owned();
    while let Some(start) = bare.find('\u{1b}') {
        let end = start + bare[start..].find('m').unwrap();
        bare.replace_range(start..=end, "");
    }
    bare
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

/// Seen red: with the width of the terminal taken for ten columns more.
#[test]
fn no_line_is_wider_than_the_terminal_and_no_word_is_broken() {
    let flags_only = tree("flags-only");
    let kubeadm = tree("kubeadm");
    let (flags_only, kubeadm) = (flags_only.to_str().unwrap(), kubeadm.to_str().unwrap());
    let long = format!("--root=/nowhere{}", " at all".repeat(40));
    for arguments in [
        &["--help"][..],
        &["explain", "--help"],
        &["init", "--help"],
        &["inspect", "--help"],
        &["prove", "--help"],
        &["readonly-census", "--help"],
        &["status", "--help"],
        &["status", "--config", "/nowhere/gate.yaml"],
        &["check", "--help"],
        &["firewall", "--help"],
        &["firewall", "apply", "--help"],
        &["firewall", "print", "--config", "/nowhere/gate.yaml"],
        &["check", "--config", "/nowhere/gate.yaml"],
        &["explain", "GET", "/exec/a/b/c", "--upgrade", "websocket"],
        &["explain", "TRACE", "/pods"],
        &["inspect", "--root", flags_only],
        &["inspect", "--root", kubeadm, "--options"],
        &["inspect", &long],
    ] {
        let piped = gate(arguments).output().unwrap();
        let piped = String::from_utf8([piped.stdout, piped.stderr].concat()).unwrap();
        for columns in [80, 120, 200] {
            let shown = bare(&on_terminal(columns, gate(arguments)));
            for line in shown.lines() {
                let width = line.chars().count();
                assert!(
                    width <= columns.into(),
                    "{arguments:?}: {width} of {columns}: {line}"
                );
            }
            let shown = words(&shown);
            // A table that goes below its rows has no headings there.
            let lost: Vec<_> = words(&piped)
                .into_iter()
                .filter(|word| !shown.contains(word) && word.to_uppercase() != *word)
                .collect();
            assert!(lost.is_empty(), "{arguments:?} in {columns} columns: {lost:?}");
        }
    }
}

/// Seen red: with an empty `NO_COLOR` taken for one that is set.
#[test]
fn colours_are_for_terminals_that_want_them() {
    let root = tree("flags-only");
    let arguments = ["inspect", "--root", root.to_str().unwrap()];
    let coloured = |command| on_terminal(80, command).contains('\u{1b}');
    for arguments in [&arguments[..], &["--help"]] {
        for (name, value, colours) in [
            ("TERM", "xterm", true),
            ("NO_COLOR", "1", false),
            ("NO_COLOR", "", true),
            ("TERM", "dumb", false),
        ] {
            // With `CI` set, anstream takes every terminal for one with colours.
            for ci in [false, true] {
                let mut command = gate(arguments);
                command.env_remove("CI").env(name, value);
                if ci {
                    command.env("CI", "true");
                }
                let said = coloured(command);
                assert_eq!(said, colours, "{arguments:?} {name}={value:?} CI: {ci}");
            }
        }
    }
    let piped = gate(&arguments).stdin(Stdio::null()).output().unwrap();
    assert_eq!(code(&piped), 2);
    assert!(!piped.stdout.contains(&0x1b));
}

/// `jq` and people read both; a script that reads line by line needs the whole document on one.
#[test]
fn json_is_one_line_for_programs_and_indented_for_people() {
    let arguments = ["explain", "GET", "/pods", "-o", "json"];
    let piped = String::from_utf8(gate(&arguments).output().unwrap().stdout).unwrap();
    let shown = on_terminal(80, gate(&arguments));
    assert_eq!((piped.lines().count(), shown.lines().count() > 1), (1, true));
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parsed(&piped), parsed(&shown));
}
