//! Operators use curl and openssl. A mistake that the gate shares with the tests' own client would stay
//! hidden without them.

use std::process::{Output, Stdio};

use fakes::apiserver::METRICS_TOKEN;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::patience::patience;
use crate::skipped::skip;
use crate::world::World;

/// Runs a tool in the folder of the configuration; `None`, and the test counts as skipped, where it is not
/// installed.
async fn tool(world: &World, program: &str, arguments: &[&str], input: &str) -> Option<Output> {
    let spawned = Command::new(program)
        .args(arguments)
        .current_dir(world.file(""))
        .env_remove("https_proxy")
        .env_remove("HTTPS_PROXY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut process = match spawned {
        Ok(process) => process,
        Err(error) => {
            skip(&format!("{program} cannot be run ({error})"));
            return None;
        }
    };
    let mut stdin = process.stdin.take().unwrap();
    // It may have ended before it read.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = timeout(patience(), process.wait_with_output()).await;
    Some(output.expect("it hangs").unwrap())
}

/// The body, and `status version` behind it.
async fn curl(world: &World, path: &str, arguments: &[&str]) -> Option<(String, String)> {
    let url = format!("https://{}{path}", world.address);
    let fixed = [
        "-sS",
        "--cacert",
        "ca.crt",
        "--path-as-is",
        "-w",
        "\n%{http_code} %{http_version}",
    ];
    let output = tool(world, "curl", &[&fixed[..], arguments, &[&url]].concat(), "").await?;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (body, status) = text.rsplit_once('\n').unwrap();
    Some((body.to_owned(), status.to_owned()))
}

/// Whether s_client succeeds, and what it prints. It asks for `/healthz` and waits for the end.
async fn s_client(world: &World, arguments: &[&str]) -> Option<(bool, String)> {
    let address = world.address.to_string();
    let fixed = ["s_client", "-connect", &address, "-CAfile", "ca.crt", "-ign_eof"];
    let request = "GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    let output = tool(world, "openssl", &[&fixed[..], arguments].concat(), request).await?;
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_with_a_certificate() {
    let world = World::start().await;
    let bob = ["--cert", "bob.crt", "--key", "bob.key"];
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let Some((body, status)) = curl(&world, "/pods", &[&bob[..], &[option]].concat()).await else {
            return world.stop().await;
        };
        assert_eq!(status, format!("200 {version}"));
        assert!(body.starts_with('{'), "{body}");
        let alice = ["--cert", "alice.crt", "--key", "alice.key", option];
        let (body, status) = curl(&world, "/pods", &alice).await.unwrap();
        assert_eq!(status, format!("403 {version}"));
        assert!(
            body.starts_with("Forbidden (user=alice, verb=get, resource=nodes, "),
            "{body}"
        );
        let dots = [&bob[..], &[option]].concat();
        let (_, status) = curl(&world, "/metrics/../pods", &dots).await.unwrap();
        assert_eq!(status, format!("400 {version}"));
    }
    world.stop().await;
}

/// If the handshake judged it, curl would end with an alert and without a status.
#[tokio::test(flavor = "multi_thread")]
async fn curl_with_a_bad_certificate_is_answered_401() {
    let world = World::start().await;
    for name in ["wrong-ca", "expired", "wrong-usage"] {
        for version in ["--tlsv1.3", "--tls-max=1.2"] {
            let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
            let (option, value) = version.split_once('=').unwrap_or((version, ""));
            let mut arguments = vec!["--cert", &certificate, "--key", &key, option];
            arguments.extend((!value.is_empty()).then_some(value));
            let Some((body, status)) = curl(&world, "/pods", &arguments).await else {
                return world.stop().await;
            };
            assert_eq!(
                (body.as_str(), &status[..3]),
                ("Unauthorized", "401"),
                "{name} {version}"
            );
        }
    }
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_with_a_token() {
    let world = World::start().await;
    let header = format!("Authorization: Bearer {METRICS_TOKEN}");
    let Some((body, status)) = curl(&world, "/metrics", &["--http1.1", "-H", &header]).await else {
        return world.stop().await;
    };
    assert_eq!(status, "200 1.1");
    assert!(body.starts_with("# HELP"), "{body}");
    let (_, status) = curl(&world, "/pods", &["--http2", "-H", &header]).await.unwrap();
    assert_eq!(status, "403 2");
    let (body, status) = curl(&world, "/metrics", &["-H", "Authorization: Bearer x"])
        .await
        .unwrap();
    assert_eq!((body.as_str(), &status[..3]), ("Unauthorized", "401"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_is_asked_for_a_certificate_of_the_ca_on_both_versions() {
    let world = World::start().await;
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let Some((ended_well, text)) =
            s_client(&world, &[option, "-cert", "bob.crt", "-key", "bob.key"]).await
        else {
            return world.stop().await;
        };
        assert!(ended_well, "{text}");
        assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
        assert!(text.contains(&format!("New, {version}")), "{text}");
        let (_, names) = text
            .split_once("Acceptable client certificate CA names\n")
            .unwrap_or_else(|| panic!("no CA names in {text}"));
        assert!(names.starts_with("CN = kubernetes\n"), "{names}");
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
        // A session that can be resumed would keep its identity after a change of trust.
        for ticket in ["New Session Ticket arrived", "TLS session ticket:"] {
            assert!(!text.contains(ticket), "{text}");
        }
    }
    world.stop().await;
}

/// Whether an alert came. (rustls refuses an old hello for its signature algorithms before its version.)
fn has_alert(text: &str) -> bool {
    text.contains("alert protocol version") || text.contains("alert handshake failure")
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_with_an_old_version_is_refused() {
    let world = World::start().await;
    for option in ["-tls1_1", "-tls1"] {
        let arguments = [option, "-cipher", "DEFAULT@SECLEVEL=0"];
        let Some((ended_well, text)) = s_client(&world, &arguments).await else {
            return world.stop().await;
        };
        assert!(!ended_well, "{text}");
        assert!(!text.contains("HTTP/1.1"), "{text}");
        assert!(has_alert(&text), "{text}");
    }
    world.stop().await;

    let strict = World::builder()
        .set("tlsMinVersion", "VersionTLS13")
        .start()
        .await;
    let (ended_well, text) = s_client(&strict, &["-tls1_2"]).await.unwrap();
    assert!(!ended_well && has_alert(&text), "{text}");
    strict.stop().await;
}
