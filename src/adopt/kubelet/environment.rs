//! The files that systemd reads variables from.

/// Where the reader is.
#[derive(Clone, Copy)]
enum At {
    BeforeName,
    Name,
    BeforeValue,
    Value,
    ValueEscaped,
    SingleQuoted,
    DoubleQuoted,
    DoubleQuotedEscaped,
    Comment,
    CommentEscaped,
}

/// A line of an environment file.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum EnvironmentLine {
    /// `NAME=value`, quoted or not. The name is not checked.
    Assignment(String, String),
    /// It has no equals sign.
    Other,
}

/// The assignments of an environment file, in their order.
pub(super) fn assignments(text: &str) -> Vec<(String, String)> {
    let assignment = |line| match line {
        (_, EnvironmentLine::Assignment(name, value)) => Some((name, value)),
        (_, EnvironmentLine::Other) => None,
    };
    lines(text).into_iter().filter_map(assignment).collect()
}

/// The lines of an environment file that are no comment, each with the number of the line on which it
/// begins. An assignment may go on over several. This is how systemd reads it (`parse_env_file_internal`),
/// which differs from a shell.
pub(super) fn lines(text: &str) -> Vec<(usize, EnvironmentLine)> {
    use At::{
        BeforeName, BeforeValue, Comment, CommentEscaped, DoubleQuoted, DoubleQuotedEscaped, Name,
        SingleQuoted, Value, ValueEscaped,
    };
    let mut found = Vec::new();
    let (mut name, mut value) = (String::new(), String::new());
    // The value's length without trailing white space.
    let mut solid = 0;
    let mut at = BeforeName;
    let newline = |c: char| c == '\n' || c == '\r';
    let (mut number, mut first) = (1, 1);
    for c in text.chars() {
        if matches!(at, BeforeName) {
            first = number;
        }
        number += usize::from(c == '\n');
        at = match (at, c) {
            (BeforeName, '#' | ';') => Comment,
            (BeforeName, c) if c.is_ascii_whitespace() => BeforeName,
            (BeforeName, c) => {
                name.push(c);
                Name
            }
            // A line without an equals sign is ignored.
            (Name, c) if newline(c) => {
                found.push((first, EnvironmentLine::Other));
                name.clear();
                BeforeName
            }
            (Name, '=') => BeforeValue,
            (Name, c) => {
                name.push(c);
                Name
            }
            (BeforeValue | Value, c) if newline(c) => {
                value.truncate(solid);
                let (name, value) = (std::mem::take(&mut name), std::mem::take(&mut value));
                found.push((
                    first,
                    EnvironmentLine::Assignment(name.trim_end().to_owned(), value),
                ));
                solid = 0;
                BeforeName
            }
            (BeforeValue, '\'') => SingleQuoted,
            (BeforeValue, '"') => DoubleQuoted,
            (BeforeValue | Value, '\\') => ValueEscaped,
            (BeforeValue, c) if c.is_ascii_whitespace() => BeforeValue,
            (BeforeValue | Value, c) => {
                value.push(c);
                if !c.is_ascii_whitespace() {
                    solid = value.len();
                }
                Value
            }
            // The next line goes on.
            (ValueEscaped, c) if newline(c) => Value,
            (ValueEscaped, c) => {
                value.push(c);
                solid = value.len();
                Value
            }
            (SingleQuoted, '\'') | (DoubleQuoted, '"') => BeforeValue,
            (DoubleQuoted, '\\') => DoubleQuotedEscaped,
            (SingleQuoted | DoubleQuoted, c) => {
                value.push(c);
                solid = value.len();
                at
            }
            (DoubleQuotedEscaped, c) => {
                match c {
                    '"' | '\\' | '`' | '$' => value.push(c),
                    '\n' => {}
                    c => value.extend(['\\', c]),
                }
                solid = value.len();
                DoubleQuoted
            }
            (Comment, '\\') => CommentEscaped,
            (Comment, c) if newline(c) => BeforeName,
            // Also a new line: see `comment_goes_on`.
            (Comment | CommentEscaped, _) => Comment,
        };
    }
    match at {
        BeforeName | Comment | CommentEscaped => {}
        Name => found.push((first, EnvironmentLine::Other)),
        _ => {
            value.truncate(solid);
            found.push((
                first,
                EnvironmentLine::Assignment(name.trim_end().to_owned(), value),
            ));
        }
    }
    found
}

/// Whether a comment ends in a backslash before a line that is none. Up to version 253 systemd takes that
/// line for a part of the comment, as `assignments` does, and later it does not.
pub(super) fn comment_goes_on(text: &str) -> bool {
    let mut lines = text.split(['\n', '\r']).map(str::trim_start).peekable();
    let is_comment = |line: &str| line.starts_with(['#', ';']);
    while let Some(line) = lines.next() {
        let backslashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
        let next = lines
            .peek()
            .is_some_and(|next| !is_comment(next) && next.contains('='));
        if is_comment(line) && backslashes % 2 == 1 && next {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_as_systemd_reads_them() {
        for (text, expected) in [
            ("A=1\nB = two words  \n", &[("A", "1"), ("B", "two words")][..]),
            ("# c\n; c\n\n  A=1", &[("A", "1")]),
            ("A='x \"y\"'\n", &[("A", "x \"y\"")]),
            ("A=\"--a=1 \\\n--b=2\"\n", &[("A", "--a=1 --b=2")]),
            ("A=\"one\ntwo\"\nB=3\n", &[("A", "one\ntwo"), ("B", "3")]),
            ("A=--a \\\n  --b\n", &[("A", "--a   --b")]),
            ("A=\"x\"y'z'\n", &[("A", "xy'z'")]),
            ("A=\"\\$x \\n \\\"\"\n", &[("A", "$x \\n \"")]),
            ("export A=1\n", &[("export A", "1")]),
            ("nothing\nA=\nB\n", &[("A", "")]),
            ("# a comment \\\nA=1\nB=2\n", &[("B", "2")]),
            ("# a comment \\\\\nA=1\n", &[("A", "1")]),
        ] {
            let read = assignments(text);
            let read: Vec<(&str, &str)> = read
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    fn versions_differ_over_a_comment_that_goes_on() {
        for (text, goes_on) in [
            ("# a \\\nA=1\n", true),
            ("A=1\n  ; a \\\n  B=1\n", true),
            ("# a \\\\\nA=1\n", false),
            ("# a \\\n# A=1\n", false),
            ("# a \\\n\nA=1\n", false),
            ("A=x \\\nB=1\n", false),
        ] {
            assert_eq!(comment_goes_on(text), goes_on, "{text:?}");
        }
    }
}
