//! If `init` writes what it does not know, an operator at night starts a gate that turns the API server away.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::command_line::{code, kubelet_gate, stderr};
use crate::inspecting::tree;

fn init(root: &Path, out: &Path, more: &[&str]) -> Output {
    let mut command = kubelet_gate();
    command.arg("init").arg("--root").arg(root).arg("--out").arg(out);
    command.args(more).output().unwrap()
}

fn configuration(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("kubelet-gate.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// A tree that can be changed.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    crate::node::shell(&format!(
        "cp -a {}/. {}",
        tree(name).display(),
        folder.path().display()
    ));
    folder
}

#[test]
fn every_distribution_gets_a_configuration_that_stands() {
    for (name, node, own_port, credential) in [
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
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
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
            !own_port,
            "{name}"
        );
        assert_eq!(
            stderr(&output).contains("answered 401"),
            credential,
            "{name}: {}",
            stderr(&output)
        );
        let next = fs::read_to_string(out.join("NEXT.md")).unwrap();
        for command in [
            "kubelet-gate check",
            "firewall apply",
            "firewall remove",
            "prove --save",
            "prove --compare",
        ] {
            assert!(next.contains(command), "{name}: {command}");
        }
        assert!(next.contains("--kubelet-client-certificate"), "{name}");
        assert_eq!(next.contains("kind: ClusterRole"), credential, "{name}");
        let rules = fs::read_to_string(out.join("firewall.nft")).unwrap();
        assert!(rules.contains("10250") && rules.contains("10255"), "{name}");
        let unit = fs::read_to_string(out.join("kubelet-gate.service")).unwrap();
        let after = match name {
            "k3s" => "After=network-online.target k3s-agent.service",
            "rke2" => "After=network-online.target rke2-agent.service",
            _ => "After=network-online.target kubelet.service",
        };
        assert!(unit.contains(after), "{name}");
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

/// As the documentation has it: without `--offline`, and nobody at 127.0.0.1:6443.
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

#[test]
fn what_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(code(&init(&tree("kops"), folder.path(), &[])), 0);
    let config = folder.path().join("kubelet-gate.yaml");
    fs::write(&config, "edited").unwrap();
    let again = init(&tree("kops"), folder.path(), &[]);
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("--force"), "{}", stderr(&again));
    assert_eq!(fs::read_to_string(&config).unwrap(), "edited");
    assert_eq!(code(&init(&tree("kops"), folder.path(), &["--force"])), 0);
    assert_ne!(fs::read_to_string(&config).unwrap(), "edited");
}

/// Seen red: with a well-known place taken for the CA.
#[test]
fn what_is_not_found_is_left_out_and_said() {
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
        "what it may be is said, not set"
    );
    assert!(
        text.contains("/var/lib/kubernetes/ca.pem, which may be it"),
        "{text}"
    );
    // Settings refuses what is not whole, rather than starting with it.
    let check = kubelet_gate()
        .args(["check", "--config"])
        .arg(out.join("kubelet-gate.yaml"))
        .output()
        .unwrap();
    assert_eq!(code(&check), 64);
}

/// A kubelet of a copied tree must not have its say here. Seen red: with `check` asking the API server for a tree, the plugin ran.
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
fn the_nodes_own_paths_can_be_had() {
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
