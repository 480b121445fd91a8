//! If `init` wrote a value that it does not know, the gate that an operator starts with it would turn the API
//! server away.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::node::shell;
use crate::program::{code, kubelet_gate, stderr};
use crate::trees::{copied, tree, write};

pub(crate) fn init(root: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = kubelet_gate();
    command.arg("init").arg("--root").arg(root).arg("--out").arg(out);
    command.args(more).output().unwrap()
}

fn configuration(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("kubelet-gate.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// What `init` made of a changed node of kubeadm.
pub(crate) struct Made {
    pub(crate) code: i32,
    pub(crate) said: String,
    out: PathBuf,
    _node: TempDir,
}

impl Made {
    /// A file's text, or nothing where there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.out.join(name)).unwrap_or_default()
    }

    /// Its words, wherever lines end.
    pub(crate) fn words(&self, name: &str) -> String {
        let text = self.text(name).replace("\n#", " ").replace("\n  #", " ");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn configuration(&self) -> Value {
        configuration(&self.out)
    }
}

/// Runs `init` on kubeadm's node after this change.
pub(crate) fn made(more: &[&str], change: impl FnOnce(&Path)) -> Made {
    let node = copied("kubeadm");
    change(node.path());
    let out = node.path().join("out");
    let output = init(node.path(), &out, more);
    Made {
        code: code(&output),
        said: stderr(&output),
        out,
        _node: node,
    }
}

/// Adds flags to those that kubeadm gives its kubelet.
pub(crate) fn flags(node: &Path, flags: &str) {
    let text = format!("KUBELET_EXTRA_ARGS=\"{flags}\"\n");
    write(&node.join("etc/default/kubelet"), text);
}

/// The client certificate of kubeadm's node, with its key.
pub(crate) const CLIENT: &str = "var/lib/kubelet/pki/kubelet-client-2024-01-01-00-00-00.pem";

#[test]
fn every_distribution_gets_a_configuration_that_passes_check() {
    for (name, node, open_read_only, credential) in [
        ("kubeadm", "worker-1", false, true),
        ("k3s", "edge-1", false, true),
        ("rke2", "rancher-1", false, true),
        ("eks", "ip-192-0-2-14.ec2.internal", false, true),
        ("gke", "gke-pool-1", true, true),
        ("aks", "aks-nodepool1-0", false, true),
        ("kops", "i-0123456789abcdef0", false, false),
        ("flags-only", "worker-0", true, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let output = init(&tree(name), &out, &[]);
        // The client certificate of one of them has expired.
        let expected = if name == "flags-only" { 2 } else { 0 };
        assert_eq!(code(&output), expected, "{name}: {}", stderr(&output));
        let configuration = configuration(&out);
        assert_eq!(configuration["nodeName"], node, "{name}");
        assert_eq!(
            configuration["upstream"]["url"], "https://127.0.0.1:10250",
            "{name}"
        );
        assert_eq!(
            configuration["listen"][0], "[::]:19443",
            "{name}: the kubelet has its port"
        );
        assert_eq!(
            configuration["readOnlyPort"]["listen"]
                .as_array()
                .unwrap()
                .is_empty(),
            !open_read_only,
            "{name}"
        );
        assert_eq!(
            stderr(&output).contains("answered 401"),
            credential,
            "{name}: {}",
            stderr(&output)
        );
        let next = fs::read_to_string(out.join("NEXT.md")).unwrap();
        assert!(next.contains("--kubelet-client-certificate"), "{name}");
        assert_eq!(next.contains("kind: ClusterRole"), credential, "{name}");
        assert_eq!(next.contains("Do not seal"), credential, "{name}");
        let rules = fs::read_to_string(out.join("firewall.nft")).unwrap();
        assert!(rules.contains("10250") && rules.contains("10255"), "{name}");
        // A unit would need the node's own paths.
        assert!(!out.join("kubelet-gate.service").exists(), "{name}");
        let on_node = folder.path().join("on-node");
        assert_eq!(code(&init(&tree(name), &on_node, &["--node-paths"])), expected);
        let unit = fs::read_to_string(on_node.join("kubelet-gate.service")).unwrap();
        let after = match name {
            "k3s" => "After=network-online.target k3s-agent.service",
            "rke2" => "After=network-online.target rke2-agent.service",
            _ => "After=network-online.target kubelet.service",
        };
        assert!(unit.contains(after), "{name}");
        // systemd binds before any check: never a port of the kubelet's.
        let sockets = fs::read_to_string(on_node.join("kubelet-gate.socket")).unwrap();
        let listens: Vec<&str> = sockets
            .lines()
            .filter_map(|line| line.strip_prefix("ListenStream="))
            .collect();
        let expected: &[&str] = match open_read_only {
            true => &["[::]:19443", "[::]:19255", "127.0.0.1:19250"],
            false => &["[::]:19443", "127.0.0.1:19250"],
        };
        assert_eq!(listens, expected, "{name}");
        assert!(sockets.contains(after), "{name}: after the kubelet");
        let users = fs::read_to_string(on_node.join("kubelet-gate.sysusers")).unwrap();
        assert!(users.contains("u kubelet-gate"), "{name}");
        let kubeconfig = fs::metadata(out.join("kubeconfig")).unwrap();
        assert_eq!(kubeconfig.permissions().mode() & 0o777, 0o600, "{name}");
        let check = kubelet_gate()
            .args(["check", "--offline", "--config"])
            .arg(out.join("kubelet-gate.yaml"))
            .output()
            .unwrap();
        assert_eq!(code(&check), 0, "{name}: {}", stderr(&check));
    }
}

/// As the documentation says it: without `--offline`, and with no API server at 127.0.0.1:6443.
#[test]
fn what_is_written_for_kubeadm_passes_check() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(code(&init(&tree("kubeadm"), folder.path(), &[])), 0);
    let config = folder.path().join("kubelet-gate.yaml");
    let check = kubelet_gate()
        .args(["check", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(code(&check), 0, "{}", stderr(&check));
    // Each value says where it was found.
    let text = fs::read_to_string(config).unwrap();
    for from in [
        "kubelet-client-current.pem",
        "/etc/kubernetes/kubelet.conf",
        "clientCAFile",
        "worker-1-ca@1700000000",
    ] {
        assert!(
            text.lines()
                .any(|line| line.trim_start().starts_with('#') && line.contains(from)),
            "{from}"
        );
    }
}

/// Seen red: with a file in a usual place taken for the CA.
#[test]
fn what_is_not_found_is_left_out_and_reported() {
    let node = copied("flags-only");
    let at = node.path();
    let unit = at.join("etc/systemd/system/kubelet.service");
    let text = fs::read_to_string(&unit).unwrap();
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("--client-ca-file") && !line.contains("--kubeconfig"))
        .collect();
    fs::write(&unit, kept.join("\n")).unwrap();
    fs::remove_file(at.join("var/lib/kubelet/worker-0-key.pem")).unwrap();
    let out = at.join("out");
    let output = init(at, &out, &[]);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    let missing: Vec<String> = stderr(&output)
        .lines()
        .filter_map(|line| line.strip_prefix("missing: ").map(str::to_owned))
        .collect();
    for key in ["nodeName", "kubeconfig", "clientCAFile", "tlsPrivateKeyFile"] {
        assert!(
            missing.iter().any(|line| line.starts_with(key)),
            "{key}: {missing:?}"
        );
    }
    let text = fs::read_to_string(out.join("kubelet-gate.yaml")).unwrap();
    for line in [
        "# nodeName: \"\"",
        "# kubeconfig: \"\"",
        "    # clientCAFile: \"\"",
        "# tlsPrivateKeyFile: \"\"",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(
        text.contains("called \"worker-0\""),
        "a guess is reported, not written as a value"
    );
    assert!(
        text.contains("/var/lib/kubernetes/ca.pem, which may be it"),
        "{text}"
    );
    // An incomplete configuration is refused.
    let check = kubelet_gate()
        .args(["check", "--config"])
        .arg(out.join("kubelet-gate.yaml"))
        .output()
        .unwrap();
    assert_eq!(code(&check), 64);
}

/// A copied file system must not decide what runs here. Seen red: with `check` asking the API server, the
/// plugin ran.
#[test]
fn nothing_that_a_copied_file_system_names_is_run() {
    let node = copied("eks");
    let marker = node.path().join("ran");
    let plugin = node.path().join("plugin");
    fs::write(&plugin, format!("#!/bin/sh\ntouch {}\n", marker.display())).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let kubeconfig = node.path().join("var/lib/kubelet/kubeconfig");
    let text = fs::read_to_string(&kubeconfig).unwrap();
    fs::write(
        &kubeconfig,
        text.replace("command: aws", &format!("command: {}", plugin.display())),
    )
    .unwrap();
    let output = init(node.path(), &node.path().join("out"), &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!marker.exists());
}

#[test]
fn the_nodes_own_paths_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let output = init(&tree("kubeadm"), folder.path(), &["--node-paths"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let configuration = configuration(folder.path());
    for (value, path) in [
        (&configuration["kubeconfig"], "/etc/kubernetes/kubelet.conf"),
        (&configuration["tlsCertFile"], "/var/lib/kubelet/pki/kubelet.crt"),
        (
            &configuration["authentication"]["x509"]["clientCAFile"],
            "/etc/kubernetes/pki/ca.crt",
        ),
    ] {
        assert_eq!(value, path);
    }
    assert!(!folder.path().join("kubeconfig").exists());
}

/// A plain check would run the copied tree's plugin. Seen red: with a plain check in the instructions.
#[test]
fn the_instructions_for_a_tree_ask_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let missing = copied("flags-only");
    fs::remove_file(missing.path().join("var/lib/kubernetes/ca.pem")).unwrap();
    let output = init(missing.path(), &out, &[]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("kubelet-gate check --offline --config"), "{said}");
    let next = fs::read_to_string(out.join("NEXT.md")).unwrap();
    for line in next.lines().filter(|line| line.contains("gate check ")) {
        assert!(line.contains("--offline"), "{line}");
    }
    assert!(next.contains("gate check --offline"));
    // There are no rules for an incomplete configuration, and no instruction names them.
    assert!(!out.join("firewall.nft").exists() && !next.contains("firewall.nft"));
    assert!(next.contains("firewall print"));
}

/// An absolute link of the node leads elsewhere from here: after a rotation the gate would still read the old
/// file. Seen red: with every link taken for one that a gate here would see switched.
#[test]
fn files_behind_absolute_links_are_reported_as_todays() {
    for (name, link) in [
        (
            "kubeadm",
            Some("kubelet-client-current.pem is, or is behind, a link"),
        ),
        ("eks", Some("kubelet-server-current.pem is, or is behind, a link")),
        ("gke", None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (here, there) = (folder.path().join("here"), folder.path().join("there"));
        let output = init(&tree(name), &here, &[]);
        assert_eq!(stderr(&output).contains("a link"), link.is_some(), "{name}");
        assert!(stderr(&output).contains(link.unwrap_or_default()), "{name}");
        let text = fs::read_to_string(here.join("kubelet-gate.yaml")).unwrap();
        assert_eq!(
            text.contains("read again when it changes"),
            name != "eks",
            "{name}"
        );
        let next = fs::read_to_string(here.join("NEXT.md")).unwrap();
        assert!(
            next.contains("**These files are for a gate that runs from here**"),
            "{name}"
        );
        assert!(
            next.contains("--node-paths --out") && !next.contains("systemctl"),
            "{name}"
        );
        let output = init(&tree(name), &there, &["--node-paths"]);
        assert!(!stderr(&output).contains("a link"), "{name}");
        let text = fs::read_to_string(there.join("kubelet-gate.yaml")).unwrap();
        assert!(text.contains("read again when it changes"), "{name}");
    }
}

/// Seen red: with links not followed.
#[test]
fn files_that_the_unit_would_hide_are_named() {
    let at_home = |node: &Path| {
        fs::create_dir_all(node.join("root/keys")).unwrap();
        fs::rename(
            node.join("etc/kubernetes/kubelet.conf"),
            node.join("root/keys/kubelet.conf"),
        )
        .unwrap();
        symlink(
            "/root/keys/kubelet.conf",
            node.join("etc/kubernetes/kubelet.conf"),
        )
        .unwrap();
    };
    let there = made(&["--node-paths"], at_home);
    let hidden = there.said.lines().find(|line| line.contains("hides"));
    let hidden = hidden.unwrap();
    assert!(
        hidden.contains("/etc/kubernetes/kubelet.conf") && hidden.contains("ProtectHome=read-only"),
        "{hidden}"
    );
    assert!(there.words("NEXT.md").contains("ProtectHome=read-only"));
    // Without a unit nothing is hidden.
    let here = made(&[], at_home);
    assert!(!here.said.contains("hides"), "{}", here.said);
}

/// Seen red: with unread options left out, and with enableServer not looked at.
#[test]
fn a_kubelet_without_a_port_or_with_unread_options_is_a_problem() {
    let without = made(&[], |node| flags(node, "--enable-server=false"));
    assert_eq!(without.code, 2);
    assert!(
        without
            .said
            .lines()
            .any(|line| line.starts_with("problem: enableServer is off")),
        "{}",
        without.said
    );
    assert!(!without.text("kubelet-gate.yaml").contains("the kubelet has ."));
    assert!(!without.words("NEXT.md").contains("firewall.nft"));
    let unread = made(&[], |node| flags(node, "--config-dir=/etc/gone"));
    assert_eq!(unread.code, 2);
    assert!(
        unread
            .said
            .lines()
            .any(|line| line.starts_with("problem: not read") && line.contains("/etc/gone")),
        "{}",
        unread.said
    );
    assert!(unread.words("NEXT.md").contains("not read"));
}

/// Seen red: with --pid, which is of no use in a tree, in the message.
#[test]
fn with_two_kubelets_in_a_tree_the_message_says_how_to_name_one() {
    let node = copied("kubeadm");
    let k3s = tree("k3s");
    shell(&format!("cp -a {}/. {}", k3s.display(), node.path().display()));
    let out = node.path().join("out");
    let output = init(node.path(), &out, &[]);
    assert_eq!(code(&output), 1);
    let said = stderr(&output);
    assert!(
        said.contains("2 kubelets") && said.contains("--kubelet-config"),
        "{said}"
    );
    assert!(!said.contains("--pid") && !out.exists(), "{said}");
}
