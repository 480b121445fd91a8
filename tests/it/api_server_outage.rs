//! The API server fails and comes back while clients ask. If the gate opened meanwhile, an outage would be a
//! break-in; if it stayed closed afterwards, or fell upon the API server, it would prolong the outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fakes::apiserver::{Api, Behaviour, METRICS_TOKEN, User};
use fakes::pki::{CertificateSpec, Pair};
use serde_json::json;
use tokio::task::JoinSet;

use crate::patience::{eventually, stretched};
use crate::world::{PKI, Status as _, WithToken as _, World};

/// What the clients of one kind were answered.
#[derive(Default)]
struct Tally {
    served: AtomicUsize,
    unavailable: AtomicUsize,
    other: AtomicUsize,
}

impl Tally {
    fn note(&self, status: u16) {
        match status {
            200 => &self.served,
            503 => &self.unavailable,
            _ => &self.other,
        }
        .fetch_add(1, Relaxed);
    }

    fn counts(&self) -> (usize, usize) {
        assert_eq!(self.other.load(Relaxed), 0, "neither served nor 503");
        (self.served.load(Relaxed), self.unavailable.load(Relaxed))
    }
}

/// New tokens of one load; they do not run out while it lasts.
const TOKENS: usize = 5000;

fn token(row: usize, number: usize) -> String {
    format!("new-{row}-{number}")
}

fn pair(name: &str, group: &str) -> Pair {
    PKI.client(name, &CertificateSpec::client(name).group(group))
        .unwrap()
}

/// The four kinds of callers, each asking without a pause.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    certificate: Arc<Tally>,
    cached_token: Arc<Tally>,
    new_tokens: Arc<Tally>,
    static_rule: Arc<Tally>,
}

impl Load {
    /// `row` gives each load tokens of its own.
    fn start(world: &World, row: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            clients: JoinSet::new(),
            certificate: Arc::default(),
            cached_token: Arc::default(),
            new_tokens: Arc::default(),
            static_rule: Arc::default(),
        };
        let asks = |tally: &Arc<Tally>| (tally.clone(), load.stop.clone());
        let (tally, stop) = asks(&load.certificate);
        let client = world.client("bob");
        load.clients.spawn(async move {
            while !stop.load(Relaxed) {
                tally.note(client.status("/pods?certificate").await);
            }
        });
        let (tally, stop) = asks(&load.cached_token);
        let client = world.token_client(METRICS_TOKEN);
        load.clients.spawn(async move {
            while !stop.load(Relaxed) {
                tally.note(client.status("/metrics?cached").await);
            }
        });
        let (tally, stop) = asks(&load.static_rule);
        let client = world.client_with(&pair("prometheus", "none"));
        load.clients.spawn(async move {
            while !stop.load(Relaxed) {
                tally.note(client.status("/metrics?static").await);
            }
        });
        let (tally, stop) = asks(&load.new_tokens);
        let stranger = world.stranger();
        load.clients.spawn(async move {
            for number in 0..TOKENS {
                if stop.load(Relaxed) {
                    return;
                }
                let client = stranger.clone().with_token(&token(row, number));
                tally.note(client.status("/metrics?new").await);
            }
        });
        load
    }

    fn all(&self) -> [&Tally; 4] {
        [
            &self.certificate,
            &self.cached_token,
            &self.new_tokens,
            &self.static_rule,
        ]
    }

    /// Waits until clients of every kind have been served once more.
    async fn eventually_served(&self, what: &str) {
        let before = self.all().map(|tally| tally.counts().0);
        eventually(what, || {
            self.all()
                .iter()
                .zip(before)
                .all(|(tally, before)| tally.counts().0 > before + 1)
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Relaxed);
        self.clients.join_all().await;
    }
}

/// T22. New tokens are refused with 503 as long as the API server is away; what is remembered, and static
/// rules, go on. Once it is back all are served, within a second or two.
///
/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_an_outage_is_entered_and_left_under_load() {
    let world = World::builder()
        .set("limits.reviewTimeout", "500ms")
        .set("limits.rejectedTokensPerAddress", 100_000)
        .set("limits.refusedCertificatesPerAddress", 100_000)
        .set(
            "authorization.static",
            json!([{"users": ["prometheus"], "verbs": ["get"], "subresources": ["metrics"]}]),
        )
        .start()
        .await;
    let contradiction = Behaviour::status(json!({
        "allowed": true, "denied": true, "authenticated": true, "user": {"username": "x"}, "error": "or not",
    }));
    for (row, (name, outage)) in [
        ("refused", None),
        ("silent", Some(Behaviour::Hang)),
        ("slow", Some(Behaviour::Drip(Duration::from_millis(50)))),
        ("closing", Some(Behaviour::Close)),
        ("breaking", Some(Behaviour::Break)),
        ("500", Some(Behaviour::Fail(500))),
        ("503", Some(Behaviour::Fail(503))),
        ("429", Some(Behaviour::Throttle(1))),
        ("garbage", Some(Behaviour::Garbage)),
        ("contradictory", Some(contradiction)),
        ("huge", Some(Behaviour::Huge(2 << 20))),
    ]
    .into_iter()
    .enumerate()
    {
        world.api.heal();
        for number in 0..TOKENS {
            let user = User::service_account("monitoring", "metrics");
            world.api.add_token(&token(row, number), user);
        }
        let load = Load::start(&world, row);
        load.eventually_served(&format!("{name}: all are served")).await;
        match outage {
            None => world.api.down().await.unwrap(),
            Some(behaviour) => world.api.behave_entirely(behaviour),
        }
        let before = load.new_tokens.counts().1;
        eventually(&format!("{name}: new tokens are refused"), || {
            load.new_tokens.counts().1 > before + 2
        })
        .await;
        // One that was being answered may still come; from here on none is.
        let served = load.new_tokens.counts().0;
        let remembered = [&load.certificate, &load.cached_token, &load.static_rule];
        let before = remembered.map(|tally| tally.counts().0);
        let refused = load.new_tokens.counts().1;
        eventually(
            &format!("{name}: more are refused, and what is remembered goes on"),
            || {
                load.new_tokens.counts().1 > refused
                    && remembered
                        .iter()
                        .zip(before)
                        .all(|(tally, before)| tally.counts().0 > before + 5)
            },
        )
        .await;
        assert_eq!(
            load.new_tokens.counts().0,
            served,
            "{name}: a new token was served"
        );

        world.api.up().await.unwrap();
        world.api.heal();
        let healed = Instant::now();
        load.eventually_served(&format!("{name}: all are served again"))
            .await;
        let took = healed.elapsed();
        // One second for what failed, and half a second for a review that was still waiting.
        assert!(took < stretched(Duration::from_secs(4)), "{name}: {took:?}");
        for (kind, tally) in ["certificate", "cached token", "static rule"]
            .iter()
            .zip(remembered)
        {
            assert_eq!(tally.counts().1, 0, "{name}: {kind} was refused");
        }
        load.end().await;
    }
    world.stop().await;
}

/// A hundred clients that were refused during the outage come at once when it ends: one review for each
/// question.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_outage_is_no_stampede() {
    let world = World::start().await;
    let bob = world.client("bob");
    world.api.down().await.unwrap();
    assert_eq!(bob.status("/pods").await, 503);
    world.api.up().await.unwrap();
    let accepted = world.api.connections_accepted();
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let bob = world.client("bob");
        asking.spawn(async move { while bob.status("/pods").await != 200 {} });
    }
    asking.join_all().await;
    let took = began.elapsed();
    assert!(took < stretched(Duration::from_secs(4)), "{took:?}");
    assert_eq!(world.api.count(Api::Access), 1);
    assert_eq!(world.api.connections_accepted() - accepted, 1);
    world.stop().await;
}

/// A review that waits to be repeated is repeated within a second of the recovery.
///
/// Seen red: with the kubelet's pauses, of which the last is up to 2 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_api_server_is_asked_again_within_a_second() {
    let world = World::start().await;
    world
        .api
        .behave_next(Api::Access, (0..4).map(|_| Behaviour::Fail(500)));
    let began = Instant::now();
    assert_eq!(world.client("bob").status("/pods").await, 200);
    // 0.5, 0.75, 0.8 and 0.8 s, each up to a fifth longer.
    assert!(
        began.elapsed() < stretched(Duration::from_millis(3900)),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.api.count(Api::Access), 5);
    world.stop().await;
}
