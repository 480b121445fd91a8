//! The API server is asked whether the Node is this machine while the gate serves: an API server that is slow
//! or away does not keep the node's kubelet from being reached.
//!
//! It is asked until it has confirmed the Node, and again when it answers after an outage (it may be another
//! one, or one that was restored) and when the ids of this machine change (it may be a copy).

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::ends::Ends;
use super::error::NodeError;
use super::machine::{Ids, SameMachine, confirm};
use super::standing::NodeStanding;
use crate::apiserver::ApiServer;
use crate::files;

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The shortest time between two questions. Without a confirmation it is asked again after this time, after
/// twice as long the next time, and so on up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The ids of this machine are read this often: three small files.
const LOOK: Duration = Duration::from_secs(5);

/// The watch over the Node.
pub(in crate::serve) struct NodeWatch {
    /// `None` if no review needs one: then nothing is watched.
    api_server: Option<ApiServer>,
    standing: Arc<NodeStanding>,
}

// === impl NodeWatch ===

impl NodeWatch {
    pub(in crate::serve) fn new(api_server: Option<ApiServer>, standing: Arc<NodeStanding>) -> Self {
        Self { api_server, standing }
    }

    /// Watches until the process ends. It stops it if the Node is proven to be another machine at the start.
    ///
    /// # Errors
    /// That proof.
    pub(in crate::serve) async fn keep(self, ends: Ends) -> Result<(), NodeError> {
        let Some(api_server) = &self.api_server else {
            return Ok(());
        };
        self.standing.begin(Instant::now());
        let (sender, ids) = watch::channel(Ids::default());
        let disproved = async {
            tokio::select! {
                never = look_forever(&sender) => match never {},
                error = self.until_disproved(api_server, ids) => error,
            }
        };
        match ends.leave.run_until_cancelled(disproved).await {
            None => Ok(()),
            Some(error) => {
                ends.stop.cancel();
                Err(error)
            }
        }
    }

    async fn until_disproved(&self, api_server: &ApiServer, mut ids: watch::Receiver<Ids>) -> NodeError {
        let mut recoveries = api_server.recoveries();
        // The ids are announced once they were read. The sender lives as long as this future.
        let _ = ids.changed().await;
        let mut pause = FIRST_PAUSE;
        loop {
            let asked = Instant::now();
            let known = ids.borrow_and_update().clone();
            let answer = confirm(api_server, self.standing.name(), &known, ANSWER).await;
            let is_confirmed = matches!(answer, Ok(SameMachine::Yes));
            if let Err(error) = self.standing.note(answer, Instant::now()) {
                return error;
            }
            tokio::select! {
                () = sleep(pause), if !is_confirmed => pause = LONGEST_PAUSE.min(pause * 2),
                () = recoveries.next() => pause = FIRST_PAUSE,
                _ = ids.changed() => pause = FIRST_PAUSE,
            }
            sleep_until(asked + FIRST_PAUSE).await;
        }
    }
}

/// Announces the ids of this machine once they are read, and whenever they have changed. A file that is not
/// answered holds one thread, and no other look begins.
async fn look_forever(sender: &watch::Sender<Ids>) -> Infallible {
    let mut is_first = true;
    loop {
        match files::aside(|| Ids::of_this_machine(Path::new("/"))).await {
            Ok(ids) => {
                let is_new = |known: &mut Ids| {
                    let is_new = is_first || *known != ids;
                    *known = ids;
                    is_new
                };
                sender.send_if_modified(is_new);
                is_first = false;
            }
            Err(error) => tracing::debug!(%error, "the ids of this machine cannot be read"),
        }
        sleep(LOOK).await;
    }
}
