//! The part of a Kubernetes API server that a gate needs: TokenReview, SubjectAccessReview and the Node.
//!
//! It is an HTTPS server on 127.0.0.1 that authenticates its callers, decides by tokens and rules that can be
//! changed while it runs, records every review, and can be told to misbehave.

mod body;
mod cluster;
mod connection;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pki::{KubeconfigUser, Pair, Pki, PkiError, kubeconfig};
use cluster::Cluster;
pub use cluster::{ADMIN_TOKEN, GATE_TOKEN, METRICS_TOKEN, PROXY_GET_TOKEN, Rule, Subject, User};
use connection::Handler;

/// One of the two review APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `authentication.k8s.io/v1` TokenReview.
    Token,
    /// `authorization.k8s.io/v1` SubjectAccessReview.
    Access,
}

/// Makes the `status` of an answer from the `spec` of a review.
pub type AnswerFn = Arc<dyn Fn(&Value) -> Value + Send + Sync>;

/// How reviews are answered.
#[derive(Clone, Default)]
pub enum Behaviour {
    /// By tokens and rules.
    #[default]
    Normal,
    /// With this HTTP status and a `Status` object.
    Fail(u16),
    /// With 429 and this many seconds of `Retry-After`.
    Throttle(u32),
    /// Never; the connection stays open.
    Hang,
    /// By closing the connection.
    Close,
    /// As [`Behaviour::Normal`], with this delay between two bytes.
    Drip(Duration),
    /// As [`Behaviour::Normal`], but the connection is closed after about half of the answer.
    Break,
    /// With 201 and incomplete JSON.
    Garbage,
    /// As [`Behaviour::Normal`], with this many bytes of padding in the metadata.
    Huge(usize),
    /// With this HTTP status and body.
    Raw(u16, String),
    /// With the `status` that this function makes: see [`Behaviour::status`].
    Answer(AnswerFn),
}

/// A review that was requested, answered or not.
#[derive(Clone, Debug, PartialEq)]
pub enum Review {
    /// A TokenReview, without the token.
    Token {
        /// Lower-case hexadecimal SHA-256 of the token: see [`token_hash`].
        sha256: String,
        /// Length of the token in bytes.
        length: usize,
        /// `spec.audiences`.
        audiences: Vec<String>,
    },
    /// A SubjectAccessReview.
    Access {
        /// The `spec` as it was sent.
        spec: Value,
    },
}

/// A running server. Dropping it ends it at once; [`FakeApiServer::shutdown`] also waits.
pub struct FakeApiServer {
    address: SocketAddr,
    state: Arc<State>,
    handler: Handler,
    connections: TaskTracker,
    port: tokio::sync::Mutex<PortState>,
    end: CancellationToken,
}

/// The state that connections share and tests change.
#[derive(Default)]
struct State {
    cluster: Mutex<Cluster>,
    behaviours: Mutex<Behaviours>,
    reviews: Mutex<Vec<Review>>,
    credentials: Mutex<Vec<String>>,
    serving: Mutex<Option<TlsAcceptor>>,
    accepted: AtomicUsize,
    probes: AtomicUsize,
    /// Reads of a Node wait while it is true.
    node_held: watch::Sender<bool>,
    nodes_read: AtomicUsize,
}

#[derive(Default)]
struct Behaviours {
    latency: Duration,
    token: Schedule,
    access: Schedule,
    probe: Behaviour,
}

/// How the next answers behave, and how those after them.
#[derive(Default)]
struct Schedule {
    next: VecDeque<Behaviour>,
    then: Behaviour,
}

enum PortState {
    /// Connections are accepted until this is cancelled.
    Up(CancellationToken, TaskTracker),
    /// Connections are refused. The socket is bound without listening, so that the kernel gives the port to
    /// no other process.
    Down(Socket),
}

// === impl FakeApiServer ===

impl FakeApiServer {
    /// Starts a server on a free port of 127.0.0.1, on the current runtime.
    pub async fn start(pki: &Pki) -> io::Result<Self> {
        let state = Arc::new(State::default());
        *lock(&state.cluster) = Cluster::new();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let handler = Handler::new(pki, Arc::clone(&state)).map_err(io::Error::other)?;
        let connections = TaskTracker::new();
        let port = listen(listener, &handler, &connections, &end);
        Ok(Self {
            address,
            state,
            handler,
            connections,
            port: tokio::sync::Mutex::new(port),
            end,
        })
    }

    /// Its address, up or down.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self, pki: &Pki, user: KubeconfigUser<'_>) -> String {
        kubeconfig(&self.url(), &pki.ca, user)
    }

    /// Cuts every connection and waits until every task of the server has ended.
    pub async fn shutdown(self) {
        self.end.cancel();
        if let PortState::Up(_, acceptor) = &*self.port.lock().await {
            acceptor.wait().await;
        }
        self.connections.close();
        self.connections.wait().await;
    }

    /// Refuses new connections and resets existing ones.
    pub async fn down(&self) -> io::Result<()> {
        let mut port = self.port.lock().await;
        let PortState::Up(stop, acceptor) = &*port else {
            return Ok(());
        };
        stop.cancel();
        acceptor.wait().await;
        // A closed tracker still takes tasks, which `up` needs.
        self.connections.close();
        self.connections.wait().await;

        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // As the listener had it: old connections may be in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&self.address.into())?;
        *port = PortState::Down(socket);
        Ok(())
    }

    /// Accepts connections again, on the same port.
    pub async fn up(&self) -> io::Result<()> {
        let mut port = self.port.lock().await;
        let PortState::Down(socket) = &*port else {
            return Ok(());
        };
        let socket = socket.try_clone()?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        *port = listen(listener, &self.handler, &self.connections, &self.end);
        Ok(())
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Connections that were accepted since the start.
    pub fn connections_accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Relaxed)
    }

    // --- tokens and rules ---

    /// Makes this token valid for this user.
    pub fn add_token(&self, token: &str, user: User) {
        lock(&self.state.cluster).tokens.insert(token.to_owned(), user);
    }

    /// Makes this token unknown.
    pub fn revoke_token(&self, token: &str) {
        lock(&self.state.cluster).tokens.remove(token);
    }

    /// Replaces all rules.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        lock(&self.state.cluster).rules = rules;
    }

    /// Adds a rule.
    pub fn add_rule(&self, rule: Rule) {
        lock(&self.state.cluster).rules.push(rule);
    }

    /// Adds a Node with this name and `status.nodeInfo`.
    pub fn set_node(&self, name: &str, node_info: Value) {
        lock(&self.state.cluster).nodes.insert(name.to_owned(), node_info);
    }

    /// Sets `status.addresses` of every Node.
    pub fn set_node_addresses(&self, addresses: &[&str]) {
        lock(&self.state.cluster).node_addresses = addresses.iter().map(ToString::to_string).collect();
    }

    // --- behaviour ---

    /// Uses this pair for new connections.
    pub fn set_serving(&self, pair: &Pair) -> Result<(), PkiError> {
        let acceptor = self.handler.with_serving(pair)?;
        *lock(&self.state.serving) = Some(acceptor);
        Ok(())
    }

    /// Sets how this API answers.
    pub fn behave(&self, api: Api, behaviour: Behaviour) {
        lock(&self.state.behaviours).schedule(api).then = behaviour;
    }

    /// Sets how both APIs answer.
    pub fn behave_all(&self, behaviour: Behaviour) {
        self.behave(Api::Token, behaviour.clone());
        self.behave(Api::Access, behaviour);
    }

    /// Sets how `/readyz` answers: `Fail`, `Hang` and `Close` have an effect.
    pub fn behave_probe(&self, behaviour: Behaviour) {
        lock(&self.state.behaviours).probe = behaviour;
    }

    /// Sets how both APIs and `/readyz` answer.
    pub fn behave_entirely(&self, behaviour: Behaviour) {
        self.behave_probe(behaviour.clone());
        self.behave_all(behaviour);
    }

    /// How often `/readyz` was asked for, answered or not.
    pub fn probes(&self) -> usize {
        self.state.probes.load(Ordering::Relaxed)
    }

    /// Sets how this API gives its next answers, one behaviour each, before it continues as it was set.
    pub fn behave_next(&self, api: Api, behaviours: impl IntoIterator<Item = Behaviour>) {
        lock(&self.state.behaviours).schedule(api).next.extend(behaviours);
    }

    /// Delays every request.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.state.behaviours).latency = latency;
    }

    /// Lets reads of a Node wait until this is called with `false`.
    pub fn hold_node(&self, held: bool) {
        self.state.node_held.send_replace(held);
    }

    /// How often a Node was read and answered.
    pub fn nodes_read(&self) -> usize {
        self.state.nodes_read.load(Ordering::Relaxed)
    }

    /// Ends every behaviour and delay. Tokens, rules and records stay.
    pub fn heal(&self) {
        *lock(&self.state.behaviours) = Behaviours::default();
    }

    // --- records ---

    /// Every review since the start or the last [`FakeApiServer::clear_reviews`], in order of arrival.
    pub fn reviews(&self) -> Vec<Review> {
        lock(&self.state.reviews).clone()
    }

    /// How many reviews of this API.
    pub fn count(&self, api: Api) -> usize {
        lock(&self.state.reviews)
            .iter()
            .filter(|review| review.api() == api)
            .count()
    }

    /// The `spec` of each SubjectAccessReview, in order.
    pub fn access_specs(&self) -> Vec<Value> {
        let spec = |review: &Review| match review {
            Review::Access { spec } => Some(spec.clone()),
            Review::Token { .. } => None,
        };
        lock(&self.state.reviews).iter().filter_map(spec).collect()
    }

    /// `verb/subresource` of each SubjectAccessReview, in order.
    pub fn checks(&self) -> Vec<String> {
        let attribute =
            |spec: &Value, name: &str| spec["resourceAttributes"][name].as_str().unwrap_or("").to_owned();
        let check = |spec: &Value| format!("{}/{}", attribute(spec, "verb"), attribute(spec, "subresource"));
        self.access_specs().iter().map(check).collect()
    }

    /// Discards the recorded reviews and credentials.
    pub fn clear_reviews(&self) {
        lock(&self.state.reviews).clear();
        lock(&self.state.credentials).clear();
    }

    /// The credential of each request, valid or not, in order of arrival: [`certificate_hash`] of the
    /// certificate, or [`token_hash`] of the token.
    pub fn credentials(&self) -> Vec<String> {
        lock(&self.state.credentials).clone()
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

// === impl Behaviour ===

impl Behaviour {
    /// Always this `status`, such as `{"allowed": true, "denied": true}`.
    pub fn status(status: Value) -> Self {
        Self::Answer(Arc::new(move |_| status.clone()))
    }
}

// === impl Review ===

impl Review {
    /// Its API.
    pub fn api(&self) -> Api {
        match self {
            Self::Token { .. } => Api::Token,
            Self::Access { .. } => Api::Access,
        }
    }

    fn new(api: Api, spec: &Value) -> Self {
        match api {
            Api::Access => Self::Access { spec: spec.clone() },
            Api::Token => {
                let token = spec["token"].as_str().unwrap_or_default();
                let audiences = spec["audiences"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                Self::Token {
                    sha256: token_hash(token),
                    length: token.len(),
                    audiences: audiences
                        .iter()
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect(),
                }
            }
        }
    }
}

// === impl Behaviours ===

impl Behaviours {
    fn schedule(&mut self, api: Api) -> &mut Schedule {
        match api {
            Api::Token => &mut self.token,
            Api::Access => &mut self.access,
        }
    }

    fn next(&mut self, api: Api) -> Behaviour {
        let schedule = self.schedule(api);
        schedule.next.pop_front().unwrap_or_else(|| schedule.then.clone())
    }
}

/// The form in which [`Review::Token`] records a token.
pub fn token_hash(token: &str) -> String {
    hash(token.as_bytes())
}

/// The form in which [`FakeApiServer::credentials`] records a certificate.
pub fn certificate_hash(pair: &Pair) -> String {
    pair.chain.first().map(|leaf| hash(leaf)).unwrap_or_default()
}

fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn listen(
    listener: TcpListener,
    handler: &Handler,
    connections: &TaskTracker,
    end: &CancellationToken,
) -> PortState {
    let stop = end.child_token();
    let acceptor = TaskTracker::new();
    acceptor.spawn(
        handler
            .clone()
            .accept(listener, connections.clone(), stop.clone()),
    );
    acceptor.close();
    PortState::Up(stop, acceptor)
}

/// Locks, also after a test has panicked with the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
