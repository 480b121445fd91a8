//! The values of a document, before a struct is made of them.

use std::fmt;
use std::rc::Rc;

use serde_json::Number;

/// A value. It may hold secrets, so there is no `Debug`.
#[derive(Clone)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(Rc<str>),
    // Shared with the aliases that repeat them.
    List(Rc<Vec<Self>>),
    Object(Rc<Vec<Entry>>),
}

/// A key of an object, and its value.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: Rc<str>,
    /// Of the key; of JSON it is not known.
    pub(crate) line: Option<usize>,
    pub(crate) value: Node,
}

/// What a text holds.
pub(crate) struct Document {
    pub(crate) root: Node,
    /// The keys that an object has more than once: path and line.
    pub(crate) repeated: Vec<(String, Option<usize>)>,
}

/// Why a text is not a document. It says where; the text itself may hold a secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DocumentError {
    /// `JSON` or `YAML`.
    pub(super) format: &'static str,
    /// Line and column, from 1.
    pub(super) place: Option<(usize, usize)>,
    /// What Go refuses there, if that is more than that it cannot be parsed.
    pub(super) what: Option<&'static str>,
}

// === impl Node ===

impl Node {
    /// The last value that an object has under this key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let found = self.entries().iter().rev().find(|entry| &*entry.key == key);
        found.map(|entry| &entry.value)
    }

    /// The entries of an object; none of any other value.
    pub(crate) fn entries(&self) -> &[Entry] {
        match self {
            Self::Object(entries) => entries,
            _ => &[],
        }
    }

    /// What it is, without its content.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "a section with keys",
        }
    }
}

// === impl DocumentError ===

impl DocumentError {
    /// Where it is wrong.
    pub(crate) fn place(&self) -> String {
        match self.place {
            Some((line, column)) => format!("line {line}, column {column}"),
            None => "an unknown line".to_owned(),
        }
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken {} in {}", self.format, self.place())?;
        match self.what {
            Some(what) => write!(f, ": {what}"),
            None => Ok(()),
        }
    }
}
