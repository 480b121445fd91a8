//! Odd units, read as a real systemd reads them. `tests/it/data/systemd` holds the units, and what systemd
//! 252 of Debian 12 made of them: `just systemd-oracle` compares once more.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::{Root, UnitError, UnitStart, started};

/// How many units are compared at least.
const UNITS: usize = 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OddUnit {
    /// What is odd about it.
    name: String,
    #[serde(default = "kubelet")]
    unit: String,
    files: BTreeMap<String, String>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    /// Files with bytes that are no text, in hexadecimal digits.
    #[serde(default)]
    bytes: BTreeMap<String, String>,
    /// What this program says it does not know: its reading is not compared then.
    unknown: Option<String>,
}

fn kubelet() -> String {
    "kubelet.service".to_owned()
}

/// How a unit is started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Reading {
    /// After `argv[0]`. `None`: systemd does not start it.
    arguments: Option<Vec<String>>,
    environment: BTreeMap<String, String>,
    /// The lines that do not count.
    ignored: BTreeSet<String>,
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/data/systemd")
        .join(file)
}

fn odd_units() -> Vec<OddUnit> {
    let text = fs::read_to_string(data("units.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn lay_out(unit: &OddUnit, folder: &Path) {
    let parent = |path: &Path| fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (path, text) in &unit.files {
        parent(&folder.join(path));
        fs::write(folder.join(path), text).unwrap();
    }
    for (path, digits) in &unit.bytes {
        parent(&folder.join(path));
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        fs::write(folder.join(path), bytes).unwrap();
    }
    for (path, target) in &unit.links {
        parent(&folder.join(path));
        symlink(target, folder.join(path)).unwrap();
    }
}

/// How this program reads it.
fn read(unit: &OddUnit, folder: &Path) -> (Reading, Vec<String>) {
    let (start, refused) = match started(&Root::new(folder), &unit.unit) {
        Ok(Some(start)) => (start, false),
        Ok(None) => (UnitStart::default(), true),
        Err(UnitError::Refused { .. } | UnitError::NoCommand(_)) => (UnitStart::default(), true),
        Err(error) => panic!("{}: {error}", unit.name),
    };
    let words = start.words.into_iter().skip(1).map(|word| word.text);
    let reading = Reading {
        arguments: (!refused).then(|| words.collect()),
        environment: start.environment,
        ignored: start.notes.iter().filter_map(|note| of_a_unit(note)).collect(),
    };
    (reading, start.unread)
}

/// How the systemd of this machine reads it.
fn read_by_systemd(unit: &OddUnit, folder: &Path, own: &BTreeMap<String, String>) -> Reading {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new("bash")
        .arg(scripts.join("tests/systemd/boot.sh"))
        .args([folder.as_os_str(), unit.unit.as_ref()])
        .arg(scripts.join("target/systemd/started"))
        .status()
        .unwrap();
    assert!(status.success(), "{}: systemd did not end", unit.name);
    let seen = |file: &str| {
        let bytes = fs::read(folder.join("seen").join(file)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let parts = |text: String| -> Vec<String> {
        text.strip_suffix('\0')
            .map(|text| text.split('\0').map(str::to_owned).collect())
            .unwrap_or_default()
    };
    let arguments = seen("arguments").map(|text| parts(text).into_iter().skip(1).collect());
    let environment = seen("environment").map(parts).unwrap_or_default();
    Reading {
        environment: environment
            .iter()
            .filter_map(|variable| variable.split_once('='))
            .filter(|(name, _)| own.contains_key(*name) || !set_by_systemd(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        // A unit that is not started has none of its lines in force.
        ignored: match arguments {
            None => BTreeSet::new(),
            Some(_) => ignored(&seen("log").unwrap_or_default()),
        },
        arguments,
    }
}

fn set_by_systemd(name: &str) -> bool {
    matches!(
        name,
        "PATH" | "LANG" | "INVOCATION_ID" | "JOURNAL_STREAM" | "SYSTEMD_EXEC_PID" | "FROM_SYSTEMD"
    )
}

/// The lines of which systemd's log complains.
fn ignored(log: &str) -> BTreeSet<String> {
    let messages = log.lines().filter_map(|line| line.split_once("]: "));
    messages
        .map(|(_, message)| message)
        .filter(|message| !message.contains("unknown escape"))
        .filter_map(of_a_unit)
        .collect()
}

/// The file and line with which a message begins. systemd says nothing of its own configuration here, as its
/// log is not yet open then, and names no line of a file of variables.
fn of_a_unit(message: &str) -> Option<String> {
    let (place, _) = message.split_once(": ")?;
    let (file, line) = place.rsplit_once(':')?;
    (file.contains("/systemd/system/") && line.parse::<usize>().is_ok()).then(|| place.to_owned())
}

/// Seen red: with lines joined over an escaped backslash, with names that are none, with the drop-ins of one
/// name alone, with the variables of a line whose quote is open, with `$X-y` as it is, with `:` overlooked.
#[test]
fn odd_units_are_read_as_systemd_reads_them() {
    let mode = std::env::var("KUBELET_GATE_SYSTEMD").unwrap_or_default();
    let text = fs::read_to_string(data("readings.json")).unwrap_or_else(|_| "{}".to_owned());
    let mut recorded: BTreeMap<String, Reading> = serde_json::from_str(&text).unwrap();
    let units = odd_units();
    let (mut differ, mut compared) = (Vec::new(), 0);
    for unit in &units {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("node");
        fs::create_dir(&tree).unwrap();
        lay_out(unit, &tree);
        let (own, unread) = read(unit, &tree);
        if !mode.is_empty() {
            let real = read_by_systemd(unit, &tree, &own.environment);
            if mode == "record" {
                recorded.insert(unit.name.clone(), real);
            } else if recorded.get(&unit.name) != Some(&real) {
                differ.push(format!(
                    "{}: systemd reads it otherwise than recorded: {real:?}",
                    unit.name
                ));
            }
        }
        match (&unit.unknown, unread.join("\n")) {
            (None, told) if told.is_empty() => {
                compared += 1;
                if recorded.get(&unit.name) != Some(&own) {
                    let expected = recorded.get(&unit.name);
                    differ.push(format!("{}:\n  read {own:?}\n  systemd {expected:?}", unit.name));
                }
            }
            (Some(unknown), told) if told.contains(unknown.as_str()) => {}
            (unknown, told) => differ.push(format!("{}: unknown {unknown:?}, told {told:?}", unit.name)),
        }
    }
    let names: BTreeSet<&str> = units.iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(names.len(), units.len(), "a name twice");
    if mode == "record" {
        recorded.retain(|name, _| names.contains(name.as_str()));
        fs::write(
            data("readings.json"),
            serde_json::to_string_pretty(&recorded).unwrap() + "\n",
        )
        .unwrap();
    }
    let unknown = units.len() - compared;
    println!(
        "{compared} units compared, {} differ; {unknown} are said to be not known",
        differ.len()
    );
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(compared >= UNITS, "{compared}");
}
