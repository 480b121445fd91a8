//! Whether the gate can do its work, part by part.
//!
//! An answer takes no longer than [`PATIENCE`], and neither load nor strangers change it: a part counts as
//! broken when that is proven, not when it is slow or its queue is full.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::part::{Part, PartState};
use crate::apiserver::Reachability;
use crate::forward::ProbeFailure;
use crate::host::{Helper, sandbox};
use crate::seal::Seal;
use crate::serve::instance::Instance;
use crate::serve::node::{Confirmation, Prospect};
use crate::settings::AuditSink;
use crate::timestamp::timestamp;

/// How long a request waits for a new look at the kubelet; after that the last one counts.
const PATIENCE: Duration = Duration::from_millis(50);
/// The same if there was none before.
const FIRST: Duration = Duration::from_secs(1);
/// How long a look at the kubelet is new: clients that ask for the gate's health cannot flood the kubelet.
const NEW: Duration = Duration::from_secs(1);
/// For so long what was last known to be well counts, while nothing is found out or written.
const GRACE: Duration = Duration::from_secs(30);

/// Answers `/readyz`.
pub(super) struct Readiness {
    instance: Arc<Instance>,
    stopping: CancellationToken,
    kubelet: Arc<watch::Sender<KubeletState>>,
    audit: Mutex<AuditProgress>,
    seal: Mutex<SealMemory>,
}

/// When the seal was last found in force, if nothing else was found since.
#[derive(Default)]
struct SealMemory(Option<Instant>);

/// What is known about the kubelet.
struct KubeletState {
    looking: bool,
    looked: Option<Instant>,
    /// When it was last connected to.
    reached: Option<Instant>,
    verdict: Result<(), String>,
}

/// How far the audit writer has come.
struct AuditProgress {
    written: u64,
    since: Instant,
}

// === impl Readiness ===

impl Readiness {
    pub(super) fn new(instance: Arc<Instance>, stopping: CancellationToken) -> Self {
        Self {
            instance,
            stopping,
            kubelet: Arc::new(watch::Sender::new(KubeletState {
                looking: false,
                looked: None,
                reached: None,
                verdict: Err("it has not answered yet".to_owned()),
            })),
            audit: Mutex::new(AuditProgress {
                written: 0,
                since: Instant::now(),
            }),
            seal: Mutex::default(),
        }
    }

    /// Whether the gate is ready, and the answer's text; `verbose` lists every part.
    pub(super) async fn report(&self, verbose: bool) -> (bool, String) {
        let (ready, parts) = match verbose {
            true => self.every_part().await,
            false => judged(self.parts().await),
        };
        let mut report = String::new();
        for part in parts.iter().filter(|part| verbose || part.is_broken()) {
            // Writing to a String does not fail.
            let _ = writeln!(report, "{part}");
        }
        report.push_str(if ready { "ok\n" } else { "not ready\n" });
        (ready, report)
    }

    /// Whether the gate is ready, and all that `/readyz?verbose` lists.
    pub(super) async fn every_part(&self) -> (bool, Vec<Part>) {
        let mut parts = self.parts().await;
        let note = |name| {
            move |what| Part {
                name,
                state: PartState::Note(what),
            }
        };
        parts.extend(self.instance.left_out().into_iter().map(note("sources")));
        let leaving = self.instance.leaving.list().into_iter();
        parts.extend(leaving.map(|process| process.to_string()).map(note("leaving")));
        judged(parts)
    }

    /// Every part that is looked at, in the order of the report. Only a broken part makes the gate unready.
    async fn parts(&self) -> Vec<Part> {
        let part = |name, state| Part { name, state };
        let mut parts = vec![
            part("listener", self.listener().into()),
            part("certificate", self.certificate()),
            part("kubelet", self.kubelet().await.into()),
            part("audit", self.audit()),
            part("seal", self.seal()),
        ];
        if let Some(api_server) = &self.instance.api_server {
            let now = SystemTime::now();
            parts.push(part("api-server", reachability(api_server.reachability(), now)));
        }
        if let Some(state) = node(self.instance.node.confirmation()) {
            parts.push(part("node", state));
        }
        if let Some(stale) = &self.instance.gate.rules.load().stale {
            let state = match stale.usage() {
                None => PartState::Unknown("allowed, and none was used".into()),
                Some((used, last)) => {
                    PartState::Note(format!("{used} were used, the last at {}", timestamp(last)))
                }
            };
            parts.push(part("stale-answers", state));
        }
        parts.extend(
            self.next_start()
                .into_iter()
                .map(|state| part("next-start", state)),
        );
        parts.extend(self.sandbox().map(|state| part("sandbox", state)));
        let lost = self.instance.helper_lost.get();
        parts.extend(lost.map(|why| {
            part(
                "helper",
                PartState::Note(format!("ended: {why}; restart the gate")),
            )
        }));
        let notes = self.instance.not_in_force.load();
        let notes = notes
            .iter()
            .map(|(what, note)| part(what, PartState::Note(note.clone())));
        parts.extend(notes);
        parts
    }

    /// What contains the process; nothing in a process that is not contained by itself, such as the lab's.
    fn sandbox(&self) -> Option<PartState> {
        Helper::of_this_process()?;
        Some(match sandbox::in_force() {
            None => PartState::Note("off".into()),
            Some(sandbox) if sandbox.is_complete() => PartState::Ok,
            Some(sandbox) => PartState::Note(sandbox.to_string()),
        })
    }

    fn listener(&self) -> Result<(), String> {
        if self.stopping.is_cancelled() {
            return Err("stopping".into());
        }
        self.instance.holding.missing().map_or(Ok(()), Err)
    }

    /// What the kubelet's next start would do to the gate's addresses; nothing where none is at stake. As
    /// long as the running kubelet lives the gate serves.
    fn next_start(&self) -> Vec<PartState> {
        let holding = &self.instance.holding;
        if holding.at_stake().is_empty() {
            return Vec::new();
        }
        let Some(prospects) = holding.prospects() else {
            return vec![PartState::Unknown("not looked at yet".to_owned())];
        };
        let states = prospects.iter().filter_map(|(address, prospect)| {
            let text = prospect.text(*address)?;
            Some(match prospect {
                Prospect::Taken(_) => PartState::Note(text),
                Prospect::Free | Prospect::Unknown(_) => PartState::Unknown(text),
            })
        });
        let states: Vec<PartState> = states.collect();
        match states.is_empty() {
            true => vec![PartState::Ok],
            false => states,
        }
    }

    fn certificate(&self) -> PartState {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        match self.instance.serving.load().expires {
            Some(expires) if u64::try_from(expires).is_ok_and(|expires| expires > now) => PartState::Ok,
            Some(_) => PartState::Broken("the serving certificate has expired".into()),
            None => PartState::Unknown("its expiry cannot be read".into()),
        }
    }

    async fn kubelet(&self) -> Result<(), String> {
        let due = self.kubelet.send_if_modified(|state| {
            let due = !state.looking && !state.is_new();
            state.looking |= due;
            due
        });
        if due {
            let (instance, kubelet) = (self.instance.clone(), self.kubelet.clone());
            // It goes on when the request that waits for it has gone.
            tokio::spawn(async move {
                let outcome = instance.gate.kubelet.probe().await;
                kubelet.send_modify(|state| state.note(outcome, Instant::now()));
            });
        }
        let mut state = self.kubelet.subscribe();
        let patience = match state.borrow().looked {
            None => FIRST,
            Some(_) => PATIENCE,
        };
        // Otherwise the last verdict stands.
        let _ = timeout(patience, state.wait_for(KubeletState::is_new)).await;
        state.borrow().verdict.clone()
    }

    fn seal(&self) -> PartState {
        let seal = self.instance.seal.load_full();
        if self.instance.settings.firewall.required {
            let mut memory = self.seal.lock().unwrap_or_else(PoisonError::into_inner);
            return memory.judge(&seal, Instant::now()).into();
        }
        unrequired(&seal)
    }

    /// A full queue shows only that requests come faster than events are written.
    fn audit(&self) -> PartState {
        if self.instance.settings.audit.sink == AuditSink::Off {
            return PartState::Note("off: requests leave no trace".into());
        }
        let audit = &self.instance.gate.audit;
        let mut progress = self.audit.lock().unwrap_or_else(PoisonError::into_inner);
        match progress.stuck(audit.unwritten(), audit.written(), Instant::now()) {
            None => PartState::Ok,
            Some(time) => PartState::Broken(format!(
                "nothing has been written for {} s, and {} events wait",
                time.as_secs(),
                audit.pending()
            )),
        }
    }
}

/// Whether a gate with these parts is ready.
fn judged(parts: Vec<Part>) -> (bool, Vec<Part>) {
    (!parts.iter().any(Part::is_broken), parts)
}

/// What is said of a seal that `firewall.required` does not ask for.
fn unrequired(seal: &Seal) -> PartState {
    match seal {
        Seal::Sealed => PartState::Ok,
        Seal::Absent => PartState::Note("open (not required)".into()),
        Seal::Trial => PartState::Note("on trial (not required)".into()),
        Seal::Shut(why) => PartState::Note(format!("keeps callers out (not required): {why}")),
        Seal::Open(why) => PartState::Note(format!("open (not required): {why}")),
        Seal::Unwatched => PartState::Unknown("not looked at yet (not required)".into()),
        Seal::Unknown(why) => PartState::Unknown(format!("{why} (not required)")),
    }
}

/// An API server that fails does not make the gate unready: otherwise every node would be unready at once,
/// although remembered answers are still valid.
fn reachability(reachability: Reachability, now: SystemTime) -> PartState {
    match reachability {
        Reachability::NotAsked => PartState::Unknown("not asked yet".into()),
        // A clock that was set back shows no age.
        Reachability::Answers { last } if now.duration_since(last).is_ok_and(|age| age < GRACE) => {
            PartState::Ok
        }
        Reachability::Answers { last } => PartState::Unknown(format!(
            "it answered the last review, at {}; it was not asked since",
            timestamp(last)
        )),
        Reachability::Failing { since, last, why, .. } => PartState::Note(format!(
            "failing since {}, last at {}: {why}",
            timestamp(since),
            timestamp(last)
        )),
    }
}

/// A Node that is another machine does not make the gate unready: a user who may change a Node must not stop
/// a gate.
fn node(confirmation: Confirmation) -> Option<PartState> {
    Some(match confirmation {
        Confirmation::Unwatched => return None,
        Confirmation::Confirmed => PartState::Ok,
        Confirmation::Unasked(None) => PartState::Unknown("not asked about yet".to_owned()),
        Confirmation::Unasked(Some(why)) | Confirmation::Unproven(why) => PartState::Unknown(why),
        Confirmation::Disproved { since, why } => {
            PartState::Note(format!("since {}: {why}", timestamp(since)))
        }
    })
}

// === impl KubeletState ===

impl KubeletState {
    fn is_new(&self) -> bool {
        self.looked.is_some_and(|looked| looked.elapsed() < NEW)
    }

    fn note(&mut self, outcome: Result<(), ProbeFailure>, now: Instant) {
        self.looking = false;
        self.looked = Some(now);
        match outcome {
            Ok(()) => {
                self.reached = Some(now);
                self.verdict = Ok(());
            }
            Err(failure) => {
                let recently = self.reached.is_some_and(|reached| now < reached + GRACE);
                if !(failure.is_inconclusive && self.verdict.is_ok() && recently) {
                    self.verdict = Err(failure.why);
                }
            }
        }
    }
}

// === impl SealMemory ===

impl SealMemory {
    /// A seal that cannot be looked at just now, as when the node is busy, counts as it was found before.
    fn judge(&mut self, seal: &Seal, now: Instant) -> Result<(), String> {
        let recently = self.0.is_some_and(|sealed| now < sealed + GRACE);
        let why = match seal {
            Seal::Sealed => {
                self.0 = Some(now);
                return Ok(());
            }
            Seal::Unknown(_) if recently => return Ok(()),
            Seal::Unwatched => "it has not been looked at yet".into(),
            Seal::Absent => "none is in force: kubelet-gate firewall apply".into(),
            Seal::Trial => "it is on trial: kubelet-gate firewall confirm".into(),
            Seal::Shut(why) => format!("it keeps callers out: {why}"),
            Seal::Open(why) | Seal::Unknown(why) => why.clone(),
        };
        self.0 = None;
        Err(why)
    }
}

// === impl AuditProgress ===

impl AuditProgress {
    /// For how long nothing has been written though there is something to write, if that is too long.
    fn stuck(&mut self, unwritten: usize, written: u64, now: Instant) -> Option<Duration> {
        if unwritten == 0 || written != self.written {
            *self = Self { written, since: now };
        }
        Some(now.saturating_duration_since(self.since)).filter(|time| *time >= GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(is_inconclusive: bool) -> Result<(), ProbeFailure> {
        Err(ProbeFailure {
            why: "why".to_owned(),
            is_inconclusive,
            is_another: false,
        })
    }

    /// Seen red: with every failure counted, one look that was late made the gate unready.
    #[test]
    fn a_kubelet_that_answers_late_is_believed_to_live_for_a_while() {
        let start = Instant::now();
        let mut state = KubeletState {
            looking: true,
            looked: None,
            reached: None,
            verdict: Err("it has not answered yet".to_owned()),
        };
        state.note(failed(true), start);
        assert!(state.verdict.is_err(), "it was never reached");
        state.note(Ok(()), start);
        state.note(failed(true), start + GRACE / 2);
        assert!(state.verdict.is_ok());
        state.note(failed(true), start + GRACE);
        assert!(state.verdict.is_err());
        state.note(Ok(()), start + GRACE);
        state.note(failed(false), start + GRACE);
        assert!(state.verdict.is_err(), "refused, or another key");
        state.note(failed(true), start + GRACE);
        assert!(state.verdict.is_err(), "until it is reached again");
    }

    /// Seen red: with what was found before kept when the seal was found open.
    #[test]
    fn a_seal_that_cannot_be_looked_at_counts_as_before_for_a_while() {
        let start = Instant::now();
        let (unknown, open) = (Seal::Unknown("late".into()), Seal::Open("why".into()));
        let mut memory = SealMemory::default();
        assert!(memory.judge(&unknown, start).is_err(), "nothing was found before");
        assert!(memory.judge(&Seal::Sealed, start).is_ok());
        assert!(memory.judge(&unknown, start + GRACE / 2).is_ok());
        assert!(memory.judge(&unknown, start + GRACE).is_err());
        assert!(memory.judge(&Seal::Sealed, start + GRACE).is_ok());
        assert!(memory.judge(&open, start + GRACE).is_err(), "at once");
        assert!(memory.judge(&unknown, start + GRACE).is_err());
        assert!(memory.judge(&Seal::Sealed, start + GRACE).is_ok());
        assert!(memory.judge(&Seal::Shut("why".into()), start + GRACE).is_err());
    }

    /// (Not seen red.)
    #[test]
    fn a_seal_that_is_not_required_is_ok_only_if_it_holds_and_never_broken() {
        let why = || "why".to_owned();
        let said = |seal: &Seal| {
            let state = unrequired(seal);
            Part { name: "seal", state }.to_string()
        };
        for (seal, expected) in [
            (Seal::Sealed, "[+] seal ok"),
            (Seal::Absent, "[!] seal: open (not required)"),
            (Seal::Trial, "[!] seal: on trial (not required)"),
            (
                Seal::Shut(why()),
                "[!] seal: keeps callers out (not required): why",
            ),
            (Seal::Open(why()), "[!] seal: open (not required): why"),
            (Seal::Unwatched, "[?] seal: not looked at yet (not required)"),
            (Seal::Unknown(why()), "[?] seal: why (not required)"),
        ] {
            assert_eq!(said(&seal), expected);
        }
    }

    /// An operator who reads `ok` takes it for the present.
    ///
    /// Seen red: with the age of the last review not looked at.
    #[test]
    fn an_answer_of_the_api_server_is_ok_for_a_while() {
        let last = SystemTime::now();
        let state = |now| reachability(Reachability::Answers { last }, now);
        assert_eq!(state(last), PartState::Ok);
        assert_eq!(state(last + GRACE / 2), PartState::Ok);
        for late in [last + GRACE, last - GRACE] {
            let said = Part {
                name: "api-server",
                state: state(late),
            };
            let said = said.to_string();
            assert!(
                said.starts_with("[?] api-server: it answered the last review, at 20"),
                "{said}"
            );
        }
    }

    /// Seen red: with a full queue counted as broken.
    #[test]
    fn an_audit_that_writes_is_well_however_full_its_queue_is() {
        let start = Instant::now();
        let mut progress = AuditProgress {
            written: 0,
            since: start,
        };
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(progress.stuck(8192, second + 1, now), None);
        }
        let last = start + Duration::from_secs(99);
        assert_eq!(progress.stuck(1, 100, last + GRACE / 2), None);
        assert_eq!(progress.stuck(1, 100, last + GRACE), Some(GRACE));
        assert_eq!(progress.stuck(0, 100, last + GRACE), None, "nothing is left");
        assert_eq!(progress.stuck(1, 100, last + GRACE * 3 / 2), None);
    }
}
