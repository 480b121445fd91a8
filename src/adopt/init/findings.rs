//! What the operator should know before the gate is put in front of this kubelet.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use super::kubeconfig::NodeCertificate;
use super::paths::Paths;
use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::kubeconfig::NodeKubeconfig;
use crate::tls::{TlsError, Unfit, certified_key, judgement, pem};

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
        this.certificates(inspection, client);
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
        self.problems.extend(inspection.refused.iter().cloned());
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

    /// The certificates and the key that the gate will be given, judged as `check` and `serve` judge them.
    fn certificates(&mut self, inspection: &Inspection, client: Option<&NodeCertificate>) {
        let (now, root) = (SystemTime::now(), &inspection.invocation.root);
        let read = |file: &str| root.read(file).ok();
        let chain = |file: &str, text: &str| pem::certificates(Path::new(file), text.as_bytes());
        let (certificate, key) = inspection.options.serving_pair();
        if let Some(text) = read(&certificate) {
            let follows = "the gate does not start with it";
            match chain(&certificate, &text) {
                Ok(chain) => {
                    self.judged(&certificate, follows, judgement::serving(&chain, now));
                    if let Some(text) = read(&key) {
                        let key = pem::private_key(Path::new(&key), text.as_bytes());
                        let pair = key
                            .map_err(TlsError::from)
                            .and_then(|key| certified_key(chain, key));
                        self.problems.extend(
                            pair.err()
                                .map(|error| format!("{certificate}: {error}; {follows}")),
                        );
                    }
                }
                Err(error) => self.problems.push(format!("{error}; {follows}")),
            }
        }
        let bundle = inspection.options.text("authentication.x509.clientCAFile");
        if let Some(text) = read(bundle).filter(|_| !bundle.is_empty()) {
            let follows = "the gate refuses the clients that it issued certificates for, as the kubelet does";
            match chain(bundle, &text) {
                Ok(cas) => self.judged(bundle, follows, judgement::client_cas(&cas, now)),
                Err(error) => self.problems.push(format!("{error}; {follows}")),
            }
        }
        if let Some(client) = client {
            let follows = "the API server refuses the gate's reviews with it, and then the gate refuses \
                           every client";
            self.judged(&client.file, follows, judgement::client(&client.chain, now));
        }
    }

    fn judged(&mut self, file: &str, follows: &str, judgement: Result<Vec<String>, Unfit>) {
        match judgement {
            Ok(warnings) => self.remarks.extend(
                warnings
                    .into_iter()
                    .map(|warning| format!("{file}: {warning}; otherwise {follows}")),
            ),
            Err(unfit) => self
                .problems
                .push(format!("{file}: {unfit}; until then {follows}")),
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
