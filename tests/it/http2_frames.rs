//! HTTP/2 frames written byte by byte, for what no library would send. HPACK is written without tables and
//! without Huffman codes; of an answer only the status is read.

use std::time::Duration;

use fakes::client::{Client, Duplex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(crate) const INITIAL_WINDOW: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that was received.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection.
pub(crate) struct Frames {
    io: Box<dyn Duplex>,
}

impl Frames {
    /// Makes the TLS handshake and sends the preface and these settings.
    pub(crate) async fn open(client: &Client, settings: &[(u16, u32)]) -> Self {
        Self::try_open(client, settings).await.expect("a handshake")
    }

    /// The same; `None` without a handshake.
    pub(crate) async fn try_open(client: &Client, settings: &[(u16, u32)]) -> Option<Self> {
        let mut frames = Self {
            io: client.stream().await.ok()?,
        };
        frames.send(PREFACE).await;
        frames.send(&self::settings(settings)).await;
        Some(frames)
    }

    /// Writes these bytes; false if the gate has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok() && self.io.flush().await.is_ok()
    }

    /// The next frame; `None` if the gate has closed or sends nothing for `patience`.
    pub(crate) async fn next(&mut self, patience: Duration) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.io.read_exact(&mut head).await.ok()?;
            let mut payload =
                vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            self.io.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            })
        };
        timeout(patience, read).await.ok().flatten()
    }

    /// The next frame of this kind, on this stream unless it is 0; other frames are skipped.
    pub(crate) async fn find(&mut self, kind: u8, stream: u32, patience: Duration) -> Option<Frame> {
        let search = async {
            loop {
                let frame = self.next(patience).await?;
                if frame.kind == kind && (stream == 0 || frame.stream == stream) {
                    return Some(frame);
                }
            }
        };
        timeout(patience, search).await.ok().flatten()
    }
}

impl Frame {
    /// The status of an answer's head: the first field, from the static table or as a literal.
    pub(crate) fn status(&self) -> Option<u16> {
        const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        assert_eq!(self.kind, HEADERS);
        let first = *self.payload.first()?;
        if first & 0x80 != 0 {
            return INDEXED.get(usize::from(first & 0x7f).checked_sub(8)?).copied();
        }
        let length = *self.payload.get(1)?;
        let text = self.payload.get(2..2 + usize::from(length & 0x7f))?;
        let text = if length & 0x80 == 0 {
            text.to_vec()
        } else {
            digits(text)
        };
        std::str::from_utf8(&text).ok()?.get(..3)?.parse().ok()
    }

    /// The error code of RST_STREAM or GOAWAY.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// Three digits in HPACK's Huffman code: 0, 1 and 2 have five bits, the others six.
fn digits(text: &[u8]) -> Vec<u8> {
    let bits: String = text.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut at, mut digits) = (0, Vec::new());
    while digits.len() < 3 && at + 5 <= bits.len() {
        let five = u8::from_str_radix(&bits[at..at + 5], 2).unwrap();
        if five < 3 {
            digits.push(b'0' + five);
            at += 5;
        } else {
            let six = u8::from_str_radix(bits.get(at..at + 6).unwrap_or("0"), 2).unwrap();
            digits.push(b'3' + six.saturating_sub(0b01_1001));
            at += 6;
        }
    }
    digits
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A SETTINGS frame.
pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A field block: literals that are never indexed.
pub(crate) fn fields(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            // A length of 7 bits, and what does not fit in groups of 7.
            if text.len() < 127 {
                block.push(text.len() as u8);
            } else {
                block.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    block.push((rest % 128) as u8 | 0x80);
                    rest /= 128;
                }
                block.push(rest as u8);
            }
            block.extend_from_slice(text);
        }
    }
    block
}

/// A good head that asks for this.
pub(crate) fn head(method: &str, path: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", "node"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec()
}

/// A GET without a body.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &fields(&head("GET", path)),
    )
}

/// WINDOW_UPDATE.
pub(crate) fn window(stream: u32, size: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &size.to_be_bytes())
}

/// RST_STREAM, with CANCEL.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A POST of the echo, with this Content-Length if any.
pub(crate) fn post(length: Option<&str>) -> Vec<u8> {
    let mut head = head("POST", "/lab/echo");
    head.extend(length.map(|length| (b"content-length".to_vec(), length.into())));
    fields(&head)
}
