//! What `serve` does about the seal: lets its own connections through, looks after it, and puts it back if it may.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::instance::Instance;
use crate::seal::{
    Attempt, Changes, Confirmed, Firewall, Kind, Plan, PortKind, Reached, RunningGate, Seal, State,
    attempt_all, connections,
};
use crate::settings::Backend;

/// The seal is looked at this often even if nothing is announced: the end of a trial is not, nor is what happens to
/// iptables-legacy.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same as long as all is well and changes are announced: a look takes half a dozen processes.
const QUIET: Duration = Duration::from_secs(15);
/// Nobody takes so long to change the seal.
const CHANGE: Duration = Duration::from_secs(4);
/// A look that takes longer has found nothing out.
const LOOK: Duration = Duration::from_secs(10);
/// How long the start may wait until the gate is let through.
const ADMITTED: Duration = Duration::from_secs(5);
/// After an announcement: one look for all that comes at once.
const SETTLE: Duration = Duration::from_millis(100);

/// `serve`'s part in the seal.
pub(super) struct Watch {
    running: RunningGate,
    instance: Arc<Instance>,
    /// Ports and families that have a gauge.
    gauges: BTreeSet<(u16, &'static str)>,
    /// What carries the seal announces its changes.
    announces: bool,
    /// Since when somebody else has been changing the seal at every look.
    changing: Option<Instant>,
    reloaded: Option<Reloaded>,
}

/// What a look at the kernel and at the node's own state found.
enum Found {
    Absent,
    /// The rules are as they were loaded.
    InForce {
        plan: Plan,
        confirmed: bool,
    },
    /// The rules of the confirmed plan are not.
    Broken {
        plan: Plan,
        why: &'static str,
    },
}

/// What one look yields.
struct Look {
    found: Result<Found, String>,
    /// Somebody else held the lock.
    changing: bool,
    reloaded: Option<Reloaded>,
}

/// The confirmed plan as the kernel listed it once this gate had put it back.
#[derive(Clone)]
struct Reloaded {
    plan: Plan,
    fingerprint: String,
}

// === impl Watch ===

impl Watch {
    /// Of a gate that listens already, and has said in `firewall.runDirectory` what it is known by.
    pub(super) fn new(instance: Arc<Instance>, running: RunningGate) -> Self {
        Self {
            running,
            instance,
            gauges: BTreeSet::new(),
            announces: false,
            changing: None,
            reloaded: None,
        }
    }

    /// Lets the gate through, as far as it may, before it takes the first request: what it sent until then would come back to it.
    pub(super) async fn admit(&mut self) {
        let instance = self.instance.clone();
        instance.gate.kubelet.may_be_led_back(true);
        let running = self.running.clone();
        let looking = spawn_blocking(move || find(&instance, &running, None));
        // What is wrong, or takes longer, is for the next look to tell.
        if let Ok(Ok(look)) = timeout(ADMITTED, looking).await {
            self.reloaded = look.reloaded;
        }
    }

    /// Looks for ever, and publishes what it finds.
    pub(super) async fn keep(mut self) {
        let mut changes = Changes::listen().ok();
        let mut last = Instant::now();
        loop {
            if let Some(seal) = self.look().await {
                let now = Instant::now();
                // How long it was as the look before found it.
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
                    tracing::warn!(%error, "changes of the seal are no longer announced; it is looked at every 2 s");
                    changes = None;
                }
            }
        }
    }

    /// Tells people what has changed, and everybody what is.
    fn publish(&self, seal: Seal) {
        let before = self.instance.seal.load_full();
        if *before != seal {
            match &seal {
                Seal::Unwatched => {}
                Seal::Absent if *before == Seal::Unwatched => {}
                Seal::Absent => tracing::warn!("the seal is gone: the kubelet's ports are open on this node"),
                Seal::Trial => tracing::info!("the seal is on trial, and holds"),
                Seal::Sealed => tracing::info!("sealed: nobody gets around the gate"),
                Seal::Open(why) => tracing::error!("NOT SEALED: {why}"),
                Seal::Unknown(why) => tracing::error!("whether the node is sealed cannot be seen: {why}"),
            }
        }
        self.instance.seal.store(Arc::new(seal));
    }

    /// `None`: somebody is changing it just now.
    async fn look(&mut self) -> Option<Seal> {
        let (instance, running, reloaded) =
            (self.instance.clone(), self.running.clone(), self.reloaded.clone());
        let looking = spawn_blocking(move || find(&instance, &running, reloaded));
        let found = match timeout(LOOK, looking).await {
            Ok(Ok(look)) => {
                self.reloaded = look.reloaded;
                self.changing = look.changing.then(|| self.changing.unwrap_or_else(Instant::now));
                look.found
            }
            Ok(Err(error)) => Err(error.to_string()),
            // It ends by itself, since each program is given up on; the next look finds the lock taken until then.
            Err(_) => Err(format!("a look was not done in {LOOK:?}")),
        };
        // Halfway through a change it looks like anything. Whoever holds the lock for longer hides nothing by that.
        let halfway = self.changing.is_some_and(|since| since.elapsed() < CHANGE);
        let found = match found {
            Ok(found @ Found::InForce { .. }) => found,
            _ if halfway => return None,
            Ok(found) => found,
            Err(why) => return Some(self.nothing_known(Seal::Unknown(why))),
        };
        Some(match found {
            Found::Absent => {
                // No gauge is no promise.
                self.nothing_known(Seal::Absent)
            }
            Found::Broken { plan, why } => {
                self.show(&plan, None);
                Seal::Open(why.into())
            }
            Found::InForce { plan, confirmed } => self.go_around(&plan, confirmed).await,
        })
    }

    /// The rules are there; do they hold?
    async fn go_around(&mut self, plan: &Plan, confirmed: bool) -> Seal {
        self.announces = plan.backend != Backend::IptablesLegacy;
        let loopback = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ];
        let attempts = attempt_all(plan, &loopback, &self.running).await;
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
            }) => Seal::Unknown(format!("{address}: {why}")),
            Some(Attempt { address, .. }) => Seal::Open(format!("{address} was reached around the gate")),
            None if confirmed => Seal::Sealed,
            None => Seal::Trial,
        }
    }

    /// One gauge for each port and family; down without attempts.
    fn show(&mut self, plan: &Plan, attempts: Option<&[Attempt]>) {
        for port in plan.ports.iter().filter(|port| port.kind != PortKind::Healthz) {
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

    fn nothing_known(&self, seal: Seal) -> Seal {
        for (port, family) in &self.gauges {
            self.instance.metrics().bypass_sealed(*port, family, false);
        }
        seal
    }
}

/// Looks once; the lock is taken if it is free, and nothing is changed without. Blocks.
fn find(instance: &Instance, running: &RunningGate, mut reloaded: Option<Reloaded>) -> Look {
    let state = State::new(&instance.settings.firewall.state_directory);
    let mut changing = false;
    let mut look = || {
        if !state.begun() {
            instance.gate.kubelet.may_be_led_back(false);
            return Ok(Found::Absent);
        }
        let lock = state.try_lock().map_err(|error| error.to_string())?;
        changing = lock.is_none();
        compare(instance, &state, running, &mut reloaded, lock.is_some())
    };
    Look {
        found: look(),
        changing,
        reloaded,
    }
}

/// Compares the kernel with the node's state. If it may change something it lets the gate through, puts back what somebody
/// took away, and tidies up after a trial that ended.
fn compare(
    instance: &Instance,
    state: &State,
    running: &RunningGate,
    reloaded: &mut Option<Reloaded>,
    may_change: bool,
) -> Result<Found, String> {
    let settings = &instance.settings.firewall;
    let confirmed = state.confirmed().map_err(|error| error.to_string())?;
    let trial = state.trial().map_err(|error| error.to_string())?;
    let Some(plan) = confirmed
        .as_ref()
        .map(|confirmed| &confirmed.plan)
        .or(trial.as_ref())
    else {
        instance.gate.kubelet.may_be_led_back(false);
        return Ok(Found::Absent);
    };
    let firewall = Firewall::of(plan.backend);
    let listed = firewall.fingerprint().map_err(|error| error.to_string())?;
    let remaining = firewall.trial_remaining().map_err(|error| error.to_string())?;
    let mut through = listed.is_none();
    if !through && let Some(exemption) = &running.exemption {
        through = firewall.admitted(exemption).map_err(|error| error.to_string())?;
        if !through && may_change {
            match firewall.admit(exemption) {
                Ok(()) => {
                    through = true;
                    tracing::info!("the seal lets the gate's connections through");
                }
                // iptables-legacy wants a lock that is root's.
                Err(error) => tracing::warn!(
                    "the seal does not let the gate's connections through: {error}; as root: kubelet-gate firewall admit"
                ),
            }
        }
    }
    instance.gate.kubelet.may_be_led_back(!through);
    if let (Some(_), Some(trial)) = (remaining, &trial) {
        return Ok(Found::InForce {
            plan: trial.clone(),
            confirmed: false,
        });
    }
    if let Some(tried) = &trial
        && listed.is_some()
        && confirmed
            .as_ref()
            .is_none_or(|confirmed| confirmed.plan != *tried)
        && firewall
            .carries(tried, Kind::Confirmed)
            .map_err(|error| error.to_string())?
    {
        return Ok(Found::Broken {
            plan: tried.clone(),
            why: "the seal is in force, but its confirmation did not finish: kubelet-gate firewall confirm finishes it",
        });
    }
    let Some(confirmed) = confirmed else {
        // Whoever confirmed it wanted it to stay; half of it is no trial that ended.
        if listed.is_some() && firewall.confirmed_any().map_err(|error| error.to_string())? {
            return Ok(Found::Broken {
                plan: plan.clone(),
                why: "the confirmation of the seal ended halfway: apply and confirm again",
            });
        }
        // They match nothing any more, whether or not they can be taken away.
        if may_change && listed.is_some() && firewall.remove().is_ok() {
            tracing::info!("the trial ended without being confirmed; its rules are taken away");
        }
        return Ok(Found::Absent);
    };
    let as_loaded = |listed: &String| {
        let mut ours = reloaded.iter().filter(|reloaded| reloaded.plan == confirmed.plan);
        ours.any(|reloaded| reloaded.fingerprint == *listed)
    };
    let why = match &listed {
        Some(listed) if *listed == confirmed.fingerprint || as_loaded(listed) => None,
        Some(_) if firewall.version().map_err(|error| error.to_string())? != confirmed.tool => Some(
            "the rules cannot be compared, since they were confirmed with another version of the program that lists them: \
             apply and confirm again",
        ),
        Some(_) => Some("somebody changed the rules of the seal"),
        None => Some("the rules of the seal are gone"),
    };
    // A trial that ended is only tidied up after: what is in force is the confirmed plan.
    let ended = trial.is_some() && firewall.left_of_trial().map_err(|error| error.to_string())?;
    let plan = confirmed.plan.clone();
    let load = || firewall.load(Some(&plan), None, running.exemption.as_ref());
    let why = match why {
        Some(why) if settings.managed && may_change => match load() {
            Ok(()) => {
                tracing::warn!("{why}; they were put back, as firewall.managed says");
                *reloaded = listed_now(&firewall, state, confirmed)?;
                None
            }
            Err(error) => {
                tracing::error!("{why}, and cannot be put back: {error}");
                Some(why)
            }
        },
        None if ended && may_change => {
            // What is left matches nothing, whether or not it can be taken away.
            if load().is_ok() {
                tracing::info!("the trial ended without being confirmed; the confirmed seal is in force");
            }
            None
        }
        why => why,
    };
    Ok(match why {
        Some(why) => Found::Broken { plan, why },
        None => Found::InForce {
            plan,
            confirmed: true,
        },
    })
}

/// What the kernel lists of the confirmed plan right after it was loaded; another version of a program than the one that it
/// was confirmed with lists it otherwise. Without this the next look would take that for somebody's change, and the load
/// that follows would announce itself to the look after it.
fn listed_now(firewall: &Firewall, state: &State, confirmed: Confirmed) -> Result<Option<Reloaded>, String> {
    let listed = firewall.fingerprint().map_err(|error| error.to_string())?;
    let Some(fingerprint) = listed.filter(|listed| *listed != confirmed.fingerprint) else {
        return Ok(None);
    };
    let listed = Confirmed {
        fingerprint: fingerprint.clone(),
        tool: firewall.version().map_err(|error| error.to_string())?,
        plan: confirmed.plan.clone(),
    };
    // Where the directory is not the gate's, each gate that starts finds it out once.
    if let Err(error) = state.keep_listed(&listed) {
        tracing::info!("how the rules are listed now is remembered until the gate ends: {error}");
    }
    Ok(Some(Reloaded {
        plan: confirmed.plan,
        fingerprint,
    }))
}
