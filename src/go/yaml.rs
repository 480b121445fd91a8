//! YAML as `sigs.k8s.io/yaml` reads it: the first document, of YAML 1.1, turned into JSON. Of a key that is
//! there twice the last value counts, as a whole; and the keys of an object are in order.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::json::below;
use super::node::{Document, DocumentError, Entry, Node};
use super::scalar::scalar;

/// Deepest nesting, aliases included.
const DEPTH: usize = 256;
/// The most bytes and values of a document, aliases included.
const WEIGHT: usize = 4 << 20;
const CORE: &str = "tag:yaml.org,2002:";

/// Reads the first document of a text.
///
/// # Errors
/// It is not YAML, or cannot be turned into JSON.
pub(crate) fn yaml(text: &str) -> Result<Document, DocumentError> {
    refuse_characters(text)?;
    let options = granit_parser::options! {
        block_scalar_eof_without_line_feed: true,
        emit_comments: false,
    };
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        repeated: Vec::new(),
        path: String::new(),
    };
    let root = reader.document()?;
    Ok(Document {
        root,
        repeated: reader.repeated,
    })
}

struct Reader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    anchors: HashMap<usize, Measured>,
    repeated: Vec<(String, Option<usize>)>,
    /// Of the key whose value is read.
    path: String,
}

/// A value, how deep it nests, and how much it holds.
#[derive(Clone)]
struct Measured {
    node: Node,
    depth: usize,
    weight: usize,
}

impl<'text> Reader<'text> {
    fn document(&mut self) -> Result<Node, DocumentError> {
        loop {
            match self.next()? {
                (Event::StreamStart, _) => {}
                (Event::StreamEnd, _) => return Ok(Node::Null),
                (Event::DocumentStart(_, version), at) => {
                    if version.is_some_and(|version| (version.major, version.minor) != (1, 1)) {
                        return Err(refused(at, "%YAML is followed by another version than 1.1"));
                    }
                }
                (event, at) => {
                    let root = self.value(event, at, 0)?;
                    // What follows is read up to the end of the document.
                    self.next()?;
                    return Ok(root.node);
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'text>, Span), DocumentError> {
        match self.parser.next_event() {
            Some(event) => event.map_err(|error| broken(error.marker(), None)),
            None => Err(DocumentError {
                format: "YAML",
                place: None,
                what: None,
            }),
        }
    }

    /// The value that begins with `event`, below `above` others.
    fn value(&mut self, event: Event<'text>, at: Span, above: usize) -> Result<Measured, DocumentError> {
        let (found, anchor) = match event {
            Event::Alias(id) => {
                let repeated = self.anchors.get(&id).cloned();
                (
                    repeated.ok_or_else(|| refused(at, "an alias within what it repeats"))?,
                    0,
                )
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = match tag {
                    None if style == ScalarStyle::Plain => scalar(&text, None),
                    None => Ok(Node::Text(text.as_ref().into())),
                    Some(tag) => scalar(&text, Some(&core(&tag))),
                };
                let weight = text.len() + 1;
                let node = node.map_err(|what| refused(at, what))?;
                (
                    Measured {
                        node,
                        depth: 0,
                        weight,
                    },
                    anchor,
                )
            }
            Event::SequenceStart(_, anchor, _) => (self.list(above)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.object(above)?, anchor),
            _ => return Err(refused(at, "a value is missing")),
        };
        if above + found.depth > DEPTH || found.weight > WEIGHT {
            return Err(refused(
                at,
                "it nests too deep, or its aliases expand to too much",
            ));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, found.clone());
        }
        Ok(found)
    }

    fn list(&mut self, above: usize) -> Result<Measured, DocumentError> {
        let (mut list, mut depth, mut weight) = (Vec::new(), 0, 1);
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                let node = Node::List(Rc::new(list));
                return Ok(Measured { node, depth, weight });
            }
            let item = self.value(event, at, above + 1)?;
            depth = depth.max(item.depth + 1);
            weight += item.weight;
            list.push(item.node);
        }
    }

    fn object(&mut self, above: usize) -> Result<Measured, DocumentError> {
        let (mut entries, mut depth, mut weight) = (BTreeMap::new(), 0, 1);
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                let entries = entries.into_values().collect();
                let node = Node::Object(Rc::new(entries));
                return Ok(Measured { node, depth, weight });
            }
            let is_merge = is_merge(&event);
            let key = self.value(event, at, above + 1)?;
            let (event, value_at) = self.next()?;
            let mut add = |value: &Measured| {
                depth = depth.max(value.depth + 1);
                weight += key.weight + value.weight;
            };
            if is_merge {
                let value = self.value(event, value_at, above + 1)?;
                add(&value);
                merge(&mut entries, &value.node).map_err(|what| refused(value_at, what))?;
                continue;
            }
            let key: Rc<str> = name(&key.node).map_err(|what| refused(at, what))?;
            let line = Some(at.start.line());
            let path = below(&self.path, &key);
            let outer = std::mem::replace(&mut self.path, path);
            let value = self.value(event, value_at, above + 1)?;
            add(&value);
            let path = std::mem::replace(&mut self.path, outer);
            let entry = Entry {
                key: Rc::clone(&key),
                line,
                value: value.node,
            };
            if entries.insert(key, entry).is_some() {
                self.repeated.push((path, line));
            }
        }
    }
}

/// The name of a tag of YAML's own; of any other it is empty.
fn core(tag: &Tag) -> String {
    tag.suffix_in_namespace(CORE).map_or_else(String::new, Into::into)
}

/// `<<` without quotes: the entries of the value are put here.
fn is_merge(key: &Event<'_>) -> bool {
    match key {
        Event::Scalar(text, style, _, None) => text == "<<" && *style == ScalarStyle::Plain,
        Event::Scalar(text, _, _, Some(tag)) => text == "<<" && core(tag) == "merge",
        _ => false,
    }
}

/// go-yaml 2 puts them over the keys that stand before them.
fn merge(entries: &mut BTreeMap<Rc<str>, Entry>, value: &Node) -> Result<(), &'static str> {
    const WRONG: &str = "<< needs an object, or a list of them";
    match value {
        Node::Object(merged) => {
            let merged = merged.iter().cloned();
            entries.extend(merged.map(|entry| (Rc::clone(&entry.key), entry)));
            Ok(())
        }
        // The first of a list wins.
        Node::List(objects) => objects.iter().rev().try_for_each(|object| match object {
            Node::Object(_) => merge(entries, object),
            _ => Err(WRONG),
        }),
        _ => Err(WRONG),
    }
}

/// A key as it is in JSON, which has only texts.
fn name(key: &Node) -> Result<Rc<str>, &'static str> {
    match key {
        Node::Text(text) => Ok(Rc::clone(text)),
        Node::Bool(key) => Ok(key.to_string().into()),
        Node::Number(key) => Ok(key.to_string().into()),
        Node::Null => Err("a key that is null"),
        Node::List(_) | Node::Object(_) => Err("a key that is a list or an object"),
    }
}

/// Characters that go-yaml refuses, and line breaks that it knows and YAML 1.2 does not.
fn refuse_characters(text: &str) -> Result<(), DocumentError> {
    for (number, line) in text.lines().enumerate() {
        for (column, c) in line.chars().enumerate() {
            let what = match c {
                '\u{85}' | '\u{2028}' | '\u{2029}' => "a line break that only YAML 1.1 has",
                '\t' | '\r' | ' '..='~' | '\u{a0}'..='\u{fffd}' | '\u{10000}'.. => continue,
                _ => "a control character",
            };
            return Err(DocumentError {
                format: "YAML",
                place: Some((number + 1, column + 1)),
                what: Some(what),
            });
        }
    }
    Ok(())
}

fn refused(at: Span, what: &'static str) -> DocumentError {
    broken(&at.start, Some(what))
}

fn broken(at: &Marker, what: Option<&'static str>) -> DocumentError {
    DocumentError {
        format: "YAML",
        place: Some((at.line(), at.col() + 1)),
        what,
    }
}
