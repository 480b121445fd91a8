//! The knobs: everything that can be made slow, wrong or hostile about the fake kubelet, while it runs.

use std::time::Duration;

use bytes::Bytes;

/// How the kubelet behaves; read anew for every request.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Waited before the head of every answer.
    pub latency: Duration,
    /// Between two lines of a followed log.
    pub log_interval: Duration,
    /// Sent right behind the 101 of a SPDY upgrade (and of a raw WebSocket), in the same write.
    pub early_stream_bytes: Bytes,
    /// Knows `v5.channel.k8s.io` and the port-forward tunnel, as a kubelet does since 1.36 (`ExtendWebSocketsToKubelet`).
    pub extended_websockets: bool,
    /// Treats a WebSocket as plain bytes, as SPDY: the early bytes first, then everything back, frames unread.
    pub raw_websockets: bool,
    /// A bearer token without which (or a client certificate) requests are answered 401.
    pub required_token: Option<String>,
    /// What goes wrong, by prefix of the request target; the first match counts.
    pub faults: Vec<(String, Fault)>,
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer instead of the page, upgrades included; `Content-Length` and `Date` are added.
    Answer {
        /// The status code.
        status: u16,
        /// Headers, as they go out.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Closes the connection as soon as the head is read, without an answer.
    Close,
    /// The page's head and this many bytes of its framed body, then the connection is cut without a word.
    CutBody {
        /// Bytes of the framed body that still go out.
        after: usize,
    },
    /// The page's framed body in pieces of so many bytes, one per interval; the head goes first and alone.
    Drip {
        /// Bytes in a piece.
        bytes: usize,
        /// Before each piece.
        interval: Duration,
    },
    /// Answers before the body is read, and then keeps the connection open and takes hardly more of the body, for so
    /// long or until the client has gone.
    Early {
        /// The status, such as 413.
        status: u16,
        /// After which the connection is closed.
        hold: Duration,
    },
    /// Reads the request and never answers.
    Hang,
    /// Exactly these bytes instead of an answer; then the connection is closed, or kept for a next request.
    Raw {
        /// The bytes.
        bytes: Bytes,
        /// Close the connection after them.
        close: bool,
    },
}

// === impl Knobs ===

impl Knobs {
    pub(super) fn fault(&self, target: &str) -> Option<&Fault> {
        self.faults
            .iter()
            .find(|(prefix, _)| target.starts_with(prefix.as_str()))
            .map(|(_, fault)| fault)
    }
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            log_interval: Duration::from_millis(200),
            early_stream_bytes: Bytes::new(),
            extended_websockets: true,
            raw_websockets: false,
            required_token: None,
            faults: Vec::new(),
        }
    }
}

// === impl Fault ===

impl Fault {
    /// An answer with this status and a short text, without further headers.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: Bytes::from(format!("the lab says {status}\n")),
        }
    }
}
