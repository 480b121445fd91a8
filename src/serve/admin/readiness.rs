//! Whether the gate can do its work, part by part.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::seal::Seal;
use crate::serve::instance::Instance;

/// Answers `/readyz`.
pub(super) struct Readiness {
    instance: Arc<Instance>,
    stopping: CancellationToken,
}

impl Readiness {
    pub(super) fn new(instance: Arc<Instance>, stopping: CancellationToken) -> Self {
        Self { instance, stopping }
    }

    /// Whether the gate is ready, and the answer's text; `verbose` lists every part.
    pub(super) async fn report(&self, verbose: bool) -> (bool, String) {
        let parts = [
            ("listener", self.listener()),
            ("certificate", self.certificate()),
            ("kubelet", self.kubelet().await),
            ("audit", self.audit()),
            ("seal", self.seal()),
        ];
        let ready = parts.iter().all(|(_, state)| state.is_ok());
        let mut report = String::new();
        for (part, state) in &parts {
            // Writing to a String does not fail.
            let _ = match state {
                Ok(()) if verbose => writeln!(report, "[+] {part} ok"),
                Ok(()) => Ok(()),
                Err(why) => writeln!(report, "[-] {part}: {why}"),
            };
        }
        // Shown only. If a failing API server made the gate unready, every node would be unready at once,
        // although cached answers are still valid.
        if verbose && let Some(api_server) = &self.instance.api_server {
            let _ = match api_server.last_failure() {
                None => writeln!(report, "[+] api-server ok"),
                Some(why) => writeln!(report, "[!] api-server: the last review failed: {why}"),
            };
        }
        report.push_str(if ready { "ok\n" } else { "not ready\n" });
        (ready, report)
    }

    fn listener(&self) -> Result<(), String> {
        if self.stopping.is_cancelled() {
            Err("stopping".into())
        } else {
            Ok(())
        }
    }

    fn certificate(&self) -> Result<(), String> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        match self.instance.serving.load().expires {
            Some(expires) if u64::try_from(expires).is_ok_and(|expires| expires > now) => Ok(()),
            Some(_) => Err("the serving certificate has expired".into()),
            None => Ok(()),
        }
    }

    async fn kubelet(&self) -> Result<(), String> {
        self.instance
            .kubelet_is_reachable()
            .await
            .map_err(|why| why.to_string())
    }

    fn seal(&self) -> Result<(), String> {
        if !self.instance.settings.firewall.required {
            return Ok(());
        }
        match &*self.instance.seal.load_full() {
            Seal::Sealed => Ok(()),
            Seal::Unwatched => Err("it has not been looked at yet".into()),
            Seal::Absent => Err("none is in force: kubelet-gate firewall apply".into()),
            Seal::Trial => Err("it is on trial: kubelet-gate firewall confirm".into()),
            Seal::Open(why) | Seal::Unknown(why) => Err(why.clone()),
        }
    }

    fn audit(&self) -> Result<(), String> {
        let audit = &self.instance.gate.audit;
        // A full queue means that nothing has been written for a while.
        if audit.pending() < self.instance.settings.limits.audit_queue {
            Ok(())
        } else {
            Err("the queue is full".into())
        }
    }
}
