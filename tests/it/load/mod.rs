//! The clients of a node, all at once: kept connections, new ones, HTTP/2, tokens, commands and followed logs.
//! Each answer and each stream is compared with what the kubelet has, byte by byte.

mod requests;
mod site;
mod streams;
mod tally;

pub(crate) use self::site::Site;
pub(crate) use self::tally::{Outages, STREAMS, Tally, lost};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fakes::client::{Alpn, Client, ClientTls};
use fakes::kubelet::FakeKubelet;
use fakes::pki::Pair;
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::patience::{eventually, patience};
use crate::world::PKI;

/// Clients that ask until they are stopped.
pub(crate) struct Load {
    tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

/// How many clients of each kind there are, and how they behave.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Clients that keep their connection, one in HTTP/1.1 and one in HTTP/2 for each.
    pub(crate) kept: u32,
    /// Clients that open a connection for each request, one with a certificate and one with a token for each.
    pub(crate) new: u32,
    /// Clients whose kept connection is mostly idle.
    pub(crate) idle: u32,
    /// Commands, attached processes, forwarded ports and followed logs that are open at a time: so many of
    /// each.
    pub(crate) streams: u32,
    /// A request follows the answer after this time.
    pub(crate) pause: Duration,
    /// How long a stream lasts.
    pub(crate) lasting: Duration,
}

/// What each client has.
#[derive(Clone)]
struct Caller {
    addresses: Arc<[SocketAddr]>,
    expected: Arc<Expected>,
    plan: Arc<Plan>,
    tally: Arc<Tally>,
    stop: CancellationToken,
}

/// What the kubelet itself answers.
struct Expected {
    pods: Vec<u8>,
    metrics: Vec<u8>,
    log: Vec<u8>,
}

const PODS: &str = "/pods";
const METRICS: &str = "/metrics";
const LOG: &str = "/containerLogs/default/web/nginx";

// === impl Load ===

impl Load {
    /// Begins to ask at these addresses, all of which lead to the gate.
    pub(crate) async fn begin(
        addresses: &[SocketAddr],
        kubelet: &FakeKubelet,
        plan: Plan,
        outages: Arc<Outages>,
    ) -> Self {
        let direct = Client::new(kubelet_of(kubelet), ClientTls::default()).unwrap();
        let page = async |target| direct.get(target).await.unwrap().body().to_vec();
        let expected = Expected {
            pods: page(PODS).await,
            metrics: page(METRICS).await,
            log: page(LOG).await,
        };
        let caller = Caller {
            addresses: addresses.into(),
            expected: Arc::new(expected),
            plan: Arc::new(plan.clone()),
            tally: Arc::new(Tally::new(outages)),
            stop: CancellationToken::new(),
        };
        let mut clients = JoinSet::new();
        let each = |count: u32| (0..count).map(|number| (number, caller.clone()));
        for (number, caller) in each(plan.kept) {
            clients.spawn(caller.clone().keep(number, Alpn::H1, plan.pause));
            clients.spawn(caller.keep(number, Alpn::H2, plan.pause));
        }
        for (number, caller) in each(plan.idle) {
            // Up to a second, so that some ask while anything happens.
            let pause = Duration::from_millis(150 + 97 * u64::from(number) % 850);
            clients.spawn(caller.keep(number, Alpn::H1, pause));
        }
        for (number, caller) in each(plan.new) {
            clients.spawn(caller.clone().connect_anew(number));
            clients.spawn(caller.ask_with_token(number));
        }
        for (number, caller) in each(plan.streams) {
            clients.spawn(caller.clone().run_commands(number));
            clients.spawn(caller.clone().attach(number));
            clients.spawn(caller.clone().forward_ports(number));
            clients.spawn(caller.follow_logs(number));
        }
        Self {
            tally: caller.tally,
            stop: caller.stop,
            clients,
        }
    }

    /// What became of the requests so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Waits until so many more requests are judged.
    pub(crate) async fn eventually_asked(&mut self, more: u64) {
        let goal = self.tally.asked() + more;
        eventually("the clients have asked", || {
            // A client that has panicked ends the test.
            if let Some(Some(ended)) = self.clients.join_next().now_or_never() {
                ended.unwrap();
            }
            self.tally.asked() >= goal
        })
        .await;
    }

    /// Has each client end what it has begun, and yields what became of everything.
    pub(crate) async fn stop(mut self) -> Arc<Tally> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.tally
    }
}

// === impl Caller ===

impl Caller {
    fn client(&self, number: u32, pair: Option<&Pair>, alpn: Alpn) -> Client {
        let tls = ClientTls {
            roots: Some(vec![PKI.ca.certificate().clone()]),
            certificate: pair.map(|pair| (pair.chain.clone(), pair.key.clone_key())),
            alpn,
            ..ClientTls::default()
        };
        let address = self.addresses[number as usize % self.addresses.len()];
        Client::new(address, tls).unwrap().with_deadline(patience())
    }

    /// Waits; false once the clients are to stop.
    async fn pause(&self, pause: Duration) -> bool {
        let waiting = self.stop.run_until_cancelled(tokio::time::sleep(pause));
        waiting.await.is_some()
    }
}

/// The kubelet of a node listens on every address.
fn kubelet_of(kubelet: &FakeKubelet) -> SocketAddr {
    let mut address = kubelet.address();
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    address
}
