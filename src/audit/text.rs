//! Text from outside as JSON: what a terminal would obey or hide is escaped, and what is long is shortened.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

use super::redaction::Redaction;

/// Appends `value` to `out` as JSON.
pub(super) fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to a Vec does not fail, and neither do strings, numbers, and lists and maps of them.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(out, Visible));
}

/// `value` as JSON.
pub(super) fn json_text(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    json(&mut out, value);
    String::from_utf8(out).unwrap_or_default()
}

/// Appends `text` to `out` as a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &[u8]) {
    json(out, &String::from_utf8_lossy(text));
}

/// As [`string`], but at most `limit` bytes of `text`, as they are written: a byte that is no UTF-8 is
/// three there.
pub(super) fn cut_string(out: &mut Vec<u8>, text: &[u8], limit: usize) {
    let text = String::from_utf8_lossy(text);
    if text.len() <= limit {
        return json(out, &text);
    }
    json(out, &[head(&text, limit), TRUNCATED].concat());
}

/// At most `limit` bytes of `text`, with the API server's mark where it is cut.
pub(super) fn cut(text: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(text);
    if text.len() <= limit {
        return text.into_owned();
    }
    [head(&text, limit), TRUNCATED].concat()
}

/// `text` in at most `limit` bytes. What does not fit is replaced by its length and its keyed hash: two texts
/// that differ only there can be told apart.
pub(super) fn shortened<'a>(text: &'a [u8], limit: usize, redaction: &Redaction) -> Cow<'a, str> {
    let text = String::from_utf8_lossy(text);
    if text.len() <= limit {
        return text;
    }
    let shown = head(&text, limit.saturating_sub(MARK_BYTES));
    let rest = &text[shown.len()..];
    let hash = redaction.hash(rest.as_bytes());
    Cow::Owned(format!("{shown}...({} bytes more, {hash})", rest.len()))
}

/// The longest beginning of `text` that has at most `limit` bytes.
fn head(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// Writes strings so that nothing in them acts on a terminal or a viewer: besides what JSON escapes, DEL, the
/// C1 controls, and characters that are invisible or change the order of others.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Nearly all text is printable ASCII.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        let mut written = 0;
        for (at, char) in fragment.char_indices().filter(|(_, char)| is_hidden(*char)) {
            writer.write_all(&fragment.as_bytes()[written..at])?;
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            written = at + char.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[written..])
    }
}

/// Whether a character has no shape of its own: controls, line and paragraph separators, marks of direction,
/// joiners, tags, unassigned ones. The standard library's debug text escapes these.
fn is_hidden(char: char) -> bool {
    !char.is_ascii_graphic() && char != ' ' && char.escape_debug().len() > 1
}

/// The API server's mark of a text that was cut.
const TRUNCATED: &str = "...TRUNCATED";
/// Room for the length and the hash of what is left out.
const MARK_BYTES: usize = 56;
