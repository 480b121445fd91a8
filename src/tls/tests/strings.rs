//! Every type of a value in a name, in every class and with and without the constructed bit, with contents of
//! many kinds, held against what Go reads.
//!
//! `golden` is a table of its own, written from Go's rules as the recorded kubelet shows them (`trust.tsv`,
//! `sub-*`): it shares nothing with the code under test.

use rcgen::PublicKeyData as _;

use super::forged::{CN, Forged, attribute, element, extension, may_issue, named};
use super::*;

const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const UID: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xc2, 0x53, 0x02];

/// What Go makes of a value in a name.
#[derive(Clone, Debug, PartialEq)]
enum Reading {
    /// The certificate cannot be parsed.
    Refused,
    /// A value, but no text: no name, no group, and a uid that is an error.
    NoText,
    Text(String),
}

/// What is done to the tag of a type.
const BITS: [(&str, u8); 6] = [
    ("primitive", 0x00),
    ("constructed", 0x20),
    ("application", 0x40),
    ("context-specific", 0x80),
    ("context-specific, constructed", 0xa0),
    ("private", 0xc0),
];

/// The universal types, but for SEQUENCE and SET, which are constructed.
const TYPES: [u8; 23] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x09, 0x0a, 0x0c, 0x0d, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
    0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1e,
];

const CONTENTS: [&[u8]; 33] = [
    b"",
    b"metrics-bot",
    b"x",
    b"\0",
    b"\0\0",
    b"\0\0\0\0",
    b"metrics\0bot",
    b"metrics-bot\0",
    b"metrics-bots\0\0",
    b"\0m\0b",
    b"\0m\0b\0\0",
    b"\0m\0b\0\0\0\0",
    b"\0m\0\0\0b",
    b"\0m\0b\0",
    b"\xfe\xff\0m",
    b"\xff\xfe\0m",
    b"\0m\xff\xff",
    b"\xd8\x3d\xde\x00",
    b"\xd8\x00",
    b"\xdc\x00\0\0",
    b"\xfd\xd0",
    b"\xfd\xef\0\0",
    b"\xfd\xf0",
    b"\xff\xfd",
    b"\0\0\0m",
    b"\xef\xbb\xbfm",
    b"\xef\xbf\xbe",
    b"\xed\xa0\x80",
    b"\xc0\xaf",
    b"j\xfcrgen",
    b"a@b_c*d&e",
    b"123 45",
    b"\x0c\x0bmetrics-bot",
];

/// Go's rules for a value in a name.
fn golden(tag: u8, content: &[u8]) -> Reading {
    let text = |good: bool| match String::from_utf8(content.to_vec()) {
        Ok(text) if good => Reading::Text(text),
        _ => Reading::Refused,
    };
    let value = |good: bool| if good { Reading::NoText } else { Reading::Refused };
    match tag {
        0x01 => value(content == [0x00] || content == [0xff]),
        0x02 => value(match content {
            [] => false,
            [0x00, next, ..] if *next < 0x80 => false,
            [0xff, next, ..] if *next >= 0x80 => false,
            _ => content.len() <= 8,
        }),
        0x03 => value(match content {
            [] => false,
            [unused] => *unused == 0,
            [unused, .., last] => *unused < 8 && u32::from(*last) % (1 << *unused) == 0,
        }),
        0x06 => value(
            !content.is_empty()
                && content[content.len() - 1] < 0x80
                && content
                    .split_inclusive(|byte| *byte < 0x80)
                    .all(|arc| arc.len() < 5 && arc[0] != 0x80),
        ),
        0x0c => text(true),
        0x12 => text(content.iter().all(|byte| b"0123456789 ".contains(byte))),
        0x13 => text(
            content
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(byte)),
        ),
        0x14 => Reading::Text(content.iter().map(|byte| char::from(*byte)).collect()),
        0x16 => text(content.iter().all(|byte| *byte < 0x80)),
        // None of the contents is a time.
        0x17 | 0x18 => Reading::Refused,
        0x1e => {
            let mut units: Vec<u32> = content
                .chunks(2)
                .map(|pair| pair.iter().fold(0, |unit, byte| unit << 8 | u32::from(*byte)))
                .collect();
            if units.last() == Some(&0) {
                units.pop();
            }
            let reserved = |unit: &u32| matches!(unit, 0xd800..0xe000 | 0xfdd0..0xfdf0 | 0xfffe..);
            if content.len() % 2 == 1 || units.iter().any(reserved) {
                return Reading::Refused;
            }
            Reading::Text(
                units
                    .into_iter()
                    .map(|unit| char::from_u32(unit).unwrap())
                    .collect(),
            )
        }
        _ => Reading::NoText,
    }
}

/// What the gate makes of the same value, in one place of a chain.
#[derive(Clone, Copy, Debug)]
enum Place {
    CommonName,
    Organization,
    Uid,
    /// In the leaf's issuer, and in the subject of the intermediate that issued it.
    Issuer,
}

/// Seen red without the comparison of class and constructed bit in `subject.rs` (207 of another identity),
/// and with the end of a BMPString kept (15).
#[test]
fn values_in_names_are_read_as_go_reads_them_or_refused() {
    let [root_key, issuer_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
    let forged = |issuer: &[u8], subject: Vec<u8>, key: &KeyPair, signer, extensions| {
        let key = key.subject_public_key_info();
        Forged {
            issuer: issuer.to_vec(),
            subject,
            key,
            signer,
            extensions,
        }
        .make()
    };
    let root = forged(&named("root"), named("root"), &root_key, &root_key, may_issue());
    let trust = Trust::new(vec![root], 1).unwrap();
    let subject = |text: &str, oid, value: &[u8]| {
        let first = attribute(CN, &element(0x0c, &[text.as_bytes()]));
        element(0x30, &[&first, &attribute(oid, value)])
    };
    let (mut equal, mut stricter, mut laxer, mut other) = (0, 0, Vec::new(), Vec::new());
    for (place, number) in [Place::CommonName, Place::Organization, Place::Uid, Place::Issuer]
        .into_iter()
        .flat_map(|place| TYPES.map(|number| (place, number)))
    {
        let values = BITS.into_iter().flat_map(|(bits, mask)| {
            // Of another class, no content makes text: a few are enough.
            let contents = if mask < 0x40 {
                &CONTENTS[..]
            } else {
                &CONTENTS[..4]
            };
            contents.iter().map(move |content| (bits, mask, *content))
        });
        for (bits, mask, content) in values {
            let value = element(mask | number, &[content]);
            let chain = if let Place::Issuer = place {
                let name = subject("issuer", ORGANIZATION, &value);
                let issuer = forged(&named("root"), name.clone(), &issuer_key, &root_key, may_issue());
                vec![
                    forged(&name, named("metrics-bot"), &key, &issuer_key, Vec::new()),
                    issuer,
                ]
            } else {
                let oid = match place {
                    Place::Organization => ORGANIZATION,
                    Place::Uid => UID,
                    Place::CommonName | Place::Issuer => CN,
                };
                let name = subject("first", oid, &value);
                vec![forged(&named("root"), name, &key, &root_key, Vec::new())]
            };
            let golden = golden(mask | number, content);
            let found = match trust.verdict(&chain, SystemTime::now()) {
                Err(_) => Reading::Refused,
                // No identity is read from an issuer: it need only be let through.
                Ok(_) if matches!(place, Place::Issuer) && golden != Reading::Refused => golden.clone(),
                Ok(_) if matches!(place, Place::Issuer) => Reading::NoText,
                Ok(judged) => match &judged.subject.attributes[1].text {
                    Some(text) => Reading::Text(text.clone()),
                    None => Reading::NoText,
                },
            };
            let said = || format!("{place:?} of type {number:#x}, {bits}, {content:02x?}: {found:?}");
            match (&golden, &found) {
                (golden, found) if golden == found => equal += 1,
                (_, Reading::Refused) => {
                    // Stricter only where Go sees no text, so that no client of a kubelet is refused.
                    assert!(golden == Reading::NoText, "{}", said());
                    stricter += 1;
                }
                (Reading::Refused, _) => laxer.push(said()),
                _ => other.push(said()),
            }
        }
    }
    println!(
        "{} values in names: {equal} equal, {stricter} stricter, {} laxer, {} of another identity",
        equal + stricter + laxer.len() + other.len(),
        laxer.len(),
        other.len()
    );
    assert_eq!((laxer, other), (Vec::new(), Vec::new()));
}

/// Go compares whole tags in extensions, too.
///
/// Seen red: with `has_exact_tags` always true, the alternative names. The others are refused twice, by
/// `encoding` and by x509-parser: seen red with the constructed bit not compared in `encoding` and the errors
/// of x509-parser ignored, together. The BOOLEAN stays refused, because its one byte is no element.
#[test]
fn extensions_with_a_constructed_primitive_are_refused() {
    let [root_key, key] = [(); 2].map(|()| KeyPair::generate().unwrap());
    let make = |subject: &str, key: &KeyPair, extensions| {
        let key = key.subject_public_key_info();
        let signer = &root_key;
        Forged {
            issuer: named("root"),
            subject: named(subject),
            key,
            signer,
            extensions,
        }
        .make()
    };
    let trust = Trust::new(vec![make("root", &root_key, may_issue())], 1).unwrap();
    let judge = |last: u8, value: &[u8]| {
        let leaf = make("metrics-bot", &key, vec![extension(&[0x55, 0x1d, last], value)]);
        trust.verdict(&[leaf], SystemTime::now())
    };
    // The contents are NULLs where they can be, which are good DER in a constructed element, too.
    let good: [(u8, &[u8], usize); 7] = [
        (0x0e, &[0x04, 0x02, 5, 0], 0),
        (0x0f, &[0x03, 0x02, 5, 0], 0),
        (0x11, &[0x30, 0x04, 0x82, 0x02, 5, 0], 2),
        (0x11, &[0x30, 0x06, 0x87, 0x04, 5, 0, 5, 0], 2),
        (0x13, &[0x30, 0x03, 0x01, 0x01, 0x00], 2),
        (0x20, &[0x30, 0x06, 0x30, 0x04, 0x06, 0x02, 5, 0], 4),
        (
            0x25,
            &[
                0x30, 0x0e, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 2, 0x06, 0x02, 5, 0,
            ],
            12,
        ),
    ];
    for (last, value, at) in good {
        // A value of FALSE is no DER for a default, which Go takes.
        judge(last, value).unwrap();
        let mut changed = value.to_vec();
        changed[at] ^= 0x20;
        judge(last, &changed).unwrap_err();
    }
}
