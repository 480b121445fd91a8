//! What to do with the files that were written.

use super::INSTALLED;
use super::configuration::Configuration;
use crate::inspect::Inspection;

/// The commands, in order, with the way back.
pub(super) fn text(inspection: &Inspection, configuration: &Configuration) -> String {
    let config = format!("{INSTALLED}/kubelet-gate.yaml");
    let node = configuration.node_name.as_deref().unwrap_or("NODE");
    let mut text = format!(
        "# What to do next\n\n\
         For the kubelet of {}, Node {node}. Nothing on this node has been changed yet.\n",
        inspection.invocation.source
    );
    let mut section = |title: &str, body: String| {
        text.push_str(&format!("\n## {title}\n{body}"));
    };
    if !configuration.missing.is_empty() {
        section("Fill in first", list(&configuration.missing));
    }
    if !configuration.remarks.is_empty() {
        section("Know first", list(&configuration.remarks));
    }
    section(
        "The API server must show a certificate",
        format!(
            "Requests of the API server come through the gate only if it presents a client certificate that the gate's\n\
             `clientCAFile` verifies and whose user may `nodes/proxy`, as `kube-apiserver --kubelet-client-certificate` and\n\
             `--kubelet-client-key` have it do (kubeadm, k3s, RKE2 and the managed services set them). Without them logs, exec and\n\
             metrics through the API server end when the node is sealed; `firewall apply` therefore refuses until it has been seen:\n\n\
             ```sh\n\
             kubelet-gate check --config {config}     # asks the API server whether the gate may ask for reviews\n\
             ```\n"
        ),
    );
    if !configuration.presented.is_empty() {
        section("Who would refuse the certificate", list(&configuration.presented));
    }
    if configuration.needs_credential {
        section("Something to show the kubelet", credential(node));
    }
    section(
        "Install and start",
        format!(
            "```sh\n\
             kubelet-gate prove --save before.json                   # what is open today\n\
             install -D -m 755 kubelet-gate /usr/local/bin/kubelet-gate\n\
             install -D -m 644 kubelet-gate.sysusers /usr/lib/sysusers.d/kubelet-gate.conf && systemd-sysusers\n\
             install -D -m 644 kubelet-gate.yaml {config}\n\
             {}\
             install -D -m 644 kubelet-gate.service /etc/systemd/system/kubelet-gate.service\n\
             kubelet-gate check --config {config}\n\
             systemctl daemon-reload && systemctl enable --now kubelet-gate\n\
             curl -s 'http://127.0.0.1:19250/readyz?verbose'\n\
             ```\n",
            if configuration.kubeconfig.is_some() {
                format!("install -D -m 600 kubeconfig {INSTALLED}/kubeconfig\n")
            } else {
                String::new()
            }
        ),
    );
    let already = configuration.port == configuration.kubelet_port;
    section(
        "Seal",
        format!(
            "{}\n\n\
             ```sh\n\
             kubelet-gate firewall observe --config {config}         # who would be affected; changes nothing\n\
             kubelet-gate firewall print --config {config}           # the rules; also in firewall.nft beside this file\n\
             kubelet-gate firewall apply --confirm-within 5m --confirm-when-verified --config {config}\n\
             kubelet-gate firewall status --config {config}\n\
             kubelet-gate prove --compare before.json                # exit 0: nothing gets through any more\n\
             ```\n",
            if already {
                format!(
                    "The gate has port {} of the node's addresses; the seal closes loopback and the read-only port.",
                    configuration.port
                )
            } else {
                format!(
                    "Until now nobody comes to the gate: it listens on {}. The seal brings the callers of {} to it and refuses \
                     the rest.",
                    configuration.port, configuration.kubelet_port
                )
            }
        ),
    );
    section(
        "Back",
        format!(
            "```sh\n\
             kubelet-gate firewall remove --config {config}          # the kubelet is reached as before\n\
             systemctl disable --now kubelet-gate\n\
             ```\n\n\
             In this order: a gate that is stopped behind a seal leaves the node without logs and exec. The kubelet was not touched, \
             so nothing of it has to be undone.\n"
        ),
    );
    text
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

/// The rights of one node's gate at its kubelet.
fn credential(node: &str) -> String {
    format!(
        "A client certificate of the kubelet's client CA with the subject `CN=kubelet-gate:{node}` (and no group that has rights),\n\
         or a token, and these rights of it. They end at this Node: stolen, they open no other kubelet.\n\n\
         ```yaml\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: ClusterRole\n\
         metadata: {{name: \"kubelet-gate:{node}\"}}\n\
         rules:\n\
         - apiGroups: [\"\"]\n\
         \u{20} resources: [nodes/proxy, nodes/metrics, nodes/stats, nodes/log, nodes/checkpoint, nodes/pods, nodes/healthz, nodes/configz, nodes/statusz, nodes/flagz]\n\
         \u{20} resourceNames: [\"{node}\"]\n\
         \u{20} verbs: [get, create, update, patch, delete]\n\
         ---\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: ClusterRoleBinding\n\
         metadata: {{name: \"kubelet-gate:{node}\"}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"kubelet-gate:{node}\"}}\n\
         subjects:\n\
         - {{apiGroup: rbac.authorization.k8s.io, kind: User, name: \"kubelet-gate:{node}\"}}\n\
         ```\n\n\
         Name its files in `upstream.clientCertificateFile` and `clientKeyFile` (or `tokenFile`); `check` then asks the API server \
         whether they are good for other nodes too, and refuses them if so.\n"
    )
}
