//! Fuzz targets: a kubelet's options, and the systemd unit that starts it, as a node's files have them. The
//! parts of an input are separated by lines with `%%`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target tells what it found"
)]

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::invocation::Invocation;
use super::options::{Effective, Setting, ValueOrigin, address, arguments};
use super::root::Root;
use super::systemd::{self, UnitError};
use crate::go;

/// What no message may repeat.
const SECRET: &str = "S3CR3T-MARK";

fn parts(data: &[u8]) -> Option<Vec<&str>> {
    let text = str::from_utf8(data).ok()?;
    // Without it an input may not say the secret itself, where it is shown on purpose.
    (!text.contains(SECRET)).then(|| text.split("\n%%\n").collect())
}

fn write(folder: &TempDir, path: &str, text: &str) {
    let path = folder.path().join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder for the files");
    fs::write(path, text).expect("a file");
}

/// Words of the command line, the file of `--config`, and two drop-ins.
///
/// # Panics
/// An option has another value than its sources say, or a secret is shown.
pub(crate) fn kubelet_configuration(data: &[u8]) {
    let Some(parts) = parts(data) else { return };
    let part = |at: usize| parts.get(at).copied();
    let folder = tempfile::tempdir().expect("a folder");
    write(
        &folder,
        "kubelet.yaml",
        part(1).unwrap_or("kind: KubeletConfiguration"),
    );
    write(
        &folder,
        "conf.d/10-a.conf",
        part(2).unwrap_or("kind: KubeletConfiguration"),
    );
    if let Some(text) = part(3) {
        write(&folder, "conf.d/20-b.conf", text);
    }
    let unknown = format!("--unknown={SECRET}");
    let mut words: Vec<String> = [SECRET, &unknown, "--config=/kubelet.yaml", "--config-dir=/conf.d"]
        .into_iter()
        .chain(part(0).unwrap_or_default().lines().take(64))
        .map(str::to_owned)
        .collect();
    let of = |words: &[String]| {
        let invocation = Invocation::given(words, Root::new(folder.path()));
        let shown = arguments(&invocation).join("\n");
        assert!(!shown.contains(SECRET), "{shown}");
        Effective::of(&invocation)
    };
    let effective = match of(&words) {
        Ok(effective) => effective,
        Err(error) => {
            assert!(
                !error.place.is_empty() && !error.to_string().contains(SECRET),
                "{error}"
            );
            return;
        }
    };
    for told in [&effective.notes, &effective.unread, &effective.refused]
        .into_iter()
        .flatten()
    {
        assert!(!told.contains(SECRET), "{told}");
    }
    // Whatever word comes next would be its value.
    if effective
        .refused
        .iter()
        .any(|why| why.contains("is the last word"))
    {
        return;
    }
    for setting in effective.settings() {
        comes_from_where_it_says(setting, &effective);
    }
    // The same again changes nothing: the last drop-in decides.
    if let Some(text) = part(3) {
        write(&folder, "conf.d/30-c.conf", text);
        same(&effective, &of(&words).expect("the same drop-in again"));
    }
    // What is said to be in force is in force if it is given. `true` is for a flag that has no value yet.
    words.push("true".to_owned());
    words.extend(effective.settings().iter().filter_map(as_flag));
    same(&effective, &of(&words).expect("values of flags"));
    words.extend(["--address=", "--healthz-bind-address="].map(str::to_owned));
    same(&effective, &of(&words).expect("empty addresses"));
    if let Some(text) = part(1).and_then(with_what_changes_nothing) {
        write(&folder, "kubelet.yaml", &text);
        same(&effective, &of(&words).expect("a file that says no more"));
    }
}

/// The same configuration, with something behind it that a kubelet reads and that says nothing: in JSON keys
/// for the second time, in YAML another document.
fn with_what_changes_nothing(text: &str) -> Option<String> {
    if !go::is_json(text) {
        // The line break would belong to the last value.
        let ends_in_block = text.contains(['|', '>']);
        return (!ends_in_block).then(|| format!("{text}\n---\nport: [1\n"));
    }
    let rest = text.trim_end().strip_suffix('}')?;
    let comma = if rest.trim_end().ends_with('{') { "" } else { "," };
    Some(format!(
        "{rest}{comma}\"authentication\":{{\"x509\":{{}}}},\"authorization\":null,\"unknown\":[1],\"port\":null}}"
    ))
}

fn comes_from_where_it_says(setting: &Setting, effective: &Effective) {
    let is = |json: &str| {
        let value: Value = serde_json::from_str(json).expect("a default");
        value == setting.value
    };
    assert!(
        match &setting.origin {
            ValueOrigin::Default => is(setting.field.default),
            ValueOrigin::LegacyDefault => setting.field.legacy.is_some_and(is),
            ValueOrigin::Flag(place) => place == "the command line",
            ValueOrigin::File(path) | ValueOrigin::DropIn(path) => effective.files.contains(path),
        },
        "{setting:?}"
    );
}

/// The flag that sets this value; `None`: there is no flag, or it cannot say this, or would add to others.
fn as_flag(setting: &Setting) -> Option<String> {
    let flag = Some(setting.field.flag).filter(|flag| !flag.is_empty())?;
    let value = match &setting.value {
        Value::Array(texts) => {
            let texts: Vec<&str> = texts.iter().filter_map(Value::as_str).collect();
            let plain = |text: &&str| !text.is_empty() && !text.contains([',', '"']);
            let added = matches!(setting.origin, ValueOrigin::Flag(_));
            Some(texts)
                .filter(|texts| !added && !texts.is_empty() && texts.iter().all(plain))?
                .join(",")
        }
        Value::String(text) if text.is_empty() => return None,
        // A file may have any text there.
        Value::String(text) if flag.ends_with("address") && address(text).is_none() => return None,
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    Some(format!("--{flag}={value}"))
}

fn same(one: &Effective, other: &Effective) {
    for (one, other) in one.settings().iter().zip(other.settings()) {
        assert_eq!(one.value, other.value, "{one:?} {other:?}");
    }
}

/// A unit, a drop-in, and a file of its environment.
///
/// # Panics
/// A later drop-in does not win, words change by being quoted, or a secret is shown.
pub(crate) fn systemd_unit(data: &[u8]) {
    const UNIT: &str = "etc/systemd/system/kubelet.service";
    let Some(parts) = parts(data) else { return };
    let part = |at: usize| parts.get(at).copied().unwrap_or_default();
    let folder = tempfile::tempdir().expect("a folder");
    let last = format!("{UNIT}.d/99-last.conf");
    write(&folder, "etc/hostname", "worker-1.example\n");
    write(&folder, UNIT, part(0));
    write(&folder, &format!("{UNIT}.d/10-first.conf"), part(1));
    let environment = format!("{}\n9={SECRET}\nA={SECRET}\n", part(2));
    write(&folder, "etc/default/kubelet", &environment);
    let started = |root: &Path| systemd::started(&Root::new(root), "kubelet.service");
    // Whatever stands before it, the last drop-in is read to the letter.
    let command = "/usr/bin/kubelet --last 'a b' \"c\\\"d\" --percent=%% --dollar=$$X";
    write(
        &folder,
        &last,
        &format!("[Service]\nEnvironment=\"S={SECRET}%q\"\nExecStart=\nExecStart={command}\n"),
    );
    match started(folder.path()) {
        // An empty file masks the unit.
        Ok(None) => assert!(part(0).is_empty()),
        Ok(Some(unit)) => {
            let words: Vec<&str> = unit.words.iter().map(|word| word.text.as_str()).collect();
            let expected = [
                "/usr/bin/kubelet",
                "--last",
                "a b",
                "c\"d",
                "--percent=%",
                "--dollar=$X",
            ];
            assert_eq!(words, expected);
            for told in unit.notes.iter().chain(&unit.unread) {
                assert!(!told.contains(SECRET), "{told}");
            }
        }
        // The unit's own file has something that systemd refuses.
        Err(error) => {
            assert!(
                matches!(error, UnitError::Read { .. } | UnitError::Refused { .. }),
                "{error}"
            );
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
    }
    socket_unit_is_read(part(0), part(1));
    // The words that a unit starts are the same when each is quoted.
    fs::remove_file(folder.path().join(&last)).expect("the last drop-in");
    let Ok(Some(unit)) = started(folder.path()) else {
        return;
    };
    let words: Vec<&str> = unit.words.iter().map(|word| word.text.as_str()).collect();
    // What ends a line or is no text cannot be quoted, nor what is a prefix or a
    // variable in a program's path.
    let is_plain = |c: char| c == ' ' || !c.is_whitespace() && !c.is_control() && u32::from(c) < 0xfdd0;
    let program = words[0].trim_start_matches(['-', '@', ':', '+', '!', '|']);
    if program != words[0] || program.contains('$') || !words.iter().all(|word| word.chars().all(is_plain)) {
        return;
    }
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let again = tempfile::tempdir().expect("a folder");
    write(
        &again,
        UNIT,
        &format!("[Service]\nExecStart={}\n", quoted.join(" ")),
    );
    let again = started(again.path()).expect("a unit").expect("a unit");
    let again: Vec<&str> = again.words.iter().map(|word| word.text.as_str()).collect();
    assert_eq!(again, words);
}

/// The same texts as a socket unit: whatever stands before it, the last drop-in decides.
fn socket_unit_is_read(unit: &str, drop_in: &str) {
    const UNIT: &str = "etc/systemd/system/kubelet-gate.socket";
    let folder = tempfile::tempdir().expect("a folder");
    write(&folder, UNIT, unit);
    write(&folder, &format!("{UNIT}.d/10-first.conf"), drop_in);
    let last = "[Socket]\nListenStream=\nListenStream=19443\nBacklog=1\n";
    write(&folder, &format!("{UNIT}.d/99-last.conf"), last);
    let unit = match systemd::socket_unit(&Root::new(folder.path()), "kubelet-gate.socket") {
        Err(UnitError::Refused { .. }) => return,
        // An empty file masks the unit.
        Ok(None) => {
            assert!(unit.is_empty());
            return;
        }
        unit => unit.expect("a unit").expect("a unit"),
    };
    let listens: Vec<_> = unit
        .listens
        .iter()
        .map(|line| (&*line.key, &*line.value))
        .collect();
    assert_eq!(listens, [("ListenStream", "19443")]);
    assert_eq!(unit.setting("Backlog").map(|line| &*line.value), Some("1"));
}

fn quoted(word: &str) -> String {
    let mut quoted = String::from("\"");
    for char in word.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '$' | '%' => quoted.extend([char, char]),
            char => quoted.push(char),
        }
    }
    quoted + "\""
}
