//! Before the read-only port is sealed an operator must know its callers: one that is missing from the census
//! breaks on that day. And a caller must not be able to write to the operator's terminal.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Output;

use fakes::client::Client;
use serde_json::{Value, json};

use crate::program::{code, kubelet_gate, stderr};
use crate::world::{World, header};

async fn census(world: &World) -> Value {
    let answer = world.admin_client().get("/readonly-census").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type"), "application/json");
    serde_json::from_slice(answer.body()).unwrap()
}

/// The world's configuration, with the admin port's number, and without the socket.
fn configuration(world: &World, admin: &str) -> PathBuf {
    configuration_with_socket(world, admin, "")
}

fn configuration_with_socket(world: &World, admin: &str, socket: &str) -> PathBuf {
    let text = std::fs::read_to_string(world.file("kubelet-gate.yaml")).unwrap();
    let mut configuration: Value = serde_json::from_str(&text).unwrap();
    configuration["admin"] = json!({"listen": admin, "socket": socket});
    let file = world.file("with-port.yaml");
    std::fs::write(&file, configuration.to_string()).unwrap();
    file
}

async fn run(config: &Path, output: &str) -> Output {
    let mut command = kubelet_gate();
    command
        .arg("readonly-census")
        .arg("--config")
        .arg(config)
        .args(["-o", output]);
    tokio::process::Command::from(command).output().await.unwrap()
}

fn text(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Nothing but printable ASCII and line ends.
#[track_caller]
fn assert_harmless(bytes: &[u8]) {
    let harmless = |byte: &u8| matches!(byte, b'\n' | b' '..=b'~');
    assert!(bytes.iter().all(harmless), "{}", bytes.escape_ascii());
}

/// Seen red: with the whole target kept, the secret of the query was.
#[tokio::test(flavor = "multi_thread")]
async fn callers_are_counted_by_address_path_and_agent() {
    let world = World::builder().set("readOnlyPort.healthz", true).start().await;
    let here = Client::plain(world.read_only);
    let there = here.clone().with_source(IpAddr::from([127, 0, 0, 2]));
    let empty = census(&world).await;
    assert_eq!((&empty["callers"], &empty["forgotten"]), (&json!([]), &json!(0)));
    for _ in 0..3 {
        there
            .call(
                "GET",
                "/metrics?secret=yes",
                &[("user-agent", "Prometheus/2.1")],
                "",
            )
            .await
            .unwrap();
    }
    for agent in ["kube-probe/1.20", "curl"] {
        here.call("GET", "/healthz", &[("user-agent", agent)], "")
            .await
            .unwrap();
    }
    here.call("POST", "/pods", &[], "").await.unwrap();
    here.call("GET", "/pods", &[], "").await.unwrap();

    let report = census(&world).await;
    let callers = report["callers"].as_array().unwrap();
    let counted: Vec<_> = callers
        .iter()
        .map(|caller| {
            let field = |name: &str| caller[name].as_str().unwrap();
            assert!(
                field("firstSeen") <= field("lastSeen") && field("firstSeen").ends_with('Z'),
                "{caller}"
            );
            assert!(
                report["since"].as_str().unwrap() <= field("firstSeen"),
                "{report}"
            );
            (
                field("address"),
                field("path"),
                field("userAgent"),
                caller["count"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        counted,
        [
            ("127.0.0.2", "/metrics", "Prometheus/2.1", 3),
            ("127.0.0.1", "/pods", "", 2),
            ("127.0.0.1", "/healthz", "curl", 1),
            ("127.0.0.1", "/healthz", "kube-probe/1.20", 1),
        ]
    );
    assert!(!report.to_string().contains("secret"), "a query is kept");

    let config = configuration(&world, &world.admin.to_string());
    assert_eq!(
        serde_json::from_str::<Value>(&text(&run(&config, "json").await)).unwrap(),
        report
    );
    let table = text(&run(&config, "table").await);
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 5, "{table}");
    assert_eq!(
        lines[0].join(" "),
        "COUNT ADDRESS FIRST SEEN LAST SEEN PATH USER AGENT"
    );
    let counts: Vec<&str> = lines[1..].iter().map(|line| line[0]).collect();
    assert_eq!(counts, ["3", "2", "1", "1"], "{table}");
    assert_eq!(lines[1][4..], ["/metrics", "Prometheus/2.1"]);
    world.stop().await;
}

/// Seen red: with bytes above ASCII left as they are, the CSI of 8-bit terminals was in the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_callers_name_cannot_steer_the_operators_terminal() {
    let world = World::start().await;
    let client = Client::plain(world.read_only);
    let request = b"GET /\xc2\x9b31m/%1b%5b2J HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x9b2Jb\tc\xff\r\n\r\n";
    client.raw(request).await.unwrap();
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: x\r\nUser-Agent: {}\r\n\r\n",
        "p".repeat(9000),
        "u".repeat(9000)
    );
    client.raw(long.as_bytes()).await.unwrap();

    let report = census(&world).await;
    let callers = report["callers"].as_array().unwrap();
    assert_eq!(callers.len(), 2, "{report}");
    let steering = callers
        .iter()
        .find(|caller| caller["path"] == "/\\xc2\\x9b31m/%1b%5b2J");
    assert_eq!(steering.expect("printable")["userAgent"], "a\\x9b2Jb\\x09c\\xff");
    let long = callers
        .iter()
        .find(|caller| caller["path"].as_str().unwrap().starts_with("/pp"))
        .unwrap();
    for field in ["path", "userAgent"] {
        assert_eq!(long[field].as_str().unwrap().len(), 256, "{field}");
    }
    let config = configuration(&world, &world.admin.to_string());
    for output in ["table", "json"] {
        assert_harmless(&run(&config, output).await.stdout);
    }
    world.stop().await;
}

/// The gate is down and another process has its admin port. Seen red: with the answer printed as it is, ESC
/// was in the table.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_on_the_admin_port_cannot_steer_the_terminal_either() {
    let world = World::start().await;
    let steer = "\u{1b}[2J\u{9b}\u{7f}";
    let report = json!({"since": steer, "forgotten": 3, "callers": [{
        "address": steer, "path": steer, "userAgent": steer, "count": 1, "firstSeen": steer,
        "lastSeen": steer,
    }]});
    for (status, body) in [
        ("200 OK", report.to_string()),
        ("200 OK", format!("{{\"{steer}\": 1}}")),
        (
            "200 OK",
            json!({"since": "", "forgotten": steer, "callers": []}).to_string(),
        ),
        ("200 OK", steer.to_owned()),
        ("500 \u{9b}2J", steer.to_owned()),
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        for output in ["table", "json"] {
            let config = configuration(&world, &squatter(answer.clone()).to_string());
            let said = run(&config, output).await;
            assert_harmless(&said.stdout);
            assert_harmless(&said.stderr);
            if body.contains("lastSeen") {
                assert!(text(&said).contains("\\x1b[2J"), "{said:?}");
            } else {
                assert_eq!(code(&said), 1);
            }
        }
    }
    world.stop().await;
}

/// Seen red: with the port asked first, the squatter's answer was printed.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_asks_the_socket_and_then_the_port() {
    let world = World::start().await;
    let client = Client::plain(world.read_only);
    client.call("GET", "/pods", &[], "").await.unwrap();
    let squatter = squatter("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".into()).to_string();
    for (admin, socket) in [
        (squatter.as_str(), "auto"),
        ("", "auto"),
        ("127.0.0.1:0", "run/admin.sock"),
        (&world.admin.to_string(), "run/none.sock"),
    ] {
        let config = configuration_with_socket(&world, admin, socket);
        let table = text(&run(&config, "table").await);
        assert!(table.contains("/pods"), "{admin} {socket}: {table}");
    }
    let neither = run(&configuration_with_socket(&world, "", "run/none.sock"), "table").await;
    assert_eq!(code(&neither), 1);
    assert!(
        stderr(&neither).contains("run/none.sock cannot be reached"),
        "{neither:?}"
    );
    world.stop().await;
}

/// Answers one connection.
fn squatter(answer: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reports_that_no_gate_answers() {
    let world = World::start().await;
    let config = configuration(&world, &world.admin.to_string());
    let empty = text(&run(&config, "table").await);
    assert!(
        empty.starts_with("no caller has used the read-only port since 20"),
        "{empty}"
    );
    let asked = |config: PathBuf| async move {
        let output = run(&config, "table").await;
        assert!(output.stdout.is_empty());
        (code(&output), stderr(&output))
    };
    let (status, said) = asked(configuration(&world, "127.0.0.1:1")).await;
    assert_eq!(status, 1);
    assert!(
        said.contains("admin port 127.0.0.1:1 cannot be reached") && said.contains("refused"),
        "{said}"
    );
    for off in ["", "127.0.0.1:0"] {
        let (status, said) = asked(configuration(&world, off)).await;
        assert_eq!(status, 64, "{said}");
        assert!(said.contains("admin.listen"), "{said}");
    }
    // The tombstone answers and is no admin port.
    let (status, said) = asked(configuration(&world, &world.read_only.to_string())).await;
    assert_eq!(status, 1);
    assert!(said.contains("/readonly-census answers 410 Gone"), "{said}");
    let (status, said) = asked(world.file("not-there.yaml")).await;
    assert_eq!(status, 64, "{said}");
    world.stop().await;
}
