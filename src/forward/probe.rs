//! Whether the kubelet can be connected to, tried at most once a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::kubelet::Kubelet;

/// How long an answer is reused: clients that ask for the gate's health cannot flood the kubelet.
const LIFE: Duration = Duration::from_secs(1);

/// The last answer, shared by all callers.
#[derive(Default)]
pub(crate) struct KubeletProbe {
    known: Mutex<Option<ProbedState>>,
}

struct ProbedState {
    at: Instant,
    state: Result<(), Arc<str>>,
}

impl KubeletProbe {
    /// Whether `kubelet` can be connected to and is the right one; if not, why.
    pub(crate) async fn of(&self, kubelet: &Kubelet) -> Result<(), Arc<str>> {
        let mut known = self.known.lock().await;
        if let Some(ProbedState { at, state }) = known.as_ref()
            && at.elapsed() < LIFE
        {
            return state.clone();
        }
        let state = kubelet.probe().await.map_err(|failure| failure.why.into());
        *known = Some(ProbedState {
            at: Instant::now(),
            state: state.clone(),
        });
        state
    }
}
