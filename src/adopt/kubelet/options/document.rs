//! One configuration file of a kubelet, as the kubelet decodes it.
//!
//! A text that begins with `{` is JSON, any other YAML. The file of `--config` is put into Go structs: an
//! object that is there twice is put into the same struct twice, and null leaves most values as they are. A
//! drop-in is a merge patch: null takes away what was set before, and a key that is there twice is an error.
//! In both, a key that a kubelet does not know is ignored, and a value of the wrong type is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::OptionsError;
use super::fields::{FIELDS, ValueKind};
use super::schema::{Shape, is_pointer, meant, shape};
use super::values::{ValueError, typed};
use crate::adopt::kubelet::root::Root;
use crate::go::{self, Entry, Node};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";
/// The most unknown keys of a file that are named.
const UNKNOWN: usize = 20;

/// What a file is to the kubelet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// The one of `--config`.
    Main,
    /// One of `--config-dir`.
    DropIn,
}

/// What a file says of the options that are read.
pub(super) struct ConfigurationFile {
    pub(super) path: PathBuf,
    pub(super) role: Role,
    /// `None`: it takes away what was set before.
    pub(super) values: BTreeMap<&'static str, Option<Value>>,
    /// What may surprise the operator.
    pub(super) notes: Vec<String>,
    /// Why a kubelet does not start with it.
    pub(super) refused: Vec<String>,
    /// It holds static pods, which `--config` meant before Kubernetes 1.6.
    pub(super) is_static_pod: bool,
    /// The number of unknown keys.
    unknown: usize,
}

impl ConfigurationFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or is no object, or a value is of the wrong type.
    pub(super) fn read(root: &Root, path: &Path, role: Role) -> Result<Self, OptionsError> {
        let failed = |why: String| OptionsError {
            place: path.display().to_string(),
            why,
        };
        let text = root.read(path).map_err(|error| failed(error.to_string()))?;
        let document = match go::is_json(&text) {
            true => go::json(&text),
            false => go::yaml(&text),
        };
        let document = document.map_err(|error| failed(error.to_string()))?;
        let Node::Object(entries) = &document.root else {
            return Err(failed(
                "not a KubeletConfiguration: the file is empty, a list or a single value".to_owned(),
            ));
        };
        let mut file = Self {
            path: path.to_owned(),
            role,
            values: BTreeMap::new(),
            notes: Vec::new(),
            refused: Vec::new(),
            is_static_pod: false,
            unknown: 0,
        };
        let kind = file.header(entries, "kind", KIND);
        file.header(entries, "apiVersion", API_VERSION);
        file.is_static_pod = role == Role::Main && matches!(kind.as_deref(), Some("Pod" | "PodList"));
        if file.is_static_pod {
            return Ok(file);
        }
        for (key, line) in document.repeated {
            file.repeated(&key, line);
        }
        file.section("", entries)
            .map_err(|error| failed(error.to_string()))?;
        Ok(file)
    }

    /// Reads `kind` or `apiVersion`. The kubelet looks for them before it decodes the rest: in the main file
    /// the case of their names does not matter.
    fn header(&mut self, entries: &[Entry], key: &str, only: &str) -> Option<String> {
        let is_key = |entry: &&Entry| match self.role {
            Role::Main => entry.key.eq_ignore_ascii_case(key),
            Role::DropIn => &*entry.key == key,
        };
        let mut said = entries
            .iter()
            .filter(is_key)
            .filter_map(|entry| match &entry.value {
                Node::Null => None,
                Node::Text(text) => Some(text.to_string()),
                node => Some(node.kind().to_owned()),
            });
        let said = said.next_back().filter(|said| !said.is_empty());
        if said.as_deref() != Some(only) {
            let found = match &said {
                None => "it has none".to_owned(),
                Some(said) => format!("it has {:?}", said.chars().take(60).collect::<String>()),
            };
            let path = self.path.display();
            self.refused.push(format!(
                "{path}: without {key}: {only} a kubelet does not start; {found}"
            ));
        }
        said
    }

    fn repeated(&mut self, key: &str, line: Option<usize>) {
        let (path, at) = (self.path.display(), at(line));
        match self.role {
            Role::DropIn => self.refused.push(format!(
                "{path}{at}: the key {key} is there twice, with which a kubelet does not take a drop-in and \
                 does not start"
            )),
            Role::Main if line.is_none() => self.notes.push(format!(
                "{path}: the key {key} is there twice. Of JSON a kubelet reads both: an object adds to the \
                 one before it, of other values the last counts"
            )),
            Role::Main => self.notes.push(format!(
                "{path}{at}: the key {key} is there twice. Of YAML a kubelet reads the last alone"
            )),
        }
    }

    /// Reads the keys below the path `above`.
    fn section(&mut self, above: &str, entries: &[Entry]) -> Result<(), ValueError> {
        for entry in entries {
            let path = match above {
                "" => entry.key.to_string(),
                above => format!("{above}.{}", entry.key),
            };
            match (shape(&path), &entry.value) {
                (None, _) => self.unknown(&path, entry.line),
                // Null in place of a section leaves the struct of the main file as it is.
                (Some(Shape::Section), Node::Null) if self.role == Role::Main => {}
                (Some(Shape::Section), Node::Null) => self.take_away(&path),
                (Some(Shape::Section), Node::Object(entries)) => self.section(&path, entries)?,
                (Some(Shape::Section), _) => return Err(ValueError::NotASection(path)),
                (Some(Shape::Value(kind)), node) => self.value(&path, kind, node)?,
            }
        }
        Ok(())
    }

    fn value(&mut self, path: &str, kind: ValueKind, node: &Node) -> Result<(), ValueError> {
        match node {
            Node::Null if self.role == Role::DropIn || is_pointer(path, kind) => {
                self.take_away(path);
                return Ok(());
            }
            // A struct's duration is asked to read null, and cannot. Other values stay as they are.
            Node::Null if kind != ValueKind::Duration => return Ok(()),
            _ => {}
        }
        let value = typed(path, kind, node)?;
        if kind == ValueKind::Switches {
            for switch in node.entries() {
                let key = format!("{path}.{}", switch.key);
                let Some(field) = FIELDS.iter().find(|field| field.key == key) else {
                    continue;
                };
                let value = match (&switch.value, self.role) {
                    (Node::Bool(on), _) => Some((*on).into()),
                    (_, Role::Main) => Some(false.into()),
                    (_, Role::DropIn) => None,
                };
                self.values.insert(field.key, value);
            }
        } else if let Some(field) = FIELDS.iter().find(|field| field.key == path) {
            self.values.insert(field.key, Some(value));
        }
        Ok(())
    }

    /// Takes away the values of `path` and of everything below it.
    fn take_away(&mut self, path: &str) {
        let is_of = |key: &str| {
            key.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        for field in FIELDS.iter().filter(|field| is_of(field.key)) {
            self.values.insert(field.key, None);
        }
    }

    fn unknown(&mut self, path: &str, line: Option<usize>) {
        // The case of `kind` does not matter.
        if self.role == Role::Main && ["kind", "apiversion"].contains(&&*path.to_ascii_lowercase()) {
            return;
        }
        self.unknown += 1;
        if self.unknown == UNKNOWN + 1 {
            self.notes.push(format!(
                "{}: further keys are ignored as well",
                self.path.display()
            ));
        }
        if self.unknown > UNKNOWN {
            return;
        }
        let belongs = match meant(path).as_slice() {
            [] => String::new(),
            meant => format!(
                ". A kubelet knows {}: check the indentation and the spelling",
                meant.join(" and ")
            ),
        };
        let shown: String = path.chars().take(60).collect();
        self.notes.push(format!(
            "{}{}: the key {shown:?} is ignored: KubeletConfiguration has none there{belongs}",
            self.path.display(),
            at(line)
        ));
    }
}

fn at(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}
