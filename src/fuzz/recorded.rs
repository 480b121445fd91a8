//! Recorded certificates of clients and CAs, and small changes to DER: random bytes hardly ever become a
//! certificate.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;

use crate::tls::Trust;

/// The certificates of `tests/it/data/trust-certificates.tsv`.
pub(super) struct Recorded {
    pub(super) trust: Trust,
    pub(super) certificates: Vec<Vec<u8>>,
    pub(super) chains: Vec<Vec<Vec<u8>>>,
    /// The subjects of the bundle, and invented ones.
    pub(super) names: Vec<Vec<u8>>,
    /// The signed part of every certificate: a change may undo what makes a recorded one bad.
    pub(super) signed: HashSet<Vec<u8>>,
}

pub(super) static RECORDED: LazyLock<Recorded> = LazyLock::new(|| {
    let mut certificates = Vec::new();
    let mut numbers = HashMap::new();
    let (mut bundle, mut chains) = (Vec::new(), Vec::new());
    for line in include_str!("../../tests/it/data/trust-certificates.tsv").lines() {
        let pick = |certificates: &[Vec<u8>], numbers: &HashMap<&str, usize>, which: &str| -> Vec<Vec<u8>> {
            let places = which.split(' ').map(|number| numbers[number]);
            places.map(|place| certificates[place].clone()).collect()
        };
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["certificate", number, base64] => {
                numbers.insert(number, certificates.len());
                certificates.push(STANDARD.decode(base64).expect("base64"));
            }
            ["bundle", which] => bundle = pick(&certificates, &numbers, which),
            ["case", _, _, which] => chains.push(pick(&certificates, &numbers, which)),
            _ => {}
        }
    }
    let invented =
        (b'A'..b'E').map(|letter| vec![0x30, 0x0c, 0x31, 0x0a, 0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1, letter]);
    let names = bundle
        .iter()
        .filter_map(|der: &Vec<u8>| Some(fields(der)?.get(5)?.to_vec()))
        .chain(invented)
        .collect();
    let signed = certificates
        .iter()
        .filter_map(|der| signed(der))
        .map(<[u8]>::to_vec);
    let signed = signed.collect();
    let bundle = bundle.into_iter().map(CertificateDer::from).collect();
    let mut trust = Trust::new(bundle, 1).expect("the bundle");
    trust.allow_version1();
    Recorded {
        trust,
        certificates,
        chains,
        names,
        signed,
    }
});

/// When the recorded certificates are valid.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

/// The fields of what is signed of a certificate.
pub(super) fn fields(der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = content(signed(der)?)?;
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (_, end) = element(rest)?;
        fields.push(rest.get(..end)?);
        rest = &rest[end..];
    }
    Some(fields)
}

/// Changes `der` by up to eight operations read from `plan`: kind, place (two bytes), value.
pub(super) fn mutate(der: &mut Vec<u8>, plan: &[u8]) {
    for operation in plan.chunks_exact(4).take(8) {
        let [kind, high, low, value] = *operation else {
            return;
        };
        let place = usize::from(u16::from_be_bytes([high, low]));
        if der.is_empty() {
            return;
        }
        let place = place % der.len();
        match kind % 6 {
            0 => der[place] ^= 1 << (value % 8),
            1 => der[place] = value,
            2 => der.insert(place, value),
            3 => drop(der.remove(place)),
            4 => der.truncate(place),
            // A run of bytes once more.
            _ => {
                let end = der.len().min(place + usize::from(value));
                let run = der[place..end].to_vec();
                der.splice(place..place, run);
            }
        }
    }
}

/// What of a certificate or revocation list is signed: the first element of the outer one, with its head.
pub(super) fn signed(der: &[u8]) -> Option<&[u8]> {
    let (content, _) = element(der)?;
    let (_, whole) = element(&der[content..])?;
    der.get(content..content + whole)
}

/// The content of an element.
pub(super) fn content(der: &[u8]) -> Option<&[u8]> {
    let (begin, end) = element(der)?;
    der.get(begin..end)
}

/// Where an element's content begins, and where the element ends.
pub(super) fn element(der: &[u8]) -> Option<(usize, usize)> {
    let (head, length) = match usize::from(*der.get(1)?) {
        short @ ..0x80 => (2, short),
        long => {
            let octets = long - 0x80;
            let bytes = der.get(2..2 + octets)?;
            if octets > 4 {
                return None;
            }
            let length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (2 + octets, length)
        }
    };
    Some((head, head + length))
}
