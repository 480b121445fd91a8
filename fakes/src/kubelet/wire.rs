//! HTTP/1.1 by hand: reads request heads as they were sent and bodies piece by piece, and writes bytes.
//!
//! A library hides what the tests of a proxy have to see (the order, case and number of the headers, the
//! framing) and cannot play the faults of the knobs.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::Duplex;

/// One connection: the stream, and the bytes that were read from it but not yet used.
pub(super) struct Wire {
    io: Box<dyn Duplex>,
    input: BytesMut,
}

/// A request's first line and headers, exactly as they were sent.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) version: String,
    pub(super) headers: Vec<(String, String)>,
}

/// The part of a request's body that was not yet read.
#[derive(Debug)]
pub(super) enum Body {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    Trailers,
    End,
}

// === impl Wire ===

impl Wire {
    pub(super) fn new(io: Box<dyn Duplex>) -> Self {
        Self {
            io,
            input: BytesMut::new(),
        }
    }

    /// The next request's head; `None` when the client closed between two requests.
    pub(super) async fn head(&mut self) -> io::Result<Option<Head>> {
        if self.input.is_empty() && self.io.read_buf(&mut self.input).await? == 0 {
            return Ok(None);
        }
        let mut read = 0;
        let mut lines = Vec::new();
        loop {
            let left = MAX_HEAD.checked_sub(read).ok_or_else(too_long)?;
            let line = self.line(left).await?;
            read += line.len() + 2;
            match (line.is_empty(), lines.is_empty()) {
                (true, true) => return Err(malformed("empty line before the request")),
                (true, false) => break,
                (false, _) => lines.push(line),
            }
        }
        Head::parse(&lines).map(Some)
    }

    /// The next piece of the body; `None` at its end. Cancelling loses nothing.
    pub(super) async fn piece(&mut self, body: &mut Body) -> io::Result<Option<Bytes>> {
        loop {
            match body {
                Body::End => return Ok(None),
                Body::Length(0) => *body = Body::End,
                Body::Chunk(0) => {
                    if !self.line(MAX_CHUNK_LINE).await?.is_empty() {
                        return Err(malformed("chunk longer than its size"));
                    }
                    *body = Body::ChunkSize;
                }
                Body::Length(left) | Body::Chunk(left) => {
                    if self.input.is_empty() {
                        self.fill().await?;
                    }
                    let taken = self.input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    return Ok(Some(self.input.split_to(taken).freeze()));
                }
                Body::ChunkSize => {
                    let line = self.line(MAX_CHUNK_LINE).await?;
                    let size = line.split(';').next().unwrap_or_default().trim();
                    let size = u64::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
                    *body = if size == 0 {
                        Body::Trailers
                    } else {
                        Body::Chunk(size)
                    };
                }
                Body::Trailers => {
                    if self.line(MAX_CHUNK_LINE).await?.is_empty() {
                        *body = Body::End;
                    }
                }
            }
        }
    }

    /// Writes and flushes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Returns when the client has closed the connection. Bytes that it sends meanwhile are kept, up to a
    /// bound; cancelling loses nothing.
    pub(super) async fn gone(&mut self) {
        while self.input.len() < MAX_AHEAD {
            if matches!(self.io.read_buf(&mut self.input).await, Ok(0) | Err(_)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Shuts the connection down in order.
    pub(super) async fn close(&mut self) {
        // The client may have closed the connection first.
        let _ = self.io.shutdown().await;
    }

    /// The stream and the bytes that were read ahead, for upgrades.
    pub(super) fn into_parts(self) -> (Box<dyn Duplex>, BytesMut) {
        (self.io, self.input)
    }

    /// One line without its end; a lone LF ends it too, as in Go's server.
    async fn line(&mut self, limit: usize) -> io::Result<String> {
        let mut searched = 0;
        let end = loop {
            if let Some(found) = self.input.iter().skip(searched).position(|byte| *byte == b'\n') {
                break searched + found;
            }
            searched = self.input.len();
            if searched > limit {
                return Err(too_long());
            }
            self.fill().await?;
        };
        let line = self.input.split_to(end + 1);
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line[..end]);
        // As ISO 8859-1, so that bytes that are not UTF-8 are not lost.
        Ok(line.iter().copied().map(char::from).collect())
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.io.read_buf(&mut self.input).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

// === impl Head ===

impl Head {
    fn parse(lines: &[String]) -> io::Result<Self> {
        let mut words = lines
            .first()
            .map(String::as_str)
            .unwrap_or_default()
            .splitn(3, ' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(malformed("request line"));
        };
        if !version.starts_with("HTTP/1.") {
            return Err(malformed("version"));
        }
        let header = |line: &String| match line.split_once(':') {
            Some((name, value)) if !name.is_empty() && !name.contains([' ', '\t']) => {
                Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
            }
            _ => Err(malformed("header line")),
        };
        let headers = lines.iter().skip(1).map(header).collect::<Result<_, _>>()?;
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            headers,
        })
    }

    /// Every value of a header, in order.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The first value of a header.
    pub(super) fn value<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.values(name).next()
    }

    /// The elements of a comma-separated header, over all its lines.
    pub(super) fn elements<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name)
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|element| !element.is_empty())
    }

    /// The target's path, still encoded.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The query's pairs, decoded.
    pub(super) fn query(&self) -> Vec<(String, String)> {
        let Some((_, query)) = self.target.split_once('?') else {
            return Vec::new();
        };
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
        };
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(pair)
            .collect()
    }

    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        self.query()
            .into_iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value)
    }

    /// Whether the request asks to switch protocols. As in the kubelet, `upgrade` anywhere in a Connection
    /// header counts.
    pub(super) fn is_upgrade(&self) -> bool {
        self.values("connection")
            .any(|value| value.to_ascii_lowercase().contains("upgrade"))
    }

    /// Whether another request may follow on this connection.
    pub(super) fn keep_alive(&self) -> bool {
        self.version == "HTTP/1.1"
            && !self
                .elements("connection")
                .any(|element| element.eq_ignore_ascii_case("close"))
    }

    /// How the body is framed. If both framings are given, the chunked one counts, as in Go's server.
    pub(super) fn body(&self) -> io::Result<Body> {
        if self
            .elements("transfer-encoding")
            .any(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Body::ChunkSize);
        }
        match self.value("content-length") {
            Some(length) => length
                .parse()
                .map(Body::Length)
                .map_err(|_| malformed("Content-Length")),
            None => Ok(Body::End),
        }
    }
}

/// Percent-decoding. An invalid escape is left as it is.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "line longer than allowed")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

/// Go's default limit of a request head, including the bytes that it adds to it.
const MAX_HEAD: usize = (1 << 20) + 4096;
const MAX_CHUNK_LINE: usize = 4096;
/// Bytes that are read ahead while an answer is sent.
const MAX_AHEAD: usize = 64 * 1024;
