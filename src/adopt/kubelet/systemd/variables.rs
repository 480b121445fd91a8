//! The environment of a unit, as systemd puts it together.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use super::lines::{LinePlace, Told, is_text};
use super::pattern::matching;
use super::specifiers::Specifiers;
use super::words::{WordRules, take_word};
use crate::adopt::kubelet::environment::{self, EnvironmentLine};
use crate::adopt::kubelet::root::Root;

/// Variables that systemd sets by itself, some for certain units only, and the beginnings of their names.
const OWN: [&str; 26] = [
    "CACHE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "HOME",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LANG",
    "LC_",
    "LISTEN_",
    "LOGNAME",
    "LOGS_DIRECTORY",
    "LOG_NAMESPACE",
    "MAINPID",
    "MANAGERPID",
    "MEMORY_PRESSURE_",
    "NOTIFY_SOCKET",
    "PATH",
    "PIDFILE",
    "RUNTIME_DIRECTORY",
    "SHELL",
    "STATE_DIRECTORY",
    "SYSTEMD_",
    "TERM",
    "TZ",
    "USER",
    "WATCHDOG_",
];

/// A variable's value, and the file that sets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Variable {
    pub(super) text: String,
    pub(super) file: Arc<str>,
}

/// The environment.
#[derive(Debug, Default)]
pub(super) struct Variables {
    known: BTreeMap<String, Variable>,
    /// Passed on from systemd's own environment.
    passed: BTreeSet<String>,
    /// A folder with programs that may set variables for every unit at boot.
    pub(super) generators: Option<&'static str>,
}

/// A variable, looked up.
pub(super) enum LookedUp<'a> {
    Set(&'a str, &'a Arc<str>),
    Unset,
    /// It may have a value: why that is not known.
    Unknown(String),
}

impl Variables {
    pub(super) fn set(&mut self, name: String, text: String, file: &Arc<str>) {
        self.passed.remove(&name);
        let file = Arc::clone(file);
        self.known.insert(name, Variable { text, file });
    }

    pub(super) fn pass(&mut self, name: &str) {
        self.known.remove(name);
        self.passed.insert(name.to_owned());
    }

    /// Takes a variable away, by its name, or by its name and value.
    pub(super) fn unset(&mut self, pattern: &str) {
        match pattern.split_once('=') {
            None => {
                self.known.remove(pattern);
                self.passed.remove(pattern);
            }
            Some((name, value)) => {
                if self.known.get(name).is_some_and(|known| known.text == value) {
                    self.known.remove(name);
                }
            }
        }
    }

    /// Looks a variable up as systemd does: a text that stands before an equals sign in the environment.
    pub(super) fn get(&self, name: &str) -> LookedUp<'_> {
        if let Some(known) = self.known.get(name) {
            return LookedUp::Set(&known.text, &known.file);
        }
        // `$A=b` finds what follows `b=` in the value of A.
        if let Some((name, more)) = name.split_once('=') {
            let known = self.known.get(name).and_then(|known| {
                let rest = known.text.strip_prefix(more)?.strip_prefix('=')?;
                Some(LookedUp::Set(rest, &known.file))
            });
            return known.unwrap_or(LookedUp::Unset);
        }
        if !is_name(name) {
            return LookedUp::Unset;
        }
        if self.passed.contains(name) {
            return LookedUp::Unknown("it comes from systemd's own environment".to_owned());
        }
        let of_systemd = |own: &&str| {
            if own.ends_with('_') {
                name.starts_with(*own)
            } else {
                name == *own
            }
        };
        if OWN.iter().any(of_systemd) {
            return LookedUp::Unknown("systemd sets it itself".to_owned());
        }
        match self.generators {
            Some(folder) => LookedUp::Unknown(format!("a program in {folder} may set it")),
            None => LookedUp::Unset,
        }
    }

    pub(super) fn into_known(self) -> BTreeMap<String, String> {
        let known = self.known.into_iter();
        known.map(|(name, value)| (name, value.text)).collect()
    }
}

/// The assignments of one `Environment=` line. Those before an error count.
pub(super) fn assignments(
    value: &str,
    specifiers: &Specifiers<'_>,
    place: &LinePlace,
    told: &mut Told,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = value;
    loop {
        let word = match take_word(&mut rest, WordRules::Escapes) {
            Ok(Some(word)) => word,
            Ok(None) => return found,
            Err(_) => {
                told.ignored(place, format!("Environment: {}", after(&found)));
                return found;
            }
        };
        // An argument that is not UTF-8 is replaced here, and is no assignment there.
        let Ok(word) = String::from_utf8(word) else {
            told.ignored(place, "Environment: an assignment that is not UTF-8");
            continue;
        };
        let word = match specifiers.replaced(&word, place, told) {
            Ok(word) => word,
            Err(letter) => {
                told.ignored(
                    place,
                    format!("Environment: an assignment with the unknown specifier %{letter}"),
                );
                continue;
            }
        };
        match word.split_once('=') {
            Some((name, value)) if is_name(name) && is_text(value) => {
                found.push((name.to_owned(), value.to_owned()));
            }
            Some((name, _)) => {
                told.ignored(
                    place,
                    format!("Environment: {:?} is no name of a variable", shown(name)),
                );
            }
            // A word that is left of a value without quotes, and may be a secret.
            None => told.ignored(place, "Environment: a word without \"=\" is no assignment"),
        }
    }
}

/// Names a part of a line without what may be a secret.
fn after(found: &[(String, String)]) -> String {
    let what = "a quote is not closed, or a backslash begins no escape";
    match found.last() {
        None => what.to_owned(),
        Some((name, _)) => format!("after {name}, {what}"),
    }
}

/// A name that is none, as far as it can be shown: what is no short word may be a secret.
fn shown(name: &str) -> &str {
    if name.len() <= 64
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_. ".contains(c))
    {
        name
    } else {
        "…"
    }
}

/// The variables of `EnvironmentFile=`: `path` may be a pattern, and `optional` says that it may be missing.
pub(super) fn from_files(
    root: &Root,
    path: &str,
    optional: bool,
    variables: &mut Variables,
    told: &mut Told,
) {
    let missing = |error: &dyn std::fmt::Display| {
        format!("EnvironmentFile {path}: {error}; its variables are treated as empty")
    };
    let files = match matching(root, path) {
        Ok(files) => files,
        Err(error) => return told.unread.push(missing(&error)),
    };
    if files.is_empty() && !optional {
        // systemd does not start the unit without it, but a copy of a node may lack files.
        told.unread.push(missing(&"not found"));
    }
    for file in files {
        match root.read_bytes(&file) {
            Ok(bytes) => from_file(&bytes, &file, optional, variables, told),
            Err(error) if error.kind() == ErrorKind::NotFound && optional => {}
            Err(_) if optional && root.list(&file).is_ok() => {
                told.notes.push(format!(
                    "EnvironmentFile {file}: a folder, which systemd passes over"
                ));
            }
            Err(error) => told.unread.push(format!(
                "EnvironmentFile {file}: {error}; its variables are treated as empty"
            )),
        }
    }
}

/// One file: systemd reads all of it or nothing.
fn from_file(bytes: &[u8], file: &str, optional: bool, variables: &mut Variables, told: &mut Told) {
    let text = String::from_utf8_lossy(bytes);
    let lines = environment::lines(&text);
    let is_lossy = matches!(text, Cow::Owned(_));
    let no_text = |text: &str| is_lossy && text.contains(char::REPLACEMENT_CHARACTER) || !is_text(text);
    let broken = lines.iter().find(|(_, line)| match line {
        EnvironmentLine::Assignment(name, value) => no_text(name) || no_text(value),
        EnvironmentLine::Other => false,
    });
    let broken = broken.map(|(line, _)| format!("{file}:{line}: bytes that are no text"));
    let zero = bytes.contains(&0).then(|| format!("{file}: a zero byte"));
    if let Some(why) = broken.or(zero) {
        return match optional {
            true => told.notes.push(format!("{why}: systemd passes over the file")),
            false => told
                .unread
                .push(format!("{why}: systemd does not start the unit")),
        };
    }
    if environment::comment_goes_on(&text) {
        told.unread.push(format!(
            "{file}: a comment ends in a backslash: systemd before 254 takes the next line for a part of it"
        ));
    }
    let place: Arc<str> = file.into();
    for (number, line) in lines {
        // It may hold a secret: only a variable's name is shown.
        let shown = match line {
            EnvironmentLine::Assignment(name, text) if is_name(&name) => {
                variables.set(name, text, &place);
                continue;
            }
            EnvironmentLine::Assignment(name, _) => {
                let exported = name.strip_prefix("export ").filter(|name| is_name(name));
                exported.map_or_else(|| "the line".to_owned(), |name| format!("\"export {name}\""))
            }
            EnvironmentLine::Other => "the line".to_owned(),
        };
        let note = format!("{file}:{number}: {shown} names no variable, so systemd ignores it");
        told.notes.push(note);
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(first) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
