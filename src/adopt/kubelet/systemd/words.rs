//! The words of a line: quotes and escapes.

/// How a backslash and an open quote are read.
#[derive(Clone, Copy)]
pub(super) enum WordRules {
    /// As C does. An unknown escape or an open quote is an error: `Environment=`.
    Escapes,
    /// As C does. An unknown escape stays as it is: `ExecStart=`.
    KeptEscapes,
    /// A backslash keeps what follows it: `PassEnvironment=`.
    Plain,
    /// The same, and a quote may be open at the end: the value of a variable.
    Lenient,
}

/// A quote that is not closed, or an escape that is none.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct BadWord;

/// Takes the first word off a text. It can hold any byte but zero, by escapes.
///
/// # Errors
/// It cannot be read by these rules.
pub(super) fn take_word(text: &mut &str, rules: WordRules) -> Result<Option<Vec<u8>>, BadWord> {
    *text = text.trim_start_matches(super::lines::WHITESPACE);
    if text.is_empty() {
        return Ok(None);
    }
    let mut word = Vec::new();
    let mut quote = None;
    let mut rest = *text;
    loop {
        let Some(c) = rest.chars().next() else {
            if quote.is_some() && !matches!(rules, WordRules::Lenient) {
                return Err(BadWord);
            }
            break;
        };
        rest = &rest[c.len_utf8()..];
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (_, '\\') => rest = escaped(rest, rules, quote.is_some(), &mut word)?,
            (None, ' ' | '\t' | '\n' | '\r') => break,
            (_, c) => word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    *text = rest.trim_start_matches(super::lines::WHITESPACE);
    Ok(Some(word))
}

/// What follows a backslash; returns what is after that.
fn escaped<'a>(
    rest: &'a str,
    rules: WordRules,
    quoted: bool,
    word: &mut Vec<u8>,
) -> Result<&'a str, BadWord> {
    let Some(c) = rest.chars().next() else {
        return match rules {
            WordRules::KeptEscapes if !quoted => {
                word.push(b'\\');
                Ok(rest)
            }
            WordRules::Lenient => Ok(rest),
            _ => Err(BadWord),
        };
    };
    let after = &rest[c.len_utf8()..];
    match rules {
        WordRules::Plain | WordRules::Lenient => {}
        WordRules::Escapes | WordRules::KeptEscapes => match unescaped(rest, word) {
            Some(after) => return Ok(after),
            None if matches!(rules, WordRules::Escapes) => return Err(BadWord),
            None => word.push(b'\\'),
        },
    }
    word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(after)
}

/// One escape of C's, without its backslash, and `\s` for a space; returns what is
/// after it. `None`: it is none.
fn unescaped<'a>(rest: &'a str, word: &mut Vec<u8>) -> Option<&'a str> {
    let number = |digits: &str, radix: u32| {
        let plain = digits.bytes().all(|digit| char::from(digit).is_digit(radix));
        plain
            .then(|| u32::from_str_radix(digits, radix).ok())?
            .filter(|number| *number != 0)
    };
    let c = rest.bytes().next()?;
    let plain = match c {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b's' => b' ',
        b'\\' | b'"' | b'\'' => c,
        b'x' => {
            let byte = number(rest.get(1..3)?, 16)?;
            word.push(u8::try_from(byte).ok()?);
            return rest.get(3..);
        }
        b'0'..=b'7' => {
            let byte = number(rest.get(..3)?, 8)?;
            word.push(u8::try_from(byte).ok()?);
            return rest.get(3..);
        }
        b'u' | b'U' => {
            let end = if c == b'u' { 5 } else { 9 };
            let code = number(rest.get(1..end)?, 16)?;
            match char::from_u32(code) {
                Some(char) if c == b'u' || super::lines::is_text(char.encode_utf8(&mut [0; 4])) => {
                    word.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes())
                }
                // Half of a pair: systemd writes its three bytes, which are not UTF-8.
                None if c == b'u' => word.extend([0xed, 0xa0, 0x80]),
                _ => return None,
            }
            return rest.get(end..);
        }
        _ => return None,
    };
    word.push(plain);
    rest.get(1..)
}

/// The words of a variable's value, or of a file of arguments.
pub(in crate::adopt::kubelet) fn words(text: &str) -> Vec<String> {
    let mut rest = text;
    let mut words = Vec::new();
    while let Ok(Some(word)) = take_word(&mut rest, WordRules::Lenient) {
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    words
}
