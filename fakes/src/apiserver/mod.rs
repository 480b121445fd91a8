//! A Kubernetes API server as far as a kubelet's front door asks one: TokenReview, SubjectAccessReview, and a Node to
//! read.
//!
//! A real HTTPS server on 127.0.0.1 that authenticates its callers, decides by tokens and rules that can be
//! changed while it runs, records every review, and can be told to misbehave in each way that a real one
//! does.

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
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pki::{Credential, Pair, Pki, PkiError, kubeconfig};
use cluster::Cluster;
pub use cluster::{
    ADMIN_TOKEN, DEFAULT_AUDIENCE, GATE_TOKEN, METRICS_TOKEN, PROXY_GET_TOKEN, Rule, Subject, TokenStatus,
    User,
};
use connection::Front;

/// One of the two questions.
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
    /// Rightly, but with this long between one byte and the next.
    Drip(Duration),
    /// Rightly, but the connection is closed half-way.
    Break,
    /// With 201 and JSON that breaks off.
    Garbage,
    /// Rightly, but with this many bytes of padding in the metadata.
    Huge(usize),
    /// With this HTTP status and body, as they are.
    Raw(u16, String),
    /// With the `status` that this makes: see [`Behaviour::status`].
    Answer(AnswerFn),
}

/// A review that was asked, answered or not.
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
        /// The `spec` as it came.
        spec: Value,
    },
}

/// A running server. Dropping it ends it at once; [`FakeApiServer::shutdown`] also waits.
pub struct FakeApiServer {
    address: SocketAddr,
    state: Arc<State>,
    front: Front,
    connections: TaskTracker,
    port: tokio::sync::Mutex<Port>,
    end: CancellationToken,
}

/// What connections share and tests turn.
#[derive(Default)]
struct State {
    cluster: Mutex<Cluster>,
    knobs: Mutex<Knobs>,
    reviews: Mutex<Vec<Review>>,
    credentials: Mutex<Vec<String>>,
    serving: Mutex<Option<TlsAcceptor>>,
    accepted: AtomicUsize,
}

#[derive(Default)]
struct Knobs {
    latency: Duration,
    token: Script,
    access: Script,
}

/// What comes next, and what after that.
#[derive(Default)]
struct Script {
    next: VecDeque<Behaviour>,
    then: Behaviour,
}

enum Port {
    /// Connections are accepted until this is cancelled.
    Up(CancellationToken, TaskTracker),
    /// Connections are refused. The socket is bound but does not listen: nobody who asks for port 0 is given
    /// this one.
    Down(Socket),
}

// === impl FakeApiServer ===

impl FakeApiServer {
    /// Starts a server with the lab's tokens and rules on a free port of 127.0.0.1, on the current runtime.
    pub async fn start(pki: &Pki) -> io::Result<Self> {
        let state = Arc::new(State::default());
        *lock(&state.cluster) = Cluster::lab();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let front = Front::new(pki, Arc::clone(&state)).map_err(io::Error::other)?;
        let connections = TaskTracker::new();
        let port = listen(listener, &front, &connections, &end);
        Ok(Self {
            address,
            state,
            front,
            connections,
            port: tokio::sync::Mutex::new(port),
            end,
        })
    }

    /// Where it listens, up or down.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self, pki: &Pki, credential: Credential<'_>) -> String {
        kubeconfig(&self.url(), &pki.ca, credential)
    }

    /// Cuts every connection and waits until nothing of the server is left.
    pub async fn shutdown(self) {
        self.end.cancel();
        if let Port::Up(_, acceptor) = &*self.port.lock().await {
            acceptor.wait().await;
        }
        self.connections.close();
        self.connections.wait().await;
    }

    /// Goes away: new connections are refused, existing ones reset.
    pub async fn down(&self) -> io::Result<()> {
        let mut port = self.port.lock().await;
        let Port::Up(stop, acceptor) = &*port else {
            return Ok(());
        };
        stop.cancel();
        acceptor.wait().await;
        // Not for good: a closed tracker still takes tasks.
        self.connections.close();
        self.connections.wait().await;

        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // As the listener had it, for the sake of old connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&self.address.into())?;
        *port = Port::Down(socket);
        Ok(())
    }

    /// Comes back on the same port.
    pub async fn up(&self) -> io::Result<()> {
        let mut port = self.port.lock().await;
        let Port::Down(socket) = &*port else {
            return Ok(());
        };
        let socket = socket.try_clone()?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        *port = listen(listener, &self.front, &self.connections, &self.end);
        Ok(())
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Connections that were ever accepted.
    pub fn connections_accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Relaxed)
    }

    // --- tokens and rules ---

    /// This token stands for this user from now on.
    pub fn add_token(&self, token: &str, user: User) {
        lock(&self.state.cluster)
            .tokens
            .insert(token.to_owned(), TokenStatus::Valid(user));
    }

    /// This token is turned down with this `status.error` from now on; empty = without an error.
    pub fn reject_token(&self, token: &str, error: &str) {
        lock(&self.state.cluster)
            .tokens
            .insert(token.to_owned(), TokenStatus::Rejected(error.to_owned()));
    }

    /// This token is unknown from now on.
    pub fn revoke_token(&self, token: &str) {
        lock(&self.state.cluster).tokens.remove(token);
    }

    /// The rules.
    pub fn rules(&self) -> Vec<Rule> {
        lock(&self.state.cluster).rules.clone()
    }

    /// Replaces all rules.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        lock(&self.state.cluster).rules = rules;
    }

    /// Adds a rule.
    pub fn add_rule(&self, rule: Rule) {
        lock(&self.state.cluster).rules.push(rule);
    }

    /// Takes out every rule about this subject.
    pub fn remove_rules(&self, subject: &Subject) {
        lock(&self.state.cluster)
            .rules
            .retain(|rule| rule.subject != *subject);
    }

    /// There is a Node of this name, and this is its `status.nodeInfo`.
    pub fn set_node(&self, name: &str, node_info: Value) {
        lock(&self.state.cluster).nodes.insert(name.to_owned(), node_info);
    }

    // --- knobs ---

    /// New connections are shown this pair.
    pub fn set_serving(&self, pair: &Pair) -> Result<(), PkiError> {
        let acceptor = self.front.with_serving(pair)?;
        *lock(&self.state.serving) = Some(acceptor);
        Ok(())
    }

    /// Answers to this API behave so from now on.
    pub fn behave(&self, api: Api, behaviour: Behaviour) {
        lock(&self.state.knobs).script(api).then = behaviour;
    }

    /// Answers to both APIs behave so from now on.
    pub fn behave_all(&self, behaviour: Behaviour) {
        self.behave(Api::Token, behaviour.clone());
        self.behave(Api::Access, behaviour);
    }

    /// The next answers to this API behave so, one after the other; then it goes on as set.
    pub fn behave_next(&self, api: Api, behaviours: impl IntoIterator<Item = Behaviour>) {
        lock(&self.state.knobs).script(api).next.extend(behaviours);
    }

    /// Every request waits this long before anything else happens to it.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.state.knobs).latency = latency;
    }

    /// Takes back every knob. Tokens, rules and records stay.
    pub fn heal(&self) {
        *lock(&self.state.knobs) = Knobs::default();
    }

    // --- records ---

    /// Every review since the start or the last [`FakeApiServer::clear_reviews`], in order of arrival.
    pub fn reviews(&self) -> Vec<Review> {
        lock(&self.state.reviews).clone()
    }

    /// How many of this kind.
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

    /// Forgets the reviews so far, and who asked for them.
    pub fn clear_reviews(&self) {
        lock(&self.state.reviews).clear();
        lock(&self.state.credentials).clear();
    }

    /// What each caller showed with a request, good or not, in order of arrival: [`token_hash`] of the token, or the
    /// like of the certificate.
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
    /// Which of the two it is.
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

// === impl Knobs ===

impl Knobs {
    fn script(&mut self, api: Api) -> &mut Script {
        match api {
            Api::Token => &mut self.token,
            Api::Access => &mut self.access,
        }
    }

    fn play(&mut self, api: Api) -> Behaviour {
        let script = self.script(api);
        script.next.pop_front().unwrap_or_else(|| script.then.clone())
    }
}

/// What [`Review::Token`] records of a token.
pub fn token_hash(token: &str) -> String {
    hash(token.as_bytes())
}

/// What [`FakeApiServer::credentials`] records of a certificate.
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

fn listen(listener: TcpListener, front: &Front, connections: &TaskTracker, end: &CancellationToken) -> Port {
    let stop = end.child_token();
    let acceptor = TaskTracker::new();
    acceptor.spawn(front.clone().accept(listener, connections.clone(), stop.clone()));
    acceptor.close();
    Port::Up(stop, acceptor)
}

/// What a panicking test leaves behind is still the best there is to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
