//! Whole numbers, as `strconv.ParseInt` reads them with base 0.

/// Reads a whole number with a sign and a prefix (`0x`, `0o`, `0b`, or `0` for octal digits), and with `_`
/// between digits. `None`: it is none, or has more than 64 bits.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // A prefix counts as a digit, so `_` may follow it.
    let digits = match radix {
        10 => digits,
        _ => digits.strip_prefix('_').unwrap_or(digits),
    };
    if digits.split('_').any(str::is_empty) {
        return None;
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    // A second sign is none.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(&digits, radix).ok()?);
    Some(if negative { -number } else { number })
}
