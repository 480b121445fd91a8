//! The lines of a unit's file, as systemd reads them: which belong together, which are assignments, and which
//! it ignores. Its configuration files (`system.conf`) have the same lines.

use std::fmt;
use std::sync::Arc;

/// What systemd takes for white space, also where text goes on beyond ASCII.
pub(super) const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line, all those that it goes on with among it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct UnitLine {
    /// The number of the last of them, which is the one that systemd's messages name.
    pub(super) number: usize,
    pub(super) kind: LineKind,
}

#[derive(Debug, Eq, PartialEq)]
pub(super) enum LineKind {
    Assignment {
        section: Arc<str>,
        key: String,
        value: String,
    },
    /// systemd ignores it, and why.
    Ignored(String),
    /// It names a file that systemd before version 246 reads in its place, and later ones ignore.
    Includes,
    /// systemd reads no further, and why.
    Stops(String),
}

/// Where something is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct LinePlace {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
}

impl fmt::Display for LinePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What a reading has to tell.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What may surprise the operator.
    pub(super) notes: Vec<String>,
    /// What is not known, and may be any option.
    pub(super) unread: Vec<String>,
}

impl Told {
    /// Notes a line, or a part of one, that does not count.
    pub(super) fn ignored(&mut self, place: &LinePlace, why: impl fmt::Display) {
        self.notes.push(format!("{place}: {why}: systemd ignores it"));
    }

    pub(super) fn unknown(&mut self, place: &LinePlace, why: impl fmt::Display) {
        self.unread.push(format!("{place}: {why}"));
    }
}

/// The lines of a file that may have these sections.
pub(super) fn unit_lines(text: &[u8], sections: &[&str]) -> Vec<UnitLine> {
    let mut lines = Vec::new();
    let mut section = Section::None;
    for (number, line) in joined(text) {
        if let Some(kind) = kind(&line, sections, &mut section) {
            let stops = matches!(kind, LineKind::Stops(_));
            lines.push(UnitLine { number, kind });
            if stops {
                break;
            }
        }
    }
    lines
}

enum Section {
    None,
    Known(Arc<str>),
    Ignored,
}

/// What one line is; `None`: nothing that anything follows from.
fn kind(line: &[u8], sections: &[&str], section: &mut Section) -> Option<LineKind> {
    let Some(line) = std::str::from_utf8(line).ok().filter(|line| is_text(line)) else {
        return Some(LineKind::Stops("a line that is not UTF-8".to_owned()));
    };
    let line = line.trim_matches(WHITESPACE);
    if line.is_empty() {
        return None;
    }
    if line.starts_with(".include ") {
        return Some(LineKind::Includes);
    }
    if let Some(header) = line.strip_prefix('[') {
        let Some(name) = header.strip_suffix(']').filter(|name| is_safe(name)) else {
            return Some(LineKind::Stops("an invalid section header".to_owned()));
        };
        if sections.contains(&name) {
            *section = Section::Known(name.into());
            return None;
        }
        *section = Section::Ignored;
        let told = format!("[{name}] is no section of it, up to the next section");
        return (!name.starts_with("X-")).then_some(LineKind::Ignored(told));
    }
    let section = match section {
        Section::Known(section) => Arc::clone(section),
        Section::None => return Some(LineKind::Ignored("a line before the first section".to_owned())),
        Section::Ignored => return None,
    };
    Some(match line.split_once('=') {
        None => LineKind::Ignored("a line without \"=\"".to_owned()),
        Some(("", _)) => LineKind::Ignored("a line without a key".to_owned()),
        Some((key, value)) => LineKind::Assignment {
            section,
            key: key.trim_matches(WHITESPACE).to_owned(),
            value: value.trim_matches(WHITESPACE).to_owned(),
        },
    })
}

/// Whether UTF-8 is text to systemd: the code points that Unicode reserves for no character are none.
pub(super) fn is_text(text: &str) -> bool {
    let reserved = |c| matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    !text.chars().any(reserved)
}

/// Neither a control character, nor a quote or a backslash.
pub(super) fn is_safe(text: &str) -> bool {
    !text.contains(|c: char| c.is_ascii_control() || matches!(c, '"' | '\'' | '\\'))
}

/// The lines, those that end in a backslash joined with the next, each with the number of its last line. A
/// backslash that is itself escaped joins nothing. Comments are left out, also between joined lines; one that
/// ends in a backslash goes on nowhere.
fn joined(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines = Vec::new();
    let mut current: Option<Vec<u8>> = None;
    let mut mark_seen = false;
    let mut last = 0;
    for (number, mut line) in (1..).zip(physical(text)) {
        last = number;
        let first = line.iter().find(|byte| !b" \t\n\r".contains(byte));
        if matches!(first, Some(b'#' | b';')) {
            continue;
        }
        if !mark_seen && let Some(rest) = line.strip_prefix(BYTE_ORDER_MARK) {
            (line, mark_seen) = (rest, true);
        }
        let mut whole = current.take().unwrap_or_default();
        whole.extend_from_slice(line);
        let escaped = whole
            .iter()
            .fold(false, |escaped, byte| !escaped && *byte == b'\\');
        if escaped {
            if let Some(backslash) = whole.last_mut() {
                *backslash = b' ';
            }
            current = Some(whole);
        } else {
            lines.push((number, whole));
        }
    }
    // At the end of the file systemd counts one more.
    lines.extend(current.map(|line| (last + 1, line)));
    lines
}

/// The lines between line feeds, carriage returns and zero bytes; different ones of
/// these in a row are one end.
fn physical(text: &[u8]) -> Vec<&[u8]> {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r' | 0);
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let length = rest.iter().position(is_end).unwrap_or(rest.len());
        let (line, after) = rest.split_at(length);
        lines.push(line);
        let mut ends = 0;
        while let Some(byte) = after.get(ends).filter(|byte| is_end(byte)) {
            let seen = &after[..ends];
            if seen.contains(&0) || seen.contains(byte) {
                break;
            }
            ends += 1;
        }
        rest = &after[ends..];
    }
    lines
}
