//! The configuration of `kubelet-gate lab --dir`: without this, the first commands of a new
//! user end with a warning.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use kubelet_gate::lab::{Lab, LabOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Serving, code, kubelet_gate_changed_by, run, stderr};

/// Seen red: without the Node in the API server, `check` and `serve` warned; with the lab's own gate on the
/// ports of the configuration, `serve` could not bind them.
#[tokio::test(flavor = "multi_thread")]
async fn check_and_serve_accept_the_labs_configuration_beside_the_lab() {
    let directory = tempfile::tempdir().unwrap();
    let options = LabOptions {
        directory: Some(directory.path().to_owned()),
        port: 0,
    };
    let lab = Lab::start(options).await.unwrap();
    let file = directory
        .path()
        .join("kubelet-gate.yaml")
        .to_str()
        .unwrap()
        .to_owned();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(":0\n") && !text.contains(":0\""), "{text}");

    let checked = run(&["check", "--config", &file]);
    assert_eq!((code(&checked), stderr(&checked).as_str()), (0, ""));

    let mut serving = Serving::with_configuration(&file).await;
    let said: Vec<_> = serving
        .said
        .iter()
        .map(|fields| fields["message"].as_str().unwrap())
        .collect();
    assert!(
        matches!(said[..], [contained] if contained.starts_with("sandbox: ")),
        "{said:?}"
    );
    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await.code(), Some(0));
    let levels = serving.later().into_iter().map(|event| event["level"].clone());
    assert!(levels.clone().all(|level| level == "INFO"), "{levels:?}");
    lab.stop().await.unwrap();
}

/// Many desktops have this umask. The second start finds the files of the first.
///
/// Seen red: with the modes that the umask leaves, the gate refused its configuration.
#[test]
fn a_lab_and_its_configuration_work_where_new_files_are_writable_by_the_group() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("new/lab");
    let file = folder.join("kubelet-gate.yaml");
    for start in ["the first", "the second"] {
        let mut lab = kubelet_gate_changed_by("umask 002")
            .args(["lab".as_ref(), "--dir".as_ref(), folder.as_os_str()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(lab.stdout.take().unwrap()).lines();
        let welcomed = lines.any(|line| line.unwrap().starts_with("To paste"));
        let checked = run(&["check", "--config", file.to_str().unwrap()]);
        // The rest is read, so that the lab can write it.
        let rest = std::thread::spawn(move || lines.count());
        let _ = kill_process(Pid::from_child(&lab), Signal::TERM);
        let ended = lab.wait().unwrap();
        rest.join().unwrap();
        assert!(welcomed && ended.success(), "{start}: {ended}");
        assert_eq!((code(&checked), stderr(&checked).as_str()), (0, ""), "{start}");
    }
}
