//! Trials. If a trial outlived its window, an operator who locked herself out would have to drive to the
//! node; if its end removed the confirmed seal too, the node would be open and no one would know.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::node::{Node, on_a_node, on_every_backend, server_at};
use crate::patience::{eventually, eventually_answers, stretched};

/// Starts a trial that is long enough for what a test does during it.
fn apply(more: &str) -> String {
    let seconds = stretched(Duration::from_secs(12)).as_secs();
    format!("apply --confirm-within {seconds}s{more}")
}

/// Waits until the trial has ended. Only the kernel's clock ends it.
async fn trial_ends(node: &Node) {
    eventually("the trial has ended", || {
        !node.firewall_prints("status --no-namespace").contains("on trial")
    })
    .await;
}

/// Seen red: with the trial's ports added without a timeout.
#[test]
fn a_first_trial_that_is_not_confirmed_leaves_the_node_as_it_was() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        node.firewall_exits(0, &apply(""));
        // No process is left that could undo it.
        node.kill_gate();
        let during = server_at("127.0.0.1:10250").await;
        assert_eq!(during, "none", "redirected to a gate that is gone");
        trial_ends(&node).await;
        assert_eq!(server_at("127.0.0.1:10250").await, "kubelet");
        assert_eq!(server_at("127.0.0.1:10255").await, "kubelet");
        let said = node.firewall_exits(1, "confirm");
        assert!(said.contains("too late"), "{said}");
        let after = server_at("127.0.0.1:10250").await;
        assert_eq!(after, "kubelet", "a late confirmation confirms nothing");
        node.stop().await;
    });
}

/// Seen red: with the base chains leading to the trial alone.
#[test]
fn an_unconfirmed_second_trial_falls_back_to_the_confirmed_seal() {
    on_every_backend(async |mut node: Node| {
        node.seal().await;
        let confirmed = node.rules();
        // Plan A, the confirmed one, redirects 10255 to the tombstone. Plan B redirects it nowhere.
        node.configuration(|configuration| configuration["readOnlyPort"]["listen"] = serde_json::json!([]));
        // Killed while it waits, as is everything else that could undo the trial.
        let mut applying = node.firewall_starts(&apply(" --confirm-when-verified --close-health-checkers"));
        eventually_answers("plan B is on trial", async || {
            server_at("127.0.0.1:10255").await == "none"
        })
        .await;
        applying.kill().unwrap();
        applying.wait().unwrap();
        assert_eq!(server_at("127.0.0.1:10250").await, "gate");
        node.kill_gate();
        trial_ends(&node).await;
        // No process of ours lives, and plan A is in force: it leads from 10255 to any listener on the
        // tombstone's port.
        let tombstone = std::net::TcpListener::bind("127.0.0.1:19255").unwrap();
        tombstone.set_nonblocking(true).unwrap();
        let connected = std::net::TcpStream::connect("127.0.0.1:10255");
        assert!(connected.is_ok(), "{}: plan A: {connected:?}", node.backend);
        // The last packet of the handshake may be on its way yet.
        eventually("plan A leads to the tombstone's port", || {
            tombstone.accept().is_ok()
        })
        .await;
        drop(tombstone);
        for address in ["[::1]:10250", "[::1]:10255"] {
            let server = server_at(address).await;
            assert_eq!(server, "none", "{address} is redirected to a gate that is gone");
        }
        // With a gate again, the packet filter lists plan A to the letter, but for the gate that it exempts.
        node.start_gate().await;
        node.admitted().await;
        assert_eq!(server_at("127.0.0.1:10255").await, "gate", "plan A");
        if node.backend != "iptables-legacy" {
            node.eventually_listed(&confirmed).await;
        }
        node.api_server_calls_gate().await;
        node.firewall_exits(0, "status");
        node.stop().await;
    });
}

#[test]
fn a_seal_confirms_itself_once_the_api_server_came_through_it() {
    on_every_backend(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let said = node.firewall_exits(1, "apply --confirm-within 3s --confirm-when-verified");
        assert!(said.contains("has not come through the seal"), "{said}");
        trial_ends(&node).await;
        let client = node.client(crate::world::API_SERVER, "192.0.2.10:10250".parse().unwrap());
        let coming = async {
            loop {
                let _ = client.get("/containerLogs/default/web/nginx").await;
                tokio::task::yield_now().await;
            }
        };
        let said = tokio::select! {
            said = node.firewall_succeeds("apply --confirm-within 60s --confirm-when-verified") => said,
            () = coming => unreachable!(),
        };
        assert!(said.contains("confirmed, and in force"), "{said}");
        node.firewall_exits(0, "status");
        node.stop().await;
    });
}

/// An admin port that fails at the first question, and then tells of a call by the API server long ago.
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

/// Seen red: with a failed question taken for "never", and any answer that differs from the one before for a
/// call.
#[test]
fn a_call_before_the_trial_verifies_nothing() {
    on_a_node(async |mut node: Node| {
        node.start_gate().await;
        node.api_server_calls_gate().await;
        let mut gate = node.running_gate();
        gate["admin"] = stuttering_admin_port().await.to_string().into();
        std::fs::write(node.file("run/exemption.json"), gate.to_string()).unwrap();
        let arguments = apply(" --confirm-when-verified --accept-unseen-api-server");
        let said = node.firewall_exits(1, &arguments);
        assert!(said.contains("has not come through the seal"), "{said}");
        node.stop().await;
    });
}
