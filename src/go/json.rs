//! JSON as Go reads it. An object that is there twice under the same key is put into the same struct
//! twice, so both are kept here.

use std::fmt;
use std::rc::Rc;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use super::node::{Document, DocumentError, Entry, Node};

/// Whether a program of Kubernetes that takes both takes this text for JSON.
pub(crate) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Reads a text that is one JSON value.
///
/// # Errors
/// It is not JSON.
pub(crate) fn json(text: &str) -> Result<Document, DocumentError> {
    let root: Node = serde_json::from_str(text).map_err(|error| DocumentError {
        format: "JSON",
        place: Some((error.line(), error.column())),
        what: None,
    })?;
    let mut repeated = Vec::new();
    find_repeated(&root, "", &mut repeated);
    Ok(Document { root, repeated })
}

fn find_repeated(node: &Node, above: &str, repeated: &mut Vec<(String, Option<usize>)>) {
    match node {
        Node::List(values) => values
            .iter()
            .for_each(|value| find_repeated(value, above, repeated)),
        Node::Object(entries) => {
            let mut keys: Vec<&str> = entries.iter().map(|entry| &*entry.key).collect();
            keys.sort_unstable();
            let mut twice: Vec<&str> = keys
                .windows(2)
                .filter(|two| two[0] == two[1])
                .map(|two| two[0])
                .collect();
            twice.dedup();
            repeated.extend(twice.into_iter().map(|key| (below(above, key), None)));
            for entry in entries.iter() {
                find_repeated(&entry.value, &below(above, &entry.key), repeated);
            }
        }
        _ => {}
    }
}

/// The path of a key.
pub(super) fn below(above: &str, key: &str) -> String {
    match above {
        "" => key.to_owned(),
        above => format!("{above}.{key}"),
    }
}

struct NodeVisitor;

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(NodeVisitor)
    }
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number is not finite"))?;
        Ok(Node::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(Rc::new(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Node>()? {
            object.push(Entry {
                key: key.into(),
                line: None,
                value,
            });
        }
        Ok(Node::Object(Rc::new(object)))
    }
}
