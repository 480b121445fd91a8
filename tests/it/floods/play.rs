//! An attack from its beginning to its end.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::attackers::{Attacker, Attackers};
use super::figures::{Row, Steal};
use super::ground::Ground;
use super::legitimate::{Experience, KNOWN, Kind, Legitimate, PROBES};
use super::scene::{Change, Holdings, Scene};
use super::{FULL, scaled};
use crate::patience::eventually;

/// An attack, and what it is judged by.
pub(super) struct Flood {
    name: &'static str,
    rate: String,
    changes: Vec<Change>,
    begin: u64,
    judged: Vec<Kind>,
    in_time: f64,
    needs_network: bool,
    descriptors: Option<u64>,
}

/// What an attack did.
pub(super) struct Outcome {
    /// How much the attackers sent.
    pub(super) sent: u64,
    /// How long they could.
    pub(super) took: Duration,
    pub(super) experience: Experience,
    pub(super) before: Holdings,
    /// At the end of the attack.
    pub(super) during: Holdings,
}

/// Attacks share two cores with all other tests; with each other they would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A window is measured again if more than this share of the machine's time was another machine's.
const STOLEN: f64 = 0.05;
/// The full form's bounds: any request of a known client, and a probe. Twice the worst of the control run is
/// allowed too.
const LATEST: Duration = Duration::from_secs(1);
const LATEST_PROBE: Duration = Duration::from_millis(100);

impl Flood {
    /// An attack of this name and rate, as the table has it.
    pub(super) fn new(name: &'static str, rate: impl Into<String>) -> Self {
        Self {
            name,
            rate: rate.into(),
            changes: Vec::new(),
            begin: 1,
            judged: KNOWN.into_iter().chain(PROBES).collect(),
            in_time: 1.0,
            needs_network: false,
            descriptors: None,
        }
    }

    /// Changes the configuration.
    pub(super) fn configure(mut self, change: impl FnOnce(&mut Value, &Path) + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// The legitimate client asks once the attackers have sent so much.
    pub(super) fn begin_after(self, begin: u64) -> Self {
        Self { begin, ..self }
    }

    /// Judges these kinds alone, and the probes.
    pub(super) fn judge(self, kinds: &[Kind]) -> Self {
        Self {
            judged: kinds.iter().copied().chain(PROBES).collect(),
            ..self
        }
    }

    /// In the full form, this share of the requests on new connections must be in time.
    pub(super) fn new_connections_in_time(self, in_time: f64) -> Self {
        Self { in_time, ..self }
    }

    /// Needs addresses that are not loopback.
    pub(super) fn on_network(self) -> Self {
        Self {
            needs_network: true,
            ..self
        }
    }

    /// Starts the gate with so many descriptors, if given.
    pub(super) fn descriptors(self, descriptors: Option<u64>) -> Self {
        Self { descriptors, ..self }
    }

    /// Plays the attack; panics if a request of the legitimate client is not answered, or something is left.
    pub(super) fn play(self, attack: impl AsyncFnOnce(Attacker) + Clone + Send + 'static) {
        self.play_with(attack, async |_| {}, async |_, _| {});
    }

    /// The same with a look at the gate while it is attacked, and one at the figures afterwards.
    pub(super) fn play_with(
        self,
        attack: impl AsyncFnOnce(Attacker) + Clone + Send + 'static,
        attacked: impl AsyncFn(&Scene) + Send,
        after: impl AsyncFnOnce(&Scene, &Outcome) + Send,
    ) {
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Ground::with(|ground| {
            if self.needs_network && !ground.is_network() {
                return;
            }
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(self.run(ground, attack, attacked, after));
        });
    }

    async fn run(
        mut self,
        ground: Ground,
        attack: impl AsyncFnOnce(Attacker) + Clone + Send + 'static,
        attacked: impl AsyncFn(&Scene),
        after: impl AsyncFnOnce(&Scene, &Outcome),
    ) {
        let scene = Scene::start(ground, self.descriptors, std::mem::take(&mut self.changes)).await;
        let mut legitimate = Legitimate::arrive(&scene, &self.judged).await;
        scene.eventually_idle(scene.holdings().descriptors).await.unwrap();
        let before = scene.holdings();
        let (mut windows, mut cpu);
        windows = 0;
        let outcome = loop {
            legitimate.settle().await;
            let attackers = Attackers::start(Attacker::of(&scene), attack.clone());
            eventually("the attack is under way", || attackers.sent() >= self.begin).await;
            let (began, steal) = (Instant::now(), Steal::begin());
            let experience = legitimate.ask(&scene).await;
            let stolen = steal.share();
            attacked(&scene).await;
            let during = scene.holdings();
            let outcome = Outcome {
                sent: attackers.sent(),
                took: began.elapsed(),
                experience,
                before,
                during,
            };
            cpu = attackers.stop();
            windows += 1;
            if !*FULL || stolen <= STOLEN || windows == 3 {
                break outcome;
            }
        };
        let control = if *FULL {
            legitimate.settle().await;
            let burner = Attackers::burn(cpu.as_secs_f64() / outcome.took.as_secs_f64());
            let control = legitimate.ask(&scene).await;
            burner.stop();
            Some(control)
        } else {
            None
        };
        let idle = scene.eventually_idle(before.descriptors).await;
        let longest = scaled(Duration::ZERO, Duration::from_secs(60));
        let (memory, seconds) = memory_after(&scene, before.memory, longest).await;
        let row = Row {
            name: self.name,
            rate: &self.rate,
            outcome: &outcome,
            control: control.as_ref(),
            memory,
            seconds,
        };
        row.note();
        let mut faults: Vec<String> = self
            .judged
            .iter()
            .filter_map(|kind| self.fault(*kind, &outcome.experience, control.as_ref()))
            .collect();
        faults.extend(idle.err());
        assert!(faults.is_empty(), "{}: {}", self.name, faults.join("; "));
        after(&scene, &outcome).await;
        drop(legitimate);
        scene.stop().await;
    }

    /// What is wrong with how requests of this kind fared.
    fn fault(&self, kind: Kind, experience: &Experience, control: Option<&Experience>) -> Option<String> {
        let answers = &experience[&kind];
        if !answers.all() {
            let (answered, asked) = (answers.answered, answers.asked);
            return Some(format!(
                "{kind:?}: {answered} of {asked} were answered; instead came {:?}",
                answers.failures
            ));
        }
        let bound = if PROBES.contains(&kind) {
            LATEST_PROBE
        } else {
            LATEST
        };
        let bound = bound.max(2 * control?[&kind].worst());
        let is_new = KNOWN.contains(&kind) && kind != Kind::Kept;
        let in_time = if is_new { self.in_time } else { 1.0 };
        let worst = answers.worst();
        (answers.share_within(bound) < in_time).then(|| format!("{kind:?}: {worst:?}, more than {bound:?}"))
    }
}

/// The gate's memory once it is below twice what it was before, or after the longest time; and how many
/// seconds that took.
pub(super) async fn memory_after(scene: &Scene, before: u64, longest: Duration) -> (u64, u64) {
    let began = Instant::now();
    loop {
        let (memory, waited) = (scene.holdings().memory, began.elapsed());
        if memory < 2 * before || waited >= longest {
            return (memory, waited.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
