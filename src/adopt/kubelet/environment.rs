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

/// The assignments of an environment file, in their order: `NAME=value`, quoted or not, also over several
/// lines. Names are not checked. This is how systemd reads it (`parse_env_file_internal`), which differs from
/// a shell.
pub(super) fn assignments(text: &str) -> Vec<(String, String)> {
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
    for c in text.chars() {
        at = match (at, c) {
            (BeforeName, '#' | ';') => Comment,
            (BeforeName, c) if c.is_ascii_whitespace() => BeforeName,
            (BeforeName, c) => {
                name.push(c);
                Name
            }
            // A line without an equals sign is ignored.
            (Name, c) if newline(c) => {
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
                found.push((name.trim_end().to_owned(), std::mem::take(&mut value)));
                name.clear();
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
            (Comment | CommentEscaped, c) if newline(c) => BeforeName,
            (Comment | CommentEscaped, _) => Comment,
        };
    }
    if !matches!(at, BeforeName | Name | Comment | CommentEscaped) {
        value.truncate(solid);
        found.push((name.trim_end().to_owned(), value));
    }
    found
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
            ("# a comment \\\nA=1\n", &[("A", "1")]),
        ] {
            let read = assignments(text);
            let read: Vec<(&str, &str)> = read
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(read, expected, "{text:?}");
        }
    }
}
