//! A request's way: the seven stations, read from top to bottom in `Gate::stations`.

mod connection;
mod drain;
mod live;
mod places;
mod record;
mod rules;
mod witness;

pub(crate) use self::connection::{Activity, Waiting};
pub(crate) use self::connection::{Connection, Worker};
pub(crate) use self::drain::drain;
pub(crate) use self::places::Places;
pub(crate) use self::rules::Rules;
pub(crate) use self::witness::{SeenReport, Witness};

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use self::live::{Ending, LiveStream};
use self::places::{Place, Rank};
use self::record::{Record, StreamRecord};
use crate::attributes::{Checks, Subresource, Verb};
use crate::audit::Audit;
use crate::authn::{CredentialKind, Identity};
use crate::authz::Permit;
use crate::cache::Freshness;
use crate::error::{RequestError, Station};
use crate::forward::{Body, EndedBy, Follow, Forwarded, Kubelet, StreamEnd, Tunnel, forward};
use crate::metrics::{Metrics, Raised, Stage};
use crate::source::Known;

/// Everything the stations need. One per process, shared by all workers.
pub(crate) struct Gate {
    pub(crate) node_name: Arc<str>,
    pub(crate) metrics: Arc<Metrics>,
    /// The security settings in force.
    pub(crate) rules: Arc<ArcSwap<Rules>>,
    /// Changes whenever the trust in certificates, the deny lists or the rules have changed, once the new
    /// ones are in force: what was allowed before must then be judged again.
    pub(crate) changes: watch::Sender<()>,
    pub(crate) kubelet: Kubelet,
    pub(crate) audit: Audit,
    pub(crate) witness: Witness,
    /// The sources that were served lately.
    pub(crate) known: Arc<Known>,
    /// Places for requests other than streams.
    pub(crate) requests: Arc<Places>,
    /// Places for streams.
    pub(crate) streams: Arc<Places>,
    /// Checkpoints run one at a time: each writes a container's memory to the node's disk.
    pub(crate) checkpoints: Semaphore,
}

impl Gate {
    /// Answers one request with exactly one response and one audit event, also if a station fails or panics.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        worker: &Arc<Worker>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let in_flight = InFlight::begin(connection, &self.metrics);
        let http1 = request.version() < Version::HTTP_2;
        let upgrade = http1 && may_be_an_upgrade(request.headers());
        let expects = http1 && request.headers().contains_key(header::EXPECT);
        let mut record = Record::begin(&self.audit, &self.node_name, connection.peer, &request);
        let rules = self.rules.load_full();
        let outcome = unwind(self.stations(&rules, connection, worker, request, &mut record)).await;
        let outcome = outcome.unwrap_or_else(|panic| {
            self.metrics.panics.inc();
            record.set_panicked();
            Err(RequestError::internal(format!("panic: {panic}")))
        });
        // An intermediary that forwarded the upgrade may treat this connection as a tunnel
        // (CVE-2018-1002105): close it.
        let mut close = upgrade;
        let (mut response, stream) = match outcome {
            Ok(Passed {
                forwarded: Forwarded::Answer(response),
                place,
                live,
            }) => {
                // Of a follow that is refused there is nothing to judge again.
                let live = live.filter(|_| response.status() == StatusCode::OK);
                let follow = live.map(|live| (live, Arc::new(Follow::new(rules.follow_stall_timeout))));
                let response = response.map(|body| {
                    let body = body.until_written(Arc::new(place), !http1);
                    match &follow {
                        Some((_, follow)) => body.following(follow.clone()),
                        None => body,
                    }
                });
                (
                    response,
                    follow.map(|(live, follow)| Stream::Follow(live, follow)),
                )
            }
            Ok(Passed {
                forwarded: Forwarded::Upgraded(response, tunnel),
                place,
                live,
            }) => (response, live.map(|live| Stream::Tunnel(live, tunnel, place))),
            Err(error) => {
                record.set_error(&error);
                log(connection, &error);
                // Without 100 Continue the next bytes may be a body or a new request: close the connection.
                close |= expects || http1 && (connection.is_a_strangers() || connection.is_ending());
                let error = if upgrade {
                    error.without_retry_after()
                } else {
                    error
                };
                // An answer without a body ends at once, also if the client never opens its window. A client
                // that is refused for what it holds must not hold its refusals as well.
                let empty = !http1 && error.status == StatusCode::TOO_MANY_REQUESTS;
                let response = error.into_response();
                (
                    response.map(|text| if empty { Body::empty() } else { Body::full(text) }),
                    None,
                )
            }
        };
        self.metrics.request(&record.labels(response.status()));
        let is_tunnel = matches!(stream, Some(Stream::Tunnel(..)));
        close |= http1 && worker.leave.is_cancelled();
        if close && !is_tunnel {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        match stream {
            None => {
                record.answered(response.status()).await;
                response.map(|body| body.until_end(Box::new(in_flight)))
            }
            Some(Stream::Follow(live, follow)) => {
                let following = Following::begin(connection, &self.metrics);
                let record = record.stream_started(response.status()).await;
                let task = self.clone().follow(rules, live, follow, worker.clone(), record);
                worker.tasks.spawn(task);
                response.map(|body| body.until_end(Box::new((in_flight, following))))
            }
            Some(Stream::Tunnel(live, tunnel, place)) => {
                let record = record.stream_started(response.status()).await;
                connection.activity.become_tunnel();
                let task = self.clone().tunnel(rules, live, *tunnel, worker.clone(), record);
                worker.tasks.spawn(async move {
                    task.await;
                    drop((in_flight, place));
                });
                response
            }
        }
    }

    /// Runs a tunnel to its end.
    async fn tunnel(
        self: Arc<Self>,
        rules: Arc<Rules>,
        live: Box<LiveStream>,
        tunnel: Tunnel,
        worker: Arc<Worker>,
        record: StreamRecord,
    ) {
        let _open = Raised::new(&self.metrics.streams);
        let idle = rules.stream_idle_timeout;
        let refused = until_refused(live, rules);
        let mut why = None;
        let until = async {
            tokio::select! {
                ending = refused => {
                    why = ending.why;
                    ending.by
                }
                () = worker.cut.cancelled() => EndedBy::Gate,
            }
        };
        let end = tunnel.run(idle, until).await;
        self.end_stream(end, why, record).await;
    }

    /// Waits until a followed log has ended, or ends it.
    async fn follow(
        self: Arc<Self>,
        rules: Arc<Rules>,
        live: Box<LiveStream>,
        follow: Arc<Follow>,
        worker: Arc<Worker>,
        record: StreamRecord,
    ) {
        let connection = live.connection().clone();
        let refused = until_refused(live, rules);
        let mut why = None;
        tokio::select! {
            biased;
            () = follow.until_over() => {
                if connection.activity.has_stalled() {
                    follow.note_end(EndedBy::Stalled);
                } else if worker.cut.is_cancelled() {
                    // Its connection was quicker to end.
                    follow.note_end(EndedBy::Gate);
                }
            }
            ending = refused => {
                why = ending.why;
                follow.cut(ending.by);
                connection.cut_answer();
            }
            () = worker.cut.cancelled() => follow.cut(EndedBy::Gate),
        }
        // Its bytes are counted until its connection has let it go.
        let _ = timeout(LET_GO, follow.until_over()).await;
        self.end_stream(follow.end(), why, record).await;
    }

    async fn end_stream(&self, end: StreamEnd, why: Option<RequestError>, record: StreamRecord) {
        self.metrics.stream_ended(end.by.as_str());
        if let Some(why) = &why {
            tracing::debug!(by = end.by.as_str(), "a stream was ended: {why}");
        }
        record.ended(end, why).await;
    }

    /// Tells every subscriber of [`Self::changes`] that something which a decision rests on has changed. It
    /// is called after the new value was published, so that a judgement from then on sees it.
    pub(crate) fn announce_change(&self) {
        self.changes.send_replace(());
    }

    /// The way itself. Each station returns the value that the next one needs.
    async fn stations(
        self: &Arc<Self>,
        rules: &Rules,
        connection: &Arc<Connection>,
        worker: &Worker,
        request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Passed, RequestError> {
        let (parts, mut body) = request.into_parts();
        let expects = parts.headers.contains_key(header::EXPECT);
        let (permit, live) = match self.decide(rules, connection, &parts, record).await {
            Ok(decided) => decided,
            Err(error) => {
                // Reading the body makes hyper send "100 Continue": a refused client
                // must not be told to send it.
                if !expects {
                    Box::pin(drain(&mut body)).await;
                }
                return Err(error);
            }
        };
        let place = self.acquire_place(rules, connection, &permit).await?;
        let _slot = self.acquire_checkpoint_slot(&permit, &parts.method)?;

        let asked = Instant::now();
        let forwarded = forward(
            &self.kubelet,
            &worker.pool,
            Request::from_parts(parts, body),
            &permit,
        )
        .await?;
        let answered = Instant::now();
        self.metrics.took(Stage::Upstream, answered - asked);
        // A kubelet that answers 401 or 403 lacks the gate's credential: the client was not served.
        if !matches!(
            forwarded.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            self.witness.saw(&permit, connection.peer.ip(), answered);
        }
        Ok(Passed {
            forwarded,
            place,
            live,
        })
    }

    /// Moves a connection to the authenticated ones. Anonymous requests do not: any stranger can make them. A
    /// denied user gets none of the places that are kept for others.
    pub(crate) fn admit(&self, rules: &Rules, connection: &Connection, identity: &Identity) {
        if identity.credential() != CredentialKind::Anonymous
            && rules.authenticator.denies(identity).is_none()
        {
            connection.admit(|| self.witness.knows(identity) || rules.is_interactive_user(identity));
        }
    }

    /// Stations 4, 3 and 5: what the request asks for, which user sends it, and whether that user may do it.
    /// Of a stream, it also yields what it takes to judge it again.
    async fn decide(
        self: &Arc<Self>,
        rules: &Rules,
        connection: &Arc<Connection>,
        parts: &http::request::Parts,
        record: &mut Record,
    ) -> Result<(Permit, Option<Box<LiveStream>>), RequestError> {
        let source = connection.peer.ip();
        rules.judge_source(source).inspect_err(|error| {
            connection.end();
            self.metrics.rejected(error.reason);
        })?;
        let checks = Checks::of(parts, rules.interactive_requires_create)?;
        let changes = checks.is_stream().then(|| self.changes.subscribe());
        record.set_checks(&checks);

        let began = Instant::now();
        let identity = rules
            .authenticator
            .authenticate(
                &connection.presented,
                &parts.headers,
                &checks,
                Freshness::Remembered,
            )
            .await;
        let identity = identity.inspect_err(|error| {
            // A failed review proves nothing about the client.
            if !error.status.is_server_error() {
                connection.note_unauthenticated();
            }
        })?;
        connection.mark_authenticated();
        self.admit(rules, connection, &identity);
        record.set_identity(&identity).await;
        let known = Instant::now();
        self.metrics.took(Stage::Authn, known - began);

        let permit = rules
            .authorizer
            .authorize(identity, &checks, source, Freshness::Remembered)
            .await?;
        record.set_permit(&permit);
        if permit.is_reviewed() {
            connection.note_known(&self.known);
        }
        self.metrics.took(Stage::Authz, known.elapsed());
        let live = changes.map(|changes| {
            let (headers, identity) = (&parts.headers, permit.identity());
            Box::new(LiveStream::new(
                &self.rules,
                connection,
                headers,
                identity,
                checks,
                changes,
            ))
        });
        Ok((permit, live))
    }

    /// Takes the place that the request holds until its answer is written, or until its stream ends.
    async fn acquire_place(
        &self,
        rules: &Rules,
        connection: &Connection,
        permit: &Permit,
    ) -> Result<Place, RequestError> {
        let identity = permit.identity();
        let name = &identity.user().username;
        let rank = if self.witness.is_api_server(permit) {
            Rank::ApiServer
        } else if rules.is_interactive_user(identity) {
            Rank::Kept
        } else {
            Rank::Other
        };
        let (place, reason, text) = if permit.is_stream() {
            let place = self.streams.take(self.streams.user(name), rank).await;
            let text = "too many streams are open for this user\n";
            (place, "streams_per_identity", text)
        } else {
            let user = connection.user(identity, &self.requests);
            let place = self.requests.take(user, rank).await;
            let text = "too many requests are being answered for this user\n";
            (place, "requests_per_identity", text)
        };
        place.ok_or_else(|| {
            self.metrics.rejected(reason);
            RequestError::too_many(Station::Authz, reason, text)
        })
    }

    /// Takes the one checkpoint slot if the request writes a checkpoint.
    fn acquire_checkpoint_slot(
        &self,
        permit: &Permit,
        method: &Method,
    ) -> Result<Option<SemaphorePermit<'_>>, RequestError> {
        if permit.subresource() != Subresource::Checkpoint || Verb::of(method) != Some(Verb::Create) {
            return Ok(None);
        }
        self.checkpoints.try_acquire().map(Some).map_err(|_| {
            RequestError::too_many(
                Station::Authz,
                "checkpoint",
                "another checkpoint is being written on this node\n",
            )
        })
    }
}

/// How long a connection may take to let go of a followed log that was cut.
const LET_GO: Duration = Duration::from_secs(1);

/// A request that was forwarded, with the place that it holds.
struct Passed {
    forwarded: Forwarded,
    place: Place,
    /// What it takes to judge it again, if it may be a stream.
    live: Option<Box<LiveStream>>,
}

/// An answer that is judged again while it lasts.
enum Stream {
    Follow(Box<LiveStream>, Arc<Follow>),
    Tunnel(Box<LiveStream>, Box<Tunnel>, Place),
}

/// Judges a stream, in a task of its own: a tunnel is polled for every record that passes. A stream that is
/// not judged any more, because that task has panicked, must not go on.
fn until_refused(live: Box<LiveStream>, rules: Arc<Rules>) -> impl Future<Output = Ending> + Send {
    let judging = AbortOnDropHandle::new(tokio::spawn(async move { live.until_refused(rules).await }));
    async move {
        let ending = judging.await;
        ending.unwrap_or_else(|_| Ending::of(EndedBy::Unverified))
    }
}

/// A followed log, as long as its body is there.
struct Following {
    connection: Arc<Connection>,
    _counted: Raised,
}

impl Following {
    fn begin(connection: &Arc<Connection>, metrics: &Metrics) -> Self {
        connection.activity.begin_follow();
        Self {
            connection: connection.clone(),
            _counted: Raised::new(&metrics.followed_logs),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.connection.activity.end_follow();
    }
}

/// A request between its head and the end of its answer.
struct InFlight {
    connection: Arc<Connection>,
    _counted: Raised,
}

impl InFlight {
    fn begin(connection: &Arc<Connection>, metrics: &Metrics) -> Self {
        connection.activity.begin();
        Self {
            connection: connection.clone(),
            _counted: Raised::new(&metrics.requests_in_flight),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.activity.end();
    }
}

/// Whether an intermediary may take this for a request to upgrade. Old API servers read loosely: for them
/// `upgrade` anywhere in a `Connection` header is one, whatever else is there or not.
fn may_be_an_upgrade(headers: &HeaderMap) -> bool {
    let upgrade = b"upgrade";
    headers.contains_key(header::UPGRADE)
        || headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().windows(upgrade.len()))
            .any(|part| part.eq_ignore_ascii_case(upgrade))
}

/// Polls a future to its end. If it panics, the error is the panic's message.
async fn unwind<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    let polled = std::future::poll_fn(|cx| {
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic)),
        }
    });
    polled.await.map_err(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default()
    })
}

/// Logs a request's end: faults for the operator, and nothing at `info` or above that
/// a client alone can cause.
fn log(connection: &Connection, error: &RequestError) {
    use crate::error::ErrorOrigin;
    let (peer, status, station) = (connection.peer, error.status.as_u16(), error.station.as_str());
    match error.origin {
        ErrorOrigin::Client => tracing::debug!(%peer, status, station, "refused: {error}"),
        // The client can reach a bound as often as it likes, and wait for a verdict among many others.
        ErrorOrigin::Gate
            if matches!(
                error.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            ) =>
        {
            tracing::debug!(%peer, status, station, "refused: {error}");
        }
        ErrorOrigin::ApiServer | ErrorOrigin::Gate | ErrorOrigin::Kubelet => {
            tracing::warn!(%peer, status, station, "not answered: {error}");
        }
    }
}
