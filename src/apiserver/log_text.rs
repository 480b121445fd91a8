//! Text from outside, made fit for a log line.

/// Longest text of the API server's that is repeated.
const MAX_TEXT_CHARS: usize = 400;

/// Text of the API server's, fit for a log line: control characters escaped, not too long, and without
/// `secret`.
pub(super) fn log_text(text: &str, secret: &str) -> String {
    let text = if secret.is_empty() {
        text.to_owned()
    } else {
        text.replace(secret, "[token]")
    };
    let mut shown: String = text.chars().take(MAX_TEXT_CHARS).flat_map(escape).collect();
    if text.chars().nth(MAX_TEXT_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn escape(c: char) -> impl Iterator<Item = char> {
    let (escaped, plain) = if c.is_control() {
        (Some(c.escape_default()), None)
    } else {
        (None, Some(c))
    };
    escaped.into_iter().flatten().chain(plain)
}
