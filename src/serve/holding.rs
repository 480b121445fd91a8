//! The addresses that the gate holds though a kubelet may come to want them, and how it lets go of one and
//! takes it again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::node::Prospect;
use super::sockets;
use crate::files;
use crate::metrics::Metrics;

/// Until an address that is still taken is bound again; twice as long each time, up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is known about each address that is at stake.
pub(crate) type Prospects = BTreeMap<SocketAddr, Prospect>;

/// Which of the gate's addresses a kubelet may come to want, and which of these the gate holds.
pub(crate) struct Holding {
    at_stake: Vec<SocketAddr>,
    /// The addresses to let go of.
    given_up: watch::Sender<BTreeSet<SocketAddr>>,
    /// Why an address is not held.
    missing: Mutex<BTreeMap<SocketAddr, String>>,
    /// The listeners that are accepted on, for a process that takes over, in the order of the configuration.
    listeners: Mutex<Vec<(SocketAddr, OwnedFd)>>,
    /// What the kubelet's next start would do; `None` until that was looked at.
    prospects: Mutex<Option<Prospects>>,
    metrics: Arc<Metrics>,
}

// === impl Holding ===

impl Holding {
    pub(crate) fn new(at_stake: Vec<SocketAddr>, metrics: Arc<Metrics>) -> Self {
        for address in &at_stake {
            metrics.address_held(*address, true);
            metrics.next_start(*address, "unknown");
        }
        Self {
            at_stake,
            given_up: watch::Sender::default(),
            missing: Mutex::default(),
            listeners: Mutex::default(),
            prospects: Mutex::default(),
            metrics,
        }
    }

    /// The addresses whose port is a kubelet's.
    pub(crate) fn at_stake(&self) -> &[SocketAddr] {
        &self.at_stake
    }

    /// Why addresses are not held, if any.
    pub(crate) fn missing(&self) -> Option<String> {
        let missing = lock(&self.missing);
        let texts: Vec<&str> = missing.values().map(String::as_str).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// What the kubelet's next start would do to the addresses at stake; `None` until that was looked at.
    pub(crate) fn prospects(&self) -> Option<Prospects> {
        lock(&self.prospects).clone()
    }

    /// Publishes what the kubelet's next start would do, and logs what has changed.
    pub(super) fn publish(&self, prospects: Prospects) {
        let before = lock(&self.prospects).replace(prospects.clone());
        for (address, prospect) in &prospects {
            self.metrics.next_start(
                *address,
                match prospect {
                    Prospect::Free => "free",
                    Prospect::Unknown(_) => "unknown",
                    Prospect::Taken(_) => "taken",
                },
            );
            let before = before.as_ref().and_then(|before| before.get(address));
            if before == Some(prospect) {
                continue;
            }
            match (prospect.text(*address), prospect) {
                (Some(text), Prospect::Taken(_)) => tracing::error!("{text}"),
                (Some(text), _) => tracing::warn!("{text}"),
                (None, _) if before.is_some() => {
                    tracing::info!("{address}: the kubelet's next start does not bind it");
                }
                (None, _) => {}
            }
        }
    }

    /// Has these addresses let go of, at once.
    pub(super) fn give_up(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.given_up.send_if_modified(|given_up| {
            let before = given_up.len();
            given_up.extend(addresses);
            given_up.len() != before
        });
    }

    /// Has every address held again.
    pub(super) fn take_back(&self) {
        // An address that is still taken is tried again at once.
        self.given_up.send_modify(BTreeSet::clear);
    }

    /// The addresses that are not held, or are to be let go of.
    pub(super) fn let_go(&self) -> BTreeSet<SocketAddr> {
        let mut let_go = self.given_up.borrow().clone();
        let_go.extend(lock(&self.missing).keys());
        let_go
    }

    /// Those of these addresses that are not held, or are to be let go of.
    pub(super) fn not_held(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let let_go = self.let_go();
        addresses
            .iter()
            .filter(|address| let_go.contains(address))
            .copied()
            .collect()
    }

    /// Waits until an address is let go of that is not one of these.
    pub(super) async fn lets_go_of_more_than(&self, let_go: &BTreeSet<SocketAddr>) {
        let mut orders = self.given_up.subscribe();
        // The sender is a part of this value.
        let _ = orders.wait_for(|given_up| !given_up.is_subset(let_go)).await;
    }

    /// The listeners that are accepted on, once more.
    pub(super) fn descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let listeners = lock(&self.listeners);
        listeners
            .iter()
            .map(|(_, listener)| listener.try_clone())
            .collect()
    }

    /// Whether no address is to be let go of.
    #[cfg(test)]
    pub(super) fn holds_all(&self) -> bool {
        self.given_up.borrow().is_empty()
    }

    /// Accepts on a listener. When its address is to be let go of the listener is closed, and no connection
    /// that was accepted; when it is to be held again it is bound again, as soon as that succeeds.
    pub(super) async fn hold<F: Future<Output = ()>>(
        self: Arc<Self>,
        listener: TcpListener,
        accept: impl Fn(TcpListener) -> F,
    ) {
        match listener.local_addr() {
            Ok(address) => self.hold_at(address, Some(listener), accept).await,
            Err(_) => accept(listener).await,
        }
    }

    /// The same for an address that the gate before this one has let go of.
    pub(super) async fn hold_later<F: Future<Output = ()>>(
        self: Arc<Self>,
        address: SocketAddr,
        accept: impl Fn(TcpListener) -> F,
    ) {
        self.hold_at(address, None, accept).await;
    }

    async fn hold_at<F: Future<Output = ()>>(
        self: Arc<Self>,
        address: SocketAddr,
        mut held: Option<TcpListener>,
        accept: impl Fn(TcpListener) -> F,
    ) {
        let mut orders = self.given_up.subscribe();
        loop {
            if let Some(listener) = held.take() {
                let of_others = listener.as_fd().try_clone_to_owned();
                let kept = self.keep(address, &listener);
                tokio::select! {
                    biased;
                    _ = orders.wait_for(|given_up| given_up.contains(&address)) => {}
                    () = accept(listener) => return,
                }
                drop(kept);
                // The socket may be systemd's as well, or that of a gate which takes over or leaves: it must
                // not listen there either, or the kubelet cannot bind the address.
                if let Ok(socket) = of_others {
                    let _ = SockRef::from(&socket).shutdown(Shutdown::Read);
                }
            }
            let why = "let go of, so that the kubelet can bind it: callers reach the kubelet without the \
                       gate, or no server";
            self.note(address, Some(format!("{address}: {why}")));
            tracing::error!("{address}: {why}");
            held = Some(self.bind_again(address, &mut orders).await);
            self.note(address, None);
            tracing::warn!("{address}: held by the gate again");
        }
    }

    /// Keeps a listener for a process that takes over, until what is returned is dropped: the address is free
    /// only once no descriptor is left.
    fn keep(&self, address: SocketAddr, listener: &TcpListener) -> Kept<'_> {
        match listener.as_fd().try_clone_to_owned() {
            Ok(listener) => lock(&self.listeners).push((address, listener)),
            Err(error) => tracing::warn!(%error, "{address}: cannot be handed over to another process"),
        }
        Kept {
            holding: self,
            address,
        }
    }

    async fn bind_again(
        &self,
        address: SocketAddr,
        orders: &mut watch::Receiver<BTreeSet<SocketAddr>>,
    ) -> TcpListener {
        let (mut wait, longest) = AGAIN;
        let mut why = None;
        loop {
            // The sender is a part of this value.
            let _ = orders.wait_for(|given_up| !given_up.contains(&address)).await;
            let error = match sockets::listener(address) {
                Ok(listener) => return listener,
                Err(error) => error,
            };
            if why.is_none() {
                let holders = files::aside(move || sockets::holders(address)).await;
                let text = format!(
                    "{address}: cannot be bound again yet: {error}{}; a kubelet lets go of it when it is \
                     restarted",
                    holders.unwrap_or_default()
                );
                tracing::warn!("{text}");
                why = Some(text);
            }
            self.note(address, why.clone());
            tokio::select! {
                () = sleep(wait) => {}
                _ = orders.changed() => {}
            }
            wait = longest.min(wait * 2);
        }
    }

    fn note(&self, address: SocketAddr, missing: Option<String>) {
        self.metrics.address_held(address, missing.is_none());
        match missing {
            Some(why) => lock(&self.missing).insert(address, why),
            None => lock(&self.missing).remove(&address),
        };
    }
}

/// A listener that is kept for a process that takes over.
struct Kept<'a> {
    holding: &'a Holding,
    address: SocketAddr,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        lock(&self.holding.listeners).retain(|(address, _)| *address != self.address);
    }
}

/// What a panic left behind is good enough: each value is replaced as a whole.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::pending;
    use std::io::Read as _;
    use std::net::{TcpListener as StdListener, TcpStream};

    use tokio::time::timeout;

    use super::*;

    async fn eventually(mut condition: impl FnMut() -> bool) {
        let patience = async {
            while !condition() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), patience).await.unwrap();
    }

    /// systemd holds the listener of a socket unit as well.
    #[tokio::test]
    async fn a_port_is_free_when_given_up_though_systemd_holds_it_too() {
        let listener = sockets::listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, systemd) = (
            listener.local_addr().unwrap(),
            listener.as_fd().try_clone_to_owned(),
        );
        let holding = Arc::new(Holding::new(vec![address], Arc::new(Metrics::new())));
        let accept = |listener: TcpListener| async move {
            let _listener = listener;
            pending().await
        };
        let task = tokio::spawn(holding.clone().hold(listener, accept));
        // For a process that takes over.
        eventually(|| holding.descriptors().unwrap().len() == 1).await;

        let let_go = holding.let_go();
        holding.give_up([address]);
        let noticed = timeout(Duration::from_secs(20), holding.lets_go_of_more_than(&let_go));
        noticed.await.unwrap();
        assert_eq!(holding.not_held(&[address]), [address]);
        let mut kubelet = None;
        eventually(|| {
            kubelet = StdListener::bind(address).ok();
            kubelet.is_some()
        })
        .await;
        let client = TcpStream::connect(address).unwrap();
        let (_, peer) = kubelet.unwrap().accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap(), "the kubelet has it");
        drop(systemd);
        task.abort();
    }

    /// Seen red: with the listener kept while it is not accepted on, the port was never free; with the bind
    /// not tried again, it was never held again.
    #[tokio::test]
    async fn a_port_is_free_when_given_up_and_bound_again_once_it_is_free_again() {
        let listener = sockets::listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let holding = Arc::new(Holding::new(vec![address], Arc::new(Metrics::new())));
        let accept = |listener: TcpListener| async move {
            let mut open = Vec::new();
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => open.push(stream),
                    Err(_) => return pending().await,
                }
            }
        };
        let task = tokio::spawn(holding.clone().hold(listener, accept));
        assert_eq!(
            (TcpStream::connect(address).is_ok(), holding.missing()),
            (true, None)
        );

        holding.give_up([address]);
        let mut kubelet = None;
        eventually(|| {
            kubelet = StdListener::bind(address).ok();
            kubelet.is_some()
        })
        .await;
        assert!(holding.missing().unwrap().contains("let go of"));
        assert!(holding.descriptors().unwrap().is_empty());

        // The kubelet still has it.
        holding.take_back();
        eventually(|| holding.missing().unwrap().contains("cannot be bound again yet")).await;
        drop(kubelet);
        eventually(|| holding.missing().is_none()).await;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(stream.read(&mut [0]).is_err(), "accepted, and not closed");
        task.abort();
    }

    /// A kubelet has just ended when another process takes over. (Not seen red.)
    #[tokio::test]
    async fn an_address_that_the_gate_before_let_go_of_is_bound_once_it_may_be() {
        let free = sockets::listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let holding = Arc::new(Holding::new(vec![address], Arc::new(Metrics::new())));
        holding.give_up([address]);
        assert_eq!(holding.not_held(&[address]), [address]);
        let accept = |listener: TcpListener| async move {
            let _listener = listener;
            pending().await
        };
        let task = tokio::spawn(holding.clone().hold_later(address, accept));
        eventually(|| holding.missing().is_some()).await;
        let kubelet = StdListener::bind(address).unwrap();
        holding.take_back();
        eventually(|| {
            holding
                .missing()
                .is_some_and(|why| why.contains("cannot be bound again yet"))
        })
        .await;
        drop(kubelet);
        eventually(|| holding.not_held(&[address]).is_empty()).await;
        assert!(TcpStream::connect(address).is_ok());
        task.abort();
    }
}
