//! Values as a kubelet reads them, from files and from flags.

use serde_json::{Value, json};

use super::fields::{Field, ValueKind};
use crate::duration;

/// Why a value is not what a kubelet can read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValueError {
    #[error("{0}: not a section with keys, which a kubelet needs here")]
    NotASection(String),
    #[error("{key}: {found} is not a {wanted}")]
    WrongKind {
        key: &'static str,
        found: String,
        wanted: &'static str,
    },
    #[error("--{name}={found} is not a {wanted}")]
    WrongFlag {
        name: String,
        found: String,
        wanted: &'static str,
    },
}

/// The value at a dotted key. A null section counts as a null value: it unsets all keys below.
pub(super) fn found<'a>(document: &'a Value, key: &str) -> Result<Option<&'a Value>, ValueError> {
    let mut value = document;
    for (at, name) in key.split('.').enumerate() {
        value = match value {
            Value::Null => return Ok(Some(value)),
            Value::Object(values) => match values.get(name) {
                Some(value) => value,
                None => return Ok(None),
            },
            _ => {
                let above: Vec<&str> = key.split('.').take(at).collect();
                return Err(ValueError::NotASection(above.join(".")));
            }
        };
    }
    Ok(Some(value))
}

/// Checks a file's value. A kubelet's YAML is version 1.1, where `yes` and `off` are booleans.
pub(super) fn typed(field: &Field, value: &Value) -> Result<Value, ValueError> {
    let wrong = |wanted| {
        Err(ValueError::WrongKind {
            key: field.key,
            found: excerpt(&value.to_string()),
            wanted,
        })
    };
    Ok(match (field.kind, value) {
        (ValueKind::Bool, Value::Bool(_)) | (ValueKind::Text | ValueKind::Path, Value::String(_)) => {
            value.clone()
        }
        (ValueKind::Bool, Value::String(text)) => match text.to_lowercase().as_str() {
            "yes" | "on" | "y" => json!(true),
            "no" | "off" | "n" => json!(false),
            _ => return wrong("boolean"),
        },
        (ValueKind::Bool, _) => return wrong("boolean"),
        (ValueKind::Number, Value::Number(number)) if number.is_i64() => value.clone(),
        (ValueKind::Number, _) => return wrong("whole number"),
        (ValueKind::Duration, Value::String(text)) if duration::is_duration(text) => value.clone(),
        (ValueKind::Duration, _) => return wrong("duration"),
        (ValueKind::Texts, Value::Array(values)) if values.iter().all(Value::is_string) => value.clone(),
        (ValueKind::Texts, _) => return wrong("list of texts"),
        (ValueKind::Text | ValueKind::Path, _) => return wrong("text"),
    })
}

/// Reads a flag's value as pflag does.
pub(super) fn flagged(field: &Field, name: &str, text: &str) -> Result<Value, ValueError> {
    let wrong = |wanted| ValueError::WrongFlag {
        name: name.to_owned(),
        found: excerpt(text),
        wanted,
    };
    Ok(match field.kind {
        ValueKind::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => json!(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => json!(false),
            _ => return Err(wrong("boolean")),
        },
        ValueKind::Number => json!(text.parse::<i64>().map_err(|_| wrong("whole number"))?),
        ValueKind::Duration if duration::is_duration(text) => json!(text),
        ValueKind::Duration => return Err(wrong("duration")),
        ValueKind::Texts => text.split(',').filter(|text| !text.is_empty()).collect(),
        ValueKind::Text | ValueKind::Path => json!(text),
    })
}

/// Whether it is 0, empty, or a duration of no length.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty() || duration::is_zero(text),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    }
}

/// The start of a value, for messages.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}
