//! One look at the kubelets of the node: what their next start binds, as their files say now.
//!
//! The files are those that the kubelet's process sees, and that process is out of reach of a gate in its
//! sandbox: then the helper process looks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::holding::Prospects;
use super::node::{Prospect, prospect};
use crate::adopt::kubelet::{NextStart, WatchedKubelet, kubelets_of_the_node};
use crate::host::RunningProcess;

/// The most new kubelets that are judged at once. A node has one; with more, nothing is known.
const KUBELETS: usize = 16;

/// What is asked: what the next start of these kubelets binds.
#[derive(Default, Deserialize, Serialize)]
pub(super) struct Kubelets {
    /// Which addresses are to be judged.
    pub(super) at_stake: Vec<SocketAddr>,
    /// The processes that run, as far as is known.
    pub(super) running: Vec<i32>,
    /// Those that have ended, and that no other has replaced yet.
    pub(super) ended: Vec<i32>,
}

/// What one look at the files found.
#[derive(Deserialize, Serialize)]
pub(super) struct Found {
    /// Of each kubelet that ran when the look began, and has not ended.
    pub(super) running: Vec<(i32, Prospects)>,
    /// The worst of those that had ended when the look began.
    pub(super) ended: Prospects,
    pub(super) newcomers: Vec<Newcomer>,
}

/// A kubelet that was not known before.
#[derive(Deserialize, Serialize)]
pub(super) struct Newcomer {
    pub(super) pid: i32,
    /// By which another process is told from it that gets its id later.
    pub(super) started: u64,
    /// What it does itself.
    pub(super) now: Prospects,
    /// What its next start would do.
    pub(super) next: Prospects,
}

/// Looks, and keeps the file systems of the kubelets open, so that they can be read after their end.
#[derive(Default)]
pub(super) struct Looker {
    kubelets: BTreeMap<i32, WatchedKubelet>,
}

// === impl Kubelets ===

impl Kubelets {
    /// The kind of the question to the helper.
    pub(super) const KIND: &str = "kubelets";
}

// === impl Looker ===

impl Looker {
    /// Reads what decides the next start of the kubelets that run and of those that have ended, and looks for
    /// others unless all run.
    ///
    /// # Errors
    /// There are too many others, or one that has ended was not seen while it ran.
    pub(super) fn look(&mut self, proc: &Path, question: &Kubelets) -> Result<Found, String> {
        let Kubelets {
            at_stake,
            running,
            ended,
        } = question;
        let prospects = |starts: &[NextStart]| -> Prospects {
            at_stake
                .iter()
                .map(|address| (*address, prospect(*address, starts)))
                .collect()
        };
        let mut found = Found {
            running: Vec::new(),
            ended: Prospects::new(),
            newcomers: Vec::new(),
        };
        self.kubelets
            .retain(|pid, _| running.contains(pid) || ended.contains(pid));
        for pid in running {
            if let Some(kubelet) = WatchedKubelet::of(proc, *pid) {
                found.running.push((*pid, prospects(&kubelet.next_starts())));
                self.kubelets.insert(*pid, kubelet);
            }
        }
        for pid in ended {
            let kubelet = self.kubelets.get(pid);
            let kubelet =
                kubelet.ok_or_else(|| format!("kubelet process {pid} was not seen while it ran"))?;
            merge(&mut found.ended, &prospects(&kubelet.next_starts()));
        }
        if ended.is_empty() && !running.is_empty() {
            return Ok(found);
        }
        let mut pids = kubelets_of_the_node(proc);
        pids.retain(|pid| !running.contains(pid));
        if pids.len() > KUBELETS {
            return Err("more than 16 processes are kubelets by their names".to_owned());
        }
        for pid in pids {
            // First the process, then its files: if it has not ended meanwhile they are its own.
            let Ok(process) = RunningProcess::open(pid) else {
                continue;
            };
            let Some(kubelet) = WatchedKubelet::of(proc, pid) else {
                continue;
            };
            let (now, next) = (
                prospects(&[kubelet.as_started()]),
                prospects(&kubelet.next_starts()),
            );
            if process.runs() {
                let started = process.started();
                found.newcomers.push(Newcomer {
                    pid,
                    started,
                    now,
                    next,
                });
                self.kubelets.insert(pid, kubelet);
            }
        }
        Ok(found)
    }
}

/// Of each address the worst.
pub(super) fn merge(all: &mut Prospects, more: &Prospects) {
    for (address, prospect) in more {
        let worst = all.entry(*address).or_insert(Prospect::Free);
        if prospect > worst {
            worst.clone_from(prospect);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Seen red: with the first 16 judged alone, the port was taken beside the others.
    #[test]
    fn of_too_many_kubelets_nothing_is_known() {
        let proc = tempfile::tempdir().unwrap();
        for pid in 0..=KUBELETS {
            let process = proc.path().join((i32::MAX as usize - pid).to_string());
            std::fs::create_dir(&process).unwrap();
            std::fs::write(process.join("cmdline"), "kubelet").unwrap();
        }
        let nothing_known = Kubelets::default();
        assert!(Looker::default().look(proc.path(), &nothing_known).is_err());
        std::fs::remove_dir_all(proc.path().join(i32::MAX.to_string())).unwrap();
        // None of these processes exists.
        assert!(
            Looker::default()
                .look(proc.path(), &nothing_known)
                .unwrap()
                .newcomers
                .is_empty()
        );
    }
}
