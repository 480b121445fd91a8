//! Where the frames of a WebSocket end (RFC 6455 §5.2), for a close frame of the gate's own: within a frame
//! it would be taken for the kubelet's data.
//!
//! Only the heads of frames are looked at. What they carry is skipped, not copied.

/// The longest head: two bytes, eight of a length, four of a mask.
const LONGEST_HEAD: usize = 14;
/// The opcode of a close frame, after which no other frame may come.
const CLOSE: u8 = 8;
/// The longest reason: a control frame carries 125 bytes at most, of which two are the code.
const LONGEST_REASON: usize = 123;

/// Walks over the frames of one direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// How much of the next head has come.
    head_read: usize,
    /// How much of the frame's payload has not come yet.
    left: u64,
    closed: bool,
}

// === impl Frames ===

impl Frames {
    /// Whether the last byte was the last one of a frame, so that another frame may follow.
    pub(super) fn is_at_end_of_frame(&self) -> bool {
        self.left == 0 && self.head_read == 0
    }

    /// Whether a close frame has begun.
    pub(super) fn has_closed(&self) -> bool {
        self.closed
    }

    /// Walks over all of `bytes`.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.pass_frame(bytes);
            bytes = &bytes[passed..];
        }
    }

    /// Walks to the end of the frame that `bytes` go on with, or over all of them. Yields how many that are;
    /// not 0, unless there are none.
    pub(super) fn pass_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while self.left == 0 {
            let Some(byte) = bytes.get(passed) else {
                return passed;
            };
            passed += 1;
            self.head[self.head_read] = *byte;
            self.head_read += 1;
            if let Some(length) = self.payload_length() {
                self.closed |= self.head[0] & 0x0f == CLOSE;
                self.head_read = 0;
                self.left = length;
                if length == 0 {
                    return passed;
                }
            }
        }
        let rest = &bytes[passed..];
        let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
        self.left -= now as u64;
        passed + now
    }

    /// The length of the payload, once the head is complete.
    fn payload_length(&self) -> Option<u64> {
        let [_, second, ..] = self.head;
        let (masked, length) = (second & 0x80 != 0, second & 0x7f);
        let extended = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.head_read < 2 + extended + if masked { 4 } else { 0 } {
            return None;
        }
        let bytes = self.head[2..2 + extended].iter();
        Some(match extended {
            0 => length.into(),
            _ => bytes.fold(0, |length, byte| length << 8 | u64::from(*byte)),
        })
    }
}

/// A server's close frame with this code and reason.
pub(super) fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut reason = reason.as_bytes();
    // All reasons are short and in ASCII.
    reason = &reason[..reason.len().min(LONGEST_REASON)];
    let length = u8::try_from(2 + reason.len()).unwrap_or_default();
    let mut frame = vec![0x80 | CLOSE, length];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A frame with this first byte, written in one of the ways that its length allows.
    fn frame(first: u8, masked: bool, wide: u8, payload: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        match (payload, wide) {
            (0..=125, 0) => frame.push(mask | payload as u8),
            (0..=0xffff, 0 | 1) => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend_from_slice(&[0x88; 4]);
        }
        // A payload that looks like heads.
        frame.resize(frame.len() + payload, 0x88);
        frame
    }

    prop_compose! {
        fn frames()(
            frames in vec(
                (0..16u8, any::<bool>(), 0..3u8, prop_oneof![0..300usize, 65_530..65_545usize]),
                1..8,
            ),
        ) -> Vec<(u8, Vec<u8>)> {
            let made = frames.into_iter().map(|(opcode, masked, wide, payload)| {
                (opcode, frame(0x80 | opcode, masked, wide, payload))
            });
            made.collect()
        }
    }

    proptest! {
        /// Seen red: with the mask's four bytes not counted.
        #[test]
        fn the_ends_of_frames_are_found_however_the_bytes_are_split(
            frames in frames(),
            sizes in vec(1..3000usize, 1..40),
        ) {
            let (mut ends, mut bytes, mut closes) = (vec![0], Vec::new(), Vec::new());
            for (opcode, frame) in &frames {
                closes.push(*opcode == CLOSE);
                bytes.extend_from_slice(frame);
                ends.push(bytes.len());
            }
            let (mut walker, mut at) = (Frames::default(), 0);
            let mut found = vec![0];
            for size in sizes.iter().cycle() {
                let piece = &bytes[at..bytes.len().min(at + size)];
                let mut rest = piece;
                while !rest.is_empty() {
                    let passed = walker.pass_frame(rest);
                    prop_assert!(passed > 0);
                    rest = &rest[passed..];
                    at += passed;
                    prop_assert_eq!(walker.is_at_end_of_frame(), ends.contains(&at), "at {}", at);
                    if walker.is_at_end_of_frame() {
                        found.push(at);
                        let closed = closes[..found.len() - 1].contains(&true);
                        prop_assert_eq!(walker.has_closed(), closed);
                    }
                }
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(&found, &ends, "no end is missed");
            // All at once, as a stream that goes on does it.
            let mut walker = Frames::default();
            for piece in bytes.chunks(sizes[0]) {
                walker.pass(piece);
            }
            prop_assert!(walker.is_at_end_of_frame());
        }
    }

    #[test]
    fn a_length_of_any_size_is_believed() {
        let mut walker = Frames::default();
        walker.pass(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        walker.pass(&[0; 4096]);
        assert!(!walker.is_at_end_of_frame());
        assert_eq!(walker.left, u64::MAX - 4096);
    }

    #[test]
    fn a_close_frame_is_one() {
        let frame = close_frame(1008, "revoked");
        assert_eq!(frame, b"\x88\x09\x03\xf0revoked");
        let mut walker = Frames::default();
        walker.pass(&frame);
        assert!(walker.is_at_end_of_frame() && walker.has_closed());
        assert_eq!(close_frame(1008, &"x".repeat(500)).len(), 127);
    }
}
