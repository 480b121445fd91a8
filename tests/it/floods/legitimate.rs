//! The client that must not notice an attack. It asks in each way that a client of a kubelet asks, and counts
//! its answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fakes::apiserver::{METRICS_TOKEN, User};
use fakes::client::{Alpn, Client, ClientError, Connection};
use tokio::time::{MissedTickBehavior, interval};

use super::scene::{Scene, client};
use super::{FULL, scaled};
use crate::patience::patience;
use crate::world::{PKI, Status as _, WithToken as _};

/// A way to ask.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    /// A certificate, on a connection that was open before the attack.
    Kept,
    /// A certificate, each time on a new connection.
    Certificate,
    /// A token whose review is remembered, on a new connection.
    CachedToken,
    /// Each time another token, on a new connection.
    NewToken,
    /// A certificate, each time from an address that was never served before.
    Unseen,
    /// `/livez` of the admin port.
    Livez,
    /// `/readyz` of the admin port.
    Readyz,
}

/// The ways to ask from an address that was served before. Each request must be answered.
pub(super) const KNOWN: [Kind; 4] = [Kind::Kept, Kind::Certificate, Kind::CachedToken, Kind::NewToken];
/// What asks whether the gate lives. Each request must be answered.
pub(super) const PROBES: [Kind; 2] = [Kind::Livez, Kind::Readyz];

/// What became of the requests of one kind.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) asked: u32,
    pub(super) answered: u32,
    /// How long each answer, or what came instead, took.
    pub(super) times: Vec<Duration>,
    /// What came in place of an answer, and how often.
    pub(super) failures: BTreeMap<String, u32>,
}

/// What became of all requests.
pub(super) type Experience = BTreeMap<Kind, Answers>;

/// The client, arrived before the attack.
pub(super) struct Legitimate {
    certificate: Client,
    token: Client,
    kept: Option<Connection>,
    tokens: u32,
}

// === impl Legitimate ===

impl Legitimate {
    /// Asks once in each way, so that the client's address is known. Ways that are not judged may fail.
    pub(super) async fn arrive(scene: &Scene, judged: &[Kind]) -> Self {
        let here = |pair| {
            let client = client(scene.address(), pair, Alpn::H1).with_source(scene.ground.known());
            client.with_deadline(deadline())
        };
        let mut arrived = Self {
            certificate: here(Some(&PKI.bob)),
            token: here(None),
            kept: None,
            tokens: 0,
        };
        let cached = arrived.token.clone().with_token(METRICS_TOKEN);
        for (kind, status) in [
            (Kind::Certificate, status(arrived.certificate.get("/pods").await)),
            (Kind::CachedToken, status(cached.get("/metrics").await)),
            (Kind::NewToken, arrived.ask_with_new_token(scene).await),
        ] {
            assert!(
                !judged.contains(&kind) || matches!(status, Ok(200)),
                "{kind:?} before the attack: {status:?}"
            );
        }
        arrived
    }

    /// Opens the connection that is kept.
    pub(super) async fn settle(&mut self) {
        let mut connection = self.certificate.connect().await.unwrap();
        assert_eq!(connection.status("/pods").await, 200);
        self.kept = Some(connection);
    }

    /// Asks in each way, all of them side by side, and the probes with them.
    pub(super) async fn ask(&mut self, scene: &Scene) -> Experience {
        let mut kept = self.kept.take();
        let again = self.certificate.clone();
        let on_kept = repeat(async |_| {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => again.connect().await?,
            };
            let answer = connection.get("/pods").await?;
            kept = Some(connection);
            Ok(answer.status().as_u16())
        });
        let certificate = self.certificate.clone();
        let on_new = repeat(async |_| status(certificate.get("/pods").await));
        let cached = self.token.clone().with_token(METRICS_TOKEN);
        let by_cached = repeat(async |_| status(cached.get("/metrics").await));
        let by_new = repeat(async |_| self.ask_with_new_token(scene).await);
        let newcomer = client(scene.address(), Some(&PKI.bob), Alpn::H1).with_deadline(deadline());
        // It is not judged, so the short form does without.
        let unseen = async {
            if !*FULL {
                return Answers::default();
            }
            repeat(async |number| {
                let client = newcomer.clone().with_source(scene.ground.unseen(number));
                status(client.get("/pods").await)
            })
            .await
        };
        let live = repeat(async |_| probe(scene.gate.admin, "/livez").await);
        let ready = repeat(async |_| probe(scene.gate.admin, "/readyz").await);
        let (on_kept, on_new, by_cached, by_new, unseen, live, ready) =
            tokio::join!(on_kept, on_new, by_cached, by_new, unseen, live, ready);
        BTreeMap::from([
            (Kind::Kept, on_kept),
            (Kind::Certificate, on_new),
            (Kind::CachedToken, by_cached),
            (Kind::NewToken, by_new),
            (Kind::Unseen, unseen),
            (Kind::Livez, live),
            (Kind::Readyz, ready),
        ])
    }

    async fn ask_with_new_token(&mut self, scene: &Scene) -> Result<u16, ClientError> {
        self.tokens += 1;
        let token = format!("legitimate-{}", self.tokens);
        scene
            .api
            .add_token(&token, User::service_account("monitoring", "metrics"));
        status(self.token.clone().with_token(&token).get("/metrics").await)
    }
}

// === impl Answers ===

impl Answers {
    /// Whether each request was answered.
    pub(super) fn all(&self) -> bool {
        self.asked > 0 && self.answered == self.asked
    }

    /// The longest time.
    pub(super) fn worst(&self) -> Duration {
        self.times.iter().max().copied().unwrap_or_default()
    }

    /// The share that took no longer than this. What was not answered must be looked at apart.
    pub(super) fn share_within(&self, bound: Duration) -> f64 {
        let within = self.times.iter().filter(|time| **time <= bound).count();
        within as f64 / self.times.len().max(1) as f64
    }

    /// The share that was answered, in percent.
    pub(super) fn percent(&self) -> f64 {
        100.0 * f64::from(self.answered) / f64::from(self.asked.max(1))
    }
}

/// Asks at a steady rate, one request at a time.
async fn repeat(mut ask: impl AsyncFnMut(u32) -> Result<u16, ClientError>) -> Answers {
    let mut answers = Answers::default();
    let mut ticks = interval(scaled(Duration::from_millis(100), Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = Instant::now();
    while answers.asked < scaled(10, 200) && began.elapsed() < scaled(patience(), Duration::from_secs(15)) {
        ticks.tick().await;
        let asked = Instant::now();
        let outcome = ask(answers.asked).await;
        answers.asked += 1;
        answers.times.push(asked.elapsed());
        match outcome {
            Ok(200) => answers.answered += 1,
            Ok(status) => *answers.failures.entry(status.to_string()).or_default() += 1,
            Err(error) => *answers.failures.entry(error.to_string()).or_default() += 1,
        }
    }
    answers
}

/// How long the client waits for each step of an answer.
fn deadline() -> Duration {
    scaled(patience(), Duration::from_secs(5))
}

fn status<B>(answer: Result<http::Response<B>, ClientError>) -> Result<u16, ClientError> {
    answer.map(|answer| answer.status().as_u16())
}

async fn probe(admin: SocketAddr, target: &str) -> Result<u16, ClientError> {
    status(Client::plain(admin).with_deadline(deadline()).get(target).await)
}
