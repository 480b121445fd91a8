//! A configuration file as a tree in which every key and value still knows its line.
//!
//! The tree exists for the error messages: a derived `Deserialize` alone knows neither the whole path of a
//! key it stumbled over nor the keys that it might have been.

use std::fmt;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Number, Value};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{DuplicateKeyPolicy, Error, MessageFormatter, Spanned, UserMessageFormatter};

/// Values in a document, with what its aliases repeat. A real configuration has some 150; the rest is for
/// lists.
const MOST_VALUES: usize = 20_000;

/// Levels of a document. A real configuration has seven.
const MOST_LEVELS: usize = 32;

/// A value and the line where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// As written: in order, with duplicates.
    Map(Vec<Entry>),
}

/// A key with its line, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) node: Node,
}

/// Why a text is no document, in plain words, and the line if there is one.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) line: Option<u64>,
    pub(super) why: String,
}

// === impl Node ===

impl Node {
    /// Reads one YAML (or JSON) document.
    pub(super) fn parse(text: &str) -> Result<Self, Broken> {
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
            let at = error.location().filter(|at| at.line() > 0);
            Broken {
                line: at.map(|at| at.line()),
                why: why(&error, text),
            }
        })
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_VALUES, max_events: 3 * MOST_VALUES, max_depth: MOST_LEVELS
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// The YAML library speaks to programmers, of its own types and functions, so what an operator may meet is
/// said anew. Only keys are read as text at once: an error about a text is about a key.
fn why(error: &Error, text: &str) -> String {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => why(error, text),
        Error::MultipleDocuments { .. } => {
            let documents = serde_saphyr::from_multiple_with_options::<IgnoredAny>(text, options());
            // An empty document is not counted, and one that is broken ends the count.
            let documents = documents.map_or(2, |documents| documents.len().max(2));
            format!("the file has {documents} documents, 1 is expected; this is where the second one begins")
        }
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => too_deep(),
        Error::Budget { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => format!(
            "the file has more than {MOST_VALUES} values, counting what its aliases repeat; write fewer"
        ),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "this alias stands within what it repeats; write the value itself".to_owned()
        }
        Error::UnknownAnchor { .. } => {
            "this alias has no anchor before it; write the value itself".to_owned()
        }
        Error::UnsupportedTag { tag, .. } => {
            format!("the tag {} is not known; remove it", quoted(tag))
        }
        Error::NullIntoString { .. } => "a key has no name; write one, or remove the line".to_owned(),
        Error::Unexpected { .. } => "a key is a list or a mapping; write a name".to_owned(),
        Error::NonFiniteFloat { value, .. } => {
            format!(
                "{} is no number that a key can have; write one with digits",
                quoted(value)
            )
        }
        error => match UserMessageFormatter.format_message(error).as_ref() {
            "recursion limit exceeded" => too_deep(),
            why => {
                let column = error.location().map_or(1, |at| at.column());
                format!("the file is not YAML from column {column} on: {}", printable(why))
            }
        },
    }
}

fn too_deep() -> String {
    format!("the file has more than {MOST_LEVELS} levels; no key needs as many")
}

// === impl Content ===

impl Content {
    /// The value without its lines.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(value.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(|item| item.content.to_value()).collect(),
            Self::Map(entries) => {
                let entries = entries.iter();
                entries
                    .map(|entry| (entry.key.clone(), entry.node.content.to_value()))
                    .collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self {
            line: spanned.referenced.line(),
            content: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// As it stands in an error message: text quoted and escaped, long values cut.
impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// `text` in quotes, control characters escaped, cut after 80 characters.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// `text` as it may stand in a message: control characters escaped, since the file's author chose it, and cut
/// after 200 characters.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for c in text.chars().take(200) {
        if c.is_control() {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

struct ContentVisitor;

impl<'de> de::Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Content, E> {
        Number::from_f64(value)
            .map(Content::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_owned()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = items.next_element()? {
            list.push(node);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let node = entries.next_value()?;
            map.push(Entry {
                key: key.value,
                line: key.referenced.line(),
                node,
            });
        }
        Ok(Content::Map(map))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_knows_its_line() {
        let node = Node::parse("# comment\na: 1\nb:\n  c: [x,\n    y]\n  c: true\n").unwrap();
        let Content::Map(entries) = node.content else {
            panic!("not a mapping")
        };
        assert_eq!(
            (entries[0].key.as_str(), entries[0].line, entries[0].node.line),
            ("a", 2, 2)
        );
        let Content::Map(inner) = &entries[1].node.content else {
            panic!("not a mapping")
        };
        assert_eq!(inner.len(), 2, "both of the duplicate keys are there");
        assert_eq!((inner[0].line, inner[1].line), (4, 6));
        let Content::List(items) = &inner[0].node.content else {
            panic!("not a list")
        };
        assert_eq!((items[0].line, items[1].line), (4, 5));
        assert_eq!(inner[1].node.content.to_string(), "true");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let reference = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![reference; 10].join(", "));
        }
        let broken = Node::parse(&text).unwrap_err();
        assert_eq!(broken.line, Some(5));
        assert!(
            broken.why.starts_with("the file has more than 20000 values"),
            "{}",
            broken.why
        );
    }
}
