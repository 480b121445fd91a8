//! What is known about whether the Node is this machine, and what a new answer means.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::error::NodeError;
use super::machine::SameMachine;
use crate::metrics::Metrics;

/// A disproof ends the process only for so long after the first request may have been judged. A gate that has
/// served for longer is not stopped by what a user writes into a Node.
pub(super) const START: Duration = Duration::from_secs(60);

/// Whether the Node under whose name requests are judged is this machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Confirmation {
    /// The API server is not asked: no review needs it, or this gate is part of the laboratory.
    #[default]
    Unwatched,
    /// The API server has not answered yet: why, if it was asked.
    Unasked(Option<String>),
    /// It answered, and the answer proves nothing: why.
    Unproven(String),
    /// It is this machine.
    Confirmed,
    /// It is another machine.
    Disproved {
        /// When that was found first.
        since: SystemTime,
        /// What shows it.
        why: String,
    },
}

/// What the API server has said of the Node so far.
pub(crate) struct NodeStanding {
    name: Arc<str>,
    metrics: Arc<Metrics>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    confirmation: Confirmation,
    /// The gate is at its start until then, and until the Node is confirmed.
    start_ends: Option<Instant>,
    /// The disproof that ends the process has come.
    ends_process: bool,
}

// === impl NodeStanding ===

impl NodeStanding {
    pub(in crate::serve) fn new(name: Arc<str>, metrics: Arc<Metrics>) -> Self {
        Self {
            name,
            metrics,
            known: Mutex::default(),
        }
    }

    pub(crate) fn confirmation(&self) -> Confirmation {
        self.known().confirmation.clone()
    }

    /// Whether the process ends because the Node is another machine.
    pub(in crate::serve) fn ends_process(&self) -> bool {
        self.known().ends_process
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Notes that requests are judged under the name from `now` on, and that the API server is asked.
    pub(super) fn begin(&self, now: Instant) {
        let mut known = self.known();
        known.start_ends = Some(now + START);
        known.confirmation = Confirmation::Unasked(None);
        self.metrics.node_confirmed("unknown");
    }

    /// Takes up an answer that came at `now`. Only a disproof at the start is an error.
    ///
    /// # Errors
    /// The Node is another machine, and the gate is still at its start.
    pub(super) fn note(&self, answer: Result<SameMachine, NodeError>, now: Instant) -> Result<(), NodeError> {
        let mut known = self.known();
        let (confirmation, verdict) = match answer {
            Ok(SameMachine::Yes) => {
                known.start_ends = None;
                (Confirmation::Confirmed, "yes")
            }
            Ok(SameMachine::Unproven(why)) => (Confirmation::Unproven(why), "unknown"),
            Ok(SameMachine::Unasked(why)) => {
                tracing::debug!("the Node {} cannot be asked about: {why}", self.name);
                match known.confirmation {
                    Confirmation::Unwatched | Confirmation::Unasked(_) => {
                        (Confirmation::Unasked(Some(why)), "unknown")
                    }
                    // The last answer stands.
                    _ => return Ok(()),
                }
            }
            Err(error) if known.start_ends.is_some_and(|ends| now < ends) => {
                known.ends_process = true;
                self.metrics.node_confirmed("no");
                return Err(error);
            }
            Err(error) => {
                let since = match known.confirmation {
                    Confirmation::Disproved { since, .. } => since,
                    _ => SystemTime::now(),
                };
                let why = error.to_string();
                (Confirmation::Disproved { since, why }, "no")
            }
        };
        self.metrics.node_confirmed(verdict);
        let before = std::mem::replace(&mut known.confirmation, confirmation);
        self.log(&before, &known.confirmation);
        Ok(())
    }

    /// Logs what is new. While the API server is away, each attempt may fail in another way.
    fn log(&self, before: &Confirmation, now: &Confirmation) {
        let name = &self.name;
        let was_disproved = matches!(before, Confirmation::Disproved { .. });
        match (before, now) {
            (Confirmation::Unasked(Some(_)), Confirmation::Unasked(_))
            | (Confirmation::Disproved { .. }, Confirmation::Disproved { .. }) => {}
            (before, now) if before == now => {}
            (_, Confirmation::Unasked(Some(why))) => tracing::warn!(
                "the API server does not say whether the Node {name} is this machine: {why}; requests are \
                 judged under this name, and it is asked again"
            ),
            (_, Confirmation::Unwatched | Confirmation::Unasked(None)) => {}
            (_, Confirmation::Confirmed) if was_disproved => {
                tracing::info!("the Node {name} is this machine again, as the API server says");
            }
            (_, Confirmation::Confirmed) => tracing::info!("the Node {name} is this machine"),
            (_, Confirmation::Unproven(why)) if was_disproved => {
                tracing::warn!("the Node {name} is no longer shown to be another machine: {why}");
            }
            (_, Confirmation::Unproven(why)) => tracing::warn!("{why}"),
            (_, Confirmation::Disproved { why, .. }) => tracing::error!(
                "{why}. The gate has served under this name, and goes on: requests are judged under the \
                 name {name}"
            ),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> (NodeStanding, Instant) {
        let standing = NodeStanding::new("worker-1".into(), Arc::default());
        let began = Instant::now();
        standing.begin(began);
        (standing, began)
    }

    fn another() -> Result<SameMachine, NodeError> {
        Err(NodeError::AnotherMachine {
            name: "worker-1".to_owned(),
            kind: "machineID",
            theirs: "theirs".to_owned(),
            ours: "ours".to_owned(),
        })
    }

    fn is_disproved(standing: &NodeStanding) -> bool {
        matches!(standing.confirmation(), Confirmation::Disproved { .. })
    }

    fn shown(standing: &NodeStanding) -> Vec<String> {
        let text = standing.metrics.encode();
        let rows = text
            .lines()
            .filter(|line| line.starts_with("kubelet_gate_node_confirmed{"));
        rows.filter(|line| line.ends_with(" 1"))
            .map(str::to_owned)
            .collect()
    }

    /// Seen red: with START not looked at.
    #[test]
    fn a_disproof_ends_the_process_in_the_first_minute_alone() {
        for unproven in [None, Some(SameMachine::Unproven("why".to_owned()))] {
            let (standing, began) = standing();
            if let Some(unproven) = unproven {
                assert!(standing.note(Ok(unproven), began).is_ok());
            }
            assert!(!standing.ends_process());
            assert!(standing.note(another(), began + START / 2).is_err());
            assert!(standing.ends_process());
            assert_eq!(
                shown(&standing),
                ["kubelet_gate_node_confirmed{verdict=\"no\"} 1"]
            );
        }
        // The API server was away for longer.
        let (standing, began) = standing();
        let unasked = SameMachine::Unasked("why".to_owned());
        assert!(standing.note(Ok(unasked), began).is_ok());
        assert!(standing.note(another(), began + START).is_ok());
        assert!(is_disproved(&standing) && !standing.ends_process());
    }

    /// Seen red: with the start not ended by a confirmation.
    #[test]
    fn no_disproof_ends_a_process_whose_node_was_confirmed() {
        let (standing, began) = standing();
        let soon = began + Duration::from_secs(1);
        assert!(standing.note(Ok(SameMachine::Yes), began).is_ok());
        assert!(
            standing
                .note(Ok(SameMachine::Unproven("gone".to_owned())), soon)
                .is_ok()
        );
        assert_eq!(
            shown(&standing),
            ["kubelet_gate_node_confirmed{verdict=\"unknown\"} 1"]
        );
        assert!(standing.note(another(), soon).is_ok());
        assert!(is_disproved(&standing) && !standing.ends_process());
        assert_eq!(
            shown(&standing),
            ["kubelet_gate_node_confirmed{verdict=\"no\"} 1"]
        );
        assert!(
            standing
                .note(Ok(SameMachine::Unasked("away".to_owned())), soon)
                .is_ok()
        );
        assert!(is_disproved(&standing), "the last answer stands");
        assert!(standing.note(Ok(SameMachine::Yes), soon).is_ok());
        assert_eq!(standing.confirmation(), Confirmation::Confirmed);
        assert_eq!(
            shown(&standing),
            ["kubelet_gate_node_confirmed{verdict=\"yes\"} 1"]
        );
    }
}
