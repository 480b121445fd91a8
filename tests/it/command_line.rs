//! If `check` passes what `serve` refuses, or an exit code is wrong, a rollout script on a thousand nodes
//! goes on where it should have stopped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use fakes::client::{Client, ClientTls};
use fakes::pki::{CertificateSpec, Pair};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::patience::{eventually, stretched};
use crate::program::{
    Installation, Serving, assert_says, code, json_of, kubelet_gate_beside, output, run, stderr, stdout,
};
use crate::world::{PKI, sum};

#[test]
fn explain_says_what_a_request_needs() {
    let explain = |words: &str| {
        let output = run(&[&["explain", "GET"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
        assert_eq!(code(&output), 0);
        output
    };
    let exec = explain("/exec/a/b/c --upgrade websocket -o json");
    assert_says(&stdout(&exec), &[r#""verb":"create""#, r#""checks":["proxy"]"#]);
    assert_eq!(json_of(&exec)["interactive"], true);
    let pods = explain("/pods -o json");
    assert_says(
        &stdout(&pods),
        &[r#""verb":"get""#, r#""checks":["pods","proxy"]"#],
    );
    let table = explain("/pods");
    assert_says(&stdout(&table), &["get nodes/pods, else get nodes/proxy"]);
}

#[test]
fn explain_says_what_is_refused_and_fails() {
    let dots = run(&["explain", "GET", "/pods/%2e%2e/exec/a/b/c"]);
    assert_eq!(code(&dots), 1);
    assert!(stdout(&dots).contains("refused"), "{}", stdout(&dots));
    let method = run(&["explain", "TRACE", "/pods", "-o", "json"]);
    assert_eq!(code(&method), 1);
    assert_eq!(json_of(&method)["refused"], 405);
    let target = run(&["explain", "GET", "pods"]);
    assert_eq!(code(&target), 1);
}

#[test]
fn a_misspelled_key_is_named_with_its_file_path_and_neighbour() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gate.yaml");
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubelet-gate.yaml")).unwrap();
    let misspelled = text.replacen("clientCAFile:", "clientCaFlie:", 1);
    assert_ne!(text, misspelled);
    fs::write(&file, misspelled).unwrap();
    let checked = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(code(&checked), 64);
    let file = file.to_str().unwrap();
    let key = "authentication.x509.clientCaFlie";
    assert_says(&stderr(&checked), &[file, key, "clientCAFile"]);
    assert_eq!(stdout(&checked), "1 error\n");
}

#[test]
fn check_ends_with_a_verdict() {
    let installation = Installation::new();
    let verdict = |expected_code: i32| {
        let checked = installation.check(&["--offline"]);
        assert_eq!(code(&checked), expected_code, "{}", stderr(&checked));
        stdout(&checked)
    };
    assert_eq!(verdict(0), "ok\n");
    installation.configure(|configuration| configuration["enforcement"] = json!("Enforce"));
    assert_eq!(verdict(0), "ok, 1 warning\n");
    installation.configure(|configuration| configuration["workers"] = json!(0));
    assert_eq!(verdict(64), "1 error\n");
    installation.configure(|configuration| {
        configuration["workers"] = json!(0);
        configuration["frobnicate"] = json!(true);
    });
    assert_eq!(verdict(64), "2 errors\n");
    let said = stderr(&installation.check(&["--offline"]));
    let place = format!("error: {}:", installation.config());
    assert!(said.lines().all(|line| line.starts_with(&place)), "{said}");
}

#[test]
fn check_prints_what_would_be_in_force_if_asked_and_that_loads_again() {
    let installation = Installation::new();
    let checked = installation.check(&["--print"]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    assert!(
        // Neither an API server nor a kubelet can be asked.
        stderr(&checked).ends_with("ok, 2 warnings\n"),
        "{}",
        stderr(&checked)
    );
    let again = installation.path("again.yaml");
    fs::write(&again, stdout(&checked)).unwrap();
    let checked_again = run(&["check", "--print", "--config", &again]);
    assert_eq!(code(&checked_again), 0, "{}", stderr(&checked_again));
    assert_eq!(stdout(&checked_again), stdout(&checked));
}

/// A file that cannot be used is a fault of the line that names it.
#[test]
fn check_names_the_line_or_the_flag_of_a_file_that_cannot_be_used() {
    let installation = Installation::new();
    let config = fs::read_to_string(installation.config()).unwrap();
    assert_eq!(
        config.lines().count(),
        1,
        "the configuration of these tests is JSON in one line"
    );
    let missing = installation.path("missing.pem");
    let checked = installation.check(&["--offline", &format!("--client-ca-file={missing}")]);
    let said = stderr(&checked);
    let expected =
        format!("error: --client-ca-file: authentication.x509.clientCAFile: cannot read {missing}: ");
    assert!(said.starts_with(&expected), "{said}");
    fs::write(installation.config(), format!("\n\n{config}")).unwrap();
    fs::write(installation.path("gate-serving.key"), "nothing").unwrap();
    fs::remove_file(installation.path("kubelet-serving.crt")).unwrap();
    let checked = installation.check(&["--offline"]);
    assert_eq!((code(&checked), stdout(&checked).as_str()), (64, "2 errors\n"));
    let said = stderr(&checked);
    for (line, key) in said.lines().zip(["tlsCertFile", "upstream.certificateFile"]) {
        assert!(
            line.starts_with(&format!("error: {}:3: {key}", installation.config())),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_every_file_that_keeps_serve_from_starting() {
    let installation = Installation::new();
    fs::write(installation.path("gate-serving.key"), "nothing").unwrap();
    fs::remove_file(installation.path("kubelet-serving.crt")).unwrap();
    let checked = installation.check(&[]);
    assert_eq!(code(&checked), 64);
    assert_says(&stderr(&checked), &["gate-serving.key", "kubelet-serving.crt"]);
    let served = installation.serve().await;
    assert_eq!(code(&served), 64);
}

#[test]
fn bad_usage_is_64_and_help_is_not() {
    for bad in [
        &[][..],
        &["sreve"],
        &["serve"],
        &["check", "--config"],
        &["explain", "GET"],
        &["check", "--config", "/nonexistent/gate.yaml"],
        &["serve", "--config", "/nonexistent/gate.yaml"],
        &["serve", "--config", "x", "--anonymous-auth=maybe"],
    ] {
        let output = run(bad);
        assert_eq!(code(&output), 64, "{bad:?}");
        assert_ne!(stderr(&output), "", "{bad:?}");
    }
    for good in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        assert_eq!(code(&run(good)), 0, "{good:?}");
    }
    assert!(stdout(&run(&["serve", "--help"])).contains("--anonymous-auth"));
}

#[test]
fn certs_writes_keys_that_only_their_owner_reads() {
    let installation = Installation::new();
    let mut keys = 0;
    for entry in fs::read_dir(installation.directory.path()).unwrap() {
        let entry = entry.unwrap();
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "key")
        {
            keys += 1;
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
        }
    }
    assert!(keys > 10, "{keys} keys");
}

#[test]
fn flags_spelled_as_the_kubelets_win_over_the_file() {
    let installation = Installation::new();
    installation
        .configure(|configuration| configuration["authentication"]["anonymous"] = json!({"enabled": false}));
    let effective = |flags: &[&str]| -> Value {
        let checked = installation.check(&[&["--print"], flags].concat());
        assert_eq!(code(&checked), 0, "{}", stderr(&checked));
        serde_saphyr::from_str(&stdout(&checked)).unwrap()
    };
    let file = effective(&[]);
    assert_eq!(file["authentication"]["anonymous"]["enabled"], false);
    assert_eq!(file["readOnlyPort"]["listen"], json!([]));

    let flags = effective(&[
        "--anonymous-auth=true",
        "--read-only-port=20255",
        "--authorization-webhook-cache-authorized-ttl=1m30s",
        "--hostname-override=Worker-9",
        "--tls-min-version=VersionTLS13",
    ]);
    assert_eq!(flags["authentication"]["anonymous"]["enabled"], true);
    assert_eq!(flags["readOnlyPort"]["listen"], json!(["127.0.0.1:20255"]));
    assert_eq!(flags["authorization"]["webhook"]["cacheAuthorizedTTL"], "1m30s");
    assert_eq!(flags["nodeName"], "worker-9");
    assert_eq!(flags["tlsMinVersion"], "VersionTLS13");
}

/// Seen red: with `may_listen` taking a machine without a kubelet process for a proof, the gate served on the
/// kubelet's port.
#[tokio::test(flavor = "multi_thread")]
async fn a_gate_leaves_the_kubelets_ports_alone() {
    let installation = Installation::new();
    let address = |port: u16| json!([format!("127.0.0.1:{port}")]);
    for (key, port, command) in [
        ("listen", 10250, "serve"),
        ("listen", 10250, "check"),
        ("listen", 10255, "serve"),
        ("listen", 10255, "check"),
        ("readOnlyPort.listen", 10255, "serve"),
    ] {
        installation.configure(|configuration| match key {
            "listen" => configuration[key] = address(port),
            _ => configuration["readOnlyPort"] = json!({"listen": address(port)}),
        });
        let Some(mut gate) = kubelet_gate_beside(&[]) else {
            return;
        };
        gate.args([command, "--config", &installation.config()]);
        let refused = output(gate).await;
        assert_eq!(code(&refused), 64);
        let named = format!("{key}: 127.0.0.1:{port}");
        assert_says(&stderr(&refused), &[&named, "exits and the node is lost"]);
    }
}

/// "Address already in use" alone sends an operator looking for the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_names_the_process_that_has_it() {
    let (first, second) = (Installation::new(), Installation::new());
    let mut serving = Serving::start(&first).await;
    let address = serving.address.to_string();
    second.configure(|configuration| configuration["listen"] = json!([address]));
    let served = second.serve().await;
    assert_eq!(code(&served), 1);
    let holder = format!("it is taken by process {} (kubelet-gate)", serving.pid());
    assert_says(&stderr(&served), &[&address, &holder]);
    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_0_within_a_second() {
    let installation = Installation::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut serving = Serving::start(&installation).await;
        let began = Instant::now();
        serving.signal(signal);
        let status = serving.exit().await;
        assert_eq!(status.code(), Some(0));
        assert!(
            began.elapsed() < stretched(Duration::from_secs(1)),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_files_again() {
    let installation = Installation::new();
    let mut serving = Serving::start(&installation).await;
    let client = Client::new(serving.address, ClientTls::default()).unwrap();
    let shown = async || client.handshake().await.unwrap().server_certificate.unwrap();
    let renewed = PKI
        .client("gate-serving", &CertificateSpec::server("gate", &["localhost"]))
        .unwrap();
    Pair::write(&renewed, installation.directory.path()).unwrap();
    // As a log rotation renames it.
    fs::rename(installation.path("audit.log"), installation.path("audit.log.1")).unwrap();
    let began = Instant::now();
    serving.signal(Signal::HUP);
    let admin = Client::plain(serving.admin);
    loop {
        let metrics = admin.get("/metrics").await.unwrap();
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        if sum(&text, "reloads_total", &[("what", "serving"), ("result", "ok")]) > 0.0 {
            break;
        }
        // Without a signal the files are read every 10 s.
        assert!(began.elapsed() < Duration::from_secs(5), "{text}");
    }
    assert_eq!(shown().await, renewed.chain[0].to_vec());
    let answer = client.get("/pods").await.unwrap();
    assert_eq!(answer.status(), 401);
    eventually("the next event is in a new file", || {
        fs::read_to_string(installation.path("audit.log")).is_ok_and(|text| text.lines().count() == 1)
    })
    .await;
    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await.code(), Some(0));
}
