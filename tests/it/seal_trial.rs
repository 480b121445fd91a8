//! Commit-confirm. If a trial outlived its window, an operator who locked herself out would have to drive to the node; if it took
//! the confirmed seal with it, the node would be open and nobody would know.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use crate::node::{Node, on_a_node, on_every_backend, who_answers};
use crate::world::eventually_answers;

/// Waits until nothing of a trial is alive. The kernel's clock decides, and nobody else.
async fn trial_ends(node: &Node) {
    let until = Instant::now() + Duration::from_secs(15);
    while node.firewall_says("status --no-namespace").contains("on trial") {
        assert!(Instant::now() < until, "the trial does not end");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Seen red: with the trial's ports added without a timeout.
#[test]
fn a_first_trial_that_nobody_confirms_leaves_the_node_as_it_was() {
    on_every_backend("first trial", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        node.firewall_ends(0, "apply --confirm-within 3s");
        // Nobody is there to undo it.
        node.kill_gate();
        assert_eq!(
            who_answers("127.0.0.1:10250").await,
            "nobody",
            "redirected to a gate that is gone"
        );
        trial_ends(&node).await;
        assert_eq!(who_answers("127.0.0.1:10250").await, "kubelet");
        assert_eq!(who_answers("127.0.0.1:10255").await, "kubelet");
        let said = node.firewall_ends(1, "confirm");
        assert!(said.contains("too late"), "{said}");
        assert_eq!(
            who_answers("127.0.0.1:10250").await,
            "kubelet",
            "nothing was confirmed too late"
        );
        node.stop().await;
    });
}

/// Seen red: with the base chains leading to the trial alone.
#[test]
fn an_unconfirmed_second_trial_falls_back_to_the_confirmed_seal() {
    on_every_backend("second trial", async |mut node: Node| {
        node.seal().await;
        let confirmed = node.rules();
        // Plan B brings 10255 nowhere.
        node.configuration(|configuration| configuration["readOnlyPort"]["listen"] = serde_json::json!([]));
        // Killed while it waits, and with it everything else that could undo the trial.
        let mut applying =
            node.firewall_begins("apply --confirm-within 6s --confirm-when-verified --close-health-checkers");
        let applied = async || who_answers("127.0.0.1:10255").await == "nobody";
        eventually_answers("plan B is on trial", applied).await;
        applying.kill().unwrap();
        applying.wait().unwrap();
        assert_eq!(who_answers("127.0.0.1:10250").await, "gate");
        node.kill_gate();
        trial_ends(&node).await;
        // Nobody of ours lives, and it is plan A that is in force: it brings 10255 to whoever has the tombstone's port.
        let tombstone = std::net::TcpListener::bind("127.0.0.1:19255").unwrap();
        tombstone.set_nonblocking(true).unwrap();
        assert!(
            std::net::TcpStream::connect("127.0.0.1:10255").is_ok(),
            "{}: plan A",
            node.backend
        );
        assert!(tombstone.accept().is_ok(), "{}: plan A", node.backend);
        drop(tombstone);
        for port in [10250, 10255] {
            assert_eq!(
                who_answers(&format!("[::1]:{port}")).await,
                "nobody",
                "sealed: brought to the gate, which is gone"
            );
        }
        // The gate comes back, and with it what the kernel lists is plan A to the letter, but for whom it lets through.
        node.start_gate().await;
        node.admitted().await;
        assert_eq!(who_answers("127.0.0.1:10255").await, "gate", "plan A");
        if node.backend != "iptables-legacy" {
            node.eventually_listed(&confirmed).await;
        }
        node.api_server_comes().await;
        node.firewall_ends(0, "status");
        node.stop().await;
    });
}

#[test]
fn a_seal_confirms_itself_once_the_api_server_came_through_it() {
    on_every_backend("verified", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        let said = node.firewall_ends(1, "apply --confirm-within 3s --confirm-when-verified");
        assert!(said.contains("has not come through the seal"), "{said}");
        trial_ends(&node).await;
        let client = node.client(crate::world::API_SERVER, "192.0.2.10:10250".parse().unwrap());
        let coming = async {
            loop {
                let _ = client.get("/containerLogs/default/web/nginx").await;
                sleep(Duration::from_millis(200)).await;
            }
        };
        let words = "apply --confirm-within 30s --confirm-when-verified";
        let said = tokio::select! {
            said = node.firewall_beside(words) => said,
            () = coming => unreachable!(),
        };
        assert!(said.contains("confirmed, and in force"), "{said}");
        node.firewall_ends(0, "status");
        node.stop().await;
    });
}

/// An admin port that cannot be asked once, and then tells of the API server as it was long ago.
async fn stuttering_admin_port() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        drop(listener.accept().await);
        let body = r#"{"apiServer":{"user":"a","first":"2020-01-01T00:00:00Z","last":"2020-01-01T00:00:00Z"},"seal":{"state":"trial"}}"#;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// Seen red: with a question that failed taken for "never", and any other answer than before for a visit.
#[test]
fn who_came_before_the_trial_verifies_nothing() {
    on_a_node("seen before", async |mut node: Node| {
        node.start_gate().await;
        node.api_server_comes().await;
        let mut gate = node.running_gate();
        gate["admin"] = stuttering_admin_port().await.to_string().into();
        std::fs::write(node.file("run/exemption.json"), gate.to_string()).unwrap();
        let words = "apply --confirm-within 4s --confirm-when-verified --accept-unseen-api-server";
        let said = node.firewall_ends(1, words);
        assert!(said.contains("has not come through the seal"), "{said}");
        node.stop().await;
    });
}
