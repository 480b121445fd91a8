//! systemd binds the addresses of a socket unit at boot, before the gate can look. A kubelet that finds its
//! port taken exits, and the node is lost: such a unit must be found before the node is started again.

use std::fs;
use std::path::Path;

use kubelet_gate::adopt::inspect::Verdict::{Fail, Pass};

use crate::inspecting::{check, only};
use crate::program::{Installation, assert_says, code, kubelet_gate, kubelet_gate_after, stderr, stdout};
use crate::trees::{copied, write};

const UNIT: &str = "etc/systemd/system/kubelet-gate.socket";

fn init(root: &Path, out: &Path) -> String {
    let output = kubelet_gate()
        .args(["init", "--node-paths", "--force", "--root"])
        .arg(root)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap();
    assert!(matches!(code(&output), 0 | 2), "{}", stderr(&output));
    stderr(&output)
}

/// Seen red: with the kubelet's addresses not looked at, and with the gate's configuration not read.
#[test]
fn inspect_names_a_line_that_takes_the_kubelets_port_or_is_not_configured() {
    let node = copied("kubeadm");
    let row = |text: &str| {
        write(&node.path().join(UNIT), text);
        check(&only(node.path()), "gate-socket-unit").clone()
    };
    let without = only(node.path());
    assert!(without.checks.iter().all(|check| check.id != "gate-socket-unit"));

    let found = row("[Unit]\n[Socket]\nListenStream=192.0.2.10:10250\n");
    assert_eq!(found.verdict, Fail, "{}", found.why);
    let place = format!("/{UNIT}:3: ListenStream=192.0.2.10:10250: the kubelet binds 0.0.0.0:10250");
    assert_says(
        &found.why,
        &[&place, "/var/lib/kubelet/config.yaml", "remove the line"],
    );
    let own = "[Socket]\nListenStream=[::]:19443\nListenStream=127.0.0.1:19250\n";
    assert_eq!(row(own).verdict, Pass);

    let out = tempfile::tempdir().unwrap();
    init(node.path(), out.path());
    let written = fs::read_to_string(out.path().join("kubelet-gate.socket")).unwrap();
    fs::create_dir_all(node.path().join("etc/kubelet-gate")).unwrap();
    fs::copy(
        out.path().join("kubelet-gate.yaml"),
        node.path().join("etc/kubelet-gate/kubelet-gate.yaml"),
    )
    .unwrap();
    let found = row(&written);
    assert_eq!(found.verdict, Pass, "what init writes fits: {}", found.why);
    let found = row(&written.replace("[::]:19443", "[::]:19444"));
    assert_eq!(found.verdict, Fail);
    assert_says(&found.why, &["ListenStream=[::]:19444", "neither in listen"]);
}

/// Seen red: with the rule of the running gate alone, by which a port that is free today may be taken.
#[test]
fn init_writes_no_socket_unit_with_a_port_of_the_kubelets_or_one_that_is_not_known() {
    let node = copied("kubeadm");
    let out = tempfile::tempdir().unwrap();
    let config = node.path().join("var/lib/kubelet/config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let flags = node.path().join("var/lib/kubelet/kubeadm-flags.env");
    let before = fs::read_to_string(&flags).unwrap_or_default();
    init(node.path(), out.path());
    assert!(out.path().join("kubelet-gate.socket").exists());

    let lines = text
        .lines()
        .filter(|line| !line.starts_with("address:") && !line.starts_with("readOnlyPort:"));
    let loopback: String = lines.map(|line| format!("{line}\n")).collect();
    write(
        &config,
        format!("{loopback}address: 127.0.0.1\nreadOnlyPort: 0\n"),
    );
    write(&flags, "KUBELET_KUBEADM_ARGS=\"--node-ip=192.0.2.10\"\n");
    let said = init(node.path(), out.path());
    assert!(
        !out.path().join("kubelet-gate.socket").exists(),
        "an old one is taken away"
    );
    assert_says(
        &said,
        &[
            "kubelet-gate.socket is not written",
            "192.0.2.10:10250",
            "lets go of it",
        ],
    );

    write(&config, &text);
    write(
        &flags,
        before.replace(
            "KUBELET_KUBEADM_ARGS=\"",
            "KUBELET_KUBEADM_ARGS=\"--config-dir=/gone ",
        ),
    );
    let said = init(node.path(), out.path());
    if !out.path().join("kubelet-gate.socket").exists() {
        assert_says(&said, &["kubelet-gate.socket is not written"]);
    }
}

/// Seen red: with `check` that does not look, and with a start that names the unit alone.
#[test]
fn check_and_serve_name_the_line_of_the_installed_unit() {
    let installation = Installation::new();
    installation.configure(|configuration| configuration["listen"] = ["127.0.0.1:19443"].into());
    let unit = installation.directory.path().join("kubelet-gate.socket");
    fs::write(
        &unit,
        "[Socket]\nListenStream=127.0.0.1:19443\nListenStream=127.0.0.1:10250\n",
    )
    .unwrap();
    let script = format!(
        "mount -t tmpfs none /run\nmkdir -p /run/systemd/system\ncp {} /run/systemd/system\nexec \"$@\"\n",
        unit.display()
    );
    let Some(mut command) = kubelet_gate_after(&script) else {
        return;
    };
    let output = command
        .args(["check", "--offline", "--config", &installation.config()])
        .output()
        .unwrap();
    assert_ne!(code(&output), 0, "{}", stdout(&output));
    let line = "/run/systemd/system/kubelet-gate.socket:3: ListenStream=127.0.0.1:10250: ";
    assert_says(
        &stderr(&output),
        &[line, "neither in listen", "no kubelet of this node was found"],
    );
    assert!(
        !stderr(&output).contains("kubelet-gate.socket:2"),
        "{}",
        stderr(&output)
    );
}
