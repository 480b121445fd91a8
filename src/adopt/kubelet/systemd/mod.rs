//! What a systemd unit starts, read from its files: the fragment, its drop-ins, and the environment they
//! name.

mod socket;

pub(crate) use self::socket::{SocketLine, SocketUnit, socket_unit};

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::environment;
use super::invocation::{KubeletUnit, Word};
use super::root::Root;

/// Where systemd looks for units; the first one counts.
const FOLDERS: [&str; 7] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// How deep one file may include another; systemd removed this in version 239.
const INCLUDES: usize = 8;
/// How many files one unit may have.
const FILES: usize = 256;
/// How long a command may become, with every variable in its place.
const LONGEST_COMMAND: usize = 4 * 1024 * 1024;

/// What a unit starts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct UnitStart {
    /// The file of the unit itself.
    pub(super) file: String,
    /// The last `ExecStart`, with every variable in its place.
    pub(super) words: Vec<Word>,
    /// `WorkingDirectory`, `/` unless set.
    pub(super) directory: String,
    /// The environment, as far as the unit makes it.
    pub(super) environment: BTreeMap<String, String>,
    /// With `IPAddressDeny=any`, the addresses that `IPAddressAllow` lets in.
    pub(super) allows_only: Option<Vec<String>>,
    /// What may surprise the operator.
    pub(super) notes: Vec<String>,
    /// Sources that could not be read, and may hold any option.
    pub(super) unread: Vec<String>,
}

/// A value in a unit's file, and that file.
#[derive(Clone, Debug)]
struct UnitValue {
    text: String,
    file: Arc<str>,
}

/// What the files of a unit set.
#[derive(Debug, Default)]
struct UnitFiles<'a> {
    name: &'a str,
    host: String,
    files: usize,
    commands: Vec<UnitValue>,
    assignments: Vec<UnitValue>,
    environment_files: Vec<UnitValue>,
    unset: Vec<UnitValue>,
    denied: Vec<UnitValue>,
    allowed: Vec<UnitValue>,
    directory: String,
    notes: Vec<String>,
    unread: Vec<String>,
}

type Environment = BTreeMap<String, UnitValue>;

/// Why it is not known what a unit starts.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// One of its files or folders cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file or folder.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file includes itself, or there are far too many.
    #[error("{0}: files include each other, or there are too many (more than {FILES})")]
    Includes(String),
    /// There is no `ExecStart`.
    #[error("{0}: it starts nothing: there is no ExecStart")]
    NoCommand(String),
    /// Variables make the command far too long.
    #[error("{0}: with its variables the command is longer than 4 MiB")]
    LongCommand(String),
}

fn unread(path: &str) -> impl FnOnce(io::Error) -> UnitError {
    let path = path.to_owned();
    |source| UnitError::Read { path, source }
}

impl UnitStart {
    /// The unit.
    pub(super) fn unit(&self) -> KubeletUnit {
        KubeletUnit {
            file: self.file.clone(),
            allows_only: self.allows_only.clone(),
        }
    }
}

/// What the unit of this name starts. `None`: there is no such unit, or it is masked.
///
/// # Errors
/// One of its files cannot be read, or it starts nothing.
pub(super) fn started(root: &Root, name: &str) -> Result<Option<UnitStart>, UnitError> {
    let Some(file) = fragment(root, name)? else {
        return Ok(None);
    };
    let mut unit = UnitFiles {
        name,
        host: root.read("/etc/hostname").unwrap_or_default().trim().to_owned(),
        ..UnitFiles::default()
    };
    unit.take(root, &file, 0)?;
    for file in drop_ins(root, name)? {
        unit.take(root, &file, 0)?;
    }
    let environment = unit.environment(root);
    let Some(command) = unit.commands.pop() else {
        return Err(UnitError::NoCommand(file));
    };
    if !unit.commands.is_empty() {
        unit.notes.push(format!(
            "{file}: several ExecStart, which systemd takes for one-shot units only; the last is read"
        ));
    }
    let words = unit.command_words(&command, &environment)?;
    let directory = unit.specified(&unit.directory.clone());
    let directory = match directory.trim_start_matches('-') {
        "" | "~" => "/".to_owned(),
        directory => directory.to_owned(),
    };
    Ok(Some(UnitStart {
        file,
        words,
        directory,
        environment: environment
            .into_iter()
            .map(|(name, value)| (name, value.text))
            .collect(),
        allows_only: unit
            .denied
            .iter()
            .any(|denied| denied.text.split_whitespace().any(|word| word == "any"))
            .then(|| {
                let allowed = unit
                    .allowed
                    .iter()
                    .flat_map(|allowed| allowed.text.split_whitespace());
                allowed.map(str::to_owned).collect()
            }),
        notes: unit.notes,
        unread: unit.unread,
    }))
}

/// The unit's own file.
fn fragment(root: &Root, name: &str) -> Result<Option<String>, UnitError> {
    for folder in FOLDERS {
        let file = format!("{folder}/{name}");
        if root.is_masked(&file) {
            return Ok(None);
        }
        if root.exists(&file).map_err(unread(&file))? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The drop-ins of a unit, in the order of their names; of two with the same name the folder that comes first
/// wins, also to mask the other.
fn drop_ins(root: &Root, name: &str) -> Result<Vec<String>, UnitError> {
    let mut found = BTreeMap::new();
    let folders = drop_in_folders(name).into_iter();
    for folder in folders.flat_map(|name| FOLDERS.map(|folder| format!("{folder}/{name}.d"))) {
        let names = root.list(&folder).map_err(unread(&folder))?;
        for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
            found
                .entry(name.clone())
                .or_insert_with(|| format!("{folder}/{name}"));
        }
    }
    Ok(found.into_values().filter(|file| !root.is_masked(file)).collect())
}

/// The units whose drop-ins count for this one, the nearest first: itself, those with a part of its name, all
/// of its kind.
fn drop_in_folders(name: &str) -> Vec<String> {
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, "service"));
    let prefixes = stem
        .rmatch_indices('-')
        .map(|(at, _)| format!("{}.{kind}", &stem[..=at]));
    std::iter::once(name.to_owned())
        .chain(prefixes)
        .chain([kind.to_owned()])
        .collect()
}

impl UnitFiles<'_> {
    fn take(&mut self, root: &Root, file: &str, depth: usize) -> Result<(), UnitError> {
        self.files += 1;
        if depth > INCLUDES || self.files > FILES {
            return Err(UnitError::Includes(file.to_owned()));
        }
        let text = root.read(file).map_err(unread(file))?;
        let place: Arc<str> = file.into();
        let mut section = String::new();
        for line in joined(&text) {
            if let Some(path) = line.strip_prefix(".include ") {
                self.take(root, path.trim(), depth + 1)?;
            } else if line.starts_with('[') {
                section = line;
            } else if section == "[Service]"
                && let Some((key, value)) = line.split_once('=')
            {
                self.set(key.trim(), value.trim(), &place);
            }
        }
        Ok(())
    }

    /// A list is emptied by an empty value.
    fn set(&mut self, key: &str, value: &str, file: &Arc<str>) {
        let list = match key {
            "ExecStart" => &mut self.commands,
            "Environment" => &mut self.assignments,
            "EnvironmentFile" => &mut self.environment_files,
            "UnsetEnvironment" => &mut self.unset,
            "IPAddressDeny" => &mut self.denied,
            "IPAddressAllow" => &mut self.allowed,
            "WorkingDirectory" => return value.clone_into(&mut self.directory),
            _ => return,
        };
        match value {
            "" => list.clear(),
            value => list.push(UnitValue {
                text: value.to_owned(),
                file: Arc::clone(file),
            }),
        }
    }

    /// Files win over `Environment`, later ones over earlier.
    fn environment(&mut self, root: &Root) -> Environment {
        let mut environment = Environment::new();
        for said in std::mem::take(&mut self.assignments) {
            for assignment in words(&said.text) {
                let assignment = self.specified(&assignment);
                if let Some((name, value)) = assignment.split_once('=') {
                    let value = UnitValue {
                        text: value.to_owned(),
                        file: Arc::clone(&said.file),
                    };
                    environment.insert(name.to_owned(), value);
                }
            }
        }
        for said in std::mem::take(&mut self.environment_files) {
            let path = self.specified(&said.text);
            let (path, optional) = match path.strip_prefix('-') {
                Some(path) => (path, true),
                None => (path.as_str(), false),
            };
            match matching(root, path) {
                Some(paths) => {
                    for path in paths {
                        self.environment_file(root, &path, optional, &mut environment);
                    }
                }
                None => self.unread.push(format!(
                    "EnvironmentFile {path}: this pattern is not supported here"
                )),
            }
        }
        for said in std::mem::take(&mut self.unset) {
            for name in words(&said.text) {
                environment.remove(name.split('=').next().unwrap_or(&name));
            }
        }
        environment
    }

    fn environment_file(&mut self, root: &Root, path: &str, optional: bool, environment: &mut Environment) {
        let text = match root.read(Path::new(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && optional => return,
            // systemd does not start the unit without it, but a copy of a node may lack files.
            Err(error) => {
                let why = format!("EnvironmentFile {path}: {error}; its variables are treated as empty");
                return self.unread.push(why);
            }
        };
        let file: Arc<str> = path.into();
        for (name, text) in environment::assignments(&text) {
            if is_name(&name) {
                environment.insert(
                    name,
                    UnitValue {
                        text,
                        file: Arc::clone(&file),
                    },
                );
            } else {
                // The line may hold a secret: only a variable's name is shown.
                let shown = name.strip_prefix("export ").filter(|name| is_name(name));
                let line = shown.map_or_else(|| "a line".to_owned(), |name| format!("\"export {name}\""));
                self.notes
                    .push(format!("{path}: {line} names no variable, so systemd ignores it"));
            }
        }
    }

    /// A text with its specifiers, such as `%H` for the host's name, replaced.
    fn specified(&mut self, text: &str) -> String {
        let stem = self.name.rsplit_once('.').map_or(self.name, |(stem, _)| stem);
        let mut all = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            all.push_str(&rest[..at]);
            let mut after = rest[at + 1..].chars();
            match after.next() {
                Some('%') => all.push('%'),
                Some('H') => all.push_str(&self.host),
                Some('l') => all.push_str(self.host.split('.').next().unwrap_or_default()),
                Some('n') => all.push_str(self.name),
                // None of these units is made from a template.
                Some('N' | 'p') => all.push_str(stem),
                Some('i' | 'I') => {}
                Some('t') => all.push_str("/run"),
                Some('S') => all.push_str("/var/lib"),
                Some('C') => all.push_str("/var/cache"),
                Some('L') => all.push_str("/var/log"),
                Some('E') => all.push_str("/etc"),
                Some('h') => all.push_str("/root"),
                Some('u') => all.push_str("root"),
                Some('U') => all.push('0'),
                other => {
                    all.push('%');
                    all.extend(other);
                    // The text around it may be a variable's value, and that a secret.
                    let specifier = other.map(String::from).unwrap_or_default();
                    self.unread.push(format!(
                        "{}: the specifier \"%{}\" is not supported here",
                        self.name,
                        specifier.escape_default()
                    ));
                }
            }
            rest = after.as_str();
        }
        all + rest
    }

    /// The words of a command: prefixes such as `-` taken away, `${NAME}` replaced within a word, `$NAME`
    /// alone by as many words as it has.
    fn command_words(
        &mut self,
        command: &UnitValue,
        environment: &Environment,
    ) -> Result<Vec<Word>, UnitError> {
        let text = command.text.trim_start_matches(['@', '-', ':', '+', '!', '|']);
        let prefix = &command.text[..command.text.len() - text.len()];
        let mut expanded = Vec::new();
        let mut length = 0;
        for (at, word) in words(text).into_iter().enumerate() {
            if at == 1 && prefix.contains('@') {
                // The second word is argv[0].
                continue;
            }
            let word = self.specified(&word);
            let name = word.strip_prefix('$').filter(|name| is_name(name));
            let before = expanded.len();
            match name {
                Some(name) => {
                    let value = environment.get(name);
                    let words = value.map_or_else(Vec::new, |value| words(&value.text));
                    let place = value.map_or(&command.file, |value| &value.file);
                    expanded.extend(words.into_iter().map(|text| Word {
                        text,
                        place: Arc::clone(place),
                    }));
                }
                None => expanded.push(replaced(&word, environment, &command.file)),
            }
            length += expanded[before..]
                .iter()
                .map(|word| word.text.len() + 1)
                .sum::<usize>();
            if length > LONGEST_COMMAND {
                return Err(UnitError::LongCommand(command.file.to_string()));
            }
        }
        Ok(expanded)
    }
}

/// The files that match: a name may have `*` and `?` in it. `None`: another pattern, or one in a folder's
/// name.
fn matching(root: &Root, path: &str) -> Option<Vec<String>> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    if folder.contains(['*', '?', '[']) || name.contains('[') {
        return None;
    }
    if !name.contains(['*', '?']) {
        return Some(vec![path.to_owned()]);
    }
    // A folder that cannot be listed is reported like a file that cannot be read.
    Some(match root.list(Path::new("/").join(folder)) {
        Ok(names) => names
            .into_iter()
            .filter(|found| like(found.as_bytes(), name.as_bytes()))
            .map(|found| format!("{folder}/{found}"))
            .collect(),
        Err(_) => vec![path.to_owned()],
    })
}

/// Whether a name matches a pattern. If the match fails, the last star takes one more character: there are at
/// most as many steps as both lengths multiplied.
fn like(name: &[u8], pattern: &[u8]) -> bool {
    let (mut n, mut p) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(c), _) if *c == b'?' || *c == name[n] => (n, p) = (n + 1, p + 1),
            (_, Some((at, from))) => {
                star = Some((at, from + 1));
                (n, p) = (from + 1, at + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The lines of a unit, those that end in a backslash joined with the next, comments left out.
fn joined(text: &str) -> Vec<String> {
    numbered(text).into_iter().map(|(_, line)| line).collect()
}

/// The same, each with the number of the line on which it ends.
fn numbered(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut current = String::new();
    let mut last = 0;
    for (number, line) in (1..).zip(text.lines()) {
        last = number;
        let line = line.trim_end();
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => {
                current.push_str(part);
                current.push(' ');
            }
            None => {
                current.push_str(line);
                lines.push((number, std::mem::take(&mut current).trim().to_owned()));
            }
        }
    }
    lines.push((last, current.trim().to_owned()));
    lines.retain(|(_, line)| !line.is_empty());
    lines
}

fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(first) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Replaces `${NAME}`, and `$$` by `$`. The word's place is where the variable is set.
fn replaced(word: &str, environment: &Environment, file: &Arc<str>) -> Word {
    let mut text = String::new();
    let mut place = file;
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            if let Some(value) = environment.get(name) {
                text.push_str(&value.text);
                place = &value.file;
            }
            rest = after;
        } else {
            text.push('$');
        }
        if text.len() > LONGEST_COMMAND {
            break;
        }
    }
    text.push_str(rest);
    Word {
        text,
        place: Arc::clone(place),
    }
}

/// Splits at spaces outside of quotes; a backslash keeps what follows it.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests;
