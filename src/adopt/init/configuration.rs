//! The gate's configuration for an existing kubelet: each value with a comment on where it was found.

use std::fmt::Display;
use std::net::SocketAddr;

use super::credential::CallerPolicy;
use super::destination::Destination;
use super::files::KUBECONFIG;
use super::findings::NodeFindings;
use super::kubeconfig::{self, NodeCertificate};
use super::listening::{self, Listening};
use super::paths::{NoPath, Paths};
use super::text::{comment, quoted};
use super::{node_name, serving};
use crate::adopt::inspect::{CertificateRole, Inspection};
use crate::adopt::kubelet::binds;
use crate::adopt::kubelet::kubeconfig::{NodeKubeconfig, NodeKubeconfigError};
use crate::adopt::kubelet::options::OptionsError;

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

/// Why there is no kubeconfig for the gate.
#[derive(Debug, thiserror::Error)]
enum NoKubeconfig {
    #[error(
        "the kubelet has no --kubeconfig: name one whose user may create tokenreviews and \
         subjectaccessreviews"
    )]
    NoFlag,
    #[error(transparent)]
    Unreadable(#[from] NodeKubeconfigError),
}

/// Why it is not known where the kubelet listens.
#[derive(Debug, thiserror::Error)]
enum NoUpstream {
    #[error(transparent)]
    Options(OptionsError),
    #[error("the kubelet opens no port (enableServer is off)")]
    NoServer,
    #[error("the kubelet opens no port")]
    NoPort,
}

/// Why there is no CA of client certificates.
#[derive(Debug, thiserror::Error)]
enum NoClientCa {
    #[error(
        "the kubelet has no clientCAFile: name the CA that issued the API server's client certificate{}",
        candidates(.0)
    )]
    NotSet(Vec<&'static str>),
    #[error(transparent)]
    Path(NoPath),
}

fn candidates(files: &[&str]) -> String {
    match files {
        [] => String::new(),
        files => format!("; there is {}, which may be it", files.join(" and ")),
    }
}

/// The configuration, and what there is to say about it.
#[derive(Debug, Default)]
pub(super) struct DraftConfiguration {
    pub(super) text: String,
    /// A kubeconfig for the gate, where it cannot use the node's.
    pub(super) kubeconfig: Option<String>,
    pub(super) missing: Vec<String>,
    pub(super) findings: NodeFindings,
    /// The certificate that clients of the gate will see.
    pub(super) presented: Vec<String>,
    /// How the kubelet decides about its callers.
    pub(super) policy: CallerPolicy,
    /// The gate has no credential yet that this kubelet accepts.
    pub(super) needs_credential: bool,
    pub(super) node_name: Option<String>,
    pub(super) port: u16,
    /// Where the kubelet listens, if it is known.
    pub(super) upstream: Option<SocketAddr>,
}

/// What is read of the node once, and used by several sections.
struct NodeFacts<'a> {
    inspection: &'a Inspection,
    paths: &'a Paths,
    destination: &'a Destination<'a>,
    bound: Result<Vec<SocketAddr>, OptionsError>,
    kubeconfig: Result<NodeKubeconfig, NoKubeconfig>,
    client: Option<NodeCertificate>,
}

impl DraftConfiguration {
    pub(super) fn of(inspection: &Inspection, paths: &Paths, destination: &Destination<'_>) -> Self {
        let path = inspection.options.text("--kubeconfig");
        let kubeconfig = match path {
            "" => Err(NoKubeconfig::NoFlag),
            path => NodeKubeconfig::read(&inspection.invocation.root, path).map_err(NoKubeconfig::from),
        };
        let client = NodeCertificate::of(inspection, kubeconfig.as_ref().ok());
        let findings = NodeFindings::of(inspection, paths, kubeconfig.as_ref().ok(), client.as_ref());
        let node = NodeFacts {
            inspection,
            paths,
            destination,
            bound: binds(&inspection.options),
            kubeconfig,
            client,
        };
        let mut this = Self {
            policy: CallerPolicy::of(&inspection.options),
            findings,
            ..Self::default()
        };
        this.text.push_str(
            "# A gate for the kubelet that was found on this node. The comment on each value says where it \
             comes from. Every\n\
             # key that is not here has its default: config/kubelet-gate.yaml in the gate's own files lists \
             all keys.\n\
             apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\n",
        );
        this.node_name(&node);
        this.listen(&node);
        this.kubeconfig(&node);
        this.upstream(&node);
        this.serving_pair(&node);
        this.authentication(&node);
        this.rest(&node);
        this
    }

    fn comment(&mut self, indent: &str, text: &str) {
        self.text.push_str(&comment(indent, text));
    }

    /// A value that was found, or a line to be filled in.
    fn value(&mut self, indent: &str, key: &str, value: Result<String, impl Display>, from: &str) {
        match value {
            Ok(value) => {
                self.comment(indent, from);
                self.text
                    .push_str(&format!("{indent}{key}: {}\n", quoted(&value)));
            }
            Err(why) => self.not_found(indent, key, &why.to_string(), "\"\""),
        }
    }

    /// The value is written as `empty`, in a comment.
    fn not_found(&mut self, indent: &str, key: &str, why: &str, empty: &str) {
        self.comment(indent, &format!("NOT FOUND: {why}"));
        self.text.push_str(&format!("{indent}# {key}: {empty}\n"));
        self.missing.push(format!("{key}: {why}"));
    }

    fn node_name(&mut self, node: &NodeFacts<'_>) {
        self.text.push('\n');
        let found = node_name::found(node.inspection, node.client.as_ref());
        self.node_name = found.as_ref().ok().map(|(name, _)| name.clone());
        let from = found.as_ref().map_or("", |(_, from)| from).to_owned();
        self.value("", "nodeName", found.map(|(name, _)| name), &from);
    }

    fn listen(&mut self, node: &NodeFacts<'_>) {
        self.text.push('\n');
        let bound = node.bound.as_deref().unwrap_or_default();
        let listening = Listening::of(node.inspection, bound, node.destination);
        self.port = listening.port;
        match listening.addresses {
            Ok(addresses) => {
                let addresses: Vec<String> = addresses
                    .iter()
                    .map(|address| quoted(&address.to_string()))
                    .collect();
                self.comment("", &listening.why);
                self.text
                    .push_str(&format!("listen: [{}]\n", addresses.join(", ")));
            }
            Err(why) => {
                let empty = format!("[\"ADDRESS:{}\"]", listening.port);
                self.not_found("", "listen", &why.to_string(), &empty);
            }
        }
    }

    fn kubeconfig(&mut self, node: &NodeFacts<'_>) {
        self.text.push('\n');
        let path = node.inspection.options.text("--kubeconfig");
        let rotated = node.client.as_ref().filter(|client| client.rotated);
        let kubeconfig = match &node.kubeconfig {
            Ok(kubeconfig) => kubeconfig,
            Err(why) => return self.not_found("", "kubeconfig", &why.to_string(), "\"\""),
        };
        if !node.paths.differ() && rotated.is_none() {
            let from =
                "The kubelet's own, from its --kubeconfig: a node may create token and access reviews.";
            return self.value("", "kubeconfig", node.paths.named(path), from);
        }
        let from = match rotated {
            Some(client) => format!(
                "The gate's own, beside this file: the kubelet rotates its client certificate \
                 (rotateCertificates) and presents {}, while the node's {path} names another one.",
                client.file
            ),
            None => format!(
                "A copy of the node's {path}, in which files have the paths by which this machine finds them."
            ),
        };
        let copy = kubeconfig::copied(kubeconfig, node.paths, node.client.as_ref());
        let name = copy.as_ref().map(|_| KUBECONFIG.to_owned());
        self.value("", "kubeconfig", name, &from);
        self.kubeconfig = copy.ok();
    }

    fn upstream(&mut self, node: &NodeFacts<'_>) {
        let options = &node.inspection.options;
        self.text.push_str("\nupstream:\n");
        let bound = match &node.bound {
            Err(error) => Err(NoUpstream::Options(error.clone())),
            Ok(_) if !options.is_on("enableServer") => Err(NoUpstream::NoServer),
            Ok(bound) => bound.first().copied().ok_or(NoUpstream::NoPort),
        };
        let address = bound.map(|bound| match bound.ip() {
            ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], bound.port())),
            _ => bound,
        });
        self.upstream = address.as_ref().ok().copied();
        let url = address.map(|address| format!("https://{address}"));
        self.value(
            "  ",
            "url",
            url,
            "Where the kubelet listens, from its address and port.",
        );
        if self.upstream.is_some_and(|address| !address.ip().is_loopback()) {
            self.comment("  ", "The kubelet does not listen on loopback.");
            self.text.push_str("  allowRemote: true\n");
        }
        let (certificate, _) = options.serving_pair();
        let from = match node.paths.is_behind_link(&certificate) {
            true => {
                "The certificate that the kubelet serves today, pinned by its key. The link to it does not \
                 work on this machine (NEXT.md)."
            }
            false => {
                "The certificate that the kubelet serves: pinned by its key, and read again when it changes."
            }
        };
        self.value("  ", "certificateFile", node.paths.named(&certificate), from);
        self.upstream_credential(node);
    }

    /// The gate's credential for the kubelet.
    fn upstream_credential(&mut self, node: &NodeFacts<'_>) {
        let policy = self.policy;
        if policy.accepts_every_caller() {
            return self.comment(
                "  ",
                "This kubelet lets every caller do everything, so the gate needs no credential for it.",
            );
        }
        let own = node
            .client
            .as_ref()
            .and_then(|client| policy.own(client, node.inspection));
        let own = own
            .and_then(|(file, key)| Some((file, node.paths.named(file).ok()?, node.paths.named(key).ok()?)));
        if let Some((file, certificate, key)) = own {
            let others = "this kubelet lets every client with a certificate from its CA do everything, and \
                          so does each other kubelet that is configured like it";
            self.value(
                "  ",
                "clientCertificateFile",
                Ok::<_, NoPath>(certificate),
                &format!("The node's own client certificate: {others}."),
            );
            self.value("  ", "clientKeyFile", Ok::<_, NoPath>(key), "Its key.");
            self.findings.remarks.push(format!(
                "upstream.clientCertificateFile: {others}. The gate presents the node's own certificate, \
                 {file}, to it: that opens them all, and no RBAC limits it"
            ));
            return;
        }
        self.needs_credential = true;
        let (does, refusal) = (policy.does(), policy.refusal());
        if policy.can_be_shown() {
            self.comment(
                "  ",
                &format!(
                    "NOT FOUND: {does}, and this node has no credential for the gate. NEXT.md says how to \
                     get one and removes the #. Without it, requests through the gate are answered {refusal} \
                     by the kubelet, and 502 by the gate."
                ),
            );
            self.text.push_str(&policy.lines());
            self.findings.remarks.push(format!(
                "upstream: {does}, and this node has no credential for the gate: requests through the gate \
                 are answered {refusal} by the kubelet, and 502 by the gate, until upstream has one; do not \
                 seal this node before (NEXT.md)"
            ));
        } else {
            let why = format!(
                "{does}, but it has no clientCAFile and accepts no tokens, so it accepts no credential at \
                 all: requests through the gate are answered {refusal} by the kubelet, and 502 by the gate"
            );
            self.comment("  ", &format!("NOT FOUND: {why}."));
            self.findings
                .problems
                .push(format!("upstream: {why}; do not seal this node"));
        }
    }

    fn serving_pair(&mut self, node: &NodeFacts<'_>) {
        self.text.push('\n');
        let (certificate, key) = node.inspection.options.serving_pair();
        let serving = node
            .inspection
            .certificates
            .iter()
            .find(|certificate| certificate.role == CertificateRole::Serving);
        if let Some(serving) = serving {
            self.presented = serving::presented(serving, node.inspection, node.kubeconfig.as_ref().ok());
        }
        let told = self.presented.join(" ");
        let from = format!("What clients see: the kubelet's own serving certificate. {told}");
        self.value("", "tlsCertFile", node.paths.named(&certificate), from.trim_end());
        self.value("", "tlsPrivateKeyFile", node.paths.named(&key), "Its key.");
    }

    fn authentication(&mut self, node: &NodeFacts<'_>) {
        let configured = node.inspection.options.text("authentication.x509.clientCAFile");
        self.text
            .push_str("\nauthentication:\n  anonymous: {enabled: false}\n  x509:\n");
        let ca = if configured.is_empty() {
            let there: Vec<&'static str> = CLIENT_CAS
                .into_iter()
                .filter(|path| node.inspection.invocation.root.has(path))
                .collect();
            Err(NoClientCa::NotSet(there))
        } else {
            node.paths.named(configured).map_err(NoClientCa::Path)
        };
        let from = "The kubelet's clientCAFile. One of these CAs must have issued the API server's client \
                    certificate.";
        self.value("    ", "clientCAFile", ca, from);
        self.text
            .push_str("  webhook: {enabled: true}\nauthorization:\n  mode: Webhook\n");
    }

    fn rest(&mut self, node: &NodeFacts<'_>) {
        let options = &node.inspection.options;
        let read_only = options.number("readOnlyPort");
        self.text.push('\n');
        if read_only == 0 {
            self.comment("", "The kubelet's read-only port is closed: no tombstone.");
            self.text.push_str("readOnlyPort: {listen: []}\n");
        } else {
            self.comment(
                "",
                &format!(
                    "The kubelet's read-only port, {read_only}, is open: `kubelet-gate firewall` closes it \
                     and redirects its callers to this tombstone, which answers 410 with the replacement and \
                     counts them."
                ),
            );
            let tombstone = listening::tombstone(node.destination);
            self.text
                .push_str(&format!("readOnlyPort: {{listen: [\"{tombstone}\"]}}\n"));
        }
        let idle = options.get("streamingConnectionIdleTimeout");
        if let Some(idle) = idle.filter(|idle| idle.is_set() && !crate::duration::is_zero(&idle.shown())) {
            self.text.push('\n');
            let from = format!("As on the kubelet ({}). The gate honours it.", idle.origin);
            self.value(
                "",
                "streamingConnectionIdleTimeout",
                Ok::<_, NoPath>(idle.shown()),
                &from,
            );
        }
        self.text.push('\n');
        self.comment(
            "",
            "Standard output, which systemd's journal keeps. Under load the journal may drop lines: a file \
             of its own keeps them all. The unit makes the folder /var/lib/kubelet-gate/audit for it.",
        );
        self.text.push_str("audit: {path: \"-\"}\n");
    }
}
