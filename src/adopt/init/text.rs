//! Text of the files: comments, quoted values, filled lines.

use crate::adopt::kubelet::plain;

/// Comments and prose are broken before this column.
const WIDTH: usize = 110;

/// Comment lines, whatever is in the text.
pub(super) fn comment(indent: &str, text: &str) -> String {
    let start = format!("{indent}# ");
    filled(&start, &start, &plain(text))
}

/// A string of YAML. It is also one of JSON, but for the characters that only YAML wants escaped.
pub(super) fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let escaped = |c: char| match plain(c.encode_utf8(&mut [0; 4])) {
        plain if plain.chars().count() == 1 => plain,
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    json.chars().map(escaped).collect()
}

/// The words of a text in lines of at most [`WIDTH`], of which the first begins with `first` and the others
/// with
/// `rest`.
pub(super) fn filled(first: &str, rest: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut start = true;
    for word in text.split(' ') {
        if !start && line.len() + 1 + word.len() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = rest.to_owned();
            start = true;
        }
        if !start {
            line.push(' ');
        }
        line.push_str(word);
        start = false;
    }
    lines + &line + "\n"
}
