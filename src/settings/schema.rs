//! Which keys there are and what type each has, and what to say about a key or value that does not fit.
//!
//! The schema is [`File::default`] serialized: a key is known if the structs have it, so the two cannot disagree.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use super::document::Content;
use super::document::Entry;
use super::document::Node;
use super::document::quoted;
use super::error::Problem;
use super::file::API_VERSION;
use super::file::File;

/// A file whose keys are all known and whose values all have the right type.
pub(super) struct Checked {
    pub(super) file: File,
    /// The line of each key that is in the file, and of each list's items (`listen[0]`).
    pub(super) lines: BTreeMap<String, u64>,
}

struct Walk<'a> {
    path: &'a Path,
    /// Every known key, sections included.
    known: Vec<String>,
    lines: BTreeMap<String, u64>,
    problems: Vec<Problem>,
}

/// Reads `text`; every unknown, duplicate or mistyped key is its own problem.
pub(super) fn read(text: &str, path: &Path) -> Result<Checked, Vec<Problem>> {
    let broken = |error: &dyn std::fmt::Display, line: Option<u64>| {
        let place = line.map_or_else(|| path.display().to_string(), |line| place(path, line));
        vec![Problem::new(
            place,
            format!("the file is not the YAML it should be: {error}; correct that place"),
        )]
    };
    let node = Node::parse(text).map_err(|error| {
        broken(
            &error,
            error.location().map(|at| at.line()).filter(|line| *line > 0),
        )
    })?;
    let schema = schema().map_err(|error| broken(&error, None))?;
    let mut known = Vec::new();
    list_keys(&schema, "", &mut known);
    let mut walk = Walk {
        path,
        known,
        lines: BTreeMap::new(),
        problems: Vec::new(),
    };
    let value = walk.value(&node, &schema, "");
    if !walk.problems.is_empty() {
        return Err(walk.problems);
    }
    let file = serde_json::from_value(value).map_err(|error| broken(&error, None))?;
    Ok(Checked {
        file,
        lines: walk.lines,
    })
}

/// Every key with its default.
pub(super) fn schema() -> Result<Value, serde_json::Error> {
    serde_json::to_value(File::default())
}

/// The value at a key path such as `audit.path`.
pub(super) fn at<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.')
        .try_fold(value, |value, segment| value.get(segment))
}

/// `FILE:LINE`.
pub(super) fn place(path: &Path, line: u64) -> String {
    format!("{}:{line}", path.display())
}

/// The paths of all keys below `value`, sections included.
pub(super) fn list_keys(value: &Value, parent: &str, keys: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = join(parent, key);
        list_keys(value, &key, keys);
        keys.push(key);
    }
}

// === impl Walk ===

impl Walk<'_> {
    /// The value of `node`, checked against `schema`. What does not fit is noted.
    fn value(&mut self, node: &Node, schema: &Value, key: &str) -> Value {
        self.lines.insert(key.to_owned(), node.line);
        match (schema, &node.content) {
            (Value::Object(schema), Content::Map(entries)) => self.section(entries, schema, key),
            (Value::Array(_), Content::List(items)) => {
                let text = Value::String(String::new());
                let items = items.iter().enumerate();
                items
                    .map(|(index, item)| self.value(item, &text, &format!("{key}[{index}]")))
                    .collect()
            }
            (Value::Bool(_), Content::Bool(value)) => Value::Bool(*value),
            (Value::Number(_), Content::Number(number)) if number.is_u64() => Value::Number(number.clone()),
            (Value::String(_), Content::Text(text)) => Value::String(text.clone()),
            (_, content) if key.is_empty() => {
                self.note(
                    node.line,
                    key,
                    format!("{content} is no configuration; begin with apiVersion: {API_VERSION}"),
                );
                Value::Null
            }
            (schema, content) => {
                self.note(node.line, key, format!("{content} {}", mistyped(schema, content)));
                Value::Null
            }
        }
    }

    fn section(&mut self, entries: &[Entry], schema: &Map<String, Value>, parent: &str) -> Value {
        let mut map = Map::new();
        let mut first_lines = BTreeMap::new();
        for entry in entries {
            let key = join(parent, &entry.key);
            let Some(known) = schema.get(&entry.key) else {
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
            let value = self.value(&entry.node, known, &key);
            map.insert(entry.key.clone(), value);
        }
        Value::Object(map)
    }

    fn note(&mut self, line: u64, key: &str, text: String) {
        let place = place(self.path, line);
        let place = if key.is_empty() {
            place
        } else {
            format!("{place}: {}", printable(key))
        };
        self.problems.push(Problem::new(place, text));
    }

    /// What to say about a key that does not exist: the nearest one that does, siblings first.
    fn unknown(&self, parent: &str, key: &str) -> String {
        let cost = |known: &str| {
            let (known_parent, name) = split(known);
            // A key at another place must be spelled all the better to be what was meant.
            2 * distance(key, name) + if known_parent == parent { 0 } else { 3 }
        };
        let Some(nearest) = self.known.iter().min_by_key(|known| cost(known)) else {
            return "unknown key".to_owned();
        };
        let (nearest_parent, name) = split(nearest);
        if cost(nearest) > name.len() {
            let siblings = self
                .known
                .iter()
                .map(|known| split(known))
                .filter(|(at, _)| *at == parent);
            let siblings = siblings.map(|(_, name)| name).collect::<Vec<_>>().join(", ");
            return format!(
                "unknown key; the nearest known key is {nearest}, the keys of this place are {siblings}: use one of \
                 them or remove this one"
            );
        }
        let (here, way_out) = match nearest_parent == parent {
            true => ("", format!("write {name}")),
            false => (" here", "move it there".to_owned()),
        };
        format!("unknown key{here}; the nearest known key is {nearest}: {way_out} or remove this one")
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

/// The key as it may stand in a message: control characters escaped, since the file's author chose it.
fn printable(key: &str) -> String {
    key.chars()
        .take(200)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
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

/// How many characters must be inserted, deleted or replaced to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
