//! Tables beside the tests, as text: one row a line, fields between tabs, bytes as `\xHH`.

/// The rows of a table, without its comments.
pub(crate) fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split('\t').collect())
}

/// A field's text, for which `-` stands if there is none.
pub(crate) fn text(field: &str) -> &str {
    if field == "-" { "" } else { field }
}

/// A field's bytes.
pub(crate) fn bytes(field: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().expect("an escape") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'\\' => b'\\',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => panic!("\\{} is no escape", char::from(other)),
            },
            byte => byte,
        });
    }
    bytes
}
