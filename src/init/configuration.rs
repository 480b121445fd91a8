//! The gate's configuration for a kubelet that is there already: each value with a comment on where it was found.

use std::net::{IpAddr, SocketAddr};

use super::paths::{Named, Paths};
use super::{PORT, TOMBSTONE, kubeconfig, node_of_certificate};
use crate::inspect::{Certificate, Inspection, Role};
use crate::node::binds;

/// Where distributions keep the CA of client certificates.
const CLIENT_CAS: [&str; 7] = [
    "/etc/kubernetes/pki/ca.crt",
    "/etc/kubernetes/certs/ca.crt",
    "/etc/srv/kubernetes/pki/ca-certificates.crt",
    "/srv/kubernetes/ca.crt",
    "/var/lib/rancher/k3s/agent/client-ca.crt",
    "/var/lib/rancher/rke2/agent/client-ca.crt",
    "/var/lib/kubernetes/ca.pem",
];

/// The file, and what there is to say about it.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    pub(super) text: String,
    /// A kubeconfig of the gate's own, where the node's does not fit.
    pub(super) kubeconfig: Option<String>,
    pub(super) missing: Vec<String>,
    pub(super) remarks: Vec<String>,
    /// What clients of the gate will see.
    pub(super) presented: Vec<String>,
    /// The kubelet asks its callers who they are, and the gate has nothing to show it yet.
    pub(super) needs_credential: bool,
    pub(super) node_name: Option<String>,
    pub(super) port: u16,
    pub(super) kubelet_port: u16,
}

impl Configuration {
    pub(super) fn of(inspection: &Inspection, paths: &Paths, addresses: &[IpAddr]) -> Self {
        let mut this = Self::default();
        this.text.push_str(
            "# A gate for the kubelet that was found on this node; each value says where it comes from. Every other key has its\n\
             # default: see config/kubelet-gate.yaml in the gate's own files for all of them.\n\
             apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\n",
        );
        this.node_name(inspection);
        this.listen(inspection, addresses);
        this.kubeconfig(inspection, paths);
        this.upstream(inspection, paths);
        this.serving_pair(inspection, paths);
        this.authentication(inspection, paths);
        this.rest(inspection);
        this
    }

    fn comment(&mut self, indent: &str, text: &str) {
        let mut line = format!("{indent}#");
        for word in text.split(' ') {
            if line.len() + 1 + word.len() > 118 {
                self.text.push_str(&line);
                self.text.push('\n');
                line = format!("{indent}#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// A value that was found, or a line to be filled in.
    fn value(&mut self, indent: &str, key: &str, value: Named, from: &str, wanted: bool) {
        match value {
            Ok(value) => {
                self.comment(indent, from);
                self.text
                    .push_str(&format!("{indent}{key}: {}\n", quoted(&value)));
            }
            Err(why) => {
                self.comment(indent, &format!("NOT FOUND: {why}"));
                self.text.push_str(&format!("{indent}# {key}: \"\"\n"));
                if wanted {
                    self.missing.push(format!("{key}: {why}"));
                }
            }
        }
    }

    fn node_name(&mut self, inspection: &Inspection) {
        self.text.push('\n');
        let overridden = inspection.options.text("--hostname-override");
        let found = match node_of_certificate(inspection) {
            Some((name, file)) => Ok((name, format!("By the node's own certificate, {file}."))),
            None if !overridden.is_empty() => Ok((
                overridden.to_lowercase(),
                "By the kubelet's --hostname-override.".to_owned(),
            )),
            None => {
                let host = inspection
                    .invocation
                    .root
                    .read("/etc/hostname")
                    .unwrap_or_default();
                let host = host.trim().to_lowercase();
                let perhaps = if host.is_empty() {
                    String::new()
                } else {
                    format!("; the host is called {host:?}")
                };
                Err(format!(
                    "neither the certificate in the kubelet's kubeconfig nor --hostname-override says what the Node is called \
                     (kubectl get nodes){perhaps}"
                ))
            }
        };
        self.node_name = found.as_ref().ok().map(|(name, _)| name.clone());
        match found {
            Ok((name, from)) => self.value("", "nodeName", Ok(name), &from, true),
            Err(why) => self.value("", "nodeName", Err(why), "", true),
        }
    }

    fn listen(&mut self, inspection: &Inspection, addresses: &[IpAddr]) {
        self.text.push('\n');
        let bound = binds(&inspection.options).unwrap_or_default();
        self.kubelet_port = bound.first().map_or(10250, SocketAddr::port);
        let on_loopback = bound.iter().all(|address| address.ip().is_loopback());
        let reachable: Vec<&IpAddr> = addresses
            .iter()
            .filter(|address| !address.is_loopback())
            .collect();
        if on_loopback && !bound.is_empty() && !reachable.is_empty() {
            self.port = self.kubelet_port;
            let all: Vec<String> = reachable
                .iter()
                .map(|address| quoted(&SocketAddr::new(**address, self.port).to_string()))
                .collect();
            self.comment(
                "",
                "The kubelet listens on loopback only, so that its port is free on the node's addresses.",
            );
            self.text.push_str(&format!("listen: [{}]\n", all.join(", ")));
        } else {
            self.port = PORT;
            let bound: Vec<String> = bound.iter().map(ToString::to_string).collect();
            self.comment(
                "",
                &format!(
                    "A port of its own: the kubelet has {}. `kubelet-gate firewall` brings its callers here.",
                    bound.join(" and ")
                ),
            );
            self.text.push_str(&format!("listen: [\"[::]:{PORT}\"]\n"));
        }
    }

    fn kubeconfig(&mut self, inspection: &Inspection, paths: &Paths) {
        self.text.push('\n');
        let path = inspection.options.text("--kubeconfig");
        let from = "The kubelet's own, by its --kubeconfig: a node may ask for token and access reviews.";
        if path.is_empty() {
            let why = "the kubelet has no --kubeconfig; any that may create tokenreviews and subjectaccessreviews will do";
            self.value("", "kubeconfig", Err(why.to_owned()), from, true);
        } else if paths.differ() {
            let copied = kubeconfig::copied(paths, path);
            let from = format!(
                "A copy of the node's {path}, in which files have the paths by which they are found from here."
            );
            self.value(
                "",
                "kubeconfig",
                copied
                    .as_ref()
                    .map(|_| kubeconfig::NAME.to_owned())
                    .map_err(Clone::clone),
                &from,
                true,
            );
            self.kubeconfig = copied.ok();
        } else {
            self.value("", "kubeconfig", paths.named(path), from, true);
        }
    }

    fn upstream(&mut self, inspection: &Inspection, paths: &Paths) {
        let options = &inspection.options;
        let bound = binds(options).ok().and_then(|bound| bound.first().copied());
        let address = bound.map(|bound| match bound.ip() {
            ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], bound.port())),
            ip => SocketAddr::new(ip, bound.port()),
        });
        self.text.push_str("\nupstream:\n");
        let url = address.map(|address| format!("https://{address}"));
        let from = "Where the kubelet listens, by its address and port.";
        self.value(
            "  ",
            "url",
            url.ok_or_else(|| "the kubelet's address is none".to_owned()),
            from,
            true,
        );
        if address.is_some_and(|address| !address.ip().is_loopback()) {
            self.comment("  ", "The kubelet does not listen on loopback.");
            self.text.push_str("  allowRemote: true\n");
        }
        let (certificate, _) = options.serving_pair();
        self.value(
            "  ",
            "certificateFile",
            paths.named(&certificate),
            "The certificate that the kubelet serves: pinned by its key, and read again when it changes.",
            true,
        );
        self.upstream_credential(inspection, paths);
    }

    /// What the gate shows the kubelet.
    fn upstream_credential(&mut self, inspection: &Inspection, paths: &Paths) {
        let options = &inspection.options;
        let anonymous = options.is_on("authentication.anonymous.enabled");
        let asks = options.text("authorization.mode") == "Webhook";
        if anonymous && !asks {
            return self.comment(
                "  ",
                "This kubelet lets everybody do everything, so the gate needs nothing to show it.",
            );
        }
        let client = inspection
            .certificates
            .iter()
            .find(|certificate| certificate.role == Role::Client);
        let verifies = !options.text("authentication.x509.clientCAFile").is_empty();
        if let Some(client) = client
            && !asks
            && verifies
            && client.file != options.text("--kubeconfig")
        {
            let named = paths.named(&client.file);
            let from = "The node's own client certificate: this kubelet wants one of its CA, and lets each of them do everything. \
                        Other kubelets of that kind would take it as well.";
            self.value("  ", "clientCertificateFile", named.clone(), from, false);
            return self.value(
                "  ",
                "clientKeyFile",
                named,
                "Its key is in the same file.",
                false,
            );
        }
        self.needs_credential = true;
        let name = self.node_name.clone().unwrap_or_else(|| "NODE".to_owned());
        self.comment(
            "  ",
            &format!(
                "NOT FOUND: this kubelet asks its callers who they are{}. Give the gate a credential of this node's only: a client \
                 certificate of the kubelet's client CA, or a token, that may nodes/* of the Node {name} and of no other. NEXT.md \
                 has the rights. Without it the kubelet answers everything 401.",
                if asks { " and has the API server say what they may" } else { "" }
            ),
        );
        self.text
            .push_str("  # clientCertificateFile: \"\"\n  # clientKeyFile: \"\"\n");
        self.remarks.push(
            "upstream: the kubelet asks its callers who they are, and nothing on this node is the gate's to show it; until \
             upstream.clientCertificateFile (or tokenFile) is set, what the gate passes on is answered 401 (NEXT.md)"
                .to_owned(),
        );
    }

    fn serving_pair(&mut self, inspection: &Inspection, paths: &Paths) {
        self.text.push('\n');
        let (certificate, key) = inspection.options.serving_pair();
        let serving = inspection
            .certificates
            .iter()
            .find(|certificate| certificate.role == Role::Serving);
        if let Some(serving) = serving {
            self.presented = presented(serving, inspection);
        }
        let told = self.presented.join(" ");
        let from = format!("What clients see: the kubelet's own serving pair. {told}");
        self.value(
            "",
            "tlsCertFile",
            paths.named(&certificate),
            from.trim_end(),
            true,
        );
        self.value("", "tlsPrivateKeyFile", paths.named(&key), "Its key.", true);
    }

    fn authentication(&mut self, inspection: &Inspection, paths: &Paths) {
        let configured = inspection.options.text("authentication.x509.clientCAFile");
        self.text
            .push_str("\nauthentication:\n  anonymous: {enabled: false}\n  x509:\n");
        let ca = if configured.is_empty() {
            let there: Vec<&str> = CLIENT_CAS
                .into_iter()
                .filter(|path| inspection.invocation.root.has(path))
                .collect();
            let perhaps = match there.as_slice() {
                [] => String::new(),
                there => format!("; there is {}, which may be it", there.join(" and ")),
            };
            Err(format!(
                "the kubelet has no clientCAFile; the API server's client certificate must be of a CA named here{perhaps}"
            ))
        } else {
            paths.named(configured)
        };
        let from =
            "The kubelet's clientCAFile. The API server's client certificate must be of one of these CAs.";
        self.value("    ", "clientCAFile", ca, from, true);
        self.text
            .push_str("  webhook: {enabled: true}\nauthorization:\n  mode: Webhook\n");
    }

    fn rest(&mut self, inspection: &Inspection) {
        let options = &inspection.options;
        let read_only = options.number("readOnlyPort");
        self.text.push('\n');
        if read_only == 0 {
            self.comment("", "The kubelet's read-only port is closed: no tombstone.");
            self.text.push_str("readOnlyPort: {listen: []}\n");
        } else {
            self.comment(
                "",
                &format!(
                    "The kubelet's read-only port, {read_only}, is open: `kubelet-gate firewall` closes it, and brings its callers to \
                     this tombstone, which says where to go instead and counts them."
                ),
            );
            self.text
                .push_str(&format!("readOnlyPort: {{listen: [\"[::]:{TOMBSTONE}\"]}}\n"));
        }
        let idle = options.get("streamingConnectionIdleTimeout");
        if let Some(idle) =
            idle.filter(|idle| idle.is_set() && !crate::settings::duration::is_zero(&idle.shown()))
        {
            self.text.push('\n');
            let from = format!("As the kubelet's, by {}; here it is honoured.", idle.origin);
            self.value(
                "",
                "streamingConnectionIdleTimeout",
                Ok(idle.shown()),
                &from,
                false,
            );
        }
        self.text.push('\n');
        self.comment(
            "",
            "Standard output, which systemd's journal keeps. For a file of its own, which is not thinned out under load, name it \
             here: the unit makes /var/lib/kubelet-gate/audit for it.",
        );
        self.text.push_str("audit: {path: \"-\"}\n");
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
}

/// Who would accept the kubelet's serving certificate, and who would not.
fn presented(serving: &Certificate, inspection: &Inspection) -> Vec<String> {
    let names = match serving.names.as_slice() {
        [] => "no name at all".to_owned(),
        names => names.join(", "),
    };
    let ours = inspection
        .certificates
        .iter()
        .any(|ca| ca.role == Role::ClientCa && ca.subject == serving.issuer);
    let trust = if ours {
        format!(
            "It was issued by {}, the CA of client certificates as well: who verifies by that CA accepts it.",
            serving.issuer
        )
    } else {
        format!(
            "It was issued by {}, which is none of the CAs of client certificates: who verifies by the cluster's CA refuses it, as \
             metrics-server without --kubelet-insecure-tls and an API server with --kubelet-certificate-authority do.",
            serving.issuer
        )
    };
    vec![
        format!("It is for {names}, until {}.", serving.not_after.date()),
        trust,
    ]
}

/// JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
