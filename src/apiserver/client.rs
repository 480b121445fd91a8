//! The client itself: one deadline for a review and all its attempts, retries where the kubelet retries, and
//! a bound on how many calls run at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{Answer, Connection, Pool};
use super::credentials::{Access, ApiServerError, CHECK_EVERY, Credentials};
use super::failure::{Api, Cause, ReviewError, log_text};
use super::kubeconfig::Kubeconfig;
use super::reviews::{self, AccessAnswer, AccessSpec, TokenAnswer};

/// The kubelet's webhook back-off (contract §1.7): 0.5, 0.75, 1.13 and 1.69 s, each up to a fifth longer.
const ATTEMPTS: usize = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_FACTOR: f64 = 1.5;
const PAUSE_JITTER: f64 = 0.2;

const USER_AGENT: &str = concat!("kubelet-gate/", env!("CARGO_PKG_VERSION"));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Bounds on what is asked of the API server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientLimits {
    /// `limits.reviewTimeout`: for one review, waiting for a slot, dialling and retries included.
    pub timeout: Duration,
    /// `limits.concurrentReviews`: calls at once, and connections kept.
    pub concurrent: usize,
}

/// A client for reviews. Clones share connections, credentials and limits.
///
/// Dropping the future of a review closes the connection that it used and asks nothing more; whoever wants
/// the answer for others too runs it in a task of its own. A review needs a tokio runtime with I/O and time,
/// and its connections stay on that runtime: use one client from one runtime.
#[derive(Clone)]
pub struct ApiServer(Arc<Shared>);

struct Shared {
    credentials: Credentials,
    pool: Pool,
    slots: Semaphore,
    limits: ClientLimits,
    last_failure: Mutex<Option<String>>,
}

// === impl ApiServer ===

impl ApiServer {
    /// Reads and validates what `source` names. Does not connect.
    pub fn new(source: Kubeconfig, limits: ClientLimits) -> Result<Self, ApiServerError> {
        Self::checking_every(CHECK_EVERY, source, limits)
    }

    pub(super) fn checking_every(
        check_every: Duration,
        source: Kubeconfig,
        limits: ClientLimits,
    ) -> Result<Self, ApiServerError> {
        let concurrent = limits.concurrent.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self(Arc::new(Shared {
            credentials: Credentials::new(source, check_every)?,
            pool: Pool::new(concurrent),
            slots: Semaphore::new(concurrent),
            limits,
            last_failure: Mutex::new(None),
        })))
    }

    /// Whose token is it? `audiences` may be empty: the API server then takes its own, as for the kubelet.
    pub async fn review_token(&self, token: &str, audiences: &[String]) -> Result<TokenAnswer, ReviewError> {
        self.noted(self.ask_token(token, audiences).await)
    }

    /// May this user do that?
    pub async fn review_access(&self, spec: AccessSpec<'_>) -> Result<AccessAnswer, ReviewError> {
        self.noted(self.ask_access(spec).await)
    }

    /// Why the last review failed; `None` if it was answered, or if there was none yet.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.0
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn noted<T>(&self, answer: Result<T, ReviewError>) -> Result<T, ReviewError> {
        let failure = answer.as_ref().err().map(ToString::to_string);
        *self.0.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        answer
    }

    async fn ask_token(&self, token: &str, audiences: &[String]) -> Result<TokenAnswer, ReviewError> {
        let failed = |cause| ReviewError {
            api: Api::TokenReview,
            cause,
        };
        let question =
            reviews::token_review(token, audiences).map_err(|error| failed(unbuildable(&error)))?;
        let answer = self
            .0
            .call(Api::TokenReview, question.into(), token)
            .await
            .map_err(failed)?;
        reviews::token_answer(&answer, token).map_err(|error| failed(error.into()))
    }

    async fn ask_access(&self, spec: AccessSpec<'_>) -> Result<AccessAnswer, ReviewError> {
        let failed = |cause| ReviewError {
            api: Api::SubjectAccessReview,
            cause,
        };
        let question = reviews::access_review(spec).map_err(|error| failed(unbuildable(&error)))?;
        let answer = self
            .0
            .call(Api::SubjectAccessReview, question.into(), "")
            .await
            .map_err(failed)?;
        reviews::access_answer(&answer).map_err(|error| failed(error.into()))
    }

    /// Looks at kubeconfig and credential files now instead of within ten seconds. `true` if they had
    /// changed. On an error, which is also logged and counted, the last good ones stay in use.
    pub fn reload(&self) -> Result<bool, ApiServerError> {
        self.0.credentials.reload()
    }

    /// How often the credential files could not be used.
    #[must_use]
    pub fn credential_failures(&self) -> u64 {
        self.0.credentials.failures()
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Posts a review until it is answered, fails for good, or time runs out. `secret` is kept out of errors.
    async fn call(&self, api: Api, question: Bytes, secret: &str) -> Result<Bytes, Cause> {
        let deadline = Instant::now() + self.limits.timeout;
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        let mut last = None;
        loop {
            let Ok(outcome) = timeout_at(deadline, self.attempt(api, &question, secret)).await else {
                self.pool.clear();
                return Err(Cause::Deadline {
                    after: self.limits.timeout,
                    last,
                });
            };
            let cause = match outcome {
                Ok(answer) => return Ok(answer),
                Err(cause) => cause,
            };
            let wait = with_jitter(pause).max(cause.retry_after().unwrap_or_default());
            // When the next attempt could only come too late, this failure is the better answer.
            let too_late = Instant::now()
                .checked_add(wait)
                .is_none_or(|next| next >= deadline);
            if !cause.is_transient() || attempt == ATTEMPTS || too_late {
                return Err(cause);
            }
            sleep(wait).await;
            pause = pause.mul_f64(PAUSE_FACTOR);
            attempt += 1;
            last = Some(Box::new(cause));
        }
    }

    /// One call. The slot is given back between attempts.
    async fn attempt(&self, api: Api, question: &Bytes, secret: &str) -> Result<Bytes, Cause> {
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|closed| Cause::Request(closed.to_string()))?;
        let access = self.credentials.current();
        if let Some(mut connection) = self.pool.take(&access.endpoint).await {
            match connection.exchange(request(api, &access, question)?).await {
                Ok(answer) => return self.finish(connection, answer, secret),
                // The server had closed it while it was idle. Reviews change nothing, so asking again is
                // harmless; this is not the API server's failure, so it costs neither a pause nor an attempt.
                Err(cause) if cause.is_stale_connection() => {}
                Err(cause) => return Err(cause),
            }
        }
        let mut connection = Connection::open(Arc::clone(&access.endpoint)).await?;
        let answer = connection.exchange(request(api, &access, question)?).await?;
        self.finish(connection, answer, secret)
    }

    fn finish(&self, connection: Connection, answer: Answer, secret: &str) -> Result<Bytes, Cause> {
        self.pool.put(connection);
        let Answer {
            status,
            retry_after,
            body,
        } = answer;
        match status.as_u16() {
            // 201 is what an API server says; some front ends make it a 200.
            200 | 201 => Ok(body),
            _ => {
                let message = reviews::status_message(&body).unwrap_or_default();
                Err(Cause::Status {
                    code: status,
                    message: log_text(&message, secret),
                    retry_after,
                })
            }
        }
    }
}

fn request(api: Api, access: &Access, question: &Bytes) -> Result<Request<Full<Bytes>>, Cause> {
    let server = &access.endpoint.server;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}{}", server.prefix, api.path()))
        .header(header::HOST, &server.authority)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, JSON)
        .header(header::CONTENT_TYPE, JSON)
        .body(Full::new(question.clone()))
        .map_err(|error| unbuildable(&error))?;
    if let Some(authorization) = &access.authorization {
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, authorization.clone());
    }
    Ok(request)
}

fn unbuildable(error: &dyn std::error::Error) -> Cause {
    Cause::Request(error.to_string())
}

fn with_jitter(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is merely not spread.
    let _ = aws_lc_rs::rand::fill(&mut random);
    pause.mul_f64(1.0 + PAUSE_JITTER * f64::from(random[0]) / 255.0)
}
