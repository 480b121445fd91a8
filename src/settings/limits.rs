//! `limits`: bounds on time, bytes and number.

use std::time::Duration;

use super::file;
use super::reading::Reading;
use crate::duration::format;

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// `limits`: every bound, with its default.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `handshakeTimeout`, 10s.
    pub handshake_timeout: Duration,
    /// `requestHeadTimeout`, 10s from the head's first byte.
    pub request_head_timeout: Duration,
    /// `idleTimeout`, 2m0s: a keep-alive connection without a request.
    pub idle_timeout: Duration,
    /// `writeStallTimeout`, 1m0s: a client that takes no byte of its answer, unless that is a stream.
    pub write_stall_timeout: Duration,
    /// `followStallTimeout`, 15m0s: a client that takes no byte of a log that it follows.
    pub follow_stall_timeout: Duration,
    /// `upstreamConnectTimeout`, 5s: dial and handshake with the kubelet.
    pub upstream_connect_timeout: Duration,
    /// `reviewTimeout`, 10s: a TokenReview or SubjectAccessReview, retries included.
    pub review_timeout: Duration,
    /// `shutdownTimeout`, 30s: how long running requests may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    /// `requestHeadBytes`, 131072.
    pub request_head_bytes: usize,
    /// `http2Streams`, 100 per connection.
    pub http2_streams: u32,
    /// `connections`, 4096 in total.
    pub connections: usize,
    /// `unauthenticatedConnections`, 2048 of them without a credential that is believed.
    pub unauthenticated_connections: usize,
    /// `connectionsPerAddress`, 512 from one source address.
    pub connections_per_address: usize,
    /// `requestsPerIdentity`, 256 requests of one user whose answer has not ended.
    pub requests_per_identity: usize,
    /// `streams`, 1024 streams in total: tunnels and followed logs.
    pub streams: usize,
    /// `streamsPerIdentity`, 256 streams of one user.
    pub streams_per_identity: usize,
    /// `rejectedTokensPerAddress`, 10 each second, ten times as many at once: tokens of one source address
    /// that the API server did not know. Five times as many of all addresses together.
    pub rejected_tokens_per_address: u32,
    /// `refusedCertificatesPerAddress`, 500 each second, ten times as many at once: units of work, about one
    /// for each certificate, for chains that one source address showed for nothing. Five times as many of all
    /// addresses together.
    pub refused_certificates_per_address: u32,
    /// `cacheEntries`, 8192 finished reviews per cache.
    pub cache_entries: usize,
    /// `auditQueue`, 8192 events not yet written.
    pub audit_queue: usize,
    /// `concurrentReviews`, 64 calls to the API server at once.
    pub concurrent_reviews: usize,
    /// `upstreamConnections`, 1024 connections to the kubelet that no stream holds, and as many requests
    /// whose answer has not ended.
    pub upstream_connections: usize,
    /// `upstreamIdleConnections`, 64 kept per worker.
    pub upstream_idle_connections: usize,
}

// === impl Limits ===

impl Limits {
    pub(super) fn read(reading: &mut Reading<'_>, file: &file::Limits) -> Self {
        let minutes = |minutes: u64| SHORTEST_TIMEOUT..=Duration::from_secs(60 * minutes);
        Self {
            handshake_timeout: reading.duration(
                "limits.handshakeTimeout",
                &file.handshake_timeout,
                minutes(5),
            ),
            request_head_timeout: reading.duration(
                "limits.requestHeadTimeout",
                &file.request_head_timeout,
                minutes(5),
            ),
            idle_timeout: reading.duration("limits.idleTimeout", &file.idle_timeout, minutes(24 * 60)),
            write_stall_timeout: reading.duration(
                "limits.writeStallTimeout",
                &file.write_stall_timeout,
                minutes(60),
            ),
            follow_stall_timeout: reading.duration(
                "limits.followStallTimeout",
                &file.follow_stall_timeout,
                minutes(24 * 60),
            ),
            upstream_connect_timeout: reading.duration(
                "limits.upstreamConnectTimeout",
                &file.upstream_connect_timeout,
                minutes(5),
            ),
            review_timeout: reading.duration("limits.reviewTimeout", &file.review_timeout, minutes(2)),
            shutdown_timeout: reading.duration("limits.shutdownTimeout", &file.shutdown_timeout, minutes(60)),
            request_head_bytes: reading.count(
                "limits.requestHeadBytes",
                file.request_head_bytes,
                8192..=1_048_576,
            ),
            http2_streams: reading.count("limits.http2Streams", file.http2_streams, 1..=10_000),
            connections: reading.count("limits.connections", file.connections, 1..=1_000_000),
            unauthenticated_connections: reading.count(
                "limits.unauthenticatedConnections",
                file.unauthenticated_connections,
                1..=1_000_000,
            ),
            connections_per_address: reading.count(
                "limits.connectionsPerAddress",
                file.connections_per_address,
                1..=1_000_000,
            ),
            requests_per_identity: reading.count(
                "limits.requestsPerIdentity",
                file.requests_per_identity,
                1..=1_000_000,
            ),
            streams: reading.count("limits.streams", file.streams, 1..=1_000_000),
            streams_per_identity: reading.count(
                "limits.streamsPerIdentity",
                file.streams_per_identity,
                1..=1_000_000,
            ),
            rejected_tokens_per_address: reading.count(
                "limits.rejectedTokensPerAddress",
                file.rejected_tokens_per_address,
                1..=1_000_000,
            ),
            refused_certificates_per_address: reading.count(
                "limits.refusedCertificatesPerAddress",
                file.refused_certificates_per_address,
                1..=1_000_000,
            ),
            cache_entries: reading.count("limits.cacheEntries", file.cache_entries, 1..=1_000_000),
            audit_queue: reading.count("limits.auditQueue", file.audit_queue, 1..=1_000_000),
            concurrent_reviews: reading.count(
                "limits.concurrentReviews",
                file.concurrent_reviews,
                1..=10_000,
            ),
            upstream_connections: reading.count(
                "limits.upstreamConnections",
                file.upstream_connections,
                1..=1_000_000,
            ),
            upstream_idle_connections: reading.count(
                "limits.upstreamIdleConnections",
                file.upstream_idle_connections,
                1..=10_000,
            ),
        }
    }

    pub(super) fn write(&self) -> file::Limits {
        file::Limits {
            handshake_timeout: format(self.handshake_timeout),
            request_head_timeout: format(self.request_head_timeout),
            idle_timeout: format(self.idle_timeout),
            write_stall_timeout: format(self.write_stall_timeout),
            follow_stall_timeout: format(self.follow_stall_timeout),
            upstream_connect_timeout: format(self.upstream_connect_timeout),
            review_timeout: format(self.review_timeout),
            shutdown_timeout: format(self.shutdown_timeout),
            request_head_bytes: self.request_head_bytes as u64,
            http2_streams: self.http2_streams.into(),
            connections: self.connections as u64,
            unauthenticated_connections: self.unauthenticated_connections as u64,
            connections_per_address: self.connections_per_address as u64,
            requests_per_identity: self.requests_per_identity as u64,
            streams: self.streams as u64,
            streams_per_identity: self.streams_per_identity as u64,
            rejected_tokens_per_address: self.rejected_tokens_per_address.into(),
            refused_certificates_per_address: self.refused_certificates_per_address.into(),
            cache_entries: self.cache_entries as u64,
            audit_queue: self.audit_queue as u64,
            concurrent_reviews: self.concurrent_reviews as u64,
            upstream_connections: self.upstream_connections as u64,
            upstream_idle_connections: self.upstream_idle_connections as u64,
        }
    }
}
