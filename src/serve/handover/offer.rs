//! The old process' side of a hand-over: until the new one serves, nothing changes for its clients.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::ends::Ends;
use super::super::instance::Instance;
use super::super::leaving::Leaving;
use super::super::notify::Notifier;
use super::channel::Channel;
use super::message::{Handed, NewSays, OldSays, VERSION};
use super::peer::{Peer, Stranger};
use super::place::{Place, PlaceError};
use super::predecessors::{self, Predecessors};
use crate::seal::Seal;

/// A process asks for the sockets within this time, and a hand-over to it takes no longer.
pub(super) const WHOLE: Duration = Duration::from_secs(60);
/// A process that connects says what it wants within this time.
const HELLO: Duration = Duration::from_secs(5);
/// The most processes that have connected and have not said what they want.
const ASKING: usize = 8;
/// A look at the seal that is under way ends within this time.
const LOOK: Duration = Duration::from_secs(15);
/// How often a process that leaves says what it still has open.
const REPORT: Duration = Duration::from_secs(1);

/// What the old process needs to hand over.
pub(in crate::serve) struct Offering {
    pub(in crate::serve) instance: Arc<Instance>,
    /// The admin port and the admin socket.
    pub(in crate::serve) admin: Vec<OwnedFd>,
    pub(in crate::serve) predecessors: Arc<Predecessors>,
    pub(in crate::serve) ends: Ends,
    pub(in crate::serve) notifier: Notifier,
}

/// The process that has taken over, and what this one must not do any more.
struct Successor {
    channel: Channel,
    peer: Peer,
    /// Held for ever: this process looks at the seal no more.
    _seal: OwnedMutexGuard<()>,
}

/// Why a hand-over did not come about. Each goes to the log, and what concerns the new process to it as well.
#[derive(Debug, thiserror::Error)]
enum OfferError {
    /// The socket cannot be made.
    #[error("firewall.runDirectory: {0}")]
    Place(#[from] PlaceError),
    /// The connection broke: the new process has ended.
    #[error("the new process has ended, or cannot be heard: {0}")]
    Broken(#[from] io::Error),
    /// It takes too long.
    #[error("it was not done within {WHOLE:?}")]
    Late,
    /// The new process has other words.
    #[error(
        "the new process speaks version {0} of the hand-over, and this one version {VERSION}: restart instead"
    )]
    Version(u32),
    /// The new process says something that is not its turn to say.
    #[error("the new process does not keep to the order of the hand-over: is it of another version?")]
    Order,
    /// There are too many.
    #[error(
        "{most} processes that have handed over still serve what they had accepted: {0}. Wait for the \
         end of one, or end it by kill -TERM, which cuts its streams",
        most = predecessors::MOST
    )]
    TooMany(String),
    /// The seal would not know the new process.
    #[error(
        "the seal knows this gate by its user {own}, and process {pid} runs as user {uid}: run kubelet-gate \
         upgrade as user {own}, as systemctl reload does"
    )]
    Unsealed {
        /// The new process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// The user of this process.
        own: u32,
    },
    /// The kubelet has ended, and the next one may want an address.
    #[error("an address had to be let go of meanwhile, so that the kubelet can bind it; try again")]
    LetGo,
    /// The seal is being looked at.
    #[error("a look at the seal did not end within {LOOK:?}; try again")]
    Seal,
    /// The service manager would end the new process.
    #[error(
        "the service manager at NOTIFY_SOCKET cannot be told which process the gate is now: {0}; try again"
    )]
    ServiceManager(io::Error),
    /// The gate is told to stop.
    #[error("this process stops")]
    Stopping,
}

impl OfferError {
    /// For the metric.
    fn result(&self) -> &'static str {
        match self {
            Self::TooMany(_) | Self::Unsealed { .. } | Self::Version(_) => "refused",
            _ => "failed",
        }
    }
}

// === impl Offering ===

impl Offering {
    /// At each SIGUSR2 waits for a successor. Ends once another process is the gate.
    ///
    /// Dropped, it leaves the gate as it is.
    pub(in crate::serve) async fn keep(self, mut signals: Signal) {
        loop {
            tokio::select! {
                biased;
                () = self.ends.stop.cancelled() => return,
                signal = signals.recv() => if signal.is_none() { return },
            }
            let path = self.instance.settings.firewall.run_directory.display();
            tracing::info!("SIGUSR2: handing over to the process that asks in {path}/upgrade");
            match self.hand_over().await {
                Ok(successor) => return self.leave(successor).await,
                Err(error) => {
                    self.instance.metrics().upgrade(error.result());
                    tracing::warn!("nothing was handed over, and this process goes on: {error}");
                }
            }
        }
    }

    async fn hand_over(&self) -> Result<Successor, OfferError> {
        // The socket is there only until the new process has found it.
        let (channel, peer) = {
            let place = Place::make(&self.instance.settings.firewall.run_directory)?;
            let found = timeout(WHOLE, self.successor(&place));
            found.await.unwrap_or(Err(OfferError::Late))?
        };
        // An earlier process may have ended before it asked: this one has the whole time.
        let whole = Instant::now() + WHOLE;
        let handed = tokio::select! {
            biased;
            () = self.ends.stop.cancelled() => Err(OfferError::Stopping),
            handed = timeout_at(whole, self.hand(&channel, &peer)) => {
                handed.unwrap_or(Err(OfferError::Late))
            }
        };
        let committed = handed.and_then(|seal| {
            self.commit(&channel, &peer)?;
            Ok(seal)
        });
        match committed {
            Ok(seal) => Ok(Successor {
                channel,
                peer,
                _seal: seal,
            }),
            Err(error) => {
                let why = error.to_string();
                // A process that has ended reads nothing.
                let _ = channel.send(&OldSays::Refused { why }, &[]);
                self.instance.gate.audit.return_to_path().await;
                Err(error)
            }
        }
    }

    /// The first process that may take over and says that it wants to. One that says nothing delays no other.
    async fn successor(&self, place: &Place) -> Result<(Channel, Peer), OfferError> {
        let mut asking = JoinSet::new();
        loop {
            tokio::select! {
                accepted = place.accept() => {
                    let channel = Channel::from(accepted?);
                    match judged(&channel) {
                        Ok(peer) if asking.len() < ASKING => {
                            asking.spawn(async move {
                                let said = timeout(HELLO, channel.receive::<NewSays>()).await;
                                Some((said.ok()?.ok()?.0, channel, peer))
                            });
                        }
                        Ok(_) => {}
                        Err(stranger) => {
                            self.instance.metrics().upgrade("stranger");
                            tracing::warn!("a process may not take over: {stranger}");
                            let why = stranger.to_string();
                            let _ = channel.send(&OldSays::Refused { why }, &[]);
                        }
                    }
                }
                Some(asked) = asking.join_next() => {
                    let Ok(Some((said, channel, peer))) = asked else {
                        tracing::warn!("a process connected for a hand-over and did not ask for it");
                        continue;
                    };
                    match said {
                        NewSays::Hello { version: VERSION } => return Ok((channel, peer)),
                        NewSays::Hello { version } => {
                            let error = OfferError::Version(version);
                            let _ = channel.send(&OldSays::Refused { why: error.to_string() }, &[]);
                            return Err(error);
                        }
                        _ => return Err(OfferError::Order),
                    }
                }
            }
        }
    }

    /// Everything up to the last word. This process goes on serving meanwhile.
    async fn hand(&self, channel: &Channel, peer: &Peer) -> Result<OwnedMutexGuard<()>, OfferError> {
        let instance = &self.instance;
        if self.predecessors.count() >= predecessors::MOST {
            let leaving = instance.leaving.list();
            let each = leaving.iter().map(|leaving| {
                let Leaving {
                    pid,
                    since,
                    deadline,
                    connections,
                    streams,
                } = leaving;
                format!(
                    "process {pid} since {since}, with {connections} connections and {streams} streams, \
                     until {deadline} at most"
                )
            });
            return Err(OfferError::TooMany(each.collect::<Vec<_>>().join("; ")));
        }
        let own = rustix::process::geteuid().as_raw();
        if instance.exemption.is_some() && peer.uid != own {
            return Err(OfferError::Unsealed {
                pid: peer.process.pid(),
                uid: peer.uid,
                own,
            });
        }
        let exemption = instance.exemption.clone();
        let manager = self.notifier.manager().clone();
        channel.send(&OldSays::Offer { exemption, manager }, &[])?;
        let (NewSays::Ready, _) = channel.receive().await? else {
            return Err(OfferError::Order);
        };
        // The new process opens the audit file once more when it has the sockets.
        instance.gate.audit.leave_path().await;
        let let_go = instance.holding.let_go();
        self.send_sockets(channel)?;
        let served = tokio::select! {
            biased;
            () = instance.holding.lets_go_of_more_than(&let_go) => return Err(OfferError::LetGo),
            served = channel.receive() => served?.0,
        };
        let NewSays::Serving = served else {
            return Err(OfferError::Order);
        };
        let seal = timeout(LOOK, instance.seal_turn.clone().lock_owned()).await;
        seal.map_err(|_| OfferError::Seal)
    }

    fn send_sockets(&self, channel: &Channel) -> Result<(), OfferError> {
        let holding = &self.instance.holding;
        let (listeners, let_go) = (holding.descriptors()?, holding.let_go());
        let (leaving, connections): (Vec<_>, Vec<_>) = self.predecessors.descriptors()?.into_iter().unzip();
        let descriptors: Vec<_> = (listeners.iter().chain(&self.admin).chain(&connections))
            .map(|descriptor| descriptor.as_fd())
            .collect();
        let handed = Handed {
            listeners: listeners.len() + self.admin.len(),
            let_go: let_go.into_iter().collect(),
            leaving,
            seal: Seal::clone(&self.instance.seal.load()),
        };
        Ok(channel.send(&OldSays::Handed(handed), &descriptors)?)
    }

    /// The last word. There is no waiting in it: it is said as a whole, or not at all.
    fn commit(&self, channel: &Channel, peer: &Peer) -> Result<(), OfferError> {
        if !peer.process.runs() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // The service manager believes its main process alone, so it must know the new one before that
        // speaks. If it is not told, it ends both once it hears no more of this one.
        let told = self.notifier.succeeded_by(peer.process.pid().unsigned_abs());
        told.map_err(OfferError::ServiceManager)?;
        let said = channel.send(&OldSays::Yours, &[]);
        if said.is_err() {
            self.notifier.not_succeeded();
        }
        Ok(said?)
    }

    /// Stops accepting, and says every second what is still open, until the process ends.
    async fn leave(self, successor: Successor) {
        let since = SystemTime::now();
        let pid = successor.peer.process.pid();
        tracing::info!(
            successor = pid,
            "another process is the gate now; this one serves what it has accepted"
        );
        self.ends.leave.cancel();
        drop(self.admin);
        self.predecessors.clear();
        let upgrade = &self.instance.settings.upgrade;
        loop {
            let leaving = Leaving::this_process(since, upgrade, self.instance.metrics());
            match successor.channel.send(&leaving, &[]) {
                Ok(()) => {}
                // It reads nothing: it will read the newest ones.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            // It has nothing more to say.
            if let Ok(Err(_)) = timeout(REPORT, successor.channel.receive::<Leaving>()).await {
                break;
            }
        }
        tracing::warn!(
            successor = pid,
            "the process that took over has ended; this one accepts nothing, and goes on with what it has \
             open"
        );
        self.ends.alone.cancel();
    }
}

fn judged(channel: &Channel) -> Result<Peer, Stranger> {
    let peer = Peer::of(channel.as_fd())?;
    peer.judge_successor()?;
    Ok(peer)
}
