//! What a judgement costs, counted while it is made.
//!
//! A client chooses how much there is to read and to verify. So refusals are charged by work, and what is
//! counted here is bounded ([`super::bounds`]).

/// What a judgement cost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Work {
    /// The certificates that were read.
    pub certificates: u32,
    /// Their bytes.
    pub bytes: u32,
    /// Their elements of DER.
    pub elements: u32,
    /// The paths that webpki was given.
    pub paths: u32,
    /// The signatures that were verified, without the handshake's.
    pub signatures: u32,
    /// Elements and signatures together, with the handshake's signature, each at its weight: about the
    /// nanoseconds of a processor of 2024.
    pub effort: u64,
}

/// The effort of one unit.
const UNIT: u64 = 90_000;
/// The effort of a certificate, however small.
const CERTIFICATE: u64 = 5_000;
/// The effort of an element of DER.
const ELEMENT: u64 = 110;

impl Work {
    /// The work as a number of units, at least one: a chain of two ordinary certificates costs about two.
    pub fn units(&self) -> u32 {
        let units = self.effort.saturating_add(UNIT / 2) / UNIT;
        u32::try_from(units).unwrap_or(u32::MAX).max(1)
    }

    /// Counts a certificate that was read.
    pub(super) fn note_certificate(&mut self, bytes: usize, elements: usize) {
        let elements = u32::try_from(elements).unwrap_or(u32::MAX);
        self.certificates += 1;
        self.bytes = self
            .bytes
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.elements = self.elements.saturating_add(elements);
        self.effort += CERTIFICATE + u64::from(elements) * ELEMENT;
    }
}
