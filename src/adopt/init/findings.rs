//! What an operator should know before the gate is put in front of this kubelet.

use std::collections::BTreeMap;

use super::kubeconfig::Client;
use super::paths::Paths;
use crate::adopt::inspect::{Inspection, Verdict};
use crate::adopt::kubelet::kubeconfig::Kubeconfig;

/// What was found, a line each.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What will not work as it is.
    pub(super) problems: Vec<String>,
    /// What may surprise.
    pub(super) remarks: Vec<String>,
}

impl Findings {
    pub(super) fn of(
        inspection: &Inspection,
        paths: &Paths,
        kubeconfig: Option<&Kubeconfig>,
        client: Option<&Client>,
    ) -> Self {
        let mut this = Self::default();
        this.kubelet(inspection);
        this.lives(inspection);
        this.links(inspection, paths, client);
        this.hidden(inspection, paths, kubeconfig, client);
        if let Some(plugin) = kubeconfig.and_then(Kubeconfig::plugin).filter(|_| paths.differ()) {
            this.remarks.push(format!(
                "kubeconfig: it names a program that is run for a credential, {plugin}: serve, and check without --offline, run it \
                 where the gate runs"
            ));
        }
        this
    }

    fn kubelet(&mut self, inspection: &Inspection) {
        let options = &inspection.options;
        for unread in &inspection.unread {
            self.problems
                .push(format!("not read, and it may say anything: {unread}"));
        }
        if let Some(server) = options
            .get("enableServer")
            .filter(|_| !options.is_on("enableServer"))
        {
            self.problems.push(format!(
                "enableServer is off ({}): this kubelet opens no port, so that there is nothing to stand in front of; logs, exec and \
                 metrics of this node do not work without a gate either",
                server.origin
            ));
        }
        if let Some(pid) = inspection
            .invocation
            .pid()
            .filter(|_| inspection.invocation.elsewhere)
        {
            self.problems.push(format!(
                "this kubelet is in another network namespace than this program; the gate and every command here must run in the \
                 kubelet's: nsenter -t {pid} -n"
            ));
        }
        if options.is_on("--redirect-container-streaming") {
            self.remarks.push(
                "--redirect-container-streaming: this kubelet answers exec, attach and port-forward by a redirect to the container \
                 runtime; through the gate these are a 502"
                    .to_owned(),
            );
        }
        if options.number("--cadvisor-port") != 0 {
            self.remarks.push(format!(
                "--cadvisor-port: port {} of this kubelet is open to everybody, and the seal does not close it",
                options.number("--cadvisor-port")
            ));
        }
    }

    /// Certificates that are over, or soon will be.
    fn lives(&mut self, inspection: &Inspection) {
        for check in &inspection.checks {
            let follows = match check.id {
                "serving-certificate-expiry" => "clients see it at the gate, and those that verify refuse it",
                "client-certificate-expiry" => {
                    "the API server refuses the gate's reviews with it, and then the gate lets nobody in"
                }
                "client-ca-expiry" => "the gate lets in nobody whom it issued, as the kubelet does not",
                _ => continue,
            };
            let line = format!("{}: {}", check.origin, check.why);
            match check.verdict {
                Verdict::Fail => self.problems.push(format!("{line}; renew it first: {follows}")),
                Verdict::Warn => self.remarks.push(format!("{line}; renew it by then: {follows}")),
                Verdict::Pass => {}
            }
        }
    }

    /// Certificates that rotate behind a link which is not seen from here.
    fn links(&mut self, inspection: &Inspection, paths: &Paths, client: Option<&Client>) {
        let (serving, _) = inspection.options.serving_pair();
        let files = [Some(serving.as_str()), client.map(|client| client.file.as_str())];
        for file in files
            .into_iter()
            .flatten()
            .filter(|file| paths.is_behind_link(file))
        {
            self.remarks.push(format!(
                "{file} is, or is behind, a link from the node's root, which leads elsewhere from here; what is named is the file of \
                 today, and once the kubelet has rotated its certificate the gate would hold the old one. A gate that has the node's \
                 files at their own paths, with a configuration written with --node-paths, has no such trouble"
            ));
        }
    }

    /// Files that the unit would not let the gate see.
    fn hidden(
        &mut self,
        inspection: &Inspection,
        paths: &Paths,
        kubeconfig: Option<&Kubeconfig>,
        client: Option<&Client>,
    ) {
        let options = &inspection.options;
        let (certificate, key) = options.serving_pair();
        let ca = options.text("authentication.x509.clientCAFile").to_owned();
        let named = kubeconfig.map(Kubeconfig::files).unwrap_or_default();
        let client = client.map(|client| client.file.clone());
        let files = [certificate, key, ca, options.text("--kubeconfig").to_owned()];
        let mut hidden: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for file in files.into_iter().chain(named).chain(client) {
            if let Some(setting) = paths.hidden_by(&file) {
                let files = hidden.entry(setting).or_default();
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        for (setting, files) in hidden {
            self.remarks.push(format!(
                "kubelet-gate.service hides {} from the gate: systemctl edit kubelet-gate, and there [Service] and {setting}, or keep \
                 these files elsewhere",
                files.join(", ")
            ));
        }
    }
}
