//! Structs made of nodes, by serde: a key that a struct does not have is ignored, and
//! null is an absent value.

use std::fmt;

use serde::de::value::SeqDeserializer;
use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};

use super::node::{Entry, Node};

/// A value is not of the type that its key has. The value itself may be a secret.
#[derive(Debug)]
pub(crate) struct DecodeError {
    line: Option<usize>,
}

// === impl DecodeError ===

impl DecodeError {
    /// A value in this line is of the wrong type.
    pub(crate) fn at(line: Option<usize>) -> Self {
        Self { line }
    }

    /// In this line, unless a line within it is known.
    pub(crate) fn or_at(self, line: Option<usize>) -> Self {
        Self::at(self.line.or(line))
    }

    /// Where the value is.
    pub(crate) fn place(&self) -> String {
        match self.line {
            Some(line) => format!("line {line}"),
            None => "line 1".to_owned(),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of the wrong type near {}", self.place())
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self { line: None }
    }
}

// === impl Node ===

impl<'de> Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_i64(number),
                (_, Some(number), _) => visitor.visit_u64(number),
                (.., number) => visitor.visit_f64(number.unwrap_or_default()),
            },
            Node::Text(text) => visitor.visit_borrowed_str(text),
            Node::List(values) => visitor.visit_seq(SeqDeserializer::new(values.iter())),
            Node::Object(entries) => visitor.visit_map(Entries {
                rest: entries.iter(),
                entry: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    /// A struct is made of an object alone.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self {
            Node::Object(_) => self.deserialize_any(visitor),
            _ => Err(DecodeError { line: None }),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, DecodeError> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The entries of an object that are left, and the one whose value is next.
struct Entries<'de> {
    rest: std::slice::Iter<'de, Entry>,
    entry: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.entry = self.rest.next();
        match self.entry {
            Some(entry) => seed.deserialize((&*entry.key).into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let (value, line) = self
            .entry
            .map_or((&Node::Null, None), |entry| (&entry.value, entry.line));
        seed.deserialize(value).map_err(|error| error.or_at(line))
    }
}
