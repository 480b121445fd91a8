//! Whether the API server is unreachable, as two witnesses say: a review that failed, and then the gate's own
//! probe.
//!
//! One alone does not count. A review may fail for the sake of its question: a token for which an
//! authentication webhook hangs is sent by a client. A probe alone may fail while reviews are answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::ApiServer;

/// How long the outcome of a probe counts. The API server is therefore probed once a second at most, and its
/// return is noticed within a second.
const NEW: Duration = Duration::from_secs(1);
/// How long a request waits for a probe, which begins within a second and has its own deadline.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Finds out whether the API server is unreachable. It asks only when a review has failed.
pub(crate) struct Outage {
    api_server: ApiServer,
    /// Where probes run.
    control: Handle,
    probe: Arc<watch::Sender<Probe>>,
}

/// The last probe.
#[derive(Default)]
struct Probe {
    is_running: bool,
    ended: Option<Instant>,
    /// It found the API server unreachable.
    is_outage: bool,
}

impl Outage {
    /// Probes of `api_server` run on `control`.
    pub(crate) fn new(api_server: ApiServer, control: Handle) -> Self {
        Self {
            api_server,
            control,
            probe: Arc::default(),
        }
    }

    /// Whether the API server is unreachable, as far as is known without a review of one's own. All that ask
    /// at the same time share a probe.
    pub(crate) async fn is_known(&self) -> bool {
        self.api_server.is_failing() && self.probed(Probe::is_new).await
    }

    /// The same after a review that shows an outage: that an earlier probe was answered does not count.
    pub(crate) async fn is_confirmed(&self) -> bool {
        self.api_server.is_failing() && self.probed(Probe::is_new_outage).await
    }

    /// Whether the last probe whose outcome is `enough`, or else the next one, found an outage.
    async fn probed(&self, enough: fn(&Probe) -> bool) -> bool {
        let asked = Instant::now();
        let mut ended = None;
        let begins = self.probe.send_if_modified(|probe| {
            let begins = !probe.is_running && !enough(probe);
            probe.is_running |= begins;
            ended = probe.ended;
            begins
        });
        if begins {
            let (api_server, probe) = (self.api_server.clone(), self.probe.clone());
            self.control.spawn(async move {
                if let Some(ended) = ended {
                    sleep_until(ended + NEW).await;
                }
                let outcome = api_server.probe().await;
                probe.send_replace(Probe {
                    is_running: false,
                    ended: Some(Instant::now()),
                    is_outage: outcome.is_err_and(|error| error.is_outage()),
                });
            });
        }
        let mut probe = self.probe.subscribe();
        let is_enough = |probe: &Probe| enough(probe) || probe.has_ended_since(asked);
        let ended = timeout(LONGEST_WAIT, probe.wait_for(is_enough)).await;
        // Without an outcome nothing is confirmed.
        ended.is_ok_and(|probe| probe.is_ok_and(|probe| probe.is_outage))
    }
}

impl Probe {
    fn is_new(&self) -> bool {
        !self.is_running && self.ended.is_some_and(|ended| ended.elapsed() < NEW)
    }

    fn is_new_outage(&self) -> bool {
        self.is_new() && self.is_outage
    }

    fn has_ended_since(&self, time: Instant) -> bool {
        !self.is_running && self.ended.is_some_and(|ended| ended >= time)
    }
}
