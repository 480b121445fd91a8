//! What `serve` does about the seal: it admits its own connections, watches the rules, and puts them back if
//! it may.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::instance::Instance;
use crate::seal::draining::{StillOpen, settle};
use crate::seal::{
    Attempt, Case, Changes, FileError, FirewallError, Plan, Reached, Restored, RunningGate, Seal, Standing,
    StandingError, State, WireMemory, attempt_all, connections, put_back, tidy,
};
use crate::settings::Backend;
use crate::timestamp::timestamp;

/// The seal is looked at this often even if nothing is announced: the end of a trial is not, nor is a change
/// of iptables-legacy.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same as long as all is well and changes are announced: a look takes half a dozen processes.
const QUIET: Duration = Duration::from_secs(15);
/// A change of the seal takes less; after that the state found is final.
const CHANGE: Duration = Duration::from_secs(4);
/// A look that takes longer has found nothing out.
const LOOK: Duration = Duration::from_secs(10);
/// Between two looks whether the last connection of a seal that has ended is gone.
const DRAINING: Duration = Duration::from_secs(5);
/// How long the start may wait until the gate is admitted.
const ADMITTED: Duration = Duration::from_secs(5);
/// After an announcement: one look for all that come at once.
const SETTLE: Duration = Duration::from_millis(100);

/// `serve`'s part in the seal.
pub(super) struct Watch {
    running: RunningGate,
    instance: Arc<Instance>,
    /// Ports and families that have a gauge.
    gauges: BTreeSet<(u16, &'static str)>,
    /// The packet filter of the seal announces its changes.
    announces: bool,
    /// Since when another process has been changing the seal at every look.
    changing: Option<Instant>,
    /// The seal goes by another `sources.port` than the gate, and that is in the log.
    other_sources: bool,
    /// What was kept of a seal that has ended.
    drain: Drain,
    /// The rules were put back, and how they are listed could not be noted: to load them once more would not
    /// help.
    unnoted: bool,
}

/// What a look at the kernel and at the node's own state found.
enum Found {
    /// Nothing is in force, and nothing should be.
    Absent,
    /// The rules of this plan are in force.
    InForce { plan: Plan, confirmed: bool },
    /// Others than the confirmed ones are.
    Broken { plan: Plan, why: String },
    /// It cannot be told which plan is in force.
    Unknown(String),
}

/// What the watch knows of connections that a seal which has ended had brought to the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Drain {
    /// Not looked at yet, or a seal stands.
    Unknown,
    /// Looked at then, and some are open, so that their chain stays.
    StillOpen(Instant),
    /// Their chain could not be taken away then.
    Failed(Instant),
    /// Nothing is left.
    Over,
}

/// What one look yields.
struct Look {
    /// What became of what was kept for connections; `None`: not looked at.
    drained: Option<Result<Option<StillOpen>, FirewallError>>,
    found: Result<Found, LookError>,
    /// Another process held the lock.
    changing: bool,
    unnoted: bool,
}

/// Why a look found nothing out.
#[derive(Debug, thiserror::Error)]
enum LookError {
    /// The kernel or the state.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] FileError),
    /// The packet filter.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// A bug.
    #[error("a look ended early: {0}")]
    Panicked(#[from] tokio::task::JoinError),
    /// Each program is given up on in time, so that the look ends by itself; until then the next ones find
    /// the lock taken.
    #[error("a look was not done in {LOOK:?}")]
    Late,
}

// === impl Watch ===

impl Watch {
    /// Of a gate that listens already, and has written its exemption to `firewall.runDirectory`.
    pub(super) fn new(instance: Arc<Instance>, running: RunningGate) -> Self {
        Self {
            running,
            instance,
            gauges: BTreeSet::new(),
            announces: false,
            changing: None,
            other_sources: false,
            drain: Drain::Unknown,
            unnoted: false,
        }
    }

    /// Admits the gate, as far as it may, before it takes the first request: until then its connections to
    /// the kubelet would be brought back to it.
    pub(super) async fn admit(&mut self) {
        let instance = self.instance.clone();
        instance.gate.kubelet.set_sealed(true);
        let running = self.running.clone();
        let looking = look_aside(instance, running, false, false);
        // What is wrong, or takes longer, is for the next look to tell.
        if let Ok(Ok(look)) = timeout(ADMITTED, looking).await {
            self.unnoted = look.unnoted;
        }
    }

    /// Looks for ever, and publishes what it finds.
    pub(super) async fn keep(mut self) {
        let mut changes = Changes::listen().ok();
        let mut last = Instant::now();
        loop {
            if let Some(seal) = self.look().await {
                let now = Instant::now();
                // For so long it was as the look before found it.
                if matches!(*self.instance.seal.load_full(), Seal::Open(_) | Seal::Unknown(_)) {
                    let open = (now - last).as_secs_f64();
                    self.instance.metrics().seal_open_seconds.inc_by(open);
                }
                last = now;
                self.publish(seal);
            }
            let announced = async {
                match &changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            let quiet = self.announces
                && changes.is_some()
                && self.changing.is_none()
                && *self.instance.seal.load_full() == Seal::Sealed;
            match timeout(if quiet { QUIET } else { INTERVAL }, announced).await {
                Err(_) => {}
                Ok(Ok(())) => sleep(SETTLE).await,
                Ok(Err(error)) => {
                    tracing::warn!(
                        %error,
                        "changes of the seal are no longer announced; it is looked at every 2 s"
                    );
                    changes = None;
                }
            }
        }
    }

    /// Logs what has changed, and publishes what is.
    fn publish(&self, seal: Seal) {
        let before = self.instance.seal.load_full();
        if *before != seal {
            match &seal {
                Seal::Unwatched => {}
                Seal::Absent if *before == Seal::Unwatched => {}
                Seal::Absent => tracing::warn!("the seal is gone: the kubelet's ports are open on this node"),
                Seal::Trial => tracing::info!("the seal is on trial, and holds"),
                Seal::Sealed => tracing::info!("sealed: no connection bypasses the gate"),
                Seal::Shut(why) => tracing::error!("the seal keeps callers out: {why}"),
                Seal::Open(why) => tracing::error!("NOT SEALED: {why}"),
                Seal::Unknown(why) => tracing::error!("whether the node is sealed cannot be seen: {why}"),
            }
        }
        self.instance.metrics().seal(before.name(), seal.name());
        self.instance.seal.store(Arc::new(seal));
    }

    /// `None`: another process is changing it just now.
    async fn look(&mut self) -> Option<Seal> {
        let (instance, running, unnoted) = (self.instance.clone(), self.running.clone(), self.unnoted);
        let looking = look_aside(instance, running, unnoted, self.drain.is_due());
        let found = match timeout(LOOK, looking).await {
            Ok(Ok(look)) => {
                self.unnoted = look.unnoted;
                self.note_drained(look.drained);
                self.changing = look.changing.then(|| self.changing.unwrap_or_else(Instant::now));
                look.found
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(LookError::Late),
        };
        if !matches!(found, Ok(Found::Absent)) {
            self.drain = Drain::Unknown;
        }
        // Readings during a change are meaningless. A process that holds the lock for longer hides nothing by
        // that.
        let halfway = self.changing.is_some_and(|since| since.elapsed() < CHANGE);
        let found = match found {
            Ok(found @ Found::InForce { .. }) => found,
            _ if halfway => return None,
            Ok(found) => found,
            Err(error) => Found::Unknown(error.to_string()),
        };
        Some(match found {
            Found::Absent => {
                self.clear_gauges();
                Seal::Absent
            }
            Found::Unknown(why) => {
                self.clear_gauges();
                Seal::Unknown(why)
            }
            Found::Broken { plan, why } => {
                self.show(&plan, None);
                Seal::Open(why)
            }
            Found::InForce { plan, confirmed } => self.go_around(&plan, confirmed).await,
        })
    }

    /// Logs what has become of connections of a seal that has ended.
    fn note_drained(&mut self, drained: Option<Result<Option<StillOpen>, FirewallError>>) {
        let now = Instant::now();
        let drain = match drained {
            None => return,
            Some(Ok(None)) => Drain::Over,
            Some(Ok(Some(open))) => {
                if !matches!(self.drain, Drain::StillOpen(_)) {
                    tracing::info!(
                        connections = open.connections,
                        until = timestamp(open.until),
                        "the seal has ended, and connections that it had brought to the gate go on"
                    );
                }
                Drain::StillOpen(now)
            }
            Some(Err(error)) => {
                // Before, it may be a packet filter that was never used here, and that the gate may not list.
                if matches!(self.drain, Drain::StillOpen(_)) {
                    tracing::warn!(
                        "what keeps connections of a seal that has ended cannot be taken away: {error}; as \
                         root: kubelet-gate firewall status"
                    );
                }
                Drain::Failed(now)
            }
        };
        if matches!(self.drain, Drain::StillOpen(_)) && drain == Drain::Over {
            tracing::info!("the last connection that the seal had brought to the gate has ended");
        }
        self.drain = drain;
    }

    /// The rules are there; do they hold?
    async fn go_around(&mut self, plan: &Plan, confirmed: bool) -> Seal {
        self.announces = plan.backend != Backend::IptablesLegacy;
        let loopback = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ];
        let sources = self.instance.gate.rules.load().sources.port.clone();
        let other_sources = plan.sources != sources.distinct();
        if other_sources && !self.other_sources {
            tracing::warn!(
                "the seal goes by another sources.port than the gate: a source has to be in both; \
                 kubelet-gate firewall apply takes up the new one"
            );
        }
        self.other_sources = other_sources;
        let attempts = attempt_all(plan, &loopback, &self.running, &sources).await;
        self.show(plan, Some(&attempts));
        if let Ok(open) = connections::ungated(plan, self.running.uid) {
            let open = i64::try_from(open.len()).unwrap_or(i64::MAX);
            self.instance.metrics().ungated_connections.set(open);
        }
        let through = attempts.iter().find(|attempt| !attempt.reached.is_sealed());
        match through {
            Some(Attempt {
                address,
                reached: Reached::Unknown(why),
            }) => return Seal::Unknown(format!("{address}: {why}")),
            Some(Attempt { address, .. }) => {
                return Seal::Open(format!("{address} was reached around the gate"));
            }
            None => {}
        }
        // The gate may make no network to dial from: what a command found counts until the next one looks.
        let state = State::new(&self.instance.settings.firewall.state_directory);
        match WireMemory::load(&state).map(|memory| memory.kept_out) {
            Err(error) => Seal::Unknown(error.to_string()),
            Ok(Some(why)) => Seal::Shut(why),
            Ok(None) if confirmed => Seal::Sealed,
            Ok(None) => Seal::Trial,
        }
    }

    /// One gauge for each port and family; down without attempts.
    fn show(&mut self, plan: &Plan, attempts: Option<&[Attempt]>) {
        for port in plan.ports.iter().filter(|port| port.kind.leads_around()) {
            for (family, ipv6) in [("ipv4", false), ("ipv6", true)] {
                let of_this = |attempt: &&Attempt| {
                    attempt.address.port() == port.port && attempt.address.is_ipv6() == ipv6
                };
                let sealed = attempts.is_some_and(|attempts| {
                    attempts
                        .iter()
                        .filter(of_this)
                        .all(|attempt| attempt.reached.is_sealed())
                });
                self.instance.metrics().bypass_sealed(port.port, family, sealed);
                self.gauges.insert((port.port, family));
            }
        }
    }

    /// An absent value must not read as sealed.
    fn clear_gauges(&self) {
        for (port, family) in &self.gauges {
            self.instance.metrics().bypass_sealed(*port, family, false);
        }
    }
}

// === impl Drain ===

impl Drain {
    /// Listing the kernel's connections takes its time on a node that has many.
    fn is_due(self) -> bool {
        match self {
            Self::Unknown => true,
            Self::StillOpen(looked) | Self::Failed(looked) => looked.elapsed() > DRAINING,
            Self::Over => false,
        }
    }
}

/// Looks once, on a thread of its own, in this process' turn. It goes on when it is no longer waited for.
async fn look_aside(
    instance: Arc<Instance>,
    running: RunningGate,
    unnoted: bool,
    drain: bool,
) -> Result<Look, tokio::task::JoinError> {
    let turn = instance.seal_turn.clone().lock_owned().await;
    let looking = move || {
        let _turn = turn;
        look_once(&instance, &running, unnoted, drain)
    };
    spawn_blocking(looking).await
}

/// Looks once; the lock is taken if it is free, and nothing is changed without. Blocks.
fn look_once(instance: &Instance, running: &RunningGate, mut unnoted: bool, drain: bool) -> Look {
    let state = State::new(&instance.settings.firewall.state_directory);
    let mut changing = false;
    let mut drained = None;
    let mut look = || {
        if !state.begun() {
            instance.gate.kubelet.set_sealed(false);
            return Ok(Found::Absent);
        }
        // It may stand, also where what follows cannot be read.
        instance.gate.kubelet.set_sealed(true);
        let lock = state.try_lock()?;
        changing = lock.is_none();
        let Some(standing) = Standing::judge(&state, &instance.settings.firewall.run_directory)? else {
            // The kernel leads a reset connection's packets for a while after the rules are gone.
            drained = (drain && lock.is_some()).then(|| settle(&state));
            return Ok(Found::Absent);
        };
        if drain && lock.is_some() && standing.case == Case::Ended && standing.rules.is_none() {
            drained = Some(settle(&state));
        }
        admit(&standing, running, lock.is_some())?;
        Ok(act(
            instance,
            &state,
            &standing,
            running,
            lock.is_some(),
            &mut unnoted,
        ))
    };
    Look {
        found: look(),
        drained,
        changing,
        unnoted,
    }
}

/// Has the rules let the gate's connections through, if they do not and it may.
fn admit(standing: &Standing, running: &RunningGate, may_change: bool) -> Result<(), FirewallError> {
    let in_force = standing.rules.fingerprint().is_some();
    let Some(exemption) = running.exemption.as_ref().filter(|_| in_force) else {
        return Ok(());
    };
    if standing.rules.admits(exemption)? || !may_change {
        return Ok(());
    }
    match standing.firewall.admit(exemption) {
        Ok(()) => tracing::info!("the seal lets the gate's connections through"),
        // iptables-legacy wants a lock that is root's.
        Err(error) => tracing::warn!(
            "the seal does not let the gate's connections through: {error}; as root: kubelet-gate firewall \
             admit"
        ),
    }
    Ok(())
}

/// Says what the judgement means. If it may change something it puts back what was taken away, and tidies up
/// after a trial that ended.
fn act(
    instance: &Instance,
    state: &State,
    standing: &Standing,
    running: &RunningGate,
    may_change: bool,
    unnoted: &mut bool,
) -> Found {
    let (settings, exemption) = (&instance.settings.firewall, running.exemption.as_ref());
    let (Some(plan), case) = (standing.plan().cloned(), &standing.case) else {
        return Found::Absent;
    };
    // What is left of a trial matches nothing, whether or not it can be taken away.
    if may_change && matches!(tidy(standing, exemption), Ok(true)) {
        tracing::info!("the trial ended without being confirmed; what was left of it is taken away");
    }
    let in_force = |plan, confirmed| Found::InForce { plan, confirmed };
    let why = case.problem().unwrap_or_default();
    let put_back_allowed = settings.managed && may_change;
    match case {
        Case::InForce => {
            *unnoted = false;
            in_force(plan, true)
        }
        Case::Trial { .. } => in_force(plan, false),
        Case::Ended => Found::Absent,
        Case::UnknownTrial { .. } => Found::Unknown(why),
        Case::Unfinished | Case::Fragment => Found::Broken { plan, why },
        Case::Incomparable { .. } if *unnoted => Found::Broken { plan, why },
        Case::Changed | Case::Gone | Case::Incomparable { .. } if !put_back_allowed => {
            Found::Broken { plan, why }
        }
        Case::Changed | Case::Gone | Case::Incomparable { .. } => {
            let finding = case.finding().unwrap_or_default();
            match put_back(standing, state, &settings.run_directory, exemption) {
                Ok(Restored::ChangedAgain) => {
                    tracing::error!("{finding}; they were put back, and changed again at once");
                    Found::Broken { plan, why }
                }
                Ok(restored) => {
                    tracing::warn!("{finding}; they were put back, as firewall.managed says");
                    *unnoted = matches!(restored, Restored::Unnoted(_));
                    if let Restored::Unnoted(error) = restored {
                        tracing::warn!("how the rules are listed now cannot be noted: {error}");
                    }
                    in_force(plan, true)
                }
                Err(error) => {
                    tracing::error!("{finding}; they cannot be put back: {error}");
                    Found::Broken { plan, why }
                }
            }
        }
    }
}
