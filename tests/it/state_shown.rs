//! An operator who cannot see whether a gate is ready, what waits for a restart, and which processes still
//! leave, learns it from an outage.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::live_streams::{Live, Shows};
use crate::patience::eventually_answers;
use crate::program::{assert_says, code, json_of, kubelet_gate, stderr, stdout};
use crate::world::{PKI, World};

/// The world's configuration, with the admin port's number.
fn configuration(world: &World, admin: SocketAddr) -> PathBuf {
    let text = std::fs::read_to_string(world.file("kubelet-gate.yaml")).unwrap();
    let mut configuration: Value = serde_json::from_str(&text).unwrap();
    configuration["admin"] = json!({"listen": admin.to_string(), "socket": ""});
    let file = world.file("with-port.yaml");
    std::fs::write(&file, configuration.to_string()).unwrap();
    file
}

async fn status(config: &Path, output: &str) -> Output {
    let mut command = kubelet_gate();
    command
        .arg("status")
        .arg("--config")
        .arg(config)
        .args(["-o", output]);
    tokio::process::Command::from(command).output().await.unwrap()
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_says_what_it_serves_and_whether_it_is_ready() {
    let mut world = World::start().await;
    let config = configuration(&world, world.admin);
    let live = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    let shown = status(&config, "json").await;
    assert_eq!(code(&shown), 0, "{}", stderr(&shown));
    let report = json_of(&shown);
    assert_eq!(report["ready"], true, "{report:#}");
    assert_eq!(report["pid"], std::process::id());
    assert_eq!(
        (&report["streams"], &report["followedLogs"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(report["leaving"], json!([]));
    for (port, address) in [
        ("tls", world.address),
        ("read-only", world.read_only),
        ("admin", world.admin),
    ] {
        let listener = json!({"port": port, "address": address.to_string()});
        assert!(
            report["listeners"].as_array().unwrap().contains(&listener),
            "{report:#}"
        );
    }
    let text = stdout(&status(&config, "text").await);
    let address = format!("listeners      {} (tls)", world.address);
    assert_says(
        &text,
        &[
            "is ready",
            &address,
            "2, and 2 followed logs",
            "not looked at yet",
            // The gate of this test runs in the test's process.
            "sandbox        off",
        ],
    );
    drop(live);

    world.stop_kubelet().await;
    eventually_answers("it is not ready", async || {
        code(&status(&config, "table").await) == 1
    })
    .await;
    let text = stdout(&status(&config, "text").await);
    assert_says(&text, &["is NOT READY", "[-] kubelet: "]);
    let report = json_of(&status(&config, "json").await);
    assert_eq!(report["ready"], false);
    world.stop().await;
}

/// A listener that answers once, as a gate or another program.
fn answering(body: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
        );
    });
    address
}

/// Seen red: with the answer printed as it came.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_leave_are_listed_and_another_program_cannot_write_to_the_terminal() {
    let world = World::start().await;
    let answer = world.admin_client().get("/status").await.unwrap();
    let mut report: Value = serde_json::from_slice(answer.body()).unwrap();
    report["leaving"] = json!([{
        "pid": 4321,
        "since": "2026-01-02T03:04:05Z",
        "deadline": "2026-01-02T04:04:05Z",
        "connections": 7,
        "streams": 3,
    }]);
    report["node"] = json!("node\u{1b}[31m\u{202e}");
    report["parts"] = json!(["[!] leaving: process 4321", "\u{9b}2J"]);
    for output in ["text", "json"] {
        let config = configuration(&world, answering(report.to_string()));
        let shown = status(&config, output).await;
        let text = stdout(&shown);
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{text:?}");
        assert_says(&text, &["4321", "2026-01-02T04:04:05Z"]);
        if output == "text" {
            assert_says(&text, &["LEAVING", "[!] leaving: process 4321"]);
        }
    }
    let config = configuration(&world, answering("{}".to_owned()));
    let shown = status(&config, "text").await;
    assert_eq!(code(&shown), 2);
    assert_says(&stderr(&shown), &["not a gate's report", "of another version"]);
    world.stop().await;
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn where_no_gate_answers_the_way_out_is_named() {
    let world = World::start().await;
    let config = configuration(&world, "127.0.0.1:1".parse().unwrap());
    let shown = status(&config, "text").await;
    assert_eq!((code(&shown), stdout(&shown)), (2, String::new()));
    assert_says(
        &stderr(&shown),
        &[
            "127.0.0.1:1 cannot be reached",
            "systemctl status kubelet-gate",
            "admin.group",
        ],
    );
    world.stop().await;
}
