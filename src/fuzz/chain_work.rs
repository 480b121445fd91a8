//! What a chain costs: the finding is work above the bounds. Certificates are put together from recorded
//! ones, with names of the fuzzer's choice, so that they issue each other in every way; and their
//! allocations are counted.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustls::pki_types::CertificateDer;

use super::recorded::{RECORDED, content, fields, mutate, now, signed};

/// Allocations of this process, counted by the allocator of the program that fuzzes. Without that one they
/// stay 0, and only the bounds on work are held.
pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The bounds of a judgement, as `src/tls/bounds.rs` has them.
const SIGNATURES: u32 = 32;
const PATHS: u32 = 8;
const ELEMENTS: u32 = 2560;
/// Allocations for each certificate, and for each of its elements.
const PER_CERTIFICATE: usize = 400;
const PER_ELEMENT: usize = 8;

/// `der` with another issuer and subject, and tiny extensions added. No signature fits it afterwards.
fn renamed(der: &[u8], issuer: &[u8], subject: &[u8], extensions: u8) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = fields(der)?.into_iter().map(<[u8]>::to_vec).collect();
    if parts.len() < 7 {
        return None;
    }
    parts[3] = issuer.to_vec();
    parts[5] = subject.to_vec();
    if extensions > 0 {
        let mut added: Vec<u8> = match parts.get(7) {
            Some(extensions) => content(content(extensions)?)?.to_vec(),
            None => Vec::new(),
        };
        for number in 0..extensions {
            added.extend([0x30, 7, 6, 3, 0x2a, 0x7f, number & 0x7f, 4, 0]);
        }
        parts.truncate(7);
        parts.push(element(0xa3, &element(0x30, &added)));
    }
    let message = element(0x30, &parts.concat());
    let behind = content(der)?.get(signed(der)?.len()..)?;
    Some(element(0x30, &[&message, behind].concat()))
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&head, content].concat()
}

/// For each certificate six bytes: which recorded one (two), its issuer, its subject, extensions, and whether
/// it is renamed, or changed by the bytes that follow.
pub(super) fn run(data: &[u8]) {
    let recorded = &*RECORDED;
    let mut chain = Vec::new();
    for (at, plan) in data.chunks_exact(6).take(18).enumerate() {
        let [high, low, issuer, subject, extensions, kind] = *plan else {
            return;
        };
        let which = usize::from(u16::from_be_bytes([high, low])) % recorded.certificates.len();
        let mut der = recorded.certificates[which].clone();
        let name = |number: u8| &recorded.names[usize::from(number) % recorded.names.len()];
        match kind % 4 {
            0 => {}
            1 => mutate(&mut der, &data[at * 6..]),
            _ => der = renamed(&der, name(issuer), name(subject), extensions).unwrap_or(der),
        }
        chain.push(CertificateDer::from(der));
    }
    let before = ALLOCATIONS.load(Relaxed);
    let (_, work) = recorded.trust.judge(&chain, now());
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    assert!(work.signatures <= SIGNATURES && work.paths <= PATHS, "{work:?}");
    assert!(work.elements <= ELEMENTS, "{work:?}");
    let most = PER_CERTIFICATE * (1 + chain.len()) + PER_ELEMENT * work.elements as usize;
    assert!(
        allocations <= most,
        "{allocations} allocations, at most {most}: {work:?}"
    );
}
