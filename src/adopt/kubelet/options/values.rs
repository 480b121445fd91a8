//! Values as a kubelet reads them, from files and from flags.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::fields::{FIELDS, Field, ValueKind};
use crate::duration;
use crate::go::{self, Node};

/// Why a value is not what a kubelet can read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValueError {
    #[error("{0}: not a section with keys, which a kubelet needs here")]
    NotASection(String),
    #[error("{key}: {found} is not {wanted}")]
    WrongKind {
        key: String,
        found: String,
        wanted: &'static str,
    },
    #[error("--{name}={found} is not {wanted}")]
    WrongFlag {
        name: String,
        found: String,
        wanted: &'static str,
    },
}

/// A file's value at `key`. A number or a boolean in quotes is a text, and so of the wrong type.
pub(super) fn typed(key: &str, kind: ValueKind, node: &Node) -> Result<Value, ValueError> {
    let whole = |node: &Node, bits: u32| match node {
        Node::Number(number) => number
            .as_i64()
            .filter(|number| bits == 64 || i32::try_from(*number).is_ok()),
        _ => None,
    };
    let text = |node: &Node| match node {
        Node::Text(text) => Some(text.to_string()),
        _ => None,
    };
    // Null leaves the item that it stands for empty.
    let item = |node: &Node| match node {
        Node::Null => Some(String::new()),
        node => text(node),
    };
    let typed = match (kind, node) {
        (ValueKind::Any, _) => Some(Value::Null),
        (ValueKind::Bool, Node::Bool(value)) => Some(json!(value)),
        (ValueKind::Number, node) => whole(node, 32).map(|number| json!(number)),
        (ValueKind::LongNumber, node) => whole(node, 64).map(|number| json!(number)),
        (ValueKind::Text | ValueKind::Path | ValueKind::Address, node) => text(node).map(|text| json!(text)),
        (ValueKind::Duration, node) => text(node)
            .filter(|text| duration::is_duration(text))
            .map(|text| json!(text)),
        (ValueKind::Texts, Node::List(items)) => items.iter().map(item).collect::<Option<Value>>(),
        (ValueKind::Switches, Node::Object(entries)) => entries
            .iter()
            .all(|entry| matches!(entry.value, Node::Bool(_) | Node::Null))
            .then_some(Value::Null),
        (ValueKind::TextMap, Node::Object(entries)) => entries
            .iter()
            .all(|entry| item(&entry.value).is_some())
            .then_some(Value::Null),
        _ => None,
    };
    typed.ok_or_else(|| ValueError::WrongKind {
        key: key.to_owned(),
        found: match node {
            Node::Bool(value) => value.to_string(),
            Node::Number(number) => number.to_string(),
            // Of a key whose value is shown anyhow.
            Node::Text(text) if FIELDS.iter().any(|field| field.key == key) => excerpt(&format!("{text:?}")),
            node => node.kind().to_owned(),
        },
        wanted: wanted(kind),
    })
}

/// Reads a flag's value as pflag does. `None`: it leaves the option as it is.
pub(super) fn flagged(field: &Field, name: &str, text: &str) -> Result<Option<Value>, ValueError> {
    let wrong = || ValueError::WrongFlag {
        name: name.to_owned(),
        found: excerpt(text),
        wanted: wanted(field.kind),
    };
    let whole = |bits: u32| {
        let bound = 1_i128 << (bits - 1);
        let number = go::integer(text).filter(|number| (-bound..bound).contains(number));
        number.and_then(|number| i64::try_from(number).ok())
    };
    let value = match field.kind {
        ValueKind::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(json!(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(json!(false)),
            _ => None,
        },
        ValueKind::Number => whole(32).map(|number| json!(number)),
        ValueKind::LongNumber => whole(64).map(|number| json!(number)),
        ValueKind::Duration => duration::is_duration(text).then(|| json!(text)),
        ValueKind::Texts => items(text),
        ValueKind::Address if text.is_empty() => return Ok(None),
        ValueKind::Address => address(text).map(|_| json!(text)),
        _ => Some(json!(text)),
    };
    value.map(Some).ok_or_else(wrong)
}

/// An address as the kubelet reads it: zeros may stand before the numbers of an IPv4 address.
pub(in crate::adopt::kubelet) fn address(text: &str) -> Option<IpAddr> {
    let octets = text.split('.').map(|octet| match octet.trim_start_matches('0') {
        "" if !octet.is_empty() => "0",
        octet => octet,
    });
    text.parse()
        .ok()
        .or_else(|| octets.collect::<Vec<_>>().join(".").parse().ok())
}

/// The items of one flag, which is a line of CSV.
fn items(text: &str) -> Option<Value> {
    if text.is_empty() {
        return Some(json!([]));
    }
    let unquoted = |item: &str| {
        let inner = item.strip_prefix('"').and_then(|item| item.strip_suffix('"'));
        let item = inner.unwrap_or(item);
        (!item.contains('"')).then(|| Value::from(item))
    };
    text.split(',').map(unquoted).collect()
}

/// Whether it is 0, empty, or a duration of no length.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() || duration::is_zero(text),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

fn wanted(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a whole number of 32 bits",
        ValueKind::LongNumber => "a whole number of 64 bits",
        ValueKind::Address => "an IP address",
        ValueKind::Duration => "a duration",
        ValueKind::Texts => "a list of texts",
        ValueKind::Switches => "a section of booleans",
        ValueKind::TextMap => "a section of texts",
        ValueKind::Text | ValueKind::Path | ValueKind::Any => "a text",
    }
}

/// The start of a value, for messages.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}
