//! A configuration file as a tree in which every key and value still knows its line.
//!
//! The tree exists for the error messages: a derived `Deserialize` alone knows neither the whole path of a key it
//! stumbled over nor the keys that it might have been.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de;
use serde_json::Number;
use serde_saphyr::DuplicateKeyPolicy;
use serde_saphyr::Spanned;

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

// === impl Node ===

impl Node {
    /// Reads one YAML (or JSON) document. The error is serde-saphyr's own, which carries line and column.
    pub(super) fn parse(text: &str) -> Result<Self, serde_saphyr::Error> {
        // A real configuration has some 150 nodes, seven levels deep; the rest is for lists, and against alias bombs.
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_nodes: 20_000, max_events: 60_000, max_depth: 32 },
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            reject_unsupported_tags: true,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(text, options)
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
        assert!(Node::parse(&text).is_err());
    }
}
