//! Every metric family of the gate, with its help text. The names are part of the public surface.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The media type of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All families. Families that every request touches are held with their labels resolved; the
/// rest is looked up by label.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: [Histogram; 3],
    authentication_failures: Family<ReasonLabels, Counter>,
    certificate_judgements: Family<ResultLabels, Counter>,
    cache: [[Counter; 2]; 2],
    reviews: Family<ReviewLabels, Counter>,
    stale_answers: Family<StaleLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    rejections: Family<ReasonLabels, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    reload_failing: Family<WhatLabels, Gauge>,
    configuration_pending: Family<WaitLabels, Gauge>,
    upstream_connections: Family<ReasonLabels, Counter>,
    upstream_reused: Counter,
    upstream_refusals: Family<ReasonLabels, Counter>,
    certificate_expiry: Family<CertificateLabels, Gauge>,
    /// Entries of the deny lists in force.
    pub deny_list_entries: Gauge,
    /// `helper_running`.
    pub helper_running: Gauge,
    /// `sandbox_complete`.
    pub sandbox_complete: Gauge,
    audit_events: Family<ReasonLabels, Counter>,
    admin_reports: Family<ReportLabels, Counter>,
    /// Connections that are open now.
    pub connections: Gauge,
    /// Those of them that are not authenticated.
    pub unauthenticated_connections: Gauge,
    /// Requests whose answer has not ended.
    pub requests_in_flight: Gauge,
    /// Upgraded streams that are open now.
    pub streams: Gauge,
    /// Followed logs that are open now.
    pub followed_logs: Gauge,
    stream_ends: Family<EndLabels, Counter>,
    /// Connections to the kubelet that wait in the pool.
    pub upstream_idle: Gauge,
    /// Requests the tombstone answered.
    pub read_only_port: Counter,
    /// Panics that were caught in a request.
    pub panics: Counter,
    /// Handshakes with a kubelet that showed another key than the pinned one, also
    /// after the pin was read again.
    pub pin_mismatches: Counter,
    bypass_sealed: Family<PortLabels, Gauge>,
    seal: Family<StateLabels, Gauge>,
    /// Seconds in which a way around the gate was open, or could not be excluded.
    pub seal_open_seconds: Counter<f64, AtomicU64>,
    /// Connections to the kubelet, open now, that did not come through the gate.
    pub ungated_connections: Gauge,
    upgrades: Family<ResultLabels, Counter>,
    address_held: Family<AddressLabels, Gauge>,
    next_start: Family<NextStartLabels, Gauge>,
    node_confirmed: Family<VerdictLabels, Gauge>,
    /// Earlier processes of the gate that have handed their sockets over and have not ended.
    pub leaving_processes: Gauge,
    /// Their connections.
    pub leaving_connections: Gauge,
    /// Their streams: upgraded ones and followed logs.
    pub leaving_streams: Gauge,
}

/// The parts of a request's time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Authentication.
    Authn,
    /// Authorization.
    Authz,
    /// From forwarding to the kubelet's head.
    Upstream,
}

/// The two review caches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheKind {
    /// SubjectAccessReview.
    Access,
    /// TokenReview.
    Token,
}

/// The labels of `kubelet_gate_requests`.
#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct RequestLabels {
    /// The subresource that allowed it, or the first one asked about; `none` before there is one.
    pub subresource: &'static str,
    /// The verb reviewed; `none` before there is one.
    pub verb: &'static str,
    /// The status the client got.
    pub code: u16,
    /// `allow`, or why not.
    pub decision: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StageLabels {
    stage: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CacheLabels {
    cache: &'static str,
    result: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReviewLabels {
    api: &'static str,
    result: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StaleLabels {
    api: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HandshakeLabels {
    result: &'static str,
    version: &'static str,
    group: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReportLabels {
    report: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReloadLabels {
    what: &'static str,
    result: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct EndLabels {
    ended_by: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WhatLabels {
    what: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WaitLabels {
    wait: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CertificateLabels {
    certificate: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PortLabels {
    port: u16,
    family: &'static str,
}

#[derive(Clone, Copy, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct AddressLabels {
    address: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct NextStartLabels {
    address: String,
    verdict: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VerdictLabels {
    verdict: &'static str,
}

/// One of what a gauge counts: the gauge goes up when this is made, and down when it is dropped.
pub(crate) struct Raised(Gauge);

impl Raised {
    /// Raises `gauge` by one.
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Fresh families, all registered.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kubelet_gate");
        let mut families = Families {
            registry: &mut registry,
        };

        let durations: Family<StageLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let cache: Family<CacheLabels, Counter> = Family::default();
        let upstream_connections: Family<ReasonLabels, Counter> = families.add(
            "upstream_connections",
            "Connections to the kubelet: new, reused, failed, or retried",
        );
        let metrics = Self {
            requests: families.add("requests", "Requests by what was asked, decided and answered"),
            durations: ["authn", "authz", "upstream"]
                .map(|stage| durations.get_or_create_owned(&StageLabels { stage })),
            authentication_failures: families.add(
                "authentication_failures",
                "Requests that failed authentication, by the first reason found",
            ),
            certificate_judgements: families.add(
                "certificate_judgements",
                "Verdicts on client certificates: judged or remembered",
            ),
            cache: ["access", "token"].map(|kind| {
                ["hit", "miss"].map(|result| cache.get_or_create_owned(&CacheLabels { cache: kind, result }))
            }),
            reviews: families.add("reviews", "Reviews asked of the API server, by API and result"),
            stale_answers: families.add(
                "stale_answers",
                "Earlier answers to reviews that were used while the API server was unreachable, by API",
            ),
            handshakes: families.add(
                "handshakes",
                "TLS handshakes with clients, by result, version and key exchange group",
            ),
            rejections: families.add(
                "rejections",
                "Connections and messages refused before they were a request or for a bound, by reason",
            ),
            reloads: families.add(
                "reloads",
                "Files read again because they changed, by what they are and result",
            ),
            reload_failing: families.add(
                "reload_failing",
                "Whether files that changed cannot be used and the last good ones stay in force, by what \
                 they are",
            ),
            configuration_pending: families.add(
                "configuration_pending",
                "Changes of the configuration file that are not in force, by what they wait for",
            ),
            upstream_reused: upstream_connections.get_or_create_owned(&ReasonLabels { reason: "reused" }),
            upstream_connections,
            upstream_refusals: families.add(
                "upstream_refusals",
                "Requests that the kubelet refused to the gate's own credential, by reason",
            ),
            certificate_expiry: families.add(
                "certificate_expiry_timestamp_seconds",
                "When a certificate in use ends, as Unix time",
            ),
            helper_running: families.add(
                "helper_running",
                "1 while the helper process runs, which runs programs for the gate; 0: restart the gate",
            ),
            sandbox_complete: families.add(
                "sandbox_complete",
                "1 if the sandbox has everything that this version knows; /readyz?verbose says what is \
                 missing",
            ),
            deny_list_entries: families.add(
                "deny_list_entries",
                "Entries of the deny lists in force; a certificate counts as two",
            ),
            audit_events: families.add("audit_events", "Audit events by what became of them"),
            admin_reports: families.add("admin_reports", "Answers of the admin port that were built"),
            connections: families.add("connections", "Client connections open now"),
            unauthenticated_connections: families.add(
                "unauthenticated_connections",
                "Client connections that have shown no credential that was believed",
            ),
            requests_in_flight: families.add("requests_in_flight", "Requests whose answer has not ended"),
            streams: families.add("streams", "Upgraded streams open now"),
            followed_logs: families.add("followed_logs", "Followed logs open now"),
            stream_ends: families.add("stream_ends", "Streams that have ended, by what ended them"),
            upstream_idle: families.add(
                "upstream_idle_connections",
                "Connections to the kubelet waiting in the pool",
            ),
            read_only_port: families.add("read_only_port_requests", "Requests to the closed read-only port"),
            panics: families.add("panics", "Panics caught in a request"),
            pin_mismatches: families.add(
                "pin_mismatches",
                "Connections to the kubelet's address that showed another key than the pinned one",
            ),
            bypass_sealed: families.add(
                "bypass_sealed",
                "1 if this port of the kubelet cannot be reached around the gate, by the last try; 0 if it \
                 can or may be",
            ),
            seal: families.add(
                "seal",
                "1 for the state of the seal by the last look, 0 for the states that it was in before",
            ),
            seal_open_seconds: families.add(
                "seal_open_seconds",
                "Seconds in which a way around the gate was open, or could not be excluded",
            ),
            ungated_connections: families.add(
                "ungated_connections",
                "Connections to the kubelet open now that did not come through the gate",
            ),
            upgrades: families.add("upgrades", "Hand-overs to or from this process, by result"),
            address_held: families.add(
                "address_held",
                "1 if the gate listens on this address of its own, whose port a kubelet may come to want; 0 \
                 if it let go of it",
            ),
            next_start: families.add(
                "kubelet_next_start",
                "What the kubelet's next start would do to this address that the gate holds: 1 for one of \
                 free, taken and unknown",
            ),
            node_confirmed: families.add(
                "node_confirmed",
                "Whether the Node under whose name requests are judged is this machine, as the API server \
                 says: 1 for one of yes, no and unknown",
            ),
            leaving_processes: families.add(
                "leaving_processes",
                "Earlier processes of the gate that have handed their sockets over and have not ended",
            ),
            leaving_connections: families.add(
                "leaving_connections",
                "Connections that earlier processes of the gate still serve",
            ),
            leaving_streams: families.add(
                "leaving_streams",
                "Upgraded streams and followed logs that earlier processes of the gate still serve",
            ),
            registry: Registry::default(),
        };
        families.registry.register(
            "request_duration_seconds",
            "Time spent per request, by station",
            durations,
        );
        families
            .registry
            .register("cache_requests", "Look-ups in the review caches", cache);
        Self { registry, ..metrics }
    }

    /// One request is answered.
    pub fn request(&self, labels: &RequestLabels) {
        self.requests.get_or_create(labels).inc();
    }

    /// How long a part of a request took.
    pub fn took(&self, stage: Stage, duration: Duration) {
        self.durations[stage as usize].observe(duration.as_secs_f64());
    }

    /// A request had no usable credential.
    pub fn authentication_failed(&self, reason: &'static str) {
        self.authentication_failures
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// A client certificate was judged, or its verdict was remembered, or it was not judged.
    pub fn certificate_judgement(&self, result: &'static str) {
        self.certificate_judgements
            .get_or_create(&ResultLabels { result })
            .inc();
    }

    /// A review was answered from memory.
    pub fn cache_hit(&self, cache: CacheKind) {
        self.cache[cache as usize][0].inc();
    }

    /// A review had to be asked for, or waited for.
    pub fn cache_miss(&self, cache: CacheKind) {
        self.cache[cache as usize][1].inc();
    }

    /// An earlier answer was used, because the API server is unreachable.
    pub fn stale_answer(&self, cache: CacheKind) {
        let api = match cache {
            CacheKind::Access => "subjectaccessreviews",
            CacheKind::Token => "tokenreviews",
        };
        self.stale_answers.get_or_create(&StaleLabels { api }).inc();
    }

    /// A review was answered or not.
    pub fn review<T, E>(&self, api: &'static str, answer: &Result<T, E>) {
        let result = if answer.is_ok() { "ok" } else { "error" };
        self.reviews.get_or_create(&ReviewLabels { api, result }).inc();
    }

    /// A handshake ended.
    pub fn handshake(&self, result: &'static str, version: &'static str, group: &'static str) {
        self.handshakes
            .get_or_create(&HandshakeLabels {
                result,
                version,
                group,
            })
            .inc();
    }

    /// Something was refused before it was a request.
    pub fn rejected(&self, reason: &'static str) {
        self.rejections.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// An answer of the admin port was built.
    pub fn admin_report_built(&self, report: &'static str) {
        self.admin_reports.get_or_create(&ReportLabels { report }).inc();
    }

    /// A stream has ended.
    pub fn stream_ended(&self, ended_by: &'static str) {
        self.stream_ends.get_or_create(&EndLabels { ended_by }).inc();
    }

    /// A file was read again.
    pub fn reloaded(&self, what: &'static str, ok: bool) {
        self.reloads
            .get_or_create(&ReloadLabels {
                what,
                result: if ok { "ok" } else { "error" },
            })
            .inc();
    }

    /// Whether files that changed cannot be used.
    pub fn reload_failing(&self, what: &'static str, failing: bool) {
        let gauge = self.reload_failing.get_or_create(&WhatLabels { what });
        gauge.set(failing.into());
    }

    /// How many changes of the configuration file wait for SIGHUP, and how many for a start.
    pub fn configuration_pending(&self, signal: usize, start: usize) {
        for (wait, changes) in [("sighup", signal), ("restart", start)] {
            let gauge = self.configuration_pending.get_or_create(&WaitLabels { wait });
            gauge.set(i64::try_from(changes).unwrap_or(i64::MAX));
        }
    }

    /// What happened with a connection to the kubelet.
    pub fn upstream_connection(&self, what: &'static str) {
        self.upstream_connections
            .get_or_create(&ReasonLabels { reason: what })
            .inc();
    }

    /// A connection to the kubelet was used again: nearly every request's.
    pub fn upstream_connection_reused(&self) {
        self.upstream_reused.inc();
    }

    /// The kubelet refused the gate itself.
    pub fn upstream_refused(&self, reason: &'static str) {
        self.upstream_refusals
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// When a certificate in use ends.
    pub fn certificate_expires(&self, certificate: &'static str, unix_seconds: i64) {
        self.certificate_expiry
            .get_or_create(&CertificateLabels { certificate })
            .set(unix_seconds);
    }

    /// The audit writer's own counts, taken over before each exposition.
    pub fn audit_events(&self, what: &'static str, total: u64) {
        let family = self.audit_events.get_or_create(&ReasonLabels { reason: what });
        family.inc_by(total.saturating_sub(family.get()));
    }

    /// Whether a port of the kubelet is closed to all but the gate.
    pub fn bypass_sealed(&self, port: u16, family: &'static str, sealed: bool) {
        self.bypass_sealed
            .get_or_create(&PortLabels { port, family })
            .set(i64::from(sealed));
    }

    /// The state of the seal has become `after`.
    pub fn seal(&self, before: &'static str, after: &'static str) {
        self.seal.get_or_create(&StateLabels { state: after }).set(1);
        if before != after {
            self.seal.get_or_create(&StateLabels { state: before }).set(0);
        }
    }

    /// A hand-over ended: `ok`, in the process that took over, or in the other one `failed`, `refused`, or
    /// `stranger` for a process that may not ask for one.
    pub fn upgrade(&self, result: &'static str) {
        self.upgrades.get_or_create(&ResultLabels { result }).inc();
    }

    /// Whether the gate listens on an address whose port a kubelet may come to want.
    pub fn address_held(&self, address: SocketAddr, held: bool) {
        let address = address.to_string();
        self.address_held
            .get_or_create(&AddressLabels { address })
            .set(i64::from(held));
    }

    /// What the kubelet's next start would do to such an address: `free`, `taken` or `unknown`.
    pub fn next_start(&self, address: SocketAddr, verdict: &'static str) {
        for each in ["free", "taken", "unknown"] {
            let labels = NextStartLabels {
                address: address.to_string(),
                verdict: each,
            };
            self.next_start
                .get_or_create(&labels)
                .set(i64::from(each == verdict));
        }
    }

    /// Whether the Node is this machine: `yes`, `no` or `unknown`.
    pub fn node_confirmed(&self, verdict: &'static str) {
        for each in ["yes", "no", "unknown"] {
            self.node_confirmed
                .get_or_create(&VerdictLabels { verdict: each })
                .set(i64::from(each == verdict));
        }
    }

    /// The text exposition.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers a default-made family under a name.
struct Families<'a> {
    registry: &'a mut Registry,
}

impl Families<'_> {
    fn add<M>(&mut self, name: &'static str, help: &'static str) -> M
    where
        M: prometheus_client::registry::Metric + Clone + Default,
    {
        let metric = M::default();
        self.registry.register(name, help, metric.clone());
        metric
    }
}

/// From 5 µs, what a cached decision takes, to 10 s, what a review may take.
const BUCKETS: [f64; 14] = [
    0.000_005, 0.000_02, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../docs/operations.md");

    #[test]
    fn every_family_is_on_the_operations_page() {
        let metrics = Metrics::new();
        // A family without a member is not in the exposition.
        metrics.request(&RequestLabels {
            subresource: "pods",
            verb: "get",
            code: 200,
            decision: "allow",
        });
        metrics.authentication_failed("x");
        metrics.certificate_judgement("x");
        metrics.review("x", &Ok::<(), ()>(()));
        metrics.handshake("ok", "x", "x");
        metrics.rejected("x");
        metrics.reloaded("x", true);
        metrics.stale_answer(CacheKind::Access);
        metrics.stream_ended("x");
        metrics.reload_failing("x", false);
        metrics.configuration_pending(0, 0);
        metrics.admin_report_built("x");
        metrics.upstream_connection("x");
        metrics.upstream_refused("x");
        metrics.certificate_expires("x", 1);
        metrics.audit_events("x", 1);
        metrics.bypass_sealed(1, "x", true);
        metrics.seal("x", "y");
        metrics.upgrade("x");
        metrics.address_held(([127, 0, 0, 1], 1).into(), true);
        metrics.next_start(([127, 0, 0, 1], 1).into(), "free");
        metrics.node_confirmed("yes");
        let text = metrics.encode();
        let mut families = 0;
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap_or((line, ""));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let row = format!("\n| `{name}{suffix}` |");
            assert!(
                PAGE.contains(&row),
                "docs/operations.md has no row for {name}{suffix}"
            );
            families += 1;
        }
        let rows = PAGE.matches("\n| `kubelet_gate_").count();
        assert_eq!(
            rows, families,
            "docs/operations.md has a row for a family that is not there"
        );
    }
}
