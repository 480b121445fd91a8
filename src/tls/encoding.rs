//! DER, read as strictly as Go reads it: the shape of every element, and the content of every universal type.
//!
//! x509-parser accepts malformed input: odd lengths, wrong character sets, names that it reads only in part.
//! A certificate that two parsers read differently can name two users. So every certificate is first checked
//! here.

use std::net::IpAddr;

use time::{Date, Month, Time};

/// Deeper nesting than any real certificate has, and shallow enough for the stack.
const MAX_DEPTH: usize = 24;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const NUMERIC_STRING: u8 = 0x12;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
const CONSTRUCTED: u8 = 0x20;
const CLASS: u8 = 0xc0;
const UNIVERSAL: u8 = 0x00;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// One tag with its content.
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// Tag, length and content.
    pub(super) raw: &'a [u8],
}

/// The elements of `input`, each with a minimal, definite length; `None` if bytes are left over.
pub(super) fn elements(mut input: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut elements = Vec::new();
    while !input.is_empty() {
        let (element, rest) = split(input)?;
        elements.push(element);
        input = rest;
    }
    Some(elements)
}

/// The content of the single element that `input` is.
pub(super) fn only(input: &[u8], tag: u8) -> Option<&[u8]> {
    let (element, rest) = split(input)?;
    (element.tag == tag && rest.is_empty()).then_some(element.content)
}

/// A certificate or revocation list as its signer sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed<'a> {
    pub(super) message: &'a [u8],
    /// The content of the algorithm.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Signed<'a> {
    pub(super) fn read(input: &'a [u8]) -> Option<Self> {
        let (message, rest) = split(only(input, SEQUENCE)?)?;
        match elements(rest)?[..] {
            [
                Element {
                    tag: SEQUENCE,
                    content: algorithm,
                    ..
                },
                Element {
                    tag: BIT_STRING,
                    content: [0, signature @ ..],
                    ..
                },
            ] => Some(Self {
                message: message.raw,
                algorithm,
                signature,
            }),
            _ => None,
        }
    }

    /// What is signed, without its tag and length.
    pub(super) fn message_content(&self) -> Option<&'a [u8]> {
        only(self.message, SEQUENCE)
    }
}

/// Whether `input` is one element that DER and Go's parser accept, with everything in it. Each element read
/// is taken off `left`; `false` once none is.
pub(super) fn is_strict(input: &[u8], left: &mut usize) -> bool {
    matches!(split(input), Some((element, [])) if strict(&element, 0, left))
}

fn strict(element: &Element<'_>, depth: usize, left: &mut usize) -> bool {
    let Some(fewer) = left.checked_sub(1) else {
        return false;
    };
    *left = fewer;
    let is_constructed = element.tag & CONSTRUCTED != 0;
    // Of the universal types, DER constructs SEQUENCE and SET, and no other. A parser that overlooks the bit
    // reads a constructed string as text that Go does not see.
    if element.tag & CLASS == UNIVERSAL
        && is_constructed != matches!(element.tag | CONSTRUCTED, SEQUENCE | SET)
    {
        return false;
    }
    if is_constructed {
        let mut rest = element.content;
        while depth < MAX_DEPTH && !rest.is_empty() {
            match split(rest) {
                Some((element, behind)) if strict(&element, depth + 1, left) => rest = behind,
                _ => return false,
            }
        }
        return rest.is_empty() && depth < MAX_DEPTH;
    }
    let content = element.content;
    match element.tag {
        BOOLEAN => matches!(content, [0x00] | [0xff]),
        INTEGER => is_minimal_integer(content),
        BIT_STRING => is_bit_string(content),
        NULL => content.is_empty(),
        OBJECT_IDENTIFIER => is_object_identifier(content),
        UTF8_STRING => std::str::from_utf8(content).is_ok(),
        NUMERIC_STRING => content.iter().all(|byte| byte.is_ascii_digit() || *byte == b' '),
        // `*` and `&` are no PrintableString characters, but Go accepts them.
        PRINTABLE_STRING => content
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(byte)),
        IA5_STRING => content.is_ascii(),
        UTC_TIME => is_utc_time(content),
        GENERALIZED_TIME => is_generalized_time(content),
        BMP_STRING => is_bmp_string(content),
        _ => true,
    }
}

/// The first element of `input`, and the bytes behind it.
fn split(input: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    // Tag numbers above 30 take several bytes; no certificate needs one.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            if bytes.first() == Some(&0) || length < 0x80 {
                return None;
            }
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let raw = &input[..input.len() - rest.len()];
    Some((Element { tag, content, raw }, rest))
}

fn is_minimal_integer(content: &[u8]) -> bool {
    match content {
        [] => false,
        [0x00, next, ..] => next & 0x80 != 0,
        [0xff, next, ..] => next & 0x80 == 0,
        _ => true,
    }
}

fn is_bit_string(content: &[u8]) -> bool {
    match content {
        [] => false,
        [unused] => *unused == 0,
        [unused, .., last] => *unused < 8 && last & !(0xff_u8 << *unused) == 0,
    }
}

/// Whether the arcs are minimal and fit 31 bits, as in Go.
fn is_object_identifier(content: &[u8]) -> bool {
    if content.last().is_none_or(|last| last & 0x80 != 0) {
        return false;
    }
    content.split_inclusive(|byte| byte & 0x80 == 0).all(|arc| {
        let value = arc
            .iter()
            .fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        arc.len() <= 5 && arc.first() != Some(&0x80) && value <= u64::from(u32::MAX >> 1)
    })
}

fn is_bmp_string(content: &[u8]) -> bool {
    let (points, rest) = content.as_chunks::<2>();
    rest.is_empty()
        && points
            .iter()
            .map(|point| u16::from_be_bytes(*point))
            .all(|point| !matches!(point, 0xd800..=0xdfff | 0xfdd0..=0xfdef | 0xfffe..))
}

fn is_utc_time(content: &[u8]) -> bool {
    // Years run from 1950 to 2049.
    two_digits(content, 0).is_some_and(|year| {
        content.len() == 13
            && is_date_time(
                if year < 50 { 2000 } else { 1900 } + i32::from(year),
                &content[2..],
            )
    })
}

fn is_generalized_time(content: &[u8]) -> bool {
    let (Some(century), Some(year)) = (two_digits(content, 0), two_digits(content, 2)) else {
        return false;
    };
    content.len() == 15 && is_date_time(i32::from(century) * 100 + i32::from(year), &content[4..])
}

/// `MMDDhhmmssZ`.
fn is_date_time(year: i32, rest: &[u8]) -> bool {
    let [Some(month), Some(day), Some(hour), Some(minute), Some(second)] =
        [0, 2, 4, 6, 8].map(|at| two_digits(rest, at))
    else {
        return false;
    };
    rest.get(10..) == Some(b"Z")
        && Month::try_from(month).is_ok_and(|month| Date::from_calendar_date(year, month, day).is_ok())
        && Time::from_hms(hour, minute, second).is_ok()
}

fn two_digits(content: &[u8], at: usize) -> Option<u8> {
    match content.get(at..at + 2)? {
        [tens @ b'0'..=b'9', units @ b'0'..=b'9'] => Some((tens - b'0') * 10 + units - b'0'),
        _ => None,
    }
}

/// Whether `name` consists of dot-separated, printable labels or is empty. A trailing dot is refused.
pub(super) fn is_domain(name: &[u8]) -> bool {
    name.is_empty()
        || name
            .split(|byte| *byte == b'.')
            .all(|label| !label.is_empty() && label.iter().all(u8::is_ascii_graphic))
}

/// Whether Go would parse `uri`: a scheme, no blanks or control characters, and after `//` a valid host and
/// port. Some URIs that Go accepts are refused (relative ones, a stray `%`), but not the other way round.
pub(super) fn is_uri(uri: &[u8]) -> bool {
    let Some(colon) = uri.iter().position(|byte| *byte == b':') else {
        return false;
    };
    let (scheme, rest) = (&uri[..colon], &uri[colon + 1..]);
    let scheme_is_good = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let escapes_are_good = rest.split(|byte| *byte == b'%').skip(1).all(|after| {
        after
            .get(..2)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    scheme_is_good
        && escapes_are_good
        && rest.iter().all(u8::is_ascii_graphic)
        && rest.strip_prefix(b"//").is_none_or(|rest| {
            let end = rest
                .iter()
                .position(|byte| b"/?#".contains(byte))
                .unwrap_or(rest.len());
            is_authority(&rest[..end])
        })
}

/// `host`, `host:port` or `[v6]:port`. A user is refused: no CA puts one into a certificate.
fn is_authority(authority: &[u8]) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else {
        return false;
    };
    let (host_is_good, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (matches!(host.parse(), Ok(IpAddr::V6(_))), port),
        None => {
            let at = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(at);
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            (is_domain(host.as_bytes()) && host.bytes().all(letters), port)
        }
    };
    host_is_good
        && (port.is_empty()
            || port
                .strip_prefix(':')
                .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_strict(input: &[u8]) -> bool {
        super::is_strict(input, &mut 100)
    }

    #[test]
    fn lengths_are_minimal_and_definite() {
        assert!(is_strict(&[0x30, 0x03, 0x02, 0x01, 0x05]));
        for (why, der) in [
            (
                "long form of a short length",
                &[0x30, 0x81, 0x03, 0x02, 0x01, 0x05][..],
            ),
            ("indefinite", &[0x30, 0x80, 0x02, 0x01, 0x05, 0x00, 0x00]),
            ("trailing byte", &[0x30, 0x03, 0x02, 0x01, 0x05, 0x00]),
            ("needless zero", &[0x30, 0x04, 0x02, 0x02, 0x00, 0x05]),
            ("a boolean of 1", &[0x30, 0x03, 0x01, 0x01, 0x01]),
            (
                "a sequence that is not constructed",
                &[0x10, 0x03, 0x02, 0x01, 0x05],
            ),
        ] {
            assert!(!is_strict(der), "{why}");
        }
    }

    /// Seen red without the comparison: each constructed string counted as good.
    #[test]
    fn of_the_universal_types_only_sequences_and_sets_are_constructed() {
        for number in 0x01..=0x1e_u8 {
            let constructed = [0x20 | number, 0x02, 0x05, 0x00];
            let good = matches!(number, 0x10 | 0x11);
            assert_eq!(is_strict(&constructed), good, "{number:#x}");
        }
        assert!(is_strict(&[0xa1, 0x02, 0x05, 0x00]) && is_strict(&[0x81, 0x00]));
    }

    #[test]
    fn nesting_is_bounded() {
        let mut der = vec![0x05, 0x00];
        for _ in 0..60 {
            let mut outer = vec![0x30, u8::try_from(der.len()).unwrap_or(u8::MAX)];
            outer.extend(&der);
            der = outer;
        }
        assert!(der.len() < 128 && !is_strict(&der));
    }

    #[test]
    fn object_identifiers_stay_within_31_bits() {
        const LARGEST: &[u8] = &[0x2a, 0x87, 0xff, 0xff, 0xff, 0x7f];
        assert!(is_object_identifier(&[0x55, 0x04, 0x03]) && is_object_identifier(LARGEST));
        for (why, content) in [
            ("2^31", &[0x2a, 0x88, 0x80, 0x80, 0x80, 0x00][..]),
            ("needless leading byte", &[0x2a, 0x80, 0x01]),
            ("unfinished", &[0x2a, 0x81]),
            ("empty", &[]),
        ] {
            assert!(!is_object_identifier(content), "{why}");
        }
    }

    #[test]
    fn times_are_utc_and_exist() {
        for good in ["000229000000Z", "491231235959Z", "500101000000Z"] {
            assert!(is_utc_time(good.as_bytes()), "{good}");
        }
        let bad = "010229000000Z 491231235959+0000 4912312359Z 491331235959Z 491231235960Z";
        for bad in bad.split(' ').chain([""]) {
            assert!(!is_utc_time(bad.as_bytes()), "{bad}");
        }
        assert!(
            is_generalized_time(b"00000101000000Z"),
            "no well-defined date, says RFC 5280; a date, says Go"
        );
        assert!(is_generalized_time(b"21200101000000Z"));
        assert!(!is_generalized_time(b"21200101000000.5Z"));
    }

    #[test]
    fn uris_have_a_scheme_and_a_readable_host() {
        for good in "spiffe://inside.example/x https://10.0.0.1:8443/a?b#c urn:a:b https://[::1]/".split(' ')
        {
            assert!(is_uri(good.as_bytes()), "{good}");
        }
        let bad = "x /a :a https://a..b/ https://[::1/ https://a:b/ u:%zz";
        for bad in bad.split(' ').chain(["", "https://a b/"]) {
            assert!(!is_uri(bad.as_bytes()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = is_strict(&bytes);
            let _ = Signed::read(&bytes);
            let _ = is_uri(&bytes);
            let _ = is_generalized_time(&bytes);
            let _ = is_utc_time(&bytes);
        }
    }
}
