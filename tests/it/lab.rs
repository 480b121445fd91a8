//! The configuration of `kubelet-gate lab --dir`: without this, the first commands of a new
//! user end with a warning.

use kubelet_gate::lab::{Lab, LabOptions};
use rustix::process::Signal;
use serde_json::Value;

use crate::program::{Serving, code, run, stderr};

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
    assert_eq!(serving.said, [] as [Value; 0]);
    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await.code(), Some(0));
    let levels = serving.later().into_iter().map(|event| event["level"].clone());
    assert!(levels.clone().all(|level| level == "INFO"), "{levels:?}");
    lab.stop().await.unwrap();
}
