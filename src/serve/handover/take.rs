//! The new process' side of a hand-over. Until the last word anything may fail: the old process then goes on.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::net::{SendFlags, send};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::leaving::Leaving;
use super::super::notify::ServiceManager;
use super::channel::Channel;
use super::message::{Handed, NewSays, OldSays, VERSION};
use super::offer::WHOLE;
use super::peer::{Peer, Stranger};
use super::place::{Place, PlaceError};
use super::predecessors::Predecessors;
use crate::seal::{Exemption, Seal};

/// The old process makes its socket within this time.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the new process looks for it.
const LOOK: Duration = Duration::from_millis(20);
/// An old process that is being killed has ended within this time.
const GONE: Duration = Duration::from_secs(10);

/// A connection to the gate that hands over.
pub(in crate::serve) struct Taking {
    channel: Channel,
    old: Peer,
    run_directory: PathBuf,
    exemption: Option<Exemption>,
    manager: ServiceManager,
}

/// What the old process has handed over. Until the last word it is the gate all the same.
pub(in crate::serve) struct Taken {
    taking: Taking,
    pub(in crate::serve) listeners: Vec<OwnedFd>,
    /// The addresses that it does not hold.
    pub(in crate::serve) let_go: BTreeSet<SocketAddr>,
    pub(in crate::serve) seal: Seal,
    /// The gates before it, and the connections to them.
    before: Vec<(Leaving, Channel)>,
}

/// Why this process does not take over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// No gate waits for a successor.
    #[error(
        "no gate has offered its sockets in {}/upgrade within {CONNECT:?}: did it get SIGUSR2, as \
         kubelet-gate upgrade sends it? Its log says what kept it", path.display()
    )]
    NoOffer {
        /// `firewall.runDirectory`.
        path: PathBuf,
    },
    /// The socket cannot be used.
    #[error("firewall.runDirectory: {0}")]
    Place(#[from] PlaceError),
    /// The process there is no gate of this user and cgroup.
    #[error(transparent)]
    Stranger(#[from] Stranger),
    /// The old process refuses, or has changed its mind.
    #[error("process {pid} does not hand over: {why}")]
    Refused {
        /// The old process.
        pid: i32,
        /// Why, as it says.
        why: String,
    },
    /// The connection broke.
    #[error("process {pid} has closed the connection; it goes on, and its log says why: {source}")]
    Closed {
        /// The old process.
        pid: i32,
        /// What was met.
        source: io::Error,
    },
    /// It takes too long.
    #[error("process {pid} has not answered within {WHOLE:?}; it goes on")]
    Late {
        /// The old process.
        pid: i32,
    },
    /// This process was told to stop.
    #[error("this process was told to stop before it was the gate; process {pid} goes on")]
    Stopping {
        /// The old process.
        pid: i32,
    },
    /// It says something that is not its turn to say.
    #[error("process {pid} does not keep to the order of the hand-over: is it of another version?")]
    Order {
        /// The old process.
        pid: i32,
    },
    /// The seal would not know this process.
    #[error(
        "the seal knows the gate by its user, its cgroup and a mark, and this process has another user or \
         cgroup, or may not set marks (CAP_NET_ADMIN): start it as the gate's user in the gate's cgroup, as \
         systemctl reload does"
    )]
    Exemption,
    /// A descriptor is no connection.
    #[error("what was handed over cannot be used: {0}")]
    Descriptor(#[from] io::Error),
    /// The command that started this process has ended, and gave up.
    #[error("kubelet-gate upgrade, which started this process, has ended: nothing was taken over")]
    Abandoned,
}

// === impl Taking ===

impl Taking {
    /// Connects to the gate that has been told to hand over, and hears what the new one's parts need.
    ///
    /// # Errors
    /// None offers its sockets, or not to this process.
    pub(in crate::serve) async fn begin(run_directory: &Path) -> Result<Self, TakeError> {
        let connecting = async {
            loop {
                if let Some(socket) = Place::connect(run_directory)? {
                    return Ok::<_, TakeError>(socket);
                }
                sleep(LOOK).await;
            }
        };
        let path = || run_directory.to_owned();
        let connected = timeout(CONNECT, connecting).await;
        let socket = connected.map_err(|_| TakeError::NoOffer { path: path() })??;
        let channel = Channel::new(socket)?;
        let old = Peer::of(channel.as_fd()).map_err(Stranger::from)?;
        old.judge_predecessor()?;
        let mut taking = Self {
            channel,
            old,
            run_directory: path(),
            exemption: None,
            manager: ServiceManager::default(),
        };
        match taking.ask(&NewSays::Hello { version: VERSION }).await?.0 {
            OldSays::Offer { exemption, manager } => {
                (taking.exemption, taking.manager) = (exemption, manager)
            }
            _ => return Err(taking.order()),
        }
        let suits = |exemption: &Exemption| exemption.suits_this_process();
        if !taking.exemption.as_ref().is_none_or(suits) {
            return Err(TakeError::Exemption);
        }
        Ok(taking)
    }

    /// By what the seal knows the old process' connections; the new one's are known by the same.
    pub(in crate::serve) fn exemption(&self) -> Option<Exemption> {
        self.exemption.clone()
    }

    /// The old process.
    pub(in crate::serve) fn pid(&self) -> i32 {
        self.old.process.pid()
    }

    /// Gets the sockets. Both processes have them then, and the old one accepts.
    ///
    /// # Errors
    /// The old process has ended, or refuses.
    pub(in crate::serve) async fn take(self) -> Result<Taken, TakeError> {
        if !tell_command("ready") {
            return Err(TakeError::Abandoned);
        }
        let (said, mut listeners) = self.ask(&NewSays::Ready).await?;
        let OldSays::Handed(handed) = said else {
            return Err(self.order());
        };
        let Handed {
            listeners: count,
            let_go,
            leaving,
            seal,
        } = handed;
        if listeners.len() != count + leaving.len() {
            return Err(self.order());
        }
        let connections = listeners.split_off(count);
        let before = leaving.into_iter().zip(connections).map(|(leaving, connection)| {
            let channel = Channel::new(connection)?;
            Ok((leaving, channel))
        });
        Ok(Taken {
            before: before.collect::<io::Result<_>>()?,
            taking: self,
            listeners,
            let_go: let_go.into_iter().collect(),
            seal,
        })
    }

    async fn ask(&self, say: &NewSays) -> Result<(OldSays, Vec<OwnedFd>), TakeError> {
        let pid = self.pid();
        let closed = |source| TakeError::Closed { pid, source };
        self.channel.send(say, &[]).map_err(closed)?;
        let answer = timeout(WHOLE, self.channel.receive()).await;
        match answer.map_err(|_| TakeError::Late { pid })?.map_err(closed)? {
            (OldSays::Refused { why }, _) => Err(TakeError::Refused { pid, why }),
            answer => Ok(answer),
        }
    }

    /// Waits for the end of the old process, if it is ending: this one has the sockets, and is the gate then.
    async fn until_alone(self) -> Result<(), ()> {
        let pid = self.pid();
        timeout(GONE, self.old.process.ended()).await.map_err(|_| ())?;
        tracing::warn!(
            pid,
            "the process that handed over has ended; this one has its sockets and goes on"
        );
        Place::clear(&self.run_directory);
        Ok(())
    }

    fn order(&self) -> TakeError {
        TakeError::Order { pid: self.pid() }
    }
}

// === impl Taken ===

impl Taken {
    /// Which service manager the old process tells.
    pub(in crate::serve) fn manager(&self) -> ServiceManager {
        self.taking.manager.clone()
    }

    /// Says that this process serves, and waits until it is the gate. The old process has stopped accepting
    /// then, or has ended.
    ///
    /// # Errors
    /// The old process goes on: this one must end.
    pub(in crate::serve) async fn commit(
        self,
        predecessors: &Arc<Predecessors>,
        stop: &CancellationToken,
    ) -> Result<(), TakeError> {
        let Self { taking, before, .. } = self;
        let pid = taking.pid();
        let asked = stop.run_until_cancelled(taking.ask(&NewSays::Serving)).await;
        let old = match asked.unwrap_or(Err(TakeError::Stopping { pid })) {
            Ok((OldSays::Yours, _)) => Some(taking.channel),
            Ok(_) => return Err(taking.order()),
            Err(error @ (TakeError::Late { .. } | TakeError::Closed { .. } | TakeError::Stopping { .. })) => {
                // What the old process has said counts. After this it can say no more.
                if let Ok(OldSays::Yours) = taking.channel.last() {
                    Some(taking.channel)
                } else if stop.is_cancelled() {
                    return Err(error);
                } else {
                    taking.until_alone().await.map_err(|()| error)?;
                    None
                }
            }
            Err(error) => return Err(error),
        };
        for (leaving, channel) in before {
            predecessors.follow(leaving.pid, channel);
            predecessors.note(leaving);
        }
        if let Some(channel) = old {
            predecessors.follow(pid.unsigned_abs(), channel);
        }
        Ok(())
    }
}

/// Tells `kubelet-gate upgrade` how far this process is, at standard input, which is a socket then. False if
/// it has ended.
pub(in crate::serve) fn tell_command(word: &str) -> bool {
    let input = io::stdin();
    let is_socket = rustix::fs::fstat(&input)
        .is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::Socket);
    !is_socket || send(&input, format!("{word}\n").as_bytes(), SendFlags::NOSIGNAL).is_ok()
}
