//! What a systemd unit starts, read from its files: the fragment, its drop-ins, and the environment they name.

use std::collections::BTreeMap;
use std::path::Path;

use super::root::Root;

/// Where units are looked for; what comes first wins.
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// How deep one file may include another; systemd itself gave this up in version 239.
const INCLUDES: usize = 8;

/// What a unit starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Started {
    /// The file of the unit itself.
    pub(super) file: String,
    /// The last `ExecStart`, with every variable in its place.
    pub(super) words: Vec<String>,
    /// `WorkingDirectory`, `/` unless set.
    pub(super) directory: String,
    /// What could not be read, and does not have to be.
    pub(super) notes: Vec<String>,
}

/// What the files of a unit say.
#[derive(Debug, Default)]
struct Unit {
    commands: Vec<String>,
    assignments: Vec<String>,
    environment_files: Vec<String>,
    directory: String,
    notes: Vec<String>,
}

/// What the unit of this name starts. `None`: there is no such unit.
///
/// # Errors
/// One of its files cannot be read: which, and why.
pub(super) fn started(root: &Root, name: &str) -> Result<Option<Started>, String> {
    let Some(file) = FOLDERS
        .iter()
        .map(|folder| format!("{folder}/{name}"))
        .find(|file| root.has(file))
    else {
        return Ok(None);
    };
    let mut unit = Unit::default();
    unit.take(root, &file, 0)?;
    for file in drop_ins(root, name)? {
        unit.take(root, &file, 0)?;
    }
    let environment = unit.environment(root)?;
    let Some(command) = unit.commands.last() else {
        return Err(format!("{file}: it starts nothing: there is no ExecStart"));
    };
    let host = root.read("/etc/hostname").unwrap_or_default();
    let words = command_words(command, &environment, host.trim());
    let directory = match unit.directory.trim_start_matches('-') {
        "" | "~" => "/".to_owned(),
        directory => directory.to_owned(),
    };
    Ok(Some(Started {
        file,
        words,
        directory,
        notes: unit.notes,
    }))
}

/// The drop-ins of a unit, in the order of their names; of two with the same name the folder that comes first wins.
fn drop_ins(root: &Root, name: &str) -> Result<Vec<String>, String> {
    let mut found = BTreeMap::new();
    for folder in FOLDERS {
        let folder = format!("{folder}/{name}.d");
        let names = root.list(&folder).map_err(|error| format!("{folder}: {error}"))?;
        for name in names.into_iter().filter(|name| name.ends_with(".conf")) {
            found
                .entry(name.clone())
                .or_insert_with(|| format!("{folder}/{name}"));
        }
    }
    Ok(found.into_values().collect())
}

impl Unit {
    fn take(&mut self, root: &Root, file: &str, depth: usize) -> Result<(), String> {
        if depth > INCLUDES {
            return Err(format!("{file}: files that include each other"));
        }
        let text = root.read(file).map_err(|error| format!("{file}: {error}"))?;
        let mut section = String::new();
        for line in joined(&text) {
            if let Some(path) = line.strip_prefix(".include ") {
                self.take(root, path.trim(), depth + 1)?;
            } else if line.starts_with('[') {
                section = line;
            } else if section == "[Service]"
                && let Some((key, value)) = line.split_once('=')
            {
                self.set(key.trim(), value.trim());
            }
        }
        Ok(())
    }

    /// A list is emptied by an empty value.
    fn set(&mut self, key: &str, value: &str) {
        let list = match key {
            "ExecStart" => &mut self.commands,
            "Environment" => &mut self.assignments,
            "EnvironmentFile" => &mut self.environment_files,
            "WorkingDirectory" => return value.clone_into(&mut self.directory),
            _ => return,
        };
        match value {
            "" => list.clear(),
            value => list.push(value.to_owned()),
        }
    }

    /// Files win over `Environment`, later ones over earlier.
    fn environment(&mut self, root: &Root) -> Result<BTreeMap<String, String>, String> {
        let mut environment = BTreeMap::new();
        for assignment in self.assignments.iter().flat_map(|line| words(line)) {
            if let Some((name, value)) = assignment.split_once('=') {
                environment.insert(name.to_owned(), value.to_owned());
            }
        }
        for file in &self.environment_files {
            let (path, optional) = match file.strip_prefix('-') {
                Some(path) => (path, true),
                None => (file.as_str(), false),
            };
            match root.read(Path::new(path)) {
                Ok(text) => environment.extend(assignments(&text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && optional => {}
                // systemd starts nothing without it; but the copy of a node may lack a file that the node has.
                Err(error) => self.notes.push(format!(
                    "EnvironmentFile {path}: {error}; its variables are taken for empty"
                )),
            }
        }
        Ok(environment)
    }
}

/// The lines of a unit, those that end in a backslash joined with the next, comments left out.
fn joined(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
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
                lines.push(std::mem::take(&mut current).trim().to_owned());
            }
        }
    }
    lines.push(current.trim().to_owned());
    lines.retain(|line| !line.is_empty());
    lines
}

/// The assignments of an environment file: `NAME=value`, quoted or not, also over several lines.
fn assignments(text: &str) -> Vec<(String, String)> {
    joined(text)
        .iter()
        .filter_map(|line| {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            let value = value.trim();
            let unquoted = ['"', '\'']
                .into_iter()
                .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
            Some((name.trim().to_owned(), unquoted.unwrap_or(value).to_owned()))
        })
        .collect()
}

/// The words of a command: prefixes such as `-` taken away, `${NAME}` replaced within a word, `$NAME` alone by as many words
/// as it has, `%H` by the host's name.
fn command_words(command: &str, environment: &BTreeMap<String, String>, host: &str) -> Vec<String> {
    let command = command.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    let command = command
        .replace("%%", "\u{0}")
        .replace("%H", host)
        .replace('\u{0}', "%");
    let mut expanded = Vec::new();
    for word in words(&command) {
        let name = word.strip_prefix('$').filter(|name| is_name(name));
        match name {
            Some(name) => expanded.extend(words(environment.get(name).map_or("", String::as_str))),
            None => expanded.push(replaced(&word, environment)),
        }
    }
    expanded
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `${NAME}` replaced, `$$` made one.
fn replaced(word: &str, environment: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            text.push_str(environment.get(name).map_or("", String::as_str));
            rest = after;
        } else {
            text.push('$');
        }
    }
    text + rest
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
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::new(folder.path());
        (folder, root)
    }

    #[test]
    fn a_unit_starts_what_its_drop_ins_and_environment_say() {
        let (_folder, root) = tree(&[
            ("etc/hostname", "worker-1\n"),
            (
                "lib/systemd/system/kubelet.service",
                "[Unit]\nExecStart=/not/this\n[Service]\nExecStart=/usr/bin/kubelet --old\nEnvironment=\"A=--a=1 --b\" B=2\n",
            ),
            (
                "usr/lib/systemd/system/kubelet.service.d/10-a.conf",
                "[Service]\nExecStart=/hidden\n",
            ),
            (
                "etc/systemd/system/kubelet.service.d/10-a.conf",
                "[Service]\nEnvironmentFile=-/nowhere\nEnvironmentFile=-/etc/default/kubelet\nExecStart=\n\
                 ExecStart=-/usr/bin/kubelet $A --host=%H --b=${B}-$$x \\\n  # a comment\n  $C $NOTHING '--quoted=a b' \\\n  --last\n",
            ),
            (
                "etc/default/kubelet",
                "# comment\nB=3\nexport C=\"--c --d='x'\"\n",
            ),
        ]);
        let started = started(&root, "kubelet.service").unwrap().unwrap();
        assert_eq!(
            started.file,
            "/usr/lib/systemd/system/kubelet.service".replace("/usr", "")
        );
        assert_eq!(
            started.words,
            [
                "/usr/bin/kubelet",
                "--a=1",
                "--b",
                "--host=worker-1",
                "--b=3-$x",
                "--c",
                "--d=x",
                "--quoted=a b",
                "--last"
            ]
        );
        assert_eq!((started.directory.as_str(), started.notes.len()), ("/", 0));
        assert_eq!(super::started(&root, "other.service"), Ok(None));
    }

    #[test]
    fn files_that_include_each_other_are_an_error() {
        let (_folder, root) = tree(&[(
            "etc/systemd/system/kubelet.service",
            ".include /etc/systemd/system/kubelet.service\n",
        )]);
        assert!(
            started(&root, "kubelet.service")
                .unwrap_err()
                .contains("include each other")
        );
    }

    #[test]
    fn a_file_that_must_be_there_and_is_not_is_told() {
        let (_folder, root) = tree(&[(
            "etc/systemd/system/kubelet.service",
            "[Service]\nEnvironmentFile=/etc/kubelet.env\nExecStart=/usr/bin/kubelet $ARGS\nWorkingDirectory=/var/lib\n",
        )]);
        let started = started(&root, "kubelet.service").unwrap().unwrap();
        assert_eq!((started.words.len(), started.directory.as_str()), (1, "/var/lib"));
        assert!(
            started.notes[0].contains("/etc/kubelet.env"),
            "{:?}",
            started.notes
        );
    }
}
