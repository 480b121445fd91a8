//! A signal that reaches another process than the gate ends it: SIGUSR2 would take the kubelet away.

use std::process::Command;

use super::Node;
use crate::program::assert_says;

/// Ends with the test.
struct Bystander(std::process::Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_not_the_gate_gets_no_signal() {
    let mut node = Node::start().await;
    let mut bystander = Bystander(Command::new("sleep").arg("600").spawn().unwrap());
    let pid = bystander.0.id().to_string();
    let gate = format!("is process {}", node.gate.pid());
    let refused = node.upgrade(&["--pid", &pid]).await;
    assert_eq!(
        (refused.status.code(), refused.new),
        (Some(1), None),
        "{}",
        refused.said
    );
    assert_says(&refused.said, &[&format!("--pid is {pid}"), &gate]);
    for main_pid in [&pid, "gate"] {
        let mut command = crate::program::kubelet_gate();
        command.env("MAINPID", main_pid);
        let refused = node.upgrade_by(command, &[]).await;
        assert_eq!(
            (refused.status.code(), refused.new),
            (Some(1), None),
            "{}",
            refused.said
        );
        assert_says(&refused.said, &["MAINPID"]);
    }
    assert!(bystander.0.try_wait().unwrap().is_none());
    assert!(!node.log().contains("SIGUSR2"));
    node.goes_on().await;
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_has_ended_cannot_hand_over() {
    let mut node = Node::start().await;
    node.gate.signal(rustix::process::Signal::TERM);
    assert!(node.gate.exit().await.success());
    let refused = node.upgrade(&[]).await;
    assert_eq!(
        (refused.status.code(), refused.new),
        (Some(1), None),
        "{}",
        refused.said
    );
    assert_says(&refused.said, &["process.json", "has ended", "start it instead"]);
}
