//! Small changes to given DER, as the fuzzer chooses them: random bytes hardly ever become a certificate.

/// Changes `der` by up to eight operations read from `plan`: kind, place (two bytes), value.
pub fn mutate(der: &mut Vec<u8>, plan: &[u8]) {
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
pub fn signed(der: &[u8]) -> Option<&[u8]> {
    let (content, _) = element(der)?;
    let (_, whole) = element(&der[content..])?;
    der.get(content..content + whole)
}

/// The content of an element.
#[allow(
    dead_code,
    reason = "each target is a crate of its own, and not each needs it"
)]
pub fn content(der: &[u8]) -> Option<&[u8]> {
    let (begin, end) = element(der)?;
    der.get(begin..end)
}

/// Where an element's content begins, and where the element ends.
pub fn element(der: &[u8]) -> Option<(usize, usize)> {
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
