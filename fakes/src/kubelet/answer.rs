//! An answer and its bytes, headed and framed as Go's server does it.

use bytes::Bytes;
use http::StatusCode;
use time::OffsetDateTime;
use time::macros::format_description;

/// A whole answer, held in memory.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Chunked,
    Length(u64),
    None,
}

// === impl Answer ===

impl Answer {
    /// 200 with this content type.
    pub(super) fn page(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: body.into(),
        }
    }

    /// An error of the kubelet's own handlers: plain text without a line end.
    pub(super) fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            ..Self::page(PLAIN, body)
        }
    }

    /// An error by Go's `http.Error`: plain text with a line end, and `nosniff`.
    pub(super) fn error(status: u16, message: &str) -> Self {
        Self::text(status, format!("{message}\n")).with("X-Content-Type-Options", "nosniff")
    }

    pub(super) fn not_found() -> Self {
        Self::error(404, "404 page not found")
    }

    pub(super) fn method_not_allowed(allowed: &str) -> Self {
        let Self {
            status,
            mut headers,
            body,
        } = Self::text(405, "405: Method Not Allowed");
        headers.insert(0, ("Allow".into(), allowed.into()));
        Self {
            status,
            headers,
            body,
        }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Head and framed body: Go chunks what does not fit its 2048-byte buffer. A HEAD request gets the head
    /// alone.
    pub(super) fn encode(&self, method: &str, close: bool) -> (Vec<u8>, Bytes) {
        let bodiless = matches!(self.status, 100..=199 | 204 | 304);
        let framing = match self.body.len() {
            _ if bodiless => Framing::None,
            length if length > GO_BUFFER => Framing::Chunked,
            length => Framing::Length(length as u64),
        };
        let head = head(self.status, &self.headers, framing, close);
        let body = match framing {
            _ if method == "HEAD" => Bytes::new(),
            Framing::None => Bytes::new(),
            Framing::Length(_) => self.body.clone(),
            Framing::Chunked => {
                let mut framed = Vec::with_capacity(self.body.len() + self.body.len() / 256 + 16);
                for piece in self.body.chunks(CHUNK) {
                    framed.extend(chunk(piece));
                }
                framed.extend_from_slice(LAST_CHUNK);
                framed.into()
            }
        };
        (head, body)
    }
}

/// A response head. There is no `Server` header: the kubelet sends none.
pub(super) fn head(status: u16, headers: &[(String, String)], framing: Framing, close: bool) -> Vec<u8> {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown");
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if status >= 200 {
        head.push_str(&format!("Date: {}\r\n", http_date(OffsetDateTime::now_utc())));
    }
    match framing {
        Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
        Framing::Length(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
        Framing::None => {}
    }
    if close {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// One chunk of a chunked body. The data must not be empty: an empty chunk ends the body.
pub(super) fn chunk(data: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn http_date(now: OffsetDateTime) -> String {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    now.format(&format).unwrap_or_default()
}

/// The content type that Go detects for text.
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const GO_BUFFER: usize = 2048;
const CHUNK: usize = 4096;
