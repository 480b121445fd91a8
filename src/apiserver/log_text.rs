//! Text from outside, made fit for a log line.

/// The longest text of the API server's that is repeated.
const MAX_TEXT_CHARS: usize = 400;

/// `text` with control characters escaped, cut to a limit, and without `secret`.
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
