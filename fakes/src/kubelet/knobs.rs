//! The knobs: how the fake kubelet can be made slow, wrong or hostile while it runs.

use std::time::Duration;

use bytes::Bytes;

use super::rights::Rights;

/// How the kubelet behaves. Read again for every request.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Delay before the head of every answer.
    pub latency: Duration,
    /// Delay between two lines of a followed log.
    pub log_interval: Duration,
    /// Sent in the same write as the 101 of a SPDY upgrade or of a raw WebSocket.
    pub early_stream_bytes: Bytes,
    /// Accepts `v5.channel.k8s.io` and the port-forward tunnel, as a kubelet does since 1.36
    /// (`ExtendWebSocketsToKubelet`).
    pub extended_websockets: bool,
    /// Treats a WebSocket as plain bytes, like SPDY: sends the early bytes, then echoes everything without
    /// reading frames.
    pub raw_websockets: bool,
    /// Requests with neither this bearer token nor a client certificate are answered 401.
    pub required_token: Option<String>,
    /// What callers may do. `None` lets every caller do everything.
    pub rights: Option<Rights>,
    /// Faults by prefix of the request target. The first match counts.
    pub faults: Vec<(String, Fault)>,
}

/// A fault in place of the regular answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer, to upgrades too. `Content-Length` and `Date` are added.
    Answer {
        /// The status code.
        status: u16,
        /// Headers, as they are sent.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Closes the connection after the request's head, without an answer.
    Close,
    /// Sends the page's head and this many bytes of its framed body, then drops the connection.
    CutBody {
        /// Bytes of the framed body that are sent.
        after: usize,
    },
    /// Answers before the request's body is read, then keeps the connection open without reading more than a
    /// little of the body.
    Early {
        /// The status, such as 413.
        status: u16,
        /// Closes the connection after this time, or when the client has left.
        hold: Duration,
    },
    /// Reads the request and never answers.
    Hang,
    /// Sends exactly these bytes, then closes the connection or keeps it for the next request.
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
            rights: None,
            faults: Vec::new(),
        }
    }
}

// === impl Fault ===

impl Fault {
    /// An answer with this status and a short text, without headers.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: Bytes::from(format!("the lab says {status}\n")),
        }
    }
}
