//! The gate's configuration for a kubelet that is there already: each value with a comment on where it was found.

use std::net::SocketAddr;

use super::credential::Asks;
use super::findings::Findings;
use super::kubeconfig::{self, Client};
use super::listening::{self, Listening};
use super::paths::{Named, Paths};
use super::{Here, filled, node_name, serving};
use crate::adopt::inspect::{Inspection, Role};
use crate::adopt::kubelet::binds;
use crate::adopt::kubelet::kubeconfig::Kubeconfig;
use crate::adopt::kubelet::options::OptionsError;
use crate::adopt::kubelet::plain;

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
    pub(super) findings: Findings,
    /// What clients of the gate will see.
    pub(super) presented: Vec<String>,
    /// How the kubelet decides about its callers.
    pub(super) asks: Asks,
    /// The gate has nothing yet that such a kubelet would take.
    pub(super) needs_credential: bool,
    pub(super) node_name: Option<String>,
    pub(super) port: u16,
    /// Where the kubelet is asked, if it is known.
    pub(super) upstream: Option<SocketAddr>,
}

/// What is read of the node once, and used all over the file.
struct Node<'a> {
    inspection: &'a Inspection,
    paths: &'a Paths,
    here: &'a Here<'a>,
    bound: Result<Vec<SocketAddr>, OptionsError>,
    kubeconfig: Result<Kubeconfig, String>,
    client: Option<Client>,
}

impl Configuration {
    pub(super) fn of(inspection: &Inspection, paths: &Paths, here: &Here<'_>) -> Self {
        let path = inspection.options.text("--kubeconfig");
        let kubeconfig = match path {
            "" => Err(
                "the kubelet has no --kubeconfig; any that may create tokenreviews and subjectaccessreviews will do"
                    .to_owned(),
            ),
            path => Kubeconfig::read(&inspection.invocation.root, path),
        };
        let client = Client::of(inspection, kubeconfig.as_ref().ok());
        let findings = Findings::of(inspection, paths, kubeconfig.as_ref().ok(), client.as_ref());
        let node = Node {
            inspection,
            paths,
            here,
            bound: binds(&inspection.options),
            kubeconfig,
            client,
        };
        let mut this = Self {
            asks: Asks::of(&inspection.options),
            findings,
            ..Self::default()
        };
        this.text.push_str(
            "# A gate for the kubelet that was found on this node; each value says where it comes from. Every other key has its\n\
             # default: see config/kubelet-gate.yaml in the gate's own files for all of them.\n\
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
    fn value(&mut self, indent: &str, key: &str, value: Named, from: &str) {
        match value {
            Ok(value) => {
                self.comment(indent, from);
                self.text
                    .push_str(&format!("{indent}{key}: {}\n", quoted(&value)));
            }
            Err(why) => self.not_found(indent, key, &why, "\"\""),
        }
    }

    /// `empty` is written for it, behind a `#`.
    fn not_found(&mut self, indent: &str, key: &str, why: &str, empty: &str) {
        self.comment(indent, &format!("NOT FOUND: {why}"));
        self.text.push_str(&format!("{indent}# {key}: {empty}\n"));
        self.missing.push(format!("{key}: {why}"));
    }

    fn node_name(&mut self, node: &Node<'_>) {
        self.text.push('\n');
        let found = node_name::found(node.inspection, node.client.as_ref());
        self.node_name = found.as_ref().ok().map(|(name, _)| name.clone());
        match found {
            Ok((name, from)) => self.value("", "nodeName", Ok(name), &from),
            Err(why) => self.not_found("", "nodeName", &why, "\"\""),
        }
    }

    fn listen(&mut self, node: &Node<'_>) {
        self.text.push('\n');
        let bound = node.bound.as_deref().unwrap_or_default();
        let listening = Listening::of(node.inspection, bound, node.here);
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
                self.not_found("", "listen", &why, &empty);
            }
        }
    }

    fn kubeconfig(&mut self, node: &Node<'_>) {
        self.text.push('\n');
        let path = node.inspection.options.text("--kubeconfig");
        let rotated = node.client.as_ref().filter(|client| client.rotated);
        let kubeconfig = match &node.kubeconfig {
            Ok(kubeconfig) => kubeconfig,
            Err(why) => return self.not_found("", "kubeconfig", why, "\"\""),
        };
        if !node.paths.differ() && rotated.is_none() {
            let from = "The kubelet's own, by its --kubeconfig: a node may ask for token and access reviews.";
            return self.value("", "kubeconfig", node.paths.named(path), from);
        }
        let from = match rotated {
            Some(client) => format!(
                "Of the gate's own, beside this file: the node's {path} names another client certificate than {}, which the kubelet \
                 itself shows since it rotates (rotateCertificates).",
                client.file
            ),
            None => format!(
                "A copy of the node's {path}, in which files have the paths by which they are found from here."
            ),
        };
        let copy = kubeconfig::copied(kubeconfig, node.paths, node.client.as_ref());
        let name = copy
            .as_ref()
            .map(|_| kubeconfig::NAME.to_owned())
            .map_err(Clone::clone);
        self.value("", "kubeconfig", name, &from);
        self.kubeconfig = copy.ok();
    }

    fn upstream(&mut self, node: &Node<'_>) {
        let options = &node.inspection.options;
        self.text.push_str("\nupstream:\n");
        let bound = match &node.bound {
            Err(error) => Err(error.to_string()),
            Ok(_) if !options.is_on("enableServer") => {
                Err("the kubelet opens no port (enableServer is off)".to_owned())
            }
            Ok(bound) => bound
                .first()
                .copied()
                .ok_or_else(|| "the kubelet opens no port".to_owned()),
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
            "Where the kubelet listens, by its address and port.",
        );
        if self.upstream.is_some_and(|address| !address.ip().is_loopback()) {
            self.comment("  ", "The kubelet does not listen on loopback.");
            self.text.push_str("  allowRemote: true\n");
        }
        let (certificate, _) = options.serving_pair();
        let from = match node.paths.is_behind_link(&certificate) {
            true => {
                "The certificate that the kubelet serves today, pinned by its key; the link to it is not seen from here (NEXT.md)."
            }
            false => {
                "The certificate that the kubelet serves: pinned by its key, and read again when it changes."
            }
        };
        self.value("  ", "certificateFile", node.paths.named(&certificate), from);
        self.upstream_credential(node);
    }

    /// What the gate shows the kubelet.
    fn upstream_credential(&mut self, node: &Node<'_>) {
        let asks = self.asks;
        if asks.nothing() {
            return self.comment(
                "  ",
                "This kubelet lets everybody do everything, so the gate needs nothing to show it.",
            );
        }
        let own = node
            .client
            .as_ref()
            .and_then(|client| asks.own(client, node.inspection));
        let own = own
            .and_then(|(file, key)| Some((file, node.paths.named(file).ok()?, node.paths.named(key).ok()?)));
        if let Some((file, certificate, key)) = own {
            let others = "this kubelet lets everybody of its CA do everything, and so does each other kubelet that is set up like it";
            self.value(
                "  ",
                "clientCertificateFile",
                Ok(certificate),
                &format!("The node's own client certificate: {others}."),
            );
            self.value("  ", "clientKeyFile", Ok(key), "Its key.");
            self.findings.remarks.push(format!(
                "upstream.clientCertificateFile: {others}: the node's own certificate, {file}, which the gate shows it, opens them all, \
                 and no RBAC limits it"
            ));
            return;
        }
        self.needs_credential = true;
        let (does, refusal) = (asks.does(), asks.refusal());
        if asks.can_be_shown() {
            self.comment(
                "  ",
                &format!(
                    "NOT FOUND: {does}, and nothing on this node is the gate's to show it. NEXT.md says how to come by a credential \
                     and takes the # away; without it what the gate passes on is answered {refusal}."
                ),
            );
            self.text.push_str(&asks.lines());
            self.findings.remarks.push(format!(
                "upstream: {does}, and nothing on this node is the gate's to show it: what the gate passes on is answered {refusal} until \
                 upstream has a credential; do not seal this node before (NEXT.md)"
            ));
        } else {
            let why = format!(
                "{does}, but it has no clientCAFile and takes no tokens: nothing can be shown to it, and what the gate passes on is \
                 answered {refusal}"
            );
            self.comment("  ", &format!("NOT FOUND: {why}."));
            self.findings
                .problems
                .push(format!("upstream: {why}; do not seal this node"));
        }
    }

    fn serving_pair(&mut self, node: &Node<'_>) {
        self.text.push('\n');
        let (certificate, key) = node.inspection.options.serving_pair();
        let serving = node
            .inspection
            .certificates
            .iter()
            .find(|certificate| certificate.role == Role::Serving);
        if let Some(serving) = serving {
            self.presented = serving::presented(serving, node.inspection, node.kubeconfig.as_ref().ok());
        }
        let told = self.presented.join(" ");
        let from = format!("What clients see: the kubelet's own serving pair. {told}");
        self.value("", "tlsCertFile", node.paths.named(&certificate), from.trim_end());
        self.value("", "tlsPrivateKeyFile", node.paths.named(&key), "Its key.");
    }

    fn authentication(&mut self, node: &Node<'_>) {
        let configured = node.inspection.options.text("authentication.x509.clientCAFile");
        self.text
            .push_str("\nauthentication:\n  anonymous: {enabled: false}\n  x509:\n");
        let ca = if configured.is_empty() {
            let there: Vec<&str> = CLIENT_CAS
                .into_iter()
                .filter(|path| node.inspection.invocation.root.has(path))
                .collect();
            let perhaps = match there.as_slice() {
                [] => String::new(),
                there => format!("; there is {}, which may be it", there.join(" and ")),
            };
            Err(format!(
                "the kubelet has no clientCAFile; the API server's client certificate must be of a CA named here{perhaps}"
            ))
        } else {
            node.paths.named(configured)
        };
        let from =
            "The kubelet's clientCAFile. The API server's client certificate must be of one of these CAs.";
        self.value("    ", "clientCAFile", ca, from);
        self.text
            .push_str("  webhook: {enabled: true}\nauthorization:\n  mode: Webhook\n");
    }

    fn rest(&mut self, node: &Node<'_>) {
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
                    "The kubelet's read-only port, {read_only}, is open: `kubelet-gate firewall` closes it, and brings its callers to \
                     this tombstone, which says where to go instead and counts them."
                ),
            );
            let tombstone = listening::tombstone(node.here);
            self.text
                .push_str(&format!("readOnlyPort: {{listen: [\"{tombstone}\"]}}\n"));
        }
        let idle = options.get("streamingConnectionIdleTimeout");
        if let Some(idle) = idle.filter(|idle| idle.is_set() && !crate::duration::is_zero(&idle.shown())) {
            self.text.push('\n');
            let from = format!("As the kubelet's, by {}; here it is honoured.", idle.origin);
            self.value("", "streamingConnectionIdleTimeout", Ok(idle.shown()), &from);
        }
        self.text.push('\n');
        self.comment(
            "",
            "Standard output, which systemd's journal keeps. For a file of its own, which is not thinned out under load, name it \
             here: the unit makes /var/lib/kubelet-gate/audit for it.",
        );
        self.text.push_str("audit: {path: \"-\"}\n");
    }
}

/// Comment lines, whatever is in the text.
pub(super) fn comment(indent: &str, text: &str) -> String {
    let start = format!("{indent}# ");
    filled(&start, &start, &plain(text))
}

/// JSON's strings are YAML's, but for the characters that only YAML wants escaped.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let escaped = |c: char| match plain(c.encode_utf8(&mut [0; 4])) {
        plain if plain.chars().count() == 1 => plain,
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    json.chars().map(escaped).collect()
}
