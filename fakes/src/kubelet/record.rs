//! What the fake kubelet received: every request as it was sent, and gauges that show a leak.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::wire::Head;

/// A request as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// The request target, undecoded, with its query.
    pub target: String,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// Names and values in the order, case and number they were sent; bytes that are not ASCII as ISO 8859-1.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body read so far.
    pub body_len: u64,
    /// The body's first 4 KiB.
    pub body: Vec<u8>,
    /// It asks to switch protocols.
    pub upgrade: bool,
    /// The client certificate (DER) that the client sent in the handshake.
    pub peer_certificate: Option<Vec<u8>>,
    /// It arrived at the read-only port.
    pub read_only: bool,
}

/// What all connections write to.
#[derive(Debug, Default)]
pub(super) struct Record {
    requests: Mutex<Requests>,
    connections_accepted: AtomicU64,
    open_connections: AtomicU64,
    open_streams: AtomicU64,
    cut_seen: AtomicU64,
}

/// The last requests, each under its number since the start.
#[derive(Debug, Default)]
struct Requests {
    kept: VecDeque<(u64, RecordedRequest)>,
    /// The last number given. Numbers are never reused, so that a late body is not added to another request.
    numbered: u64,
    /// Requests since the start or the last `clear`.
    count: u64,
}

/// Adds one to a gauge until it is dropped.
pub(super) struct GaugeGuard<'a>(&'a AtomicU64);

// === impl RecordedRequest ===

impl RecordedRequest {
    /// The first value of a header, by its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

// === impl Record ===

impl Record {
    pub(super) fn begin(&self, head: &Head, peer_certificate: Option<Vec<u8>>, read_only: bool) -> u64 {
        let seen = RecordedRequest {
            method: head.method.clone(),
            target: head.target.clone(),
            version: head.version.clone(),
            headers: head.headers.clone(),
            body_len: 0,
            body: Vec::new(),
            upgrade: head.is_upgrade(),
            peer_certificate,
            read_only,
        };
        let mut requests = self.lock();
        requests.count += 1;
        requests.numbered += 1;
        let number = requests.numbered;
        if requests.kept.len() == MAX_KEPT {
            requests.kept.pop_front();
        }
        requests.kept.push_back((number, seen));
        number
    }

    pub(super) fn body(&self, number: u64, piece: &[u8]) {
        let mut requests = self.lock();
        let Some((_, seen)) = requests.kept.iter_mut().rev().find(|(have, _)| *have == number) else {
            return;
        };
        seen.body_len += piece.len() as u64;
        let room = MAX_BODY - seen.body.len();
        seen.body.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    pub(super) fn requests(&self) -> Vec<RecordedRequest> {
        self.lock().kept.iter().map(|(_, seen)| seen.clone()).collect()
    }

    pub(super) fn request_count(&self) -> u64 {
        self.lock().count
    }

    pub(super) fn clear(&self) {
        let mut requests = self.lock();
        requests.kept.clear();
        requests.count = 0;
    }

    pub(super) fn connection(&self) -> GaugeGuard<'_> {
        self.connections_accepted.fetch_add(1, SeqCst);
        GaugeGuard::new(&self.open_connections)
    }

    pub(super) fn stream(&self) -> GaugeGuard<'_> {
        GaugeGuard::new(&self.open_streams)
    }

    pub(super) fn cut(&self) {
        self.cut_seen.fetch_add(1, SeqCst);
    }

    pub(super) fn connections_accepted(&self) -> u64 {
        self.connections_accepted.load(SeqCst)
    }

    pub(super) fn open_connections(&self) -> u64 {
        self.open_connections.load(SeqCst)
    }

    pub(super) fn open_streams(&self) -> u64 {
        self.open_streams.load(SeqCst)
    }

    pub(super) fn cut_seen(&self) -> u64 {
        self.cut_seen.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl GaugeGuard ===

impl<'a> GaugeGuard<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, SeqCst);
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Requests that are kept. Older ones are counted only.
const MAX_KEPT: usize = 4096;
const MAX_BODY: usize = 4096;
