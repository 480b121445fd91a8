//! The clients of a node, all at once: kept connections, new ones, HTTP/2, tokens, commands and followed logs.
//! Each answer and each stream is compared with what the kubelet has, byte by byte.

mod requests;
mod rough;
mod site;
mod streams;
mod tally;

pub(crate) use self::site::Site;
pub(crate) use self::tally::{Outage, Outages, STREAMS, Tally, lost};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fakes::client::{Alpn, Client, ClientTls};
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
    /// Clients whose kept connection is mostly idle, and how long at most.
    pub(crate) idle: u32,
    pub(crate) idle_for: Duration,
    /// Clients that read slowly, and clients that go away in the middle of an answer: so many of each.
    pub(crate) rough: u32,
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
pub(crate) struct Expected {
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
    pub(crate) fn begin(
        addresses: &[SocketAddr],
        expected: Expected,
        plan: Plan,
        outages: Arc<Outages>,
    ) -> Self {
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
            let client = |alpn| caller.client(number, Some(&PKI.bob), alpn);
            let (h1, h2) = (client(Alpn::H1), client(Alpn::H2));
            clients.spawn(caller.clone().keep("kept", h1, plan.pause));
            clients.spawn(caller.keep("HTTP/2", h2, plan.pause));
        }
        let idle = caller.client(0, Some(&PKI.bob), Alpn::H1);
        for (number, caller) in each(plan.idle) {
            clients.spawn(caller.keep_idle(number, idle.clone()));
        }
        for (number, caller) in each(plan.rough) {
            clients.spawn(caller.clone().read_slowly(number));
            clients.spawn(caller.abort(number));
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

// === impl Expected ===

impl Expected {
    /// Asks the kubelet at this address.
    pub(crate) async fn of(kubelet: SocketAddr) -> Self {
        let direct = Client::new(kubelet, ClientTls::default()).unwrap();
        let page = async |target| direct.get(target).await.unwrap().body().to_vec();
        Self {
            pods: page(PODS).await,
            metrics: page(METRICS).await,
            log: page(LOG).await,
        }
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
