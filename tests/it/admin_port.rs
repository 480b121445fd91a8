//! If the admin port called a gate ready that cannot serve, a rollout would go on over dead nodes. If it
//! forwarded requests, it would be an unguarded way to the kubelet.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use fakes::client::Client;
use http::StatusCode;
use kubelet_gate::host::as_user;
use tokio::task::JoinSet;

use crate::patience::{eventually, eventually_answers};
use crate::program::{Installation, Serving, assert_says, code, stderr};
use crate::skipped::skip;
use crate::world::{World, assert_answer, header};

/// A user who is neither root nor the gate's.
const STRANGER: u32 = 65530;

/// Dashboards and alerts use these names. A change of one changes this list, and is announced.
const FAMILIES: [&str; 32] = [
    "kubelet_gate_admin_reports counter",
    "kubelet_gate_audit_events counter",
    "kubelet_gate_authentication_failures counter",
    "kubelet_gate_cache_requests counter",
    "kubelet_gate_certificate_expiry_timestamp_seconds gauge",
    "kubelet_gate_certificate_judgements counter",
    "kubelet_gate_configuration_pending gauge",
    "kubelet_gate_connections gauge",
    "kubelet_gate_deny_list_entries gauge",
    "kubelet_gate_followed_logs gauge",
    "kubelet_gate_handshakes counter",
    "kubelet_gate_helper_running gauge",
    "kubelet_gate_leaving_connections gauge",
    "kubelet_gate_leaving_processes gauge",
    "kubelet_gate_leaving_streams gauge",
    "kubelet_gate_panics counter",
    "kubelet_gate_pin_mismatches counter",
    "kubelet_gate_read_only_port_requests counter",
    "kubelet_gate_rejections counter",
    "kubelet_gate_reload_failing gauge",
    "kubelet_gate_reloads counter",
    "kubelet_gate_request_duration_seconds histogram",
    "kubelet_gate_requests counter",
    "kubelet_gate_requests_in_flight gauge",
    "kubelet_gate_reviews counter",
    "kubelet_gate_sandbox_complete gauge",
    "kubelet_gate_seal_open_seconds counter",
    "kubelet_gate_streams gauge",
    "kubelet_gate_unauthenticated_connections gauge",
    "kubelet_gate_ungated_connections gauge",
    "kubelet_gate_upstream_connections counter",
    "kubelet_gate_upstream_idle_connections gauge",
];

async fn get(world: &World, target: &str) -> (StatusCode, String) {
    let answer = world.admin_client().get(target).await.unwrap();
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    (answer.status(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_can_serve_is_live_and_ready() {
    let world = World::start().await;
    assert_eq!(get(&world, "/livez").await, (StatusCode::OK, "ok\n".into()));
    assert_eq!(get(&world, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    let (status, report) = get(&world, "/readyz?verbose").await;
    assert_eq!(status, 200);
    for part in ["listener", "certificate", "kubelet", "audit"] {
        assert!(report.contains(&format!("[+] {part} ok\n")), "{report}");
    }
    world.stop().await;
}

/// An operator who reads `ok` takes it for a proof.
///
/// Seen red: with `ok` for an API server that was not asked.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_open_or_not_tried_is_never_ok_and_leaves_the_gate_ready() {
    let world = World::builder().set("audit.path", "").start().await;
    let (status, report) = get(&world, "/readyz?verbose").await;
    assert_eq!(status, 200);
    for line in [
        "[?] api-server: not asked yet\n",
        "[!] audit: off: requests leave no trace\n",
        "[?] seal: not looked at yet (not required)\n",
    ] {
        assert!(report.contains(line), "{report}");
    }
    assert_eq!(get(&world, "/readyz").await, (StatusCode::OK, "ok\n".into()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_without_its_kubelet_is_live_and_not_ready() {
    let world = World::builder()
        .set("upstream.url", "https://127.0.0.1:1")
        .start()
        .await;
    let (status, report) = get(&world, "/readyz?verbose").await;
    assert_eq!(status, 503);
    assert!(
        report.contains("[-] kubelet: the kubelet at 127.0.0.1:1 cannot be reached"),
        "{report}"
    );
    assert!(report.ends_with("not ready\n"), "{report}");
    let answer = world.client("bob").get("/pods").await.unwrap();
    assert_answer(&answer, 502, "the kubelet cannot be reached\n");
    assert_eq!(get(&world, "/livez").await.0, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gate_is_not_ready_and_its_admin_port_still_answers() {
    let world = World::start().await;
    // A followed log keeps the gate from stopping.
    let following = world
        .client("bob")
        .open(crate::world::request("GET", LOG, &[]))
        .await
        .unwrap();
    world.begin_to_stop();
    let report = get(&world, "/readyz").await;
    assert_eq!(
        report,
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "[-] listener: stopping\nnot ready\n".into()
        )
    );
    assert_eq!(get(&world, "/livez").await.0, 200);
    drop(following);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_openmetrics_under_stable_names() {
    let world = World::start().await;
    world.client("bob").get("/pods").await.unwrap();
    world.client("alice").get("/pods").await.unwrap();
    // A family is listed once it has a series: one for each family with labels.
    world.stranger().get("/pods").await.unwrap();
    world.stranger().raw(b"no HTTP\r\n\r\n").await.unwrap();
    fs::write(world.file("ca.crt"), "").unwrap();
    world.gate.reload();
    // Bytes that are no HTTP are counted after they are answered.
    eventually("all requests have ended and are counted", || {
        world.metric("requests_in_flight", &[]) == 0.0 && world.metric("rejections_total", &[]) == 1.0
    })
    .await;
    let answer = world.admin_client().get("/metrics").await.unwrap();
    assert_eq!(
        header(&answer, "content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let families: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .collect();
    assert_eq!(families.into_iter().collect::<Vec<_>>(), FAMILIES);
    let helped = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(helped, FAMILIES.len());
    assert_eq!(
        world.metric(
            "requests_total",
            &[
                ("code", "200"),
                ("decision", "allow"),
                ("subresource", "pods"),
                ("verb", "get")
            ]
        ),
        1.0
    );
    assert_eq!(
        world.metric("requests_total", &[("code", "403"), ("decision", "forbid")]),
        1.0
    );
    for name in ["alice", "bob", "127.0.0.1"] {
        assert!(!text.contains(name), "a label per user would grow without bound");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_forwards_nothing() {
    let world = World::builder().always_allow().anonymous().start().await;
    for path in [
        "/pods",
        "/exec/a/b/c",
        "/livez/../pods",
        "/metrics/cadvisor",
        "//pods",
        "/",
    ] {
        let answer = world
            .admin_client()
            .raw(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404 "), "{path}");
    }
    let post = world
        .admin_client()
        .call("POST", "/livez", &[], "x")
        .await
        .unwrap();
    assert_eq!(post.status(), 405);
    assert_eq!(header(&post, "allow"), "GET, HEAD");
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// Connections of this user that ask for `path` and read nothing, or ask for nothing.
fn connect_as(user: u32, admin: SocketAddr, count: usize, path: Option<&str>) -> Vec<TcpStream> {
    let connect = || {
        let mut stream = TcpStream::connect(admin).unwrap();
        if let Some(path) = path {
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            // The gate may have closed it already.
            let _ = stream.write_all(request.as_bytes());
        }
        stream
    };
    as_user(user, || (0..count).map(|_| connect()).collect()).unwrap()
}

/// Has this many callers counted, whose entries fill more than the buffers of a socket.
async fn fill_census(world: &World, callers: usize) {
    let tombstone = Client::plain(world.read_only);
    for number in 0..callers {
        let path = format!("/{number}/{}", "p".repeat(240));
        let agent = "a".repeat(256);
        tombstone
            .call("GET", &path, &[("user-agent", &agent)], "")
            .await
            .unwrap();
    }
}

/// Seen red: with one quota for all users, root's request was closed; with the connections unbounded in time,
/// the stranger's own were not served afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_says_nothing_or_reads_nothing_does_not_shut_the_port() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root may act as another user");
    }
    let world = World::start().await;
    fill_census(&world, 1500).await;
    let silent = connect_as(STRANGER, world.admin, 64, None);
    let unread = connect_as(STRANGER, world.admin, 64, Some("/readonly-census"));
    // A crowd of users shares one half of the places.
    let crowd: Vec<_> = (1..9)
        .flat_map(|user| connect_as(STRANGER - user, world.admin, 16, Some("/readonly-census")))
        .collect();
    eventually("what has no place is closed and counted", || {
        world.metric("rejections_total", &[("reason", "admin_connections")]) == (256 - 32) as f64
    })
    .await;
    assert_eq!(get(&world, "/livez").await.0, 200);
    assert_eq!(get(&world, "/readyz").await.0, 200);
    assert!(get(&world, "/readonly-census").await.1.len() > 512 * 1024);
    let refused = connect_as(STRANGER, world.admin, 1, Some("/livez"));
    assert_eq!(answer_of(&refused[0]), "");
    // Each of these connections ends by the gate's own deadline.
    eventually_answers("the strangers are served again", async || {
        answer_of(&connect_as(STRANGER, world.admin, 1, Some("/livez"))[0]).starts_with("HTTP/1.1 200 ")
    })
    .await;
    drop((silent, unread, crowd));
    world.stop().await;
}

fn answer_of(mut stream: &TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection without a place is reset.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// Seen red: with a build for each request.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_costly_is_built_once_for_all_who_ask() {
    let world = World::start().await;
    fill_census(&world, 100).await;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for number in 0..30 {
        let client = world.admin_client();
        let path = ["/readonly-census", "/metrics"][number % 2];
        asking.spawn(async move { client.get(path).await.unwrap().status().as_u16() });
    }
    assert_eq!(asking.join_all().await, [200; 30]);
    let most = 2.0 + began.elapsed().as_secs_f64() / 0.25;
    for report in ["census", "metrics"] {
        let built = world.metric("admin_reports_total", &[("report", report)]);
        assert!(
            (1.0..=most).contains(&built),
            "{report}: {built} of 15, at most {most}"
        );
    }
    world.stop().await;
}

/// A page whose name was changed to 127.0.0.1 after it was loaded asks under its own name.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_a_strange_name_is_misdirected() {
    let world = World::builder()
        .configure(|configuration, _| configuration["admin"]["hosts"] = ["node-1.example"].into())
        .start()
        .await;
    let status = async |request: &str| {
        let answer = world.admin_client().raw(request.as_bytes()).await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let status = text.split(' ').nth(1).unwrap().to_owned();
        (status, text)
    };
    for (head, expected) in [
        ("GET /livez HTTP/1.1\r\nHost: 127.0.0.1:19250\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nHost: 192.0.2.10\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nHost: [::1]:19250\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nHost: Node-1.Example:80\r\n", "200"),
        ("GET /livez HTTP/1.1\r\nHost:\r\n", "200"),
        ("GET /livez HTTP/1.1\r\n", "200"),
        ("GET /livez HTTP/1.0\r\n", "200"),
        (
            "GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n",
            "200",
        ),
        ("GET /livez HTTP/1.1\r\nHost: evil.example\r\n", "421"),
        ("GET /livez HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n", "421"),
        ("GET /livez HTTP/1.0\r\nHost: evil.example:19250\r\n", "421"),
        (
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
            "421",
        ),
        (
            "GET http://evil.example/livez HTTP/1.1\r\nHost: localhost\r\n",
            "421",
        ),
        ("POST /livez HTTP/1.1\r\nHost: evil.example\r\n", "421"),
    ] {
        let (found, text) = status(&format!("{head}\r\n")).await;
        assert_eq!(found, expected, "{head}");
        assert_eq!(text.contains("admin.hosts"), expected == "421", "{text}");
    }
    world.stop().await;
}

/// What a unix socket answers to a request for `path`.
fn ask_socket(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Seen red: with the mode that the umask leaves, every user could connect.
#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_the_gate_its_group_and_root() {
    let group = STRANGER - 1;
    let root = rustix::process::geteuid().is_root();
    let ours = rustix::process::getegid().as_raw();
    let named = if root { group } else { ours };
    let world = World::builder()
        .configure(move |configuration, _| configuration["admin"]["group"] = named.to_string().into())
        .start()
        .await;
    let socket = world.file("run/admin.sock");
    let about = fs::metadata(&socket).unwrap();
    assert_eq!((about.mode() & 0o7777, about.gid()), (0o660, named));
    let answer = ask_socket(&socket, "/livez").unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("ok\n"),
        "{answer}"
    );
    if root {
        for folder in [
            socket.parent().unwrap().parent().unwrap(),
            socket.parent().unwrap(),
        ] {
            fs::set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
        }
        // A user whose group has the same number.
        let member = as_user(group, || ask_socket(&socket, "/livez")).unwrap();
        assert!(member.unwrap().ends_with("ok\n"));
        let other = as_user(STRANGER, || ask_socket(&socket, "/livez")).unwrap();
        assert_eq!(other.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    } else {
        skip("only root may act as another user");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_cannot_be_had_is_a_warning_unless_it_is_named() {
    let installation = Installation::new();
    let configure = |admin: serde_json::Value| {
        installation.configure(|configuration| {
            configuration["admin"] = admin;
            // A file stands where its parent would be.
            configuration["firewall"]["runDirectory"] = "ca.crt/run".into();
        });
    };
    configure(serde_json::json!({"listen": "127.0.0.1:0"}));
    let mut serving = Serving::start(&installation).await;
    let warned = serving.said.iter().find(|said| {
        said["message"]
            .as_str()
            .is_some_and(|said| said.contains("admin.socket: cannot listen on "))
    });
    assert!(warned.is_some(), "{:?}", serving.said);
    serving.signal(rustix::process::Signal::TERM);
    assert!(serving.exit().await.success());

    configure(serde_json::json!({"listen": "127.0.0.1:0", "socket": "ca.crt/admin.sock"}));
    let failed = installation.serve().await;
    assert_eq!(code(&failed), 1);
    assert_says(
        &stderr(&failed),
        &["admin.socket: cannot listen on ", "ca.crt/admin.sock"],
    );

    configure(serde_json::json!({"listen": "127.0.0.1:0", "group": "no-such-group"}));
    let checked = installation.check(&["--offline"]);
    assert_eq!(code(&checked), 64);
    assert_says(
        &stderr(&checked),
        &["gate.yaml:1: admin.group: ", "no-such-group"],
    );
}

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";
