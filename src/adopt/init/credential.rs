//! The credential that a kubelet wants from the gate, and how to get it.

use std::path::Path;
use std::time::SystemTime;

use super::kubeconfig::NodeCertificate;
use crate::adopt::inspect::Inspection;
use crate::adopt::kubelet::options::Effective;
use crate::tls::{Trust, pem};

/// The files, beside the configuration.
pub(super) const CERTIFICATE: &str = "kubelet-client.crt";
pub(super) const KEY: &str = "kubelet-client.key";
pub(super) const TOKEN: &str = "kubelet-token";

/// Every subresource that a kubelet checks, so that the gate may forward every request that it allows.
const SUBRESOURCES: &str = "nodes/proxy, nodes/metrics, nodes/stats, nodes/log, nodes/checkpoint, \
                            nodes/pods, nodes/healthz, nodes/configz, nodes/statusz, nodes/flagz";

/// How a kubelet decides about its callers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CallerPolicy {
    /// It accepts requests without a credential, as system:anonymous.
    anonymous: bool,
    /// The API server decides what each caller may do; otherwise each may do everything.
    reviews: bool,
    /// It accepts client certificates, by its clientCAFile.
    certificates: bool,
    /// It accepts tokens, which the API server reviews.
    tokens: bool,
}

impl CallerPolicy {
    pub(super) fn of(options: &Effective) -> Self {
        Self {
            anonymous: options.is_on("authentication.anonymous.enabled"),
            reviews: options.text("authorization.mode") == "Webhook",
            certificates: !options.text("authentication.x509.clientCAFile").is_empty(),
            tokens: options.is_on("authentication.webhook.enabled"),
        }
    }

    /// It lets every caller do everything.
    pub(super) fn accepts_every_caller(self) -> bool {
        self.anonymous && !self.reviews
    }

    /// The node's own certificate and key, if this kubelet accepts them and gives them rights. Where the API
    /// server decides, a node's own user has no rights at its kubelet.
    pub(super) fn own<'a>(
        self,
        client: &'a NodeCertificate,
        inspection: &Inspection,
    ) -> Option<(&'a str, &'a str)> {
        if self.reviews || !self.certificates {
            return None;
        }
        let file = inspection.options.text("authentication.x509.clientCAFile");
        let bundle = inspection.invocation.root.read(file).ok()?;
        let bundle = pem::certificates(Path::new(file), bundle.as_bytes()).ok()?;
        let trust = Trust::new(bundle, 0).ok()?;
        trust.judge(&client.chain, SystemTime::now()).0.ok()?;
        Some((&client.file, client.key.as_deref()?))
    }

    /// What it does, as the start of a sentence.
    pub(super) fn does(self) -> &'static str {
        match (self.anonymous, self.reviews) {
            (true, _) => "the kubelet has the API server authorize its callers",
            (false, true) => "the kubelet authenticates its callers and has the API server authorize them",
            (false, false) => "the kubelet authenticates its callers",
        }
    }

    /// Its answer to a gate without a credential: 401, or 403 where it accepts system:anonymous.
    pub(super) fn refusal(self) -> &'static str {
        match self.anonymous {
            true => "403",
            false => "401",
        }
    }

    /// Whether it accepts any credential.
    pub(super) fn can_be_shown(self) -> bool {
        self.certificates || self.tokens
    }

    /// The keys of `upstream` for a credential, as comments.
    pub(super) fn lines(self) -> String {
        let mut lines = String::new();
        if self.certificates {
            lines.push_str(&format!(
                "  # clientCertificateFile: \"{CERTIFICATE}\"\n  # clientKeyFile: \"{KEY}\"\n"
            ));
        }
        if self.tokens {
            lines.push_str(&format!("  # tokenFile: \"{TOKEN}\"\n"));
        }
        lines
    }

    /// The files to install once they exist.
    pub(super) fn installed(self) -> Vec<&'static str> {
        let mut files = Vec::new();
        if self.certificates {
            files.extend([CERTIFICATE, KEY]);
        }
        if self.tokens {
            files.push(TOKEN);
        }
        files
    }

    /// How to get a credential, with commands to paste. `url` is the kubelet's.
    pub(super) fn section(self, node: &str, url: &str) -> String {
        if !self.can_be_shown() {
            return "This kubelet has no clientCAFile, and authentication by token is off: it accepts callers \
                    only as system:anonymous, and no credential will make it answer the gate. Do not give \
                    rights to system:anonymous: every caller would have them. Change the kubelet's own \
                    options first.\n"
                .to_owned();
        }
        let both = self.certificates && self.tokens;
        let mut text = match self.reviews {
            true => format!(
                "A credential with rights at the Node {node} only: if it is stolen, it opens no other \
                 kubelet. `check` asks the API server whether it has rights at other nodes, and refuses it \
                 if so.\n"
            ),
            false => "This kubelet lets every authenticated caller do everything, and so does each other \
                      kubelet that is configured like it: no RBAC limits the credential, and stolen from \
                      this node it opens all of them. If you can, have the kubelets ask the API server first \
                      (authorization.mode: Webhook).\n"
                .to_owned(),
        };
        text.push_str(
            "\nThe kubectl commands need an administrator's rights. They may run on another machine: take \
             the .csr there, and the answer back into this folder. On a control-plane node of kubeadm: \
             `export KUBECONFIG=/etc/kubernetes/admin.conf`.\n",
        );
        if self.reviews {
            text.push_str(&role(node));
        }
        if self.certificates {
            text.push_str(if both { "\n### By certificate\n" } else { "" });
            text.push_str(&self.certificate(node, url));
        }
        if self.tokens {
            text.push_str(if both {
                "\n### Or by token, where the cluster does not sign such certificates (EKS)\n"
            } else {
                ""
            });
            text.push_str(&self.token(node, url));
        }
        text
    }

    fn certificate(self, node: &str, url: &str) -> String {
        let rights = match self.reviews {
            true => binding(
                "kubelet-gate",
                node,
                &format!(
                    "{{apiGroup: rbac.authorization.k8s.io, kind: User, name: \"kubelet-gate:{node}\"}}"
                ),
            ),
            false => String::new(),
        };
        format!(
            "\n```sh\n\
             (umask 077; openssl ecparam -name prime256v1 -genkey -noout -out {KEY})\n\
             openssl req -new -key {KEY} -subj '/CN=kubelet-gate:{node}' -out kubelet-client.csr\n\
             kubectl apply -f - <<EOF\n\
             apiVersion: certificates.k8s.io/v1\n\
             kind: CertificateSigningRequest\n\
             metadata: {{name: kubelet-gate-{node}}}\n\
             spec:\n\
             \u{20} signerName: kubernetes.io/kube-apiserver-client\n\
             \u{20} usages: [client auth]\n\
             \u{20} request: $(base64 kubelet-client.csr | tr -d '\\n')\n\
             EOF\n\
             kubectl certificate approve kubelet-gate-{node}\n\
             sleep 5     # until it is signed\n\
             kubectl get csr kubelet-gate-{node} -o jsonpath='{{.status.certificate}}' | base64 -d \
             >{CERTIFICATE}\n\
             {rights}{}```\n\n\
             A CA in the kubelet's clientCAFile must have issued the certificate. It expires after a year, \
             unless the cluster says otherwise; the gate picks up a new one in its place without a restart. \
             Before Kubernetes 1.19, sign the .csr by hand, with the key of that CA and \
             extendedKeyUsage=clientAuth.\n",
            if_accepted(
                &format!("curl -sk --cert {CERTIFICATE} --key {KEY} {url}/healthz"),
                "client(Certificate|Key)File"
            )
        )
    }

    fn token(self, node: &str, url: &str) -> String {
        let rights = match self.reviews {
            true => binding(
                "kubelet-gate-token",
                node,
                &format!("{{kind: ServiceAccount, namespace: kube-system, name: kubelet-gate-{node}}}"),
            ),
            false => String::new(),
        };
        format!(
            "\n```sh\n\
             kubectl apply -f - <<'EOF'\n\
             apiVersion: v1\n\
             kind: ServiceAccount\n\
             metadata: {{name: kubelet-gate-{node}, namespace: kube-system}}\n\
             automountServiceAccountToken: false\n\
             ---\n\
             apiVersion: v1\n\
             kind: Secret\n\
             type: kubernetes.io/service-account-token\n\
             metadata:\n\
             \u{20} name: kubelet-gate-{node}\n\
             \u{20} namespace: kube-system\n\
             \u{20} annotations: {{kubernetes.io/service-account.name: kubelet-gate-{node}}}\n\
             EOF\n\
             {rights}sleep 5     # until it has a token\n\
             (umask 077; kubectl -n kube-system get secret kubelet-gate-{node} -o jsonpath='{{.data.token}}' \
             | base64 -d >{TOKEN})\n\
             {}```\n\n\
             This token does not expire; deleting the Secret revokes it. A token from `kubectl -n \
             kube-system create token kubelet-gate-{node}` expires: write a new one into the file in time, \
             and the gate picks it up without a restart.\n",
            if_accepted(
                &format!(
                    "printf 'header = \"Authorization: Bearer %s\"' \"$(cat {TOKEN})\" | curl -sk -K - \
                     {url}/healthz"
                ),
                "tokenFile"
            )
        )
    }
}

/// The rights of one node's gate at its own kubelet: every verb that a kubelet asks about. For HEAD it asks
/// with an empty verb, which RBAC compares as it is (docs/decisions/035-outputs-and-rights.md).
fn role(node: &str) -> String {
    format!(
        "\n```sh\n\
         kubectl apply -f - <<'EOF'\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: ClusterRole\n\
         metadata: {{name: \"kubelet-gate:{node}\"}}\n\
         rules:\n\
         - apiGroups: [\"\"]\n\
         \u{20} resources: [{SUBRESOURCES}]\n\
         \u{20} resourceNames: [\"{node}\"]\n\
         \u{20} verbs: [get, create, update, patch, delete, \"\"]\n\
         EOF\n\
         ```\n"
    )
}

/// Puts the keys of `upstream` into effect if the kubelet accepts the credential that they name.
fn if_accepted(asked: &str, keys: &str) -> String {
    format!(
        "if [ \"$({asked})\" = ok ]; then\n\
         \u{20} sed -i -E 's/^  # ({keys}: )/  \\1/' kubelet-gate.yaml\n\
         else\n\
         \u{20} echo 'the kubelet refuses it: kubelet-gate.yaml stays as it is'\n\
         fi\n"
    )
}

/// `name` is the binding's. Each credential has a binding of its own, so that one does not replace the
/// other's.
fn binding(name: &str, node: &str, subject: &str) -> String {
    format!(
        "kubectl apply -f - <<'EOF'\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: ClusterRoleBinding\n\
         metadata: {{name: \"{name}:{node}\"}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \"kubelet-gate:{node}\"}}\n\
         subjects:\n\
         - {subject}\n\
         EOF\n"
    )
}
