//! Bytes as hexadecimal digits.

/// The two lower-case digits of a byte.
pub(crate) const fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[(byte >> 4) as usize], DIGITS[(byte & 15) as usize]]
}

/// Bytes in lower-case digits.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| digits(*byte))
        .map(char::from)
        .collect()
}

/// The byte that two digits, of either case, stand for.
pub(crate) fn byte(high: u8, low: u8) -> Option<u8> {
    let value = |digit: u8| u8::try_from(char::from(digit).to_digit(16)?).ok();
    Some(value(high)? << 4 | value(low)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_byte_survives_its_digits() {
        for byte in 0..=u8::MAX {
            let [high, low] = super::digits(byte);
            assert_eq!(super::text(&[byte]), format!("{byte:02x}"));
            assert_eq!(super::byte(high, low), Some(byte));
            assert_eq!(super::byte(high.to_ascii_uppercase(), low), Some(byte));
        }
        assert_eq!(super::byte(b'g', b'0'), None);
    }
}
