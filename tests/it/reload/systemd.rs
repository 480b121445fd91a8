//! systemd is told when the gate serves, reads its files again, and ends; and it understands the units.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::Node;
use crate::patience::patience;
use crate::program::kubelet_gate;
use crate::skipped::skip;

const SIGNALS: usize = 200;

async fn next(socket: &UnixDatagram) -> String {
    let mut message = vec![0; 4096];
    let received = timeout(patience(), socket.recv(&mut message));
    let length = received.await.expect("nothing is told").unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

/// Seen red: without `notifier.reloading()`, without MONOTONIC_USEC, and with a reload for each signal.
#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_the_start_of_reloads_and_of_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = kubelet_gate();
    command.env("NOTIFY_SOCKET", &path);
    let node = Node::by(command, |_, _| {}).await;
    assert_eq!(next(&socket).await, "READY=1\n");

    let mut before = 0;
    for _ in 0..2 {
        node.hang_up();
        let told = next(&socket).await;
        let time = told
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap_or_else(|| panic!("{told}"));
        let time: u64 = time.trim_end().parse().unwrap();
        assert!(time > before, "{told}");
        before = time;
        assert_eq!(next(&socket).await, "READY=1\n");
    }

    // A storm of signals is a few reloads, and the last word is that the gate is ready.
    for _ in 0..SIGNALS {
        node.hang_up();
    }
    let mut told = Vec::new();
    let mut message = vec![0; 4096];
    while let Ok(length) = timeout(Duration::from_secs(2), socket.recv(&mut message)).await {
        told.push(String::from_utf8(message[..length.unwrap()].to_vec()).unwrap());
    }
    let reloads = told.iter().filter(|told| told.starts_with("RELOADING=1")).count();
    assert!((1..SIGNALS / 2).contains(&reloads), "{reloads} of {SIGNALS}");
    assert_eq!(told.last().map(String::as_str), Some("READY=1\n"));

    node.gate.signal(Signal::TERM);
    assert_eq!(next(&socket).await, "STOPPING=1\n");
    node.stop().await;
}

#[test]
fn systemd_understands_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("systemd-analyze is not installed");
    }
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/systemd");
    for unit in ["kubelet-gate.service", "before-229/kubelet-gate.service"] {
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(units.join(unit)).unwrap();
        let path = folder.path().join("kubelet-gate.service");
        // The program need not be installed here.
        fs::write(&path, text.replace("/usr/local/bin/kubelet-gate", "/bin/true")).unwrap();
        let verified = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verified.stderr);
        let about: Vec<_> = said
            .lines()
            .filter(|line| line.contains("kubelet-gate.service"))
            .collect();
        assert!(verified.status.success() && about.is_empty(), "{unit}: {said}");
    }
}
