//! If `check` passes what `serve` refuses, or an exit code is wrong, a rollout script on a thousand nodes goes on where
//! it should have stopped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fakes::client::{Client, ClientTls};
use fakes::pki::{CertificateSpec, Pair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::inspecting::KUBELETS;
use crate::world::{PATIENCE, PKI, eventually, sum};

pub(crate) fn kubelet_gate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubelet-gate"));
    command
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("KUBELET_GATE_LOG")
        .env_remove("NODE_NAME")
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    kubelet_gate().args(arguments).output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by a signal")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap_or_else(|_| panic!("not JSON: {output:?}"))
}

/// A folder with what `certs` writes, a kubeconfig, and a configuration that names them.
pub(crate) struct Node {
    pub(crate) directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let written = run(&["certs", "--dir", directory.path().to_str().unwrap()]);
        assert_eq!(code(&written), 0, "{}", stderr(&written));
        let node = Self { directory };
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "c",
                "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"},
            }],
            "users": [{"name": "u", "user": {"client-certificate": "gate.crt", "client-key": "gate.key"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        fs::write(node.path("kubeconfig"), kubeconfig.to_string()).unwrap();
        node.configure(|_| {});
        node
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn config(&self) -> String {
        self.path("gate.yaml")
    }

    pub(crate) fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut configuration = json!({
            "apiVersion": "kubelet-gate.dev/v1alpha1",
            "kind": "KubeletGateConfiguration",
            "listen": ["127.0.0.1:0"],
            "kubeconfig": "kubeconfig",
            "upstream": {"url": "https://127.0.0.1:10350", "certificateFile": "kubelet-serving.crt"},
            "tlsCertFile": "gate-serving.crt",
            "tlsPrivateKeyFile": "gate-serving.key",
            "authentication": {"x509": {"clientCAFile": "ca.crt"}},
            "audit": {"path": "audit.log"},
            "admin": {"listen": "127.0.0.1:0"},
        });
        change(&mut configuration);
        fs::write(self.config(), configuration.to_string()).unwrap();
    }

    pub(crate) fn check(&self, flags: &[&str]) -> Output {
        run(&[&["check", "--config", &self.config()], flags].concat())
    }

    /// A `serve` that is to end by itself.
    pub(crate) async fn serve(&self, flags: &[&str]) -> Output {
        let mut command = kubelet_gate();
        command.args([&["serve", "--config", &self.config()], flags].concat());
        let serving = tokio::process::Command::from(command).kill_on_drop(true).output();
        timeout(PATIENCE, serving).await.expect("it serves").unwrap()
    }
}

/// A gate that serves, as a process of its own.
pub(crate) struct Serving {
    process: Child,
    address: SocketAddr,
    admin: SocketAddr,
    /// What it said before it served.
    pub(crate) said: Vec<Value>,
    later: Arc<Mutex<Vec<Value>>>,
}

impl Serving {
    pub(crate) async fn start(node: &Node) -> Self {
        let mut process = kubelet_gate()
            .args(["serve", "--log-format", "json", "--config", &node.config()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let fields = loop {
            let line = lines.next().expect("it ended before it served").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            let fields = event["fields"].clone();
            if fields["message"] == "serving" {
                break fields;
            }
            said.push(fields);
        };
        // What it goes on to say must not fill the pipe.
        let later = Arc::new(Mutex::new(Vec::new()));
        let heard = later.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let parse = |field: &str| {
            let text = fields[field].as_str().unwrap();
            let digits = text.trim_matches(|letter: char| !letter.is_ascii_digit());
            digits.parse().unwrap()
        };
        let serving = Self {
            address: parse("listen"),
            admin: parse("admin"),
            process,
            said,
            later,
        };
        let live = Client::plain(serving.admin).get("/livez").await.unwrap();
        assert_eq!((live.status().as_u16(), &live.body()[..]), (200, &b"ok\n"[..]));
        serving
    }

    /// What it has said since it serves.
    pub(crate) fn goes_on(&self) -> Vec<Value> {
        self.later.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process has ended", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn explain_says_what_a_request_needs() {
    let exec = run(&[
        "explain",
        "GET",
        "/exec/a/b/c",
        "--upgrade",
        "websocket",
        "-o",
        "json",
    ]);
    assert_eq!(code(&exec), 0);
    assert!(stdout(&exec).contains(r#""verb":"create""#), "{}", stdout(&exec));
    assert!(stdout(&exec).contains(r#""checks":["proxy"]"#));
    assert_eq!(json_of(&exec)["interactive"], true);

    let pods = run(&["explain", "GET", "/pods", "-o", "json"]);
    assert_eq!(code(&pods), 0);
    assert!(stdout(&pods).contains(r#""verb":"get""#));
    assert!(stdout(&pods).contains(r#""checks":["pods","proxy"]"#));

    let table = run(&["explain", "GET", "/pods"]);
    assert!(stdout(&table).contains("get nodes/pods, else get nodes/proxy"));
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
    let said = stderr(&checked);
    for part in [
        file.to_str().unwrap(),
        "authentication.x509.clientCaFlie",
        "clientCAFile",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
    assert_eq!(stdout(&checked), "");
}

#[test]
fn check_prints_what_would_be_in_force_and_that_loads_again() {
    let node = Node::new();
    let checked = node.check(&[]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    let again = node.path("again.yaml");
    fs::write(&again, stdout(&checked)).unwrap();
    let checked_again = run(&["check", "--config", &again]);
    assert_eq!(code(&checked_again), 0, "{}", stderr(&checked_again));
    assert_eq!(stdout(&checked_again), stdout(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_every_file_that_serve_would_stumble_over() {
    let node = Node::new();
    fs::write(node.path("gate-serving.key"), "nothing").unwrap();
    fs::remove_file(node.path("kubelet-serving.crt")).unwrap();
    let checked = node.check(&[]);
    assert_eq!(code(&checked), 64);
    let said = stderr(&checked);
    assert!(
        said.contains("gate-serving.key") && said.contains("kubelet-serving.crt"),
        "{said}"
    );
    let served = node.serve(&[]).await;
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
    let node = Node::new();
    let mut keys = 0;
    for entry in fs::read_dir(node.directory.path()).unwrap() {
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
    let node = Node::new();
    node.configure(|configuration| configuration["authentication"]["anonymous"] = json!({"enabled": false}));
    let effective = |flags: &[&str]| -> Value {
        let checked = node.check(flags);
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

/// Seen red with `may_listen` taking no kubelet in sight for a proof: the process then serves on the kubelet's port.
#[tokio::test(flavor = "multi_thread")]
async fn serve_leaves_the_kubelets_ports_alone() {
    let _alone = KUBELETS.lock().await;
    let node = Node::new();
    for (listen, key) in [("127.0.0.1:10250", "listen"), ("127.0.0.1:10255", "listen")] {
        node.configure(|configuration| configuration["listen"] = json!([listen]));
        for output in [node.serve(&[]).await, node.check(&[])] {
            assert_eq!(code(&output), 64);
            let said = stderr(&output);
            assert!(said.contains(key) && said.contains(listen), "{said}");
            assert!(said.contains("exits and the node is lost"), "{said}");
        }
    }
    node.configure(|configuration| configuration["readOnlyPort"] = json!({"listen": ["127.0.0.1:10255"]}));
    let served = node.serve(&[]).await;
    assert_eq!(code(&served), 64);
    assert!(stderr(&served).contains("readOnlyPort.listen"));
}

/// "Address already in use" alone sends an operator looking for the process.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_names_the_process_that_has_it() {
    let node = Node::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    node.configure(|configuration| configuration["listen"] = json!([address]));
    let served = node.serve(&[]).await;
    assert_eq!(code(&served), 1);
    let said = stderr(&served);
    let holder = format!("it is taken by process {} (", std::process::id());
    assert!(
        said.contains(&address.to_string()) && said.contains(&holder),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_with_0_within_a_second() {
    let node = Node::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut serving = Serving::start(&node).await;
        let began = Instant::now();
        serving.signal(signal);
        let status = serving.exit().await;
        assert_eq!(status.code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_files_again() {
    let node = Node::new();
    let mut serving = Serving::start(&node).await;
    let client = Client::new(serving.address, ClientTls::default()).unwrap();
    let shown = async || client.handshake().await.unwrap().server_certificate.unwrap();
    let before = shown().await;

    let renewed = PKI
        .client("gate-serving", &CertificateSpec::server("gate", &["localhost"]))
        .unwrap();
    Pair::write(&renewed, node.directory.path()).unwrap();
    assert_eq!(shown().await, before, "nothing is read before it is told");
    // The audit file was renamed by whatever rotates it.
    fs::rename(node.path("audit.log"), node.path("audit.log.1")).unwrap();
    let began = Instant::now();
    serving.signal(Signal::HUP);
    let admin = Client::plain(serving.admin);
    loop {
        let metrics = admin.get("/metrics").await.unwrap();
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        if sum(&text, "reloads_total", &[("what", "serving"), ("result", "ok")]) > 0.0 {
            break;
        }
        // Well before the clock would have read them.
        assert!(began.elapsed() < PATIENCE / 2, "{text}");
    }
    assert_eq!(shown().await, renewed.chain[0].to_vec());
    let answer = client.get("/pods").await.unwrap();
    assert_eq!(answer.status(), 401);
    eventually("the next event is in a new file", || {
        fs::read_to_string(node.path("audit.log")).is_ok_and(|text| text.lines().count() == 1)
    })
    .await;
    serving.signal(Signal::TERM);
    assert_eq!(serving.exit().await.code(), Some(0));
}
