//! The client: one deadline for a review with all its attempts, retries where the kubelet retries, and a
//! limit on concurrent calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::access::{ApiServerAccess, ApiServerError};
use super::connection::{ApiServerAnswer, ApiServerConnection, ApiServerPool};
use super::credentials::{Credentials, PLUGIN_DEADLINE};
use super::failure::{Api, Cause, ReviewError};
use super::kubeconfig::Kubeconfig;
use super::log_text::log_text;
use super::reachability::{Reachability, Recoveries};
use super::reviews::{self, AccessAnswer, AccessSpec, AnswerError, NodeInfo, TokenAnswer};
use crate::looks::{Looks, Reloaded};

/// The kubelet's webhook back-off (contract §1.7) is 0.5, 0.75, 1.13 and 1.69 s, each up to a fifth longer.
/// Here no pause is longer than a second, so that a review is asked again within a second of the API server's
/// recovery.
const ATTEMPTS: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
const PAUSE_FACTOR: f64 = 1.5;
const PAUSE_JITTER: f64 = 0.2;

/// How long the probe waits for the API server, at most.
const PROBE: Duration = Duration::from_secs(2);

const USER_AGENT: &str = concat!("kubelet-gate/", env!("CARGO_PKG_VERSION"));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Limits on the calls to the API server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ClientLimits {
    /// `limits.reviewTimeout`: the time for one review, including the wait for a slot, dialling and retries.
    pub timeout: Duration,
    /// `limits.concurrentReviews`: the most concurrent calls, and the most idle connections.
    pub concurrent: usize,
}

/// One call to the API server.
struct ApiCall<'a> {
    api: Api,
    target: String,
    /// The body of a POST; `None` for a GET.
    body: Option<Bytes>,
    /// Text that errors must not contain.
    secret: &'a str,
}

/// A client for reviews. Clones share connections, credentials and limits.
///
/// Dropping the future of a review closes its connection and ends the review. A caller that needs the answer
/// for others as well must run it in a task of its own. A review needs a tokio runtime with I/O and time.
/// Connections stay on that runtime, so use a client from one runtime only.
#[derive(Clone)]
pub(crate) struct ApiServer(Arc<ApiServerInner>);

struct ApiServerInner {
    credentials: Arc<Credentials>,
    pool: ApiServerPool,
    slots: Semaphore,
    limits: ClientLimits,
    /// It wakes its receivers when the API server answers after it had failed.
    reachability: watch::Sender<Reachability>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Reads and validates the files that `source` names. It does not connect, and runs no exec plugin.
    pub(crate) fn new(source: Kubeconfig, limits: ClientLimits) -> Result<Self, ApiServerError> {
        Self::with_plugin_deadline(PLUGIN_DEADLINE, source, limits)
    }

    pub(super) fn with_plugin_deadline(
        plugin_deadline: Duration,
        source: Kubeconfig,
        limits: ClientLimits,
    ) -> Result<Self, ApiServerError> {
        let concurrent = limits.concurrent.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self(Arc::new(ApiServerInner {
            credentials: Arc::new(Credentials::new(source, plugin_deadline)?),
            pool: ApiServerPool::new(concurrent),
            slots: Semaphore::new(concurrent),
            limits,
            reachability: watch::Sender::default(),
        })))
    }

    /// Reviews a token. With no `audiences` the API server takes its own, as for the kubelet.
    pub(crate) async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<TokenAnswer, ReviewError> {
        self.noted(self.ask_token(token, audiences).await)
    }

    /// Reviews whether a user is allowed something.
    pub(crate) async fn review_access(&self, spec: AccessSpec<'_>) -> Result<AccessAnswer, ReviewError> {
        self.noted(self.ask_access(spec).await)
    }

    /// What the reviews have shown of the API server so far.
    pub(crate) fn reachability(&self) -> Reachability {
        self.0.reachability.borrow().clone()
    }

    /// When the API server answers reviews again, from now on.
    pub(crate) fn recoveries(&self) -> Recoveries {
        Recoveries::of(&self.0.reachability)
    }

    /// Whether the last review shows that it is unreachable.
    pub(super) fn is_failing(&self) -> bool {
        matches!(
            *self.0.reachability.borrow(),
            Reachability::Failing { is_outage: true, .. }
        )
    }

    fn noted<T>(&self, answer: Result<T, ReviewError>) -> Result<T, ReviewError> {
        let failure = answer.as_ref().err();
        let note = |reachability: &mut Reachability| reachability.note(failure);
        self.0.reachability.send_if_modified(note);
        answer
    }

    /// Reads which machine the Node of this name is. This is no review: it takes no slot of one, and its
    /// failure is not kept as [`Self::reachability`].
    pub(crate) async fn node(&self, name: &str, within: Duration) -> Result<NodeInfo, ReviewError> {
        let question = ApiCall {
            api: Api::Node,
            target: format!("{}{name}", Api::Node.path()),
            body: None,
            secret: "",
        };
        self.ask(&question, within, reviews::node_info).await
    }

    async fn ask_token(&self, token: &str, audiences: &[String]) -> Result<TokenAnswer, ReviewError> {
        let question = ApiCall::post(Api::TokenReview, reviews::token_review(token, audiences), token)?;
        let read = |answer: &[u8]| reviews::token_answer(answer, token);
        self.ask(&question, self.0.limits.timeout, read).await
    }

    async fn ask_access(&self, spec: AccessSpec<'_>) -> Result<AccessAnswer, ReviewError> {
        let question = ApiCall::post(Api::SubjectAccessReview, reviews::access_review(spec), "")?;
        self.ask(&question, self.0.limits.timeout, reviews::access_answer)
            .await
    }

    async fn ask<T>(
        &self,
        question: &ApiCall<'_>,
        within: Duration,
        read: impl FnOnce(&[u8]) -> Result<T, AnswerError>,
    ) -> Result<T, ReviewError> {
        let answer = self.0.call(question, within).await;
        answer
            .and_then(|body| read(&body).map_err(Cause::from))
            .map_err(|cause| ReviewError {
                api: question.api,
                cause,
            })
    }

    /// Asks whether the API server answers at all: `GET /readyz` with the gate's credential, on a connection
    /// of its own, and without a slot, so that no client can keep it from being asked. Its failure is not
    /// kept as [`Self::reachability`].
    pub(super) async fn probe(&self) -> Result<(), ReviewError> {
        let (api, inner) = (Api::Probe, &self.0);
        let question = ApiCall {
            api,
            target: api.path().to_owned(),
            body: None,
            secret: "",
        };
        let (after, asked) = (PROBE.min(inner.limits.timeout), AtomicBool::new(false));
        let exchange = async {
            let access = inner.credentials.current().await?;
            let mut connection = ApiServerConnection::open(Arc::clone(&access.endpoint), &asked).await?;
            let answer = connection.exchange(question.request(&access)?).await?;
            if answer.status.is_server_error() {
                return Err(Cause::Status {
                    code: answer.status,
                    message: String::new(),
                    retry_after: None,
                });
            }
            Ok(())
        };
        let answer = timeout(after, exchange).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Cause::Deadline {
                after,
                asked: asked.load(Relaxed),
                last: None,
            })
        });
        answer.map_err(|cause| ReviewError { api, cause })
    }

    /// What the operator should know about the certificates in use.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.0.credentials.endpoint().warnings.clone()
    }

    /// Reads the kubeconfig and the credential files again, publishes what has changed and is good, and
    /// closes connections that were made with older ones.
    pub(crate) fn reload(&self, looks: &mut Looks) -> Reloaded<ApiServerError> {
        let reloaded = self.0.credentials.reload(looks);
        if reloaded.changed {
            self.0.pool.keep_only(&self.0.credentials.endpoint());
        }
        reloaded
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

// === impl ApiCall ===

impl<'a> ApiCall<'a> {
    fn post(api: Api, body: serde_json::Result<Vec<u8>>, secret: &'a str) -> Result<Self, ReviewError> {
        match body {
            Ok(body) => Ok(Self {
                api,
                target: api.path().to_owned(),
                body: Some(body.into()),
                secret,
            }),
            Err(error) => Err(ReviewError {
                api,
                cause: unbuildable(&error),
            }),
        }
    }

    fn request(&self, access: &ApiServerAccess) -> Result<Request<Full<Bytes>>, Cause> {
        let server = &access.endpoint.server;
        let request = Request::builder()
            .uri(format!("{}{}", server.prefix, self.target))
            .header(header::HOST, &server.authority)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, JSON);
        let request = match &self.body {
            None => request.method(Method::GET).body(Full::default()),
            Some(body) => request
                .method(Method::POST)
                .header(header::CONTENT_TYPE, JSON)
                .body(Full::new(body.clone())),
        };
        let mut request = request.map_err(|error| unbuildable(&error))?;
        if let Some(authorization) = &access.authorization {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

// === impl ApiServerInner ===

impl ApiServerInner {
    /// Tries until there is an answer, a permanent failure, or the deadline.
    async fn call(&self, question: &ApiCall<'_>, within: Duration) -> Result<Bytes, Cause> {
        let deadline = Instant::now() + within;
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let mut last = None;
        loop {
            let slot = match question.api {
                // Few are asked at once. A Node that is read slowly keeps no review waiting.
                Api::Node => None,
                _ => Some(self.slot(deadline, within).await?),
            };
            let asked = AtomicBool::new(false);
            let Ok(outcome) = timeout_at(deadline, self.attempt(question, &asked)).await else {
                self.pool.clear();
                return Err(Cause::Deadline {
                    after: within,
                    asked: asked.load(Relaxed),
                    last,
                });
            };
            // Other calls have the slot during the pause.
            drop(slot);
            let cause = match outcome {
                Ok(answer) => return Ok(answer),
                Err(cause) => cause,
            };
            let wait = with_jitter(pause).max(cause.retry_after().unwrap_or_default());
            // If the next attempt would be too late, this failure says more than a timeout.
            let too_late = Instant::now()
                .checked_add(wait)
                .is_none_or(|next| next >= deadline);
            if !cause.is_transient() || attempt == ATTEMPTS || too_late {
                return Err(cause);
            }
            sleep(wait).await;
            pause = pause.mul_f64(PAUSE_FACTOR).min(LONGEST_PAUSE);
            attempt += 1;
            last = Some(Box::new(cause));
        }
    }

    async fn slot(&self, deadline: Instant, within: Duration) -> Result<SemaphorePermit<'_>, Cause> {
        let slot = timeout_at(deadline, self.slots.acquire()).await;
        let slot = slot.map_err(|_| Cause::NoSlot { after: within })?;
        slot.map_err(|closed| Cause::Request(closed.to_string()))
    }

    /// One attempt, with a second call if an exec plugin can replace a refused credential. `asked` is set
    /// while it is the API server that is waited for.
    async fn attempt(&self, question: &ApiCall<'_>, asked: &AtomicBool) -> Result<Bytes, Cause> {
        let access = self.credentials.current().await?;
        let mut answer = self.exchange(&access, question, asked).await?;
        asked.store(false, Relaxed);
        if answer.status == StatusCode::UNAUTHORIZED
            && let Some(renewed) = self.credentials.after_refusal(&access).await
        {
            answer = self.exchange(&renewed, question, asked).await?;
        }
        let ApiServerAnswer {
            status,
            retry_after,
            body,
        } = answer;
        match status.as_u16() {
            // An API server answers a review with 201; some front ends make it a 200.
            200 | 201 => Ok(body),
            _ => {
                let message = reviews::status_message(&body).unwrap_or_default();
                Err(Cause::Status {
                    code: status,
                    message: log_text(&message, question.secret),
                    retry_after,
                })
            }
        }
    }

    /// One call, on an idle connection or a new one.
    async fn exchange(
        &self,
        access: &ApiServerAccess,
        question: &ApiCall<'_>,
        asked: &AtomicBool,
    ) -> Result<ApiServerAnswer, Cause> {
        if let Some(mut connection) = self.pool.take(&access.endpoint).await {
            asked.store(true, Relaxed);
            match connection.exchange(question.request(access)?).await {
                Ok(answer) => {
                    self.keep(connection);
                    return Ok(answer);
                }
                // The server had closed it while it was idle. Reviews change nothing, so they can be
                // repeated. It is no failure of the API server, so it costs neither a pause nor an attempt.
                Err(cause) if cause.is_stale_connection() => asked.store(false, Relaxed),
                Err(cause) => return Err(cause),
            }
        }
        let mut connection = ApiServerConnection::open(Arc::clone(&access.endpoint), asked).await?;
        let answer = connection.exchange(question.request(access)?).await?;
        self.keep(connection);
        Ok(answer)
    }

    /// Keeps a connection for the next request, unless its endpoint has been replaced.
    fn keep(&self, connection: ApiServerConnection) {
        self.pool.put(connection);
        self.pool.keep_only(&self.credentials.endpoint());
    }
}

fn unbuildable(error: &dyn std::error::Error) -> Cause {
    Cause::Request(error.to_string())
}

fn with_jitter(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pauses are not spread.
    let _ = aws_lc_rs::rand::fill(&mut random);
    pause.mul_f64(1.0 + PAUSE_JITTER * f64::from(random[0]) / 255.0)
}
