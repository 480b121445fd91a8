//! A request's way: the seven stations, read from top to bottom in `Gate::stations`.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::apiserver::ApiServer;
use crate::attributes::{Checks, Protocol, Subresource, Verb};
use crate::audit::{Audit, AuditThread};
use crate::authn::{Authenticator, TokenReviewer};
use crate::authz::{AccessReviewer, Authorizer, Permit, Policy};
use crate::error::{RequestError, Station};
use crate::firewall::{Exemption, Seal};
use crate::forward::{Body, Forwarded, Kubelet, Probe, forward};
use crate::listen::{Census, Connection, Quota, Worker};
use crate::metrics::{Metrics, Stage};
use crate::record::Record;
use crate::settings::{AuthorizationMode, Limits, Settings};
use crate::start::StartError;
use crate::tls::Serving;
use crate::witness::Witness;

/// A refusal reads at most this much of the request's body, and for at most [`DRAIN_TIME`], so that the client can read
/// the answer; if more of it is to come then, the connection is closed.
const DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// Everything the stations need; one per process, shared by all workers.
pub struct Gate {
    settings: Settings,
    node_name: Arc<str>,
    metrics: Arc<Metrics>,
    serving: Arc<ArcSwap<Serving>>,
    api_server: Option<ApiServer>,
    authenticator: Authenticator,
    authorizer: Authorizer,
    kubelet: Kubelet,
    /// What the gate's own connections walk through the seal with.
    exemption: Option<Exemption>,
    /// As `serve` found it last.
    seal: ArcSwap<Seal>,
    probe: Probe,
    census: Census,
    witness: Witness,
    audit: Audit,
    /// Upgraded streams of each user.
    streams: Arc<Quota<String>>,
    /// Checkpoints run one at a time: each writes a container's memory to the node's disk.
    checkpoints: Semaphore,
}

impl Gate {
    /// A gate of these settings, with every file read and every part made. Reviews run on `control`.
    ///
    /// # Errors
    /// Something in the settings cannot be used; nothing has been bound yet.
    pub fn new(settings: Settings, control: &Handle) -> Result<(Arc<Self>, AuditThread), StartError> {
        let metrics = Arc::new(Metrics::new());
        let serving = Arc::new(ArcSwap::from_pointee(Serving::load(&settings)?));
        let exemption = Exemption::of_this_process(settings.firewall.mark)?;
        let kubelet = Kubelet::new(
            settings.upstream.clone(),
            settings.limits.upstream_connect_timeout,
            exemption.as_ref().map(|exemption| exemption.mark),
            metrics.clone(),
        )?;
        let (api_server, node_name) = crate::start::api_server_and_node_name(&settings)?;
        let entries = settings.limits.cache_entries;
        let tokens = match &api_server {
            Some(api_server) if settings.authentication.webhook => Some(TokenReviewer::new(
                api_server.clone(),
                &settings.authentication,
                &settings.limits,
                control.clone(),
                metrics.clone(),
            )?),
            _ => None,
        };
        let reviewer = match &api_server {
            Some(api_server) if settings.authorization.mode == AuthorizationMode::Webhook => {
                Some(AccessReviewer::new(
                    api_server.clone(),
                    node_name.clone(),
                    &settings.authorization,
                    entries,
                    control.clone(),
                    metrics.clone(),
                ))
            }
            None if settings.authorization.mode == AuthorizationMode::Webhook => {
                return Err(StartError::NoApiServer);
            }
            _ => None,
        };
        let (audit, audit_thread) = Audit::start(&settings.audit, settings.limits.audit_queue)?;
        let gate = Self {
            authenticator: Authenticator::new(
                serving.clone(),
                tokens,
                settings.authentication.anonymous,
                &settings.limits,
                metrics.clone(),
            ),
            authorizer: Authorizer::new(Policy::new(&settings.authorization), reviewer),
            streams: Quota::new(usize::MAX, settings.limits.streams_per_identity),
            checkpoints: Semaphore::new(1),
            probe: Probe::default(),
            census: Census::new(),
            witness: Witness::new(&settings.firewall.api_server_users),
            api_server,
            audit,
            kubelet,
            exemption,
            seal: ArcSwap::default(),
            metrics,
            node_name,
            serving,
            settings,
        };
        gate.publish_expiry();
        Ok((Arc::new(gate), audit_thread))
    }

    /// Answers one request. Whatever happens, there is one answer, and one audit event.
    pub async fn handle(
        &self,
        connection: &Arc<Connection>,
        worker: &Arc<Worker>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let in_flight = InFlight::begin(connection, &self.metrics);
        let http1 = request.version() < Version::HTTP_2;
        let upgrade = http1 && may_be_an_upgrade(request.headers());
        let expects = http1 && request.headers().contains_key(header::EXPECT);
        let mut record = Record::begin(&self.audit, &self.node_name, connection.peer, &request).await;
        let outcome = unwind(self.stations(connection, worker, request, &mut record)).await;
        let outcome = outcome.unwrap_or_else(|panic| {
            self.metrics.panics.inc();
            Err(RequestError::internal(format!("panic: {panic}")))
        });
        // Whoever passed the wish for an upgrade on may take the connection for a tunnel now (CVE-2018-1002105): it ends.
        let mut close = upgrade;
        let (mut response, tunnel) = match outcome {
            Ok(Passed {
                forwarded: Forwarded::Answer(response),
                ..
            }) => (response, None),
            Ok(Passed {
                forwarded: Forwarded::Upgraded(response, tunnel),
                share,
            }) => (response, Some((tunnel, share))),
            Err(error) => {
                record.refused(&error);
                log(connection, &error);
                // Who was not told to continue may send the body or the next request: nobody can tell which it is.
                close |= expects;
                let error = if upgrade {
                    error.without_retry_after()
                } else {
                    error
                };
                (error.into_response().map(Body::full), None)
            }
        };
        self.metrics.request(&record.labels(response.status()));
        let Some((tunnel, share)) = tunnel else {
            if close {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            record.answered(response.status()).await;
            return response.map(|body| body.until_end(Box::new(in_flight)));
        };
        let stream = record.stream_started(response.status()).await;
        self.metrics.streams.inc();
        let streams = self.metrics.streams.clone();
        let (idle, cut) = (
            self.settings.streaming_connection_idle_timeout,
            worker.cut.clone(),
        );
        connection.activity.becomes_a_tunnel();
        worker.tasks.spawn(async move {
            let end = tunnel.run(idle, cut).await;
            stream.ended(end).await;
            streams.dec();
            drop((in_flight, share));
        });
        response
    }

    /// The way itself. A station's result is what the next one demands.
    async fn stations(
        &self,
        connection: &Connection,
        worker: &Worker,
        request: Request<Incoming>,
        record: &mut Record,
    ) -> Result<Passed, RequestError> {
        let (parts, mut body) = request.into_parts();
        let expects = parts.headers.contains_key(header::EXPECT);
        let permit = match self.decide(connection, &parts, record).await {
            Ok(permit) => permit,
            Err(error) => {
                // Reading the body of a client that waits for "100 Continue" would invite it.
                if !expects {
                    Box::pin(drain(&mut body)).await;
                }
                return Err(error);
            }
        };
        let share = self.share(&permit)?;
        let _turn = self.turn(&permit, &parts.method)?;

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
        // Whom the kubelet refuses, for want of a credential that the gate should have shown it, has not been served.
        if !matches!(
            forwarded.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            self.witness.saw(&permit, answered);
        }
        Ok(Passed { forwarded, share })
    }

    /// Stations 4, 3 and 5: what is asked for, who asks, whether they may.
    async fn decide(
        &self,
        connection: &Connection,
        parts: &http::request::Parts,
        record: &mut Record,
    ) -> Result<Permit, RequestError> {
        let checks = Checks::of(parts, self.settings.authorization.interactive.require_create)?;
        record.asks(&checks);

        let began = Instant::now();
        let websocket = checks.upgrade() == Some(Protocol::WebSocket);
        let identity = self
            .authenticator
            .authenticate(&connection.presented, &parts.headers, websocket)
            .await;
        let identity = identity.inspect_err(|error| {
            // Whom nobody could be asked about may be somebody.
            if !error.status.is_server_error() {
                connection.nobody();
            }
        })?;
        connection.somebody();
        record.is(&identity);
        let known = Instant::now();
        self.metrics.took(Stage::Authn, known - began);

        let permit = self.authorizer.authorize(identity, &checks).await?;
        record.may(&permit);
        self.metrics.took(Stage::Authz, known.elapsed());
        Ok(permit)
    }

    /// One of the user's streams, if the request may become one.
    fn share(&self, permit: &Permit) -> Result<Option<crate::listen::Share<String>>, RequestError> {
        let Some(_) = permit.tunnel() else { return Ok(None) };
        let user = permit.identity().user().username.clone();
        self.streams.take(user).map(Some).map_err(|_| {
            RequestError::too_many(
                Station::Authz,
                "streams",
                "too many streams are open for this user\n",
            )
        })
    }

    /// The one turn to write a checkpoint.
    fn turn(&self, permit: &Permit, method: &Method) -> Result<Option<SemaphorePermit<'_>>, RequestError> {
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

    /// Reads every file again that may have changed; what is bad stays as it was, is counted and logged.
    pub fn reload(&self) {
        self.reloaded("serving", Serving::reload(&self.serving, &self.settings));
        self.reloaded("upstream", self.kubelet.reload());
        if let Some(api_server) = &self.api_server {
            self.reloaded("kubeconfig", api_server.reload());
        }
        self.publish_expiry();
    }

    fn reloaded<E: std::error::Error + 'static>(&self, what: &'static str, outcome: Result<bool, E>) {
        match outcome {
            Ok(false) => {}
            Ok(true) => {
                self.metrics.reloaded(what, true);
                tracing::info!(what, "files changed and are in force");
            }
            Err(error) => {
                self.metrics.reloaded(what, false);
                let error = crate::error::chain(&error);
                tracing::warn!(
                    what,
                    error,
                    "changed files cannot be used; the last good ones stay in force"
                );
            }
        }
    }

    fn publish_expiry(&self) {
        let serving = self.serving.load();
        if let Some(expires) = serving.expires {
            self.metrics.certificate_expires("serving", expires);
        }
        let lists = serving.trust.as_ref().and_then(|trust| trust.lists_expire());
        if let Some(life) = lists.and_then(|expire| expire.duration_since(UNIX_EPOCH).ok()) {
            let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
            self.metrics.certificate_expires("revocation_lists", seconds);
        }
    }

    /// Opens the audit file anew, after it has been renamed.
    pub fn reopen_audit(&self) {
        self.audit.reopen();
    }

    /// The settings it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The Node this gate asks about.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where its audit events go.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// The client for reviews, if the settings need one.
    pub fn api_server(&self) -> Option<&ApiServer> {
        self.api_server.as_ref()
    }

    /// The seal around the gate, as it was found last.
    pub fn seal(&self) -> Arc<Seal> {
        self.seal.load_full()
    }

    /// To be called by whoever looks at it.
    pub fn publish_seal(&self, seal: Seal) {
        self.seal.store(Arc::new(seal));
    }

    /// What its own connections to the kubelet walk through the seal with; `None` if it may not have any such thing.
    pub fn exemption(&self) -> Option<&Exemption> {
        self.exemption.as_ref()
    }

    /// The kubelet behind it.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// Whether the kubelet can be connected to, by a look that is at most a second old; else why not.
    pub(crate) async fn kubelet_is_well(&self) -> Result<(), Arc<str>> {
        self.probe.of(&self.kubelet).await
    }

    /// Who still asks the read-only port.
    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    /// Whether the API server was seen.
    pub(crate) fn witness(&self) -> &Witness {
        &self.witness
    }

    pub(crate) fn metrics_handle(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    pub(crate) fn serving(&self) -> &ArcSwap<Serving> {
        &self.serving
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.settings.limits
    }
}

/// A request that was forwarded, with the stream it may hold.
struct Passed {
    forwarded: Forwarded,
    share: Option<crate::listen::Share<String>>,
}

/// A request between its head and the end of its answer.
struct InFlight {
    connection: Arc<Connection>,
    metrics: Arc<Metrics>,
}

impl InFlight {
    fn begin(connection: &Arc<Connection>, metrics: &Arc<Metrics>) -> Self {
        connection.activity.begin();
        metrics.requests_in_flight.inc();
        Self {
            connection: connection.clone(),
            metrics: metrics.clone(),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.activity.end();
        self.metrics.requests_in_flight.dec();
    }
}

/// Whether somebody on the way may take this for a request to upgrade: by the loose reading of old API servers, to whom
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

/// Reads a refused request's body for a moment.
pub(crate) async fn drain(body: &mut Incoming) {
    let mut left = DRAIN_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(DRAIN_TIME, read).await;
}

/// Polls a future to its end, or to its panic, whose message is returned.
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

/// The one place that logs a request's end: faults for the operator, nothing at `info` for what a client may cause.
fn log(connection: &Connection, error: &RequestError) {
    use crate::error::Origin;
    let (peer, status, station) = (connection.peer, error.status.as_u16(), error.station.as_str());
    match error.origin {
        Origin::Client => tracing::debug!(%peer, status, station, "refused: {error}"),
        // A bound that a client met: it can be met as often as the client likes.
        Origin::Gate if error.status == StatusCode::TOO_MANY_REQUESTS => {
            tracing::debug!(%peer, status, station, "refused: {error}");
        }
        Origin::ApiServer | Origin::Gate | Origin::Kubelet => {
            tracing::warn!(%peer, status, station, "not answered: {error}");
        }
    }
}
