//! Which keys there are and what type each has, and what to say about a key or value that does not fit.
//!
//! The schema is [`File::default`] serialized: a key is known if the structs have it, so the two cannot
//! disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::document::{Content, Entry, Node, printable, quoted};
use super::error::Problem;
use super::file::{API_VERSION, File, StaticRule};
use super::nearest::{SIMILAR, similarity};
use super::without_effect;

/// What a key at another place must be better spelled by, to be what was meant.
const ELSEWHERE: f64 = 0.25;

/// The list whose items are mappings.
const STATIC_RULES: &str = "authorization.static";

/// A file as far as its keys are known and its values have the right type. What does not fit has its default.
pub(super) struct Checked {
    pub(super) file: File,
    /// The line of each key that is in the file, and of each list's items (`listen[0]`).
    pub(super) lines: BTreeMap<String, u64>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// The keys that the problems are about: what else is found about them follows from that.
    pub(super) noted: BTreeSet<String>,
}

struct Walk<'a> {
    path: &'a Path,
    /// Every known key, sections included.
    known: Vec<String>,
    lines: BTreeMap<String, u64>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
    noted: BTreeSet<String>,
    /// The keys that unknown ones were probably meant to be.
    meant: BTreeSet<String>,
}

/// Reads `text`; every unknown, duplicate or mistyped key is its own problem.
///
/// # Errors
/// It is not one YAML document with a mapping in it.
pub(super) fn read(text: &str, path: &Path) -> Result<Checked, Problem> {
    let node = Node::parse(text).map_err(|broken| {
        let place = broken
            .line
            .map_or_else(|| path.display().to_string(), |line| place(path, line));
        Problem::new(place, broken.why)
    })?;
    let begin = format!("begin with apiVersion: {API_VERSION}");
    let Content::Map(entries) = &node.content else {
        let problem = match &node.content {
            Content::Null if text.trim().is_empty() => {
                Problem::new(path.display().to_string(), format!("the file is empty; {begin}"))
            }
            Content::Null => Problem::new(
                path.display().to_string(),
                format!("the file has no keys; {begin}"),
            ),
            content => Problem::new(
                place(path, node.line),
                format!("{content} is found where the keys are expected; {begin}"),
            ),
        };
        return Err(problem);
    };
    let internal = |error: serde_json::Error| Problem::new(path.display().to_string(), error.to_string());
    let schema = schema().map_err(internal)?;
    let mut known = Vec::new();
    list_keys(&schema, "", &mut known);
    list_keys(&item_schema(STATIC_RULES), &any_item(STATIC_RULES), &mut known);
    let mut walk = Walk {
        path,
        known,
        lines: BTreeMap::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        noted: BTreeSet::new(),
        meant: BTreeSet::new(),
    };
    let sections = schema.as_object().cloned().unwrap_or_default();
    let value = Value::Object(walk.section(entries, &sections, ""));
    let lines = &walk.lines;
    let meant = walk.meant.into_iter().filter(|key| !lines.contains_key(key));
    walk.noted.extend(meant);
    Ok(Checked {
        file: serde_json::from_value(value).map_err(internal)?,
        lines: walk.lines,
        problems: walk.problems,
        warnings: walk.warnings,
        noted: walk.noted,
    })
}

/// Every key with its default.
pub(super) fn schema() -> Result<Value, serde_json::Error> {
    serde_json::to_value(File::default())
}

/// What every item of the list at `key` is like.
fn item_schema(key: &str) -> Value {
    let text = || Value::String(String::new());
    match key {
        // Its serializer has no case that fails.
        STATIC_RULES => serde_json::to_value(StaticRule::default()).unwrap_or_else(|_| text()),
        _ => text(),
    }
}

/// The key of an item of the list at `key`, whatever its number.
fn any_item(key: &str) -> String {
    format!("{key}[]")
}

/// `authorization.static[].users` for `authorization.static[7].users`.
fn without_numbers(key: &str) -> String {
    let mut inside = false;
    key.chars()
        .filter(|char| {
            inside = (inside || *char == '[') && *char != ']';
            !(inside && char.is_ascii_digit())
        })
        .collect()
}

/// The value at a key path such as `audit.path`.
pub(super) fn at<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.')
        .try_fold(value, |value, segment| value.get(segment))
}

/// `FILE:LINE`.
fn place(path: &Path, line: u64) -> String {
    format!("{}:{line}", path.display())
}

/// The paths of all keys below `value`, sections included.
fn list_keys(value: &Value, parent: &str, keys: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = join(parent, key);
        list_keys(value, &key, keys);
        keys.push(key);
    }
}

// === impl Walk ===

impl Walk<'_> {
    /// The value of `node`, checked against `schema`; `None` if it does not fit, which is noted.
    fn value(&mut self, node: &Node, schema: &Value, key: &str) -> Option<Value> {
        self.lines.insert(key.to_owned(), node.line);
        match (schema, &node.content) {
            (Value::Object(schema), Content::Map(entries)) => {
                Some(Value::Object(self.section(entries, schema, key)))
            }
            (Value::Array(_), Content::List(items)) => {
                let schema = item_schema(key);
                let items: Vec<_> = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.value(item, &schema, &format!("{key}[{index}]")))
                    .collect();
                let items = items.into_iter().collect::<Option<Vec<_>>>();
                if items.is_none() {
                    self.noted.insert(key.to_owned());
                }
                items.map(Value::Array)
            }
            (Value::Bool(_), Content::Bool(value)) => Some(Value::Bool(*value)),
            (Value::Number(_), Content::Number(number)) if number.is_u64() => {
                Some(Value::Number(number.clone()))
            }
            (Value::String(_), Content::Text(text)) => Some(Value::String(text.clone())),
            (_, content) if key == STATIC_RULES && !matches!(content, Content::Null) => {
                let text =
                    "is not a list of rules; write - {users: [NAME], verbs: [get], subresources: [metrics]}";
                self.note(node.line, key, format!("{content} {text}"));
                None
            }
            (schema, content) => {
                self.note(node.line, key, format!("{content} {}", mistyped(schema, content)));
                None
            }
        }
    }

    /// The keys of a section that fit.
    fn section(
        &mut self,
        entries: &[Entry],
        schema: &Map<String, Value>,
        parent: &str,
    ) -> Map<String, Value> {
        let mut map = Map::new();
        let mut first_lines = BTreeMap::new();
        let without_effect = without_effect::keys();
        for entry in entries {
            let key = join(parent, &entry.key);
            let Some(known) = schema.get(&entry.key).or_else(|| at(&without_effect, &key)) else {
                let text = self.unknown(parent, &entry.key);
                self.note(entry.line, &key, text);
                continue;
            };
            if let Some(first) = first_lines.insert(&entry.key, entry.line) {
                let value = &entry.node.content;
                self.note(
                    entry.line,
                    &key,
                    format!("{value}: the key is already on line {first}; keep one of the two"),
                );
                continue;
            }
            if self.known.contains(&without_numbers(&key)) {
                let value = self.value(&entry.node, known, &key);
                map.extend(value.map(|value| (entry.key.clone(), value)));
            } else if known.is_object() || matches!(entry.node.content, Content::Null) {
                self.value(&entry.node, known, &key);
            } else {
                self.without_effect(entry, &key, known);
            }
        }
        map
    }

    /// What to say about a key that no code reads.
    fn without_effect(&mut self, entry: &Entry, key: &str, accepted: &Value) {
        let (content, instead) = (&entry.node.content, without_effect::INSTEAD);
        if content.to_value() == *accepted {
            let place = place(self.path, entry.line);
            self.warnings.push(format!(
                "{place}: `{key}` has no effect in this version: {instead}; remove the key"
            ));
        } else {
            let text = format!("{content} is not possible in this version: {instead}; remove the key");
            self.note(entry.line, key, text);
        }
    }

    fn note(&mut self, line: u64, key: &str, text: String) {
        self.noted.insert(key.to_owned());
        let place = format!("{}: {}", place(self.path, line), printable(key));
        self.problems.push(Problem::new(place, text));
    }

    /// What to say about a key that does not exist: the one that was probably meant, or those that there are.
    fn unknown(&mut self, parent: &str, key: &str) -> String {
        let parent = &without_numbers(parent);
        let likeness = |known: &str| {
            let (known_parent, name) = split(known);
            similarity(key, name) - if known_parent == parent { 0.0 } else { ELSEWHERE }
        };
        let best = self.known.iter().map(|known| likeness(known)).fold(0.0, f64::max);
        if best < SIMILAR {
            let siblings = self.known.iter().map(|known| split(known));
            let siblings = siblings.filter(|(at, _)| *at == parent).map(|(_, name)| name);
            let siblings = siblings.collect::<Vec<_>>().join(", ");
            return format!(
                "unknown key; the keys of this place are {siblings}: use one of them or remove this one"
            );
        }
        let meant: Vec<_> = self
            .known
            .iter()
            .filter(|known| likeness(known) >= best)
            .collect();
        self.meant.extend(meant.iter().map(|known| (*known).clone()));
        match *meant {
            [meant] if split(meant).0 == parent => {
                let name = split(meant).1;
                format!("unknown key; the nearest known key is {meant}: write {name} or remove this one")
            }
            [meant] => {
                format!(
                    "unknown key here; the nearest known key is {meant}: move it there or remove this one"
                )
            }
            ref several => {
                let several = several
                    .iter()
                    .map(|known| known.as_str())
                    .collect::<Vec<_>>()
                    .join(", ");
                format!(
                    "unknown key here; the nearest known keys are {several}: use one of them or remove \
                     this one"
                )
            }
        }
    }
}

/// What to say about a value of the wrong type.
fn mistyped(schema: &Value, content: &Content) -> String {
    match (schema, content) {
        (_, Content::Null) => "is written here; give the key a value or remove it".to_owned(),
        (Value::Object(keys), _) => {
            let keys: Vec<_> = keys.keys().map(String::as_str).collect();
            format!(
                "is not a mapping; write the keys below it, indented: {}",
                keys.join(", ")
            )
        }
        (Value::Array(_), Content::Text(text)) => {
            format!("is not a list; write [{}]", quoted(text))
        }
        (Value::Array(_), _) => "is not a list of texts; write [\"one\", \"two\"]".to_owned(),
        (Value::Bool(_), _) => "is neither true nor false; write one of them, without quotes".to_owned(),
        (Value::Number(_), _) => "is not a whole number from 0; write one, without quotes".to_owned(),
        (_, Content::Bool(_) | Content::Number(_)) => {
            "is not a text; put it in quotes if it is meant as one".to_owned()
        }
        _ => "is not a text; write one text".to_owned(),
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        key.to_owned()
    } else {
        format!("{parent}.{key}")
    }
}

/// A key path as its section and its own name.
fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}
