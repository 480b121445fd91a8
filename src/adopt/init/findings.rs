//! What the operator should know before the gate is put in front of this kubelet.

use std::collections::BTreeMap;

use super::kubeconfig::NodeCertificate;
use super::paths::Paths;
use crate::adopt::inspect::{Inspection, Verdict};
use crate::adopt::kubelet::kubeconfig::NodeKubeconfig;

/// What was found, one line each.
#[derive(Debug, Default)]
pub(super) struct NodeFindings {
    /// What will not work as it is.
    pub(super) problems: Vec<String>,
    /// What may surprise.
    pub(super) remarks: Vec<String>,
}

impl NodeFindings {
    pub(super) fn of(
        inspection: &Inspection,
        paths: &Paths,
        kubeconfig: Option<&NodeKubeconfig>,
        client: Option<&NodeCertificate>,
    ) -> Self {
        let mut this = Self::default();
        this.kubelet(inspection);
        this.certificates(inspection);
        this.links(inspection, paths, client);
        this.hidden(inspection, paths, kubeconfig, client);
        if let Some(plugin) = kubeconfig
            .and_then(NodeKubeconfig::plugin)
            .filter(|_| paths.differ())
        {
            this.remarks.push(format!(
                "kubeconfig: it names a program that is run for a credential, {plugin}; serve, and check \
                 without --offline, run it where the gate runs"
            ));
        }
        this
    }

    fn kubelet(&mut self, inspection: &Inspection) {
        let options = &inspection.options;
        for unread in &inspection.unread {
            self.problems
                .push(format!("not read, and it may set any option: {unread}"));
        }
        if let Some(server) = options
            .get("enableServer")
            .filter(|_| !options.is_on("enableServer"))
        {
            self.problems.push(format!(
                "enableServer is off ({}): this kubelet opens no port, so a gate has nothing to stand in \
                 front of; logs, exec and metrics of this node do not work without a gate either",
                server.origin
            ));
        }
        if let Some(pid) = inspection
            .invocation
            .pid()
            .filter(|_| inspection.invocation.elsewhere)
        {
            self.problems.push(format!(
                "this kubelet is in another network namespace than this program: run the gate and every \
                 command in the kubelet's, with nsenter -t {pid} -n"
            ));
        }
        if options.is_on("--redirect-container-streaming") {
            self.remarks.push(
                "--redirect-container-streaming: this kubelet answers exec, attach and port-forward by a \
                 redirect to the container runtime, which the gate answers with 502"
                    .to_owned(),
            );
        }
        if options.number("--cadvisor-port") != 0 {
            self.remarks.push(format!(
                "--cadvisor-port: port {} of this kubelet is open to every client, and the seal does not \
                 close it",
                options.number("--cadvisor-port")
            ));
        }
    }

    /// Certificates that have expired, or soon will.
    fn certificates(&mut self, inspection: &Inspection) {
        for check in &inspection.checks {
            let follows = match check.id {
                "serving-certificate-expiry" => "the gate presents it, and clients that verify it refuse it",
                "client-certificate-expiry" => {
                    "the API server refuses the gate's reviews with it, and then the gate refuses every \
                     client"
                }
                "client-ca-expiry" => {
                    "the gate refuses the clients that it issued certificates for, as the kubelet does"
                }
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

    /// Certificates that rotate behind a link which this machine cannot follow.
    fn links(&mut self, inspection: &Inspection, paths: &Paths, client: Option<&NodeCertificate>) {
        let (serving, _) = inspection.options.serving_pair();
        let files = [Some(serving.as_str()), client.map(|client| client.file.as_str())];
        for file in files
            .into_iter()
            .flatten()
            .filter(|file| paths.is_behind_link(file))
        {
            self.remarks.push(format!(
                "{file} is, or is behind, a link from the node's root, which leads elsewhere on this \
                 machine: the configuration names today's file, and the gate keeps the old certificate once \
                 the kubelet has rotated it. A gate that finds the node's files at their own paths, with a \
                 configuration written with --node-paths, follows the rotation"
            ));
        }
    }

    /// Files that the unit would not let the gate see.
    fn hidden(
        &mut self,
        inspection: &Inspection,
        paths: &Paths,
        kubeconfig: Option<&NodeKubeconfig>,
        client: Option<&NodeCertificate>,
    ) {
        let options = &inspection.options;
        let (certificate, key) = options.serving_pair();
        let ca = options.text("authentication.x509.clientCAFile").to_owned();
        let named = kubeconfig.map(NodeKubeconfig::files).unwrap_or_default();
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
                "kubelet-gate.service hides {} from the gate: add [Service] and {setting} with systemctl \
                 edit kubelet-gate, or keep these files elsewhere",
                files.join(", ")
            ));
        }
    }
}
