//! If the next steps that `init` describes were wrong, or possible in the wrong order, an operator would seal
//! a node that then has no logs and no exec.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::initialising::{flags, made};
use crate::program::{code, kubelet_gate, stderr};
use crate::world::PKI;

/// The commands of a NEXT.md, block by block.
fn blocks(next: &str) -> Vec<String> {
    next.split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// Asserts that a shell can parse these commands.
fn assert_reads(commands: &str) {
    let output = Command::new("bash")
        .args(["-n", "-c", commands])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{commands}", stderr(&output));
}

/// A machine whose kubelet is described by options, and whose folders are in a temporary one.
struct Machine {
    folder: TempDir,
    out: PathBuf,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("ca.crt"), PKI.ca.certificate_pem()).unwrap();
        let [certificate, key] = PKI.kubelet_serving.write(folder.path()).unwrap();
        let [client, client_key] = PKI.apiserver_client.write(folder.path()).unwrap();
        fs::write(
            at("kubeconfig"),
            format!(
                "current-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
                 clusters: [{{name: a, cluster: {{server: https://127.0.0.1:1, certificate-authority: \
                 ca.crt}}}}]\n\
                 users: [{{name: a, user: {{client-certificate: {}, client-key: {}}}}}]\n",
                client.display(),
                client_key.display()
            ),
        )
        .unwrap();
        fs::write(
            at("config.yaml"),
            format!(
                "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nauthentication: \
                 {{x509: {{clientCAFile: ca.crt}}}}\ntlsCertFile: {}\n\
                 tlsPrivateKeyFile: {}\n",
                certificate.display(),
                key.display()
            ),
        )
        .unwrap();
        let out = at("an odd 'folder'");
        Self { folder, out }
    }

    fn init(&self) {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let output = kubelet_gate()
            .arg("init")
            .args(["--kubelet-config", &at("config.yaml")])
            .arg(format!("--kubelet-arg=--kubeconfig={}", at("kubeconfig")))
            .arg("--kubelet-arg=--hostname-override=worker-1")
            .arg("--out")
            .arg(&self.out)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("NEXT.md"), "{said}{}", stderr(&output));
    }

    /// Runs every block, with programs that record how they were called; `kubelet` prints the kubelet's
    /// answer. Yields the calls.
    fn follow(&self, kubelet: &str) -> String {
        let tools = self.folder.path().join("tools");
        fs::create_dir_all(&tools).unwrap();
        let log = tools.join("kubelet-gate.log");
        for (name, says) in [
            ("kubelet-gate", GATE),
            ("systemctl", ""),
            ("systemd-sysusers", ""),
            ("sleep", ""),
            ("curl", kubelet),
            ("kubectl", "case \"$*\" in *jsonpath*) echo MAA= ;; esac"),
        ] {
            let script = format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{says}\n", log.display());
            fs::write(tools.join(name), script).unwrap();
            fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let root = self.folder.path().join("root").display().to_string();
        let next = fs::read_to_string(self.out.join("NEXT.md")).unwrap();
        // An operator who pastes them goes on after a failure; here none may fail.
        let trap = "trap 'echo \"FAILED: $BASH_COMMAND\" >&2' ERR";
        let mut commands = format!("{trap}\nPATH={}:$PATH\n", tools.display());
        for block in blocks(&next) {
            commands.push_str(&block);
        }
        for folder in [
            "/etc/kubelet-gate",
            "/etc/systemd",
            "/usr/lib/sysusers.d",
            "/usr/local/bin",
        ] {
            commands = commands.replace(folder, &format!("{root}{folder}"));
        }
        let output = Command::new("bash").args(["-c", &commands]).output().unwrap();
        assert!(
            !stderr(&output).contains("FAILED: "),
            "{}\n{commands}",
            stderr(&output)
        );
        let calls = fs::read_to_string(log).unwrap();
        assert!(!calls.contains("not there: "), "{calls}");
        calls
    }

    fn installed(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }
}

/// What a command reads must be there by then.
const GATE: &str = "for last in \"$@\"; do :; done\n\
    case \"$*\" in\n\
    *--save*) touch \"$last\" ;;\n\
    *--config* | *--compare*) [ -f \"$last\" ] || echo \"not there: $last\" >>\"$0.log\" ;;\n\
    esac";

fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part);
        assert!(at.is_some(), "{part} is not, or not there, in\n{text}");
        rest = &rest[at.unwrap() + part.len()..];
    }
}

/// From top to bottom, unchanged. Seen red: with `check` before the files are installed.
#[test]
fn the_next_steps_can_be_pasted_as_they_are() {
    let machine = Machine::new();
    machine.init();
    let calls = machine.follow("echo ok");
    assert_in_order(
        &calls,
        &[
            "kubectl certificate approve kubelet-gate-worker-1",
            "systemd-sysusers",
            "kubelet-gate check --config",
            "kubelet-gate prove --save before.json",
            "systemctl daemon-reload",
            "systemctl enable --now kubelet-gate",
            "kubelet-gate firewall observe",
            "kubelet-gate firewall apply --accept-unseen-api-server --confirm-within 5m \
             --confirm-when-verified",
            "kubectl -n NAMESPACE logs POD",
            "kubelet-gate firewall status",
            "kubelet-gate prove --compare before.json",
            "kubelet-gate firewall remove",
            "systemctl stop kubelet-gate.socket",
            "systemctl disable --now kubelet-gate",
        ],
    );
    for (path, mode) in [
        ("etc/kubelet-gate/kubelet-gate.yaml", 0o644),
        ("etc/kubelet-gate/kubelet-client.key", 0o600),
        ("etc/kubelet-gate/kubelet-token", 0o600),
        ("etc/systemd/system/kubelet-gate.service", 0o644),
        ("etc/systemd/system/kubelet-gate.socket", 0o644),
        ("usr/lib/sysusers.d/kubelet-gate.conf", 0o644),
        ("usr/local/bin/kubelet-gate", 0o755),
    ] {
        let file = fs::metadata(machine.installed(path)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, mode, "{path}");
    }
    let text = fs::read_to_string(machine.installed("etc/kubelet-gate/kubelet-gate.yaml")).unwrap();
    for key in ["clientCertificateFile: \"", "clientKeyFile: \"", "tokenFile: \""] {
        assert!(text.contains(&format!("\n  {key}")), "{key} {text}");
    }
    // The gate's own certificate has that name, and is requested as the API server demands.
    let request = Command::new("openssl")
        .args(["req", "-noout", "-subject", "-verify", "-in"])
        .arg(machine.out.join("kubelet-client.csr"))
        .output()
        .unwrap();
    let subject = String::from_utf8_lossy(&request.stdout);
    assert!(subject.contains("kubelet-gate:worker-1"), "{subject}");
}

/// A kubelet asks about HEAD with an empty verb. Seen red: without it in the role.
#[test]
fn the_role_has_every_right_that_a_kubelet_asks_about_and_no_other() {
    let next = made(&[], |_| {}).text("NEXT.md");
    let roles: Vec<String> = blocks(&next)
        .iter()
        .filter(|block| block.contains("kind: ClusterRole\n"))
        .map(|block| {
            let text = block.split_once("<<'EOF'\n").unwrap().1;
            text.split_once("EOF\n").unwrap().0.to_owned()
        })
        .collect();
    let [role] = roles.as_slice() else {
        panic!("{roles:#?}");
    };
    let role: Value = serde_saphyr::from_str(role).unwrap();
    let [rule] = role["rules"].as_array().unwrap().as_slice() else {
        panic!("{role}");
    };
    assert_eq!(
        rule["verbs"],
        json!(["get", "create", "update", "patch", "delete", ""])
    );
    let subresources = [
        "proxy",
        "metrics",
        "stats",
        "log",
        "checkpoint",
        "pods",
        "healthz",
        "configz",
        "statusz",
        "flagz",
    ]
    .map(|subresource| format!("nodes/{subresource}"));
    assert_eq!(rule["resources"], json!(subresources));
    assert_eq!(rule["resourceNames"], json!(["worker-1"]), "of one Node");
    assert_eq!(rule["apiGroups"], json!([""]));
}

/// During the trial there would be no logs and no exec, since the kubelet answers 401 to all that the gate
/// forwards. Seen red: with `apply` in the block without its condition.
#[test]
fn a_node_is_not_sealed_before_its_kubelet_accepts_the_gates_credential() {
    let machine = Machine::new();
    machine.init();
    let next = fs::read_to_string(machine.out.join("NEXT.md")).unwrap();
    assert_in_order(&next, &["**Do not seal this node yet.**", "\n## "]);
    let calls = machine.follow("echo Unauthorized");
    assert!(calls.contains("systemctl enable --now kubelet-gate"), "{calls}");
    assert!(!calls.contains("firewall apply"), "{calls}");
    let text = fs::read_to_string(machine.installed("etc/kubelet-gate/kubelet-gate.yaml")).unwrap();
    assert!(text.contains("\n  # clientCertificateFile: \""), "{text}");
}

#[test]
fn the_next_steps_are_commands_that_a_shell_can_parse() {
    for more in [&[][..], &["--node-paths"]] {
        let made = made(more, |_| {});
        let blocks = blocks(&made.text("NEXT.md"));
        assert!(blocks.len() > 5);
        for block in &blocks {
            assert_reads(block);
        }
        // The folder is entered before its files are used.
        let all = blocks.concat();
        let go = all.find("\ncd ").or_else(|| all.starts_with("cd ").then_some(0));
        assert!(go < all.find("kubelet-gate check") && go.is_some(), "{all}");
        assert_eq!(all.contains("systemctl"), !more.is_empty());
    }
}

#[test]
fn the_api_servers_own_manifest_is_read() {
    let manifest = |flags: &'static str| {
        made(&[], move |node| {
            let folder = node.join("etc/kubernetes/manifests");
            fs::create_dir_all(&folder).unwrap();
            let text = format!("spec:\n  containers:\n  - command:\n    - kube-apiserver\n{flags}");
            fs::write(folder.join("kube-apiserver.yaml"), text).unwrap();
        })
    };
    let does = manifest("    - --kubelet-client-certificate=/etc/kubernetes/pki/c.crt\n").words("NEXT.md");
    assert!(does.contains("This node's own does"), "{does}");
    for without in ["", "    # - --kubelet-client-certificate=/c\n"] {
        let without = manifest(without).words("NEXT.md");
        assert!(without.contains("**This node's own presents none**"), "{without}");
    }
    let elsewhere = made(&[], |_| {}).words("NEXT.md");
    assert!(elsewhere.contains("`firewall apply` refuses until the gate has served the API server"));
}

/// The credential depends on how the kubelet authenticates and authorizes. Seen red: with permissions granted
/// where the kubelet checks none; with 401 where the kubelet sees system:anonymous; with a certificate of
/// another CA offered.
#[test]
fn the_credential_is_one_that_this_kubelet_accepts() {
    const CERTIFICATE: &str = "signerName: kubernetes.io/kube-apiserver-client";
    const TOKEN: &str = "kind: ServiceAccount";
    const RIGHTS: &str = "kind: ClusterRole";
    let no_ca = |node: &Path| {
        let config = node.join("var/lib/kubelet/config.yaml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            config,
            text.replace("clientCAFile: /etc/kubernetes/pki/ca.crt", "clientCAFile: \"\""),
        )
        .unwrap();
    };
    let of = |given: &'static str, ca: bool| {
        made(&[], move |node| {
            flags(node, given);
            if !ca {
                no_ca(node);
            }
        })
    };
    for (given, ca, with, without, refused) in [
        ("", true, &[CERTIFICATE, TOKEN, RIGHTS][..], &[][..], "401"),
        (
            "--authentication-token-webhook=false",
            true,
            &[CERTIFICATE, RIGHTS],
            &[TOKEN],
            "401",
        ),
        ("", false, &[TOKEN, RIGHTS], &[CERTIFICATE], "401"),
        (
            "--anonymous-auth",
            true,
            &[CERTIFICATE, TOKEN, RIGHTS],
            &[],
            "403",
        ),
        (
            "--anonymous-auth --authentication-token-webhook=false",
            false,
            &["no credential will make it answer"],
            &[CERTIFICATE, TOKEN, RIGHTS, "firewall apply --"],
            "403",
        ),
        (
            "--authorization-mode=AlwaysAllow",
            false,
            &[TOKEN, "no RBAC limits the credential"],
            &[CERTIFICATE, RIGHTS],
            "401",
        ),
    ] {
        let made = of(given, ca);
        let next = made.words("NEXT.md");
        for text in with {
            assert!(next.contains(text), "{given}, {ca}: {text} is not in {next}");
        }
        for text in without {
            assert!(!next.contains(text), "{given}, {ca}: {text} is in {next}");
        }
        assert!(next.contains("Do not seal this node yet"), "{given}, {ca}");
        assert!(
            made.said.contains(&format!("answered {refused}")),
            "{given}, {ca}: {}",
            made.said
        );
        assert!(
            made.words("kubelet-gate.yaml")
                .contains(&format!("answered {refused}")),
            "{given}, {ca}"
        );
        for block in blocks(&made.text("NEXT.md")) {
            assert_reads(&block);
        }
    }
    // A token belongs to a ServiceAccount, and so does the permission.
    let tokens = of("", false).words("NEXT.md");
    assert!(
        tokens.contains("- {kind: ServiceAccount, namespace: kube-system, name: kubelet-gate-worker-1}"),
        "{tokens}"
    );
    // This kubelet permits every certificate of its CA: the node's own one suffices, and it is reported that
    // it suffices elsewhere too.
    let own = of("--authorization-mode=AlwaysAllow", true);
    let key = own.configuration()["upstream"]["clientKeyFile"].clone();
    assert!(key.as_str().unwrap().contains("kubelet-client-2024"), "{key}");
    let next = own.words("NEXT.md");
    assert!(
        next.contains("so does each other kubelet that is configured like it")
            && !next.contains("Do not seal"),
        "{next}"
    );
    assert!(!next.contains(RIGHTS));
    // A certificate of another CA opens nothing, and one must be made.
    let another = made(&[], |node| {
        flags(node, "--authorization-mode=AlwaysAllow");
        fs::write(
            node.join("etc/kubernetes/pki/ca.crt"),
            PKI.untrusted_ca.certificate_pem(),
        )
        .unwrap();
    });
    assert!(another.configuration()["upstream"]["clientKeyFile"].is_null());
    let next = another.words("NEXT.md");
    assert!(next.contains(CERTIFICATE) && !next.contains(RIGHTS), "{next}");
}

/// Seen red: with the key looked for in the certificate's file.
#[test]
fn the_key_of_the_nodes_certificate_is_where_the_kubeconfig_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let k3s = tempfile::tempdir().unwrap();
    crate::node::shell(&format!(
        "cp -a {}/. {}",
        crate::trees::tree("k3s").display(),
        k3s.path().display()
    ));
    let config = k3s.path().join("etc/rancher/k3s/config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("{text}\nkubelet-arg+: [authorization-mode=AlwaysAllow]\n"),
    )
    .unwrap();
    let output = kubelet_gate()
        .arg("init")
        .arg("--root")
        .arg(k3s.path())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = fs::read_to_string(out.join("kubelet-gate.yaml")).unwrap();
    let written: Value = serde_saphyr::from_str(&text).unwrap();
    let upstream = &written["upstream"];
    let ends = |key: &str, end: &str| upstream[key].as_str().is_some_and(|path| path.ends_with(end));
    assert!(
        ends("clientCertificateFile", "/agent/client-kubelet.crt"),
        "{upstream}"
    );
    assert!(ends("clientKeyFile", "/agent/client-kubelet.key"), "{upstream}");
}
