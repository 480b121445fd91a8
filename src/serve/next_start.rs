//! The watch over what decides the kubelet's next start, while the gate holds a port of the kubelet's.
//!
//! The gate took the port because the running kubelet does not bind it. A changed file may have the next one
//! bind it: a kubelet that finds its port taken exits, and the node is lost. So the gate says what the files
//! would have the next kubelet do, lets go of the port the moment the running one ends, and takes it again
//! once a kubelet runs that does not bind it.

use std::future::pending;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::holding::{Holding, Prospects};
use super::looker::{Found, Kubelets, Looker, Newcomer, merge};
use super::node::Prospect;
use crate::files;
use crate::host::{Helper, RunningProcess};

/// The files are looked at this often while the kubelets run beside which the ports were taken.
const STEADY: Duration = Duration::from_secs(5);
/// The same after one has ended; twice as long each time, up to [`SEARCH`], and to [`STEADY`] once the
/// kubelet has been gone for [`FORGOTTEN`].
const SOON: Duration = Duration::from_millis(100);
const SEARCH: Duration = Duration::from_secs(1);
/// A look that takes longer has found nothing out. It goes on.
const LATE: Duration = Duration::from_secs(5);
/// The same once a kubelet has ended: its successor may come at any moment.
const URGENT: Duration = Duration::from_secs(1);
/// With another kubelet running, one that ended is no longer waited for after this time.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// A helper that takes longer than this is not waited for.
const SLOWEST: Duration = Duration::from_secs(3600);

/// The watch.
pub(super) struct NextStartWatch {
    holding: Arc<Holding>,
    /// The kubelets that run, none of which binds what the gate holds.
    running: Vec<Beside>,
    /// Those that have ended, and that no other has replaced yet.
    ended: Vec<Ended>,
    ends: JoinSet<i32>,
    /// Where there is no helper process that looks.
    looker: Arc<Mutex<Looker>>,
}

struct Beside {
    pid: i32,
    /// What its next start would do.
    prospects: Prospects,
}

struct Ended {
    pid: i32,
    at: Instant,
}

// === impl NextStartWatch ===

impl NextStartWatch {
    pub(super) fn new(holding: Arc<Holding>) -> Self {
        Self {
            holding,
            running: Vec::new(),
            ended: Vec::new(),
            ends: JoinSet::new(),
            looker: Arc::default(),
        }
    }

    /// Watches for ever, if an address is at stake.
    pub(super) async fn keep(mut self) {
        if self.holding.at_stake().is_empty() {
            return;
        }
        let mut wait = SOON;
        loop {
            let began = Instant::now();
            self.look(began).await;
            if self.ended.iter().any(|ended| ended.at >= began) {
                // That look tells nothing about the files as they were when the kubelet ended.
                wait = SOON;
                continue;
            }
            let gone_lately = |ended: &Ended| ended.at.elapsed() < FORGOTTEN;
            wait = if self.ended.is_empty() && !self.running.is_empty() {
                STEADY
            } else if self.ended.iter().any(gone_lately) {
                SEARCH.min(wait * 2)
            } else {
                STEADY.min(wait * 2)
            };
            tokio::select! {
                () = sleep(wait) => {}
                pid = next_end(&mut self.ends) => {
                    self.note_end(pid);
                    wait = SOON;
                }
            }
        }
    }

    /// Reads the files once, and acts on what they say. A kubelet that ends meanwhile is noticed at once.
    async fn look(&mut self, began: Instant) {
        let at_stake = self.holding.at_stake().to_vec();
        let question = Kubelets {
            at_stake,
            running: self.running.iter().map(|beside| beside.pid).collect(),
            ended: self.ended.iter().map(|ended| ended.pid).collect(),
        };
        let looker = self.looker.clone();
        let work = move || match Helper::of_this_process() {
            // Inside the sandbox no process shows its file system. What takes long has found nothing out, and
            // is waited for all the same.
            Some(helper) => helper
                .ask(Kubelets::KIND, &question, SLOWEST)
                .unwrap_or_else(|error| Err(error.to_string())),
            None => looker
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .look(Path::new("/proc"), &question),
        };
        let mut reading = pin!(files::aside(work));
        let mut late = false;
        let found = loop {
            let deadline = match self.ended.first() {
                Some(ended) => began.max(ended.at) + URGENT,
                None => began + LATE,
            };
            tokio::select! {
                found = &mut reading => break found,
                pid = next_end(&mut self.ends) => self.note_end(pid),
                () = sleep_until(deadline), if !late => {
                    late = true;
                    self.know_nothing("a file that decides it cannot be read in time");
                }
            }
        };
        match found {
            Ok(Ok(found)) => self.judge(found, began),
            Ok(Err(why)) => self.know_nothing(&why),
            Err(error) => self.know_nothing(&format!("the files cannot be read: {error}")),
        }
    }

    /// A kubelet has ended: the gate lets go of what its next start would bind, or may bind.
    fn note_end(&mut self, pid: i32) {
        let Some(at) = self.running.iter().position(|beside| beside.pid == pid) else {
            return;
        };
        tracing::info!(pid, "the kubelet has ended");
        let Beside { pid, prospects } = self.running.swap_remove(at);
        self.give_up(&prospects);
        self.ended.push(Ended {
            pid,
            at: Instant::now(),
        });
    }

    fn judge(&mut self, found: Found, began: Instant) {
        let mut all = found.ended;
        for (pid, prospects) in found.running {
            if let Some(beside) = self.running.iter_mut().find(|beside| beside.pid == pid) {
                beside.prospects = prospects;
            }
        }
        let forgotten = |ended: &Ended| ended.at.elapsed() > FORGOTTEN;
        if !found.newcomers.is_empty() {
            if found.newcomers.iter().all(|newcomer| is_free(&newcomer.now)) {
                all.clear();
                self.watch(found.newcomers);
                self.settle(began);
            } else {
                for newcomer in &found.newcomers {
                    merge(&mut all, &newcomer.now);
                }
                self.give_up(&all);
            }
        } else if self.running.is_empty() && self.ended.is_empty() {
            return self.know_nothing("no running kubelet is seen in /proc");
        } else if !self.running.is_empty() && !self.ended.is_empty() && self.ended.iter().all(forgotten) {
            all.clear();
            self.settle(began);
        } else {
            self.give_up(&all);
        }
        for beside in &self.running {
            merge(&mut all, &beside.prospects);
        }
        self.holding.publish(all);
    }

    fn watch(&mut self, newcomers: Vec<Newcomer>) {
        for Newcomer {
            pid, started, next, ..
        } in newcomers
        {
            // One that has ended meanwhile is noticed as every other end is.
            let process = RunningProcess::open(pid).ok();
            let process = process.filter(|process| process.started() == started);
            self.ends.spawn(async move {
                if let Some(process) = process {
                    process.ended().await;
                }
                pid
            });
            self.running.push(Beside { pid, prospects: next });
        }
    }

    /// The kubelets that run bind nothing of the gate's: it holds everything, unless one has just ended.
    fn settle(&mut self, began: Instant) {
        self.ended.retain(|ended| ended.at >= began);
        if self.ended.is_empty() {
            self.holding.take_back();
        }
    }

    /// Nothing is known about any next start. If no kubelet runs, it may happen at any moment.
    fn know_nothing(&mut self, why: &str) {
        let unknown = Prospect::Unknown(why.to_owned());
        let at_stake = self.holding.at_stake().iter();
        let prospects: Prospects = at_stake.map(|address| (*address, unknown.clone())).collect();
        for beside in &mut self.running {
            beside.prospects.clone_from(&prospects);
        }
        if self.running.is_empty() || !self.ended.is_empty() {
            self.give_up(&prospects);
        }
        self.holding.publish(prospects);
    }

    fn give_up(&self, prospects: &Prospects) {
        let not_free = prospects
            .iter()
            .filter(|(_, prospect)| **prospect != Prospect::Free);
        self.holding.give_up(not_free.map(|(address, _)| *address));
    }
}

/// The next process that ends; waits for ever if none is watched.
async fn next_end(ends: &mut JoinSet<i32>) -> i32 {
    while let Some(ended) = ends.join_next().await {
        if let Ok(pid) = ended {
            return pid;
        }
    }
    pending().await
}

fn is_free(prospects: &Prospects) -> bool {
    prospects.values().all(|prospect| *prospect == Prospect::Free)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const ADDRESS: &str = "192.0.2.10:10250";

    fn prospects(prospect: Prospect) -> Prospects {
        [(ADDRESS.parse().unwrap(), prospect)].into()
    }

    /// A watch beside these kubelets, whose next start binds nothing of the gate's.
    fn beside(pids: &[i32]) -> NextStartWatch {
        let holding = Holding::new(vec![ADDRESS.parse().unwrap()], Arc::new(Metrics::new()));
        let mut watch = NextStartWatch::new(Arc::new(holding));
        watch.running.extend(pids.iter().map(|pid| Beside {
            pid: *pid,
            prospects: prospects(Prospect::Free),
        }));
        watch
    }

    fn found(ended: Prospects) -> Found {
        Found {
            running: Vec::new(),
            ended,
            newcomers: Vec::new(),
        }
    }

    fn newcomer(now: Prospect, next: Prospect) -> Newcomer {
        let pid = std::process::id().cast_signed();
        Newcomer {
            pid,
            started: RunningProcess::open(pid).unwrap().started(),
            now: prospects(now),
            next: prospects(next),
        }
    }

    /// A file system that does not answer must not hold the port. Seen red: with what was known before kept.
    #[tokio::test]
    async fn while_nothing_can_be_read_the_port_is_given_up_when_the_kubelet_ends() {
        let mut watch = beside(&[7]);
        watch.know_nothing("late");
        assert!(watch.holding.holds_all(), "the kubelet runs");
        watch.note_end(7);
        assert!(!watch.holding.holds_all());

        let mut watch = beside(&[7]);
        watch.note_end(7);
        assert!(watch.holding.holds_all(), "its next start is harmless");
        watch.know_nothing("late");
        assert!(!watch.holding.holds_all(), "as far as is known");
    }

    /// Seen red: with the port taken back because another kubelet runs, the one that ended found it taken.
    #[tokio::test]
    async fn beside_another_kubelet_the_one_that_ended_is_waited_for() {
        let mut watch = beside(&[7, 8]);
        watch.running[0].prospects = prospects(Prospect::Taken(String::new()));
        watch.note_end(7);
        assert!(!watch.holding.holds_all());
        let taken = || prospects(Prospect::Taken(String::new()));
        watch.judge(found(taken()), Instant::now());
        assert!(!watch.holding.holds_all());
        watch.ended[0].at = Instant::now().checked_sub(FORGOTTEN * 2).unwrap();
        watch.judge(found(taken()), Instant::now());
        assert!(watch.holding.holds_all() && watch.ended.is_empty());
    }

    /// Seen red: with the next start alone judged, a kubelet that was started in another
    /// way found its port taken.
    #[tokio::test]
    async fn a_new_kubelet_is_judged_by_what_it_binds_itself() {
        let mut watch = beside(&[7]);
        watch.note_end(7);
        let began = Instant::now();
        let mut look = found(prospects(Prospect::Free));
        look.newcomers
            .push(newcomer(Prospect::Unknown(String::new()), Prospect::Free));
        watch.judge(look, began);
        assert!(!watch.holding.holds_all() && watch.running.is_empty());

        // It does not bind the port; the one after it would.
        let next = Prospect::Taken("0.0.0.0:10250".to_owned());
        let mut look = found(prospects(next.clone()));
        look.newcomers.push(newcomer(Prospect::Free, next.clone()));
        watch.judge(look, began);
        assert!(watch.holding.holds_all() && watch.ended.is_empty());
        assert_eq!(watch.holding.prospects(), Some(prospects(next)));
    }

    /// Seen red: with the end that came during a look forgotten when it was done.
    #[tokio::test]
    async fn a_look_tells_nothing_about_a_kubelet_that_ended_meanwhile() {
        let mut watch = beside(&[7, 8]);
        watch.note_end(7);
        let began = Instant::now();
        watch.running[0].prospects = prospects(Prospect::Taken(String::new()));
        watch.note_end(8);
        let mut look = found(prospects(Prospect::Free));
        look.newcomers.push(newcomer(Prospect::Free, Prospect::Free));
        watch.judge(look, began);
        assert!(!watch.holding.holds_all());
        assert_eq!(watch.ended.len(), 1);
    }

    #[tokio::test]
    async fn without_any_kubelet_nothing_is_held() {
        let mut watch = beside(&[]);
        watch.judge(found(Prospects::new()), Instant::now());
        assert!(!watch.holding.holds_all());
    }
}
