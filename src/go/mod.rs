//! Documents as Go programs read them. The kubelet and client-go take a text for another document than a
//! reader of YAML 1.2 or of plain JSON does, and an operator relies on what they take it for.
//!
//! ```text
//! node     the values of a document, and the lines of its keys           node.rs
//! json     JSON as encoding/json reads it: a key that is there twice      json.rs
//! yaml     YAML as sigs.k8s.io/yaml reads it: its first document          yaml.rs
//! scalar   what a scalar of YAML 1.1 means                                scalar.rs
//! number   whole numbers as strconv reads them                            number.rs
//! decode   structs of serde, made of nodes                                decode.rs
//! ```

mod decode;
mod json;
mod node;
mod number;
mod scalar;
#[cfg(test)]
mod tests;
mod yaml;

pub(crate) use self::decode::DecodeError;
pub(crate) use self::json::{is_json, json};
#[cfg(test)]
pub(crate) use self::node::{Document, DocumentError};
pub(crate) use self::node::{Entry, Node};
pub(crate) use self::number::integer;
pub(crate) use self::yaml::yaml;
