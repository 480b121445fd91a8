//! If `init` wrote half of its files, or over other files, an operator would go on with a mixture of two
//! nodes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use crate::initialising::init;
use crate::program::{code, kubelet_gate, stderr};
use crate::trees::tree;

#[test]
fn existing_files_are_not_overwritten() {
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

/// All files are written or none. Seen red: with links followed, with each file written in its place, with
/// files of an earlier run left.
#[test]
fn no_file_is_written_through_a_link_and_no_half_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (out, elsewhere) = (folder.path().join("out"), folder.path().join("elsewhere"));
    fs::create_dir(&out).unwrap();
    symlink(&elsewhere, out.join("NEXT.md")).unwrap();
    let names = |out: &Path| {
        let entries = fs::read_dir(out).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let output = init(&tree("kubeadm"), &out, &[]);
    assert_eq!(code(&output), 1, "a link that leads nowhere is a file in the way");
    assert!(stderr(&output).contains("--force"), "{}", stderr(&output));
    assert_eq!(names(&out), ["NEXT.md"]);
    assert_eq!(code(&init(&tree("kubeadm"), &out, &["--force"])), 0);
    assert!(!elsewhere.exists() && out.join("NEXT.md").is_file() && !out.join("NEXT.md").is_symlink());
    assert_eq!(
        names(&out),
        ["NEXT.md", "firewall.nft", "kubeconfig", "kubelet-gate.yaml"]
    );
    // Files of an earlier run would be taken for this one's.
    fs::write(out.join("mine"), "").unwrap();
    assert_eq!(
        code(&init(&tree("kubeadm"), &out, &["--force", "--node-paths"])),
        0
    );
    assert_eq!(
        names(&out),
        [
            "NEXT.md",
            "firewall.nft",
            "kubelet-gate.service",
            "kubelet-gate.socket",
            "kubelet-gate.sysusers",
            "kubelet-gate.yaml",
            "mine"
        ]
    );
    // A folder is not replaced, not even with --force, and then no file is.
    fs::remove_file(out.join("kubeconfig")).unwrap_or_default();
    fs::create_dir(out.join("kubeconfig")).unwrap();
    let before = fs::read_to_string(out.join("NEXT.md")).unwrap();
    let output = init(&tree("k3s"), &out, &["--force"]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("has the name of a file"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_to_string(out.join("NEXT.md")).unwrap(), before);
}

/// Seen red: with `println!`, whose panic is exit code 101.
#[test]
fn a_reader_that_leaves_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = kubelet_gate()
        .arg("init")
        .arg("--root")
        .arg(tree("kubeadm"))
        .arg("--out")
        .arg(folder.path().join("out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("error: standard output"),
        "{}",
        stderr(&output)
    );
    assert!(folder.path().join("out/NEXT.md").exists());
}
