//! A new version is installed while an API server follows logs through the gate. A gate that stops
//! first fails every request until the next one listens; one that lets any process have its sockets
//! has given the node away.

mod before_the_last_word;
mod old_process;
mod peers;
mod sealed;
mod strangers;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use fakes::client::{Alpn, Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use http::Response;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::patience::{eventually, eventually_answers, patience};
use crate::program::{Installation, Serving, assert_says, kubelet_gate};
use crate::world::{API_SERVER, PKI, request, sum};

const LOG: &str = "/containerLogs/default/web/nginx?follow=true";

/// A gate as a process, in front of a kubelet, and what takes over from it.
struct Node {
    installation: Installation,
    _kubelet: FakeKubelet,
    gate: Serving,
    /// What each `upgrade` started: to be ended with the test.
    started: Vec<u32>,
}

/// How `upgrade` ended, and what it and the new process said.
struct Upgraded {
    status: ExitStatus,
    said: String,
    /// The process that it started, if it did.
    new: Option<u32>,
}

/// Asks all the while, on a new connection each time.
struct Asking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Node {
    async fn start() -> Self {
        Self::by(kubelet_gate()).await
    }

    async fn by(command: Command) -> Self {
        let installation = Installation::new();
        PKI.write(installation.directory.path()).unwrap();
        let pair = &PKI.kubelet_serving;
        let kubelet = FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        })
        .await
        .unwrap();
        configure(&installation, kubelet.address(), |_| {});
        let gate = Serving::by(command, &installation.config()).await;
        Self {
            installation,
            _kubelet: kubelet,
            gate,
            started: Vec::new(),
        }
    }

    fn configure(&self, change: impl FnOnce(&mut Value)) {
        configure(&self.installation, self._kubelet.address(), change);
    }

    fn run(&self, name: &str) -> PathBuf {
        self.installation.directory.path().join("run").join(name)
    }

    /// Runs `upgrade` to its end.
    async fn upgrade(&mut self, flags: &[&str]) -> Upgraded {
        self.upgrade_by(kubelet_gate(), flags).await
    }

    async fn upgrade_by(&mut self, mut command: Command, flags: &[&str]) -> Upgraded {
        let path = self
            .installation
            .path(&format!("upgrade-{}.log", self.started.len()));
        let log = File::create(&path).unwrap();
        let child = command
            .args(["upgrade", "--config", &self.installation.config()])
            .args(flags)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let status = ended(&mut child.unwrap()).await;
        let said = fs::read_to_string(path).unwrap();
        let new = said
            .lines()
            .find_map(|line| line.strip_prefix("the new process is ")?.parse().ok());
        self.started.push(new.unwrap_or(0));
        Upgraded { status, said, new }
    }

    /// Has a new process take over. Yields its id.
    async fn upgrades(&mut self) -> u32 {
        let upgraded = self.upgrade(&[]).await;
        assert_eq!(upgraded.status.code(), Some(0), "{}", upgraded.said);
        assert!(!self.run("upgrade").exists(), "{}", upgraded.said);
        upgraded.new.unwrap()
    }

    fn client(&self, alpn: Alpn) -> Client {
        client(self.gate.address, alpn)
    }

    async fn admin(&self, path: &str) -> (u16, String) {
        let admin = Client::plain(self.gate.admin).with_deadline(patience());
        let answer = admin.get(path).await.unwrap();
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        (answer.status().as_u16(), body)
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.admin("/metrics").await.1, name, labels)
    }

    /// The process that serves says so itself.
    fn serving(&self) -> u32 {
        let text = fs::read(self.run("process.json")).unwrap();
        let process: Value = serde_json::from_slice(&text).unwrap();
        u32::try_from(process["pid"].as_u64().unwrap()).unwrap()
    }

    /// The first process serves as if nothing had happened.
    async fn goes_on(&mut self) {
        assert_eq!(self.serving(), self.gate.pid());
        assert!(!self.run("upgrade").exists());
        for alpn in [Alpn::H1, Alpn::H2] {
            assert_eq!(self.client(alpn).get("/pods").await.unwrap().status(), 200);
        }
        assert_eq!(self.admin("/readyz").await.0, 200);
        self.can_be_taken_over().await;
    }

    /// A new process can take over, whatever was there before.
    async fn can_be_taken_over(&mut self) {
        let new = self.upgrades().await;
        assert_eq!(self.serving(), new);
        assert_eq!(self.client(Alpn::H1).get("/pods").await.unwrap().status(), 200);
    }

    fn log(&self) -> String {
        self.gate.later().iter().map(ToString::to_string).collect()
    }

    async fn says(&self, text: &str) {
        eventually(text, || self.log().contains(text)).await;
    }

    fn asks(&self) -> Asking {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let clients = [Alpn::H1, Alpn::H2].map(|alpn| (alpn, self.client(alpn)));
        let task = tokio::spawn({
            let (stop, answered) = (stop.clone(), answered.clone());
            async move {
                while !stop.load(Relaxed) {
                    for (alpn, client) in &clients {
                        let answer = match client.get("/pods").await {
                            // GOAWAY was faster: an HTTP/2 client sends the request on another connection.
                            Err(error) if *alpn == Alpn::H2 && error.to_string().contains("canceled") => {
                                continue;
                            }
                            answer => answer.expect("a request failed"),
                        };
                        assert_eq!(answer.status(), 200);
                        answered.fetch_add(1, Relaxed);
                    }
                }
            }
        });
        Asking { stop, answered, task }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pid in &self.started {
            kill(*pid, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("the gate said:\n{}", self.log());
            for index in 0..self.started.len() {
                let path = self.installation.path(&format!("upgrade-{index}.log"));
                eprintln!("{}", fs::read_to_string(path).unwrap_or_default());
            }
        }
    }
}

impl Asking {
    /// Waits until this many more requests were answered.
    async fn asks_more(&self, count: usize) {
        let before = self.answered.load(Relaxed);
        eventually("requests are answered", || {
            self.task.is_finished() || self.answered.load(Relaxed) >= before + count
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Relaxed);
        self.task.await.unwrap();
    }
}

fn configure(installation: &Installation, kubelet: SocketAddr, change: impl FnOnce(&mut Value)) {
    installation.configure(|configuration| {
        configuration["nodeName"] = json!("worker-1");
        configuration["upstream"]["url"] = json!(format!("https://{kubelet}"));
        configuration["authentication"]["webhook"] = json!({"enabled": false});
        configuration["authorization"] = json!({"mode": "AlwaysAllow"});
        change(configuration);
    });
}

fn client(address: SocketAddr, alpn: Alpn) -> Client {
    let pair = PKI.pair(API_SERVER).unwrap();
    let tls = ClientTls {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        alpn,
        ..ClientTls::default()
    };
    Client::new(address, tls).unwrap().with_deadline(patience())
}

async fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    eventually_answers("the command has ended", async || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    status.unwrap()
}

/// Sends a signal to a process that may have ended.
fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()).filter(|pid| !pid.is_init()) {
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process runs: one that has ended counts as such also while no parent has waited for it.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn closes<B>(answer: &Response<B>) -> bool {
    answer
        .headers()
        .get("connection")
        .is_some_and(|value| value == "close")
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn requests_logs_and_connections_go_on_while_a_new_process_takes_over() {
    let mut node = Node::start().await;
    let asking = node.asks();
    let log = |node: &Node, alpn| {
        let client = node.client(alpn);
        async move { client.open(request("GET", LOG, &[])).await.unwrap() }
    };
    let mut kept = node.client(Alpn::H1).connect().await.unwrap();
    let mut multiplexed = node.client(Alpn::H2).connect().await.unwrap();
    assert!(!closes(&kept.get("/pods").await.unwrap()));
    assert_eq!(multiplexed.get("/pods").await.unwrap().status(), 200);
    let mut logs = vec![log(&node, Alpn::H1).await, log(&node, Alpn::H2).await];
    asking.asks_more(20).await;

    let first = node.gate.pid();
    let second = node.upgrades().await;
    assert_eq!(node.serving(), second);
    asking.asks_more(20).await;
    let answer = kept.get("/pods").await.unwrap();
    assert!(answer.status() == 200 && closes(&answer), "{answer:?}");
    for log in &mut logs {
        assert!(!log.body_mut().next().await.unwrap().unwrap().is_empty());
    }
    assert_eq!(node.admin("/readyz").await.0, 200);
    assert_eq!(node.metric("upgrades_total", &[("result", "ok")]).await, 1.0);
    eventually_answers("the new process shows the old one", async || {
        node.metric("leaving_streams", &[]).await == 2.0
    })
    .await;

    // A second one; the log of the first process goes on, and is shown by the third.
    logs.push(log(&node, Alpn::H1).await);
    let third = node.upgrades().await;
    eventually_answers("both are shown", async || {
        node.metric("leaving_processes", &[]).await == 2.0 && node.metric("leaving_streams", &[]).await == 3.0
    })
    .await;
    let refused = node.upgrade(&[]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.said);
    let each = [
        format!("process {first} since"),
        format!("process {second} since"),
    ];
    assert_says(
        &refused.said,
        &[
            &each[0],
            &each[1],
            "kill -TERM",
            &format!("Process {third} goes on"),
        ],
    );
    assert_eq!(node.serving(), third);
    asking.asks_more(20).await;
    for log in &mut logs {
        assert!(!log.body_mut().next().await.unwrap().unwrap().is_empty());
    }

    // The processes end with their last stream.
    drop(logs);
    drop(multiplexed);
    eventually("the old processes have ended", || !runs(first) && !runs(second)).await;
    eventually_answers("none is shown", async || {
        node.metric("leaving_processes", &[]).await == 0.0
    })
    .await;
    let fourth = node.upgrades().await;
    asking.asks_more(20).await;
    asking.stop().await;
    eventually("the third has ended", || !runs(third)).await;
    kill(fourth, Signal::TERM);
    eventually("the last has ended", || !runs(fourth)).await;
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_cannot_start_changes_nothing() {
    let mut node = Node::start().await;
    let asking = node.asks();
    // The configuration is judged before the old process is told.
    let key = node.installation.path("gate-serving.key");
    let kept = fs::read(&key).unwrap();
    fs::write(&key, "no key").unwrap();
    let refused = node.upgrade(&[]).await;
    assert_eq!(
        (refused.status.code(), refused.new),
        (Some(64), None),
        "{}",
        refused.said
    );
    assert_says(&refused.said, &["gate-serving.key", "goes on as before"]);
    fs::write(&key, kept).unwrap();
    // What only the start meets: the address is another process'.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    node.configure(|configuration| {
        configuration["listen"] = json!(["127.0.0.1:0", address.to_string()]);
    });
    let failed = node.upgrade(&[]).await;
    assert_eq!(failed.status.code(), Some(1), "{}", failed.said);
    let goes_on = format!("Process {} goes on as before", node.gate.pid());
    assert_says(&failed.said, &[&format!("cannot listen on {address}"), &goes_on]);
    node.says("nothing was handed over").await;
    assert_eq!(node.metric("upgrades_total", &[("result", "failed")]).await, 1.0);
    // Another directory has no gate.
    node.configure(|configuration| configuration["firewall"]["runDirectory"] = json!("elsewhere"));
    let refused = node.upgrade(&[]).await;
    assert_eq!(
        (refused.status.code(), refused.new),
        (Some(1), None),
        "{}",
        refused.said
    );
    assert_says(
        &refused.said,
        &["elsewhere/process.json", "another firewall.runDirectory"],
    );
    node.configure(|_| {});
    asking.asks_more(4).await;
    asking.stop().await;
    node.goes_on().await;
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_new_configuration_may_move_ports_and_sockets() {
    let mut node = Node::start().await;
    let (old, admin) = (node.gate.address, node.gate.admin);
    let more: SocketAddr = "127.0.0.2:0".parse().unwrap();
    let more = std::net::TcpListener::bind(more).unwrap().local_addr().unwrap();
    node.configure(|configuration| {
        configuration["listen"] = json!([old.to_string(), more.to_string()]);
        configuration["readOnlyPort"] = json!({"listen": [format!("127.0.0.2:{}", old.port())]});
        configuration["admin"] = json!({"socket": "run/other.sock", "listen": ""});
    });
    let upgraded = node.upgrade(&[]).await;
    assert_eq!(upgraded.status.code(), Some(0), "{}", upgraded.said);
    for address in [old, more] {
        assert_eq!(
            client(address, Alpn::H1).get("/pods").await.unwrap().status(),
            200
        );
    }
    let tombstone = Client::plain(SocketAddr::new(more.ip(), old.port()));
    assert_eq!(tombstone.get("/pods").await.unwrap().status(), 410);
    assert!(std::os::unix::net::UnixStream::connect(node.run("other.sock")).is_ok());
    eventually("the admin port is closed", || {
        std::net::TcpStream::connect(admin).is_err()
    })
    .await;
    eventually("the old process has ended", || !runs(node.gate.pid())).await;
    // Back again: the first address alone, by a second new process.
    node.configure(|configuration| {
        configuration["listen"] = json!([more.to_string()]);
        configuration["admin"]["listen"] = json!(admin.to_string());
    });
    let upgraded = node.upgrade(&[]).await;
    assert_eq!(upgraded.status.code(), Some(0), "{}", upgraded.said);
    eventually("the first address is free", || {
        std::net::TcpListener::bind(old).is_ok()
    })
    .await;
    assert_eq!(client(more, Alpn::H1).get("/pods").await.unwrap().status(), 200);
}

/// systemd hears its main process alone, and restarts a unit whose main process ends. (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let next = async || {
        let mut message = vec![0; 4096];
        let received = timeout(patience(), socket.recv(&mut message)).await;
        let length = received.expect("nothing is told").unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let mut command = kubelet_gate();
    command.env("NOTIFY_SOCKET", &path);
    let mut node = Node::by(command).await;
    assert_eq!(next().await, "READY=1\n");
    // A failed one says nothing.
    node.gate.signal(Signal::USR2);
    drop(peers::Peer::connect(&node.run("upgrade/socket")).await);
    let log = node
        .client(Alpn::H1)
        .open(request("GET", LOG, &[]))
        .await
        .unwrap();

    let new = node.upgrades().await;
    assert_eq!(next().await, format!("MAINPID={new}\n"));
    assert_eq!(next().await, "READY=1\n");
    // The old process, which leaves, reads its files as well.
    node.gate.signal(Signal::HUP);
    node.says("SIGHUP").await;
    kill(new, Signal::HUP);
    assert!(next().await.starts_with("RELOADING=1\n"));
    assert_eq!(next().await, "READY=1\n");
    drop(log);
    assert!(node.gate.exit().await.success());
    kill(new, Signal::TERM);
    assert_eq!(next().await, "STOPPING=1\n");
}

/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn the_same_program_is_told_to_read_its_files_again() {
    let mut node = Node::start().await;
    let pid = node.gate.pid();
    let same = node.upgrade(&["--if-changed", "--pid", &pid.to_string()]).await;
    assert_eq!((same.status.code(), same.new), (Some(0), None), "{}", same.said);
    node.says("SIGHUP").await;
    assert_eq!(node.serving(), pid);

    let program = node.installation.path("kubelet-gate");
    fs::copy(kubelet_gate().get_program(), &program).unwrap();
    let mut command = Command::new(&program);
    command.env("MAINPID", pid.to_string()).stdin(Stdio::null());
    let other = node.upgrade_by(command, &["--if-changed"]).await;
    assert_eq!(other.status.code(), Some(0), "{}", other.said);
    let new = other.new.unwrap();
    assert_eq!(node.serving(), new);
    let runs = fs::read_link(format!("/proc/{new}/exe")).unwrap();
    assert_eq!(runs, PathBuf::from(program));
}
