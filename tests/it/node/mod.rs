//! A node to seal: network namespaces for the node, a neighbour and a pod; on the node a kubelet that admits
//! everyone, an API server, and the gate as a process with a user and a cgroup of its own.
//!
//! It needs root, `ip`, `nft` and more. Elsewhere these tests are skipped and say so. Where
//! `KUBELET_GATE_NAMESPACES` names a file a test that cannot run fails, and each that has passed is noted
//! there.

mod network;
mod seal;
mod servers;

pub(crate) use self::network::{is_local, namespace_for_a_flood, on_a_node, on_every_backend};
pub(crate) use self::seal::without_exemption;
pub(crate) use self::servers::{server_at, server_seen_from};

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fakes::apiserver::FakeApiServer;
use fakes::client::{Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions, Fault};
use fakes::pki::KubeconfigUser;
use kubelet_gate::host::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::patience::{eventually, eventually_answers, patience};
use crate::world::{API_SERVER, PKI, sum};

/// The node's own addresses, as its neighbour sees them.
pub(crate) const NODE: [&str; 2] = ["192.0.2.10", "[2001:db8::10]"];
/// The node as its pod sees it.
pub(crate) const GATEWAY: &str = "10.88.0.1";
/// Where the gate listens.
pub(crate) const GATE: u16 = 19443;
const ADMIN: &str = "127.0.0.1:19250";

/// A node, with everything on it.
pub(crate) struct Node {
    pub(crate) backend: &'static str,
    pub(crate) neighbour: Namespace,
    pub(crate) pod: Namespace,
    /// The gate's user, which no other process of this machine has: not even a gate of another test.
    pub(crate) gate_uid: u32,
    pub(crate) cgroup: Option<PathBuf>,
    kubelet: Option<FakeKubelet>,
    /// The API server, and what answers on the read-only port and on the port for health checks.
    _beside: (FakeApiServer, FakeKubelet, FakeKubelet),
    directory: TempDir,
    gate: Option<Child>,
    required: bool,
}

impl Node {
    /// In this thread's network namespace.
    async fn start(backend: &'static str, number: u32, neighbour: Namespace, pod: Namespace) -> Self {
        eventually("the kernel accepts packets for the IPv6 addresses", || {
            is_local("2001:db8::10") && neighbour.run(|| is_local("2001:db8::20")).unwrap()
        })
        .await;
        let gate_uid = 100_000 + 256 * std::process::id() + number;
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        PKI.write(folder).unwrap();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        let kubeconfig = api.kubeconfig(&PKI, KubeconfigUser::Certificate(&PKI.gate));
        fakes::pki::write_secret(folder.join("kubeconfig"), kubeconfig).unwrap();
        let healthz = FakeKubelet::start(options(10248, false)).await.unwrap();
        // Kubelets have served no profiles there for years.
        healthz.fail("/debug/", Fault::status(404));
        for name in ["run", "audit"] {
            fs::create_dir(folder.join(name)).unwrap();
            chown(folder.join(name), Some(gate_uid), Some(gate_uid)).unwrap();
        }
        Self {
            backend,
            neighbour,
            pod,
            gate_uid,
            cgroup: own_cgroup(number),
            kubelet: Some(FakeKubelet::start(options(10250, true)).await.unwrap()),
            _beside: (
                api,
                FakeKubelet::start(options(10255, false)).await.unwrap(),
                healthz,
            ),
            directory,
            gate: None,
            required: false,
        }
    }

    /// Sets `firewall.required` and `firewall.managed` from the gate's next start on.
    pub(crate) fn require(&mut self) {
        self.required = true;
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration with this change, for the next start of the gate or the next command.
    pub(crate) fn configuration(&self, change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut configuration = json!({
            "apiVersion": "kubelet-gate.dev/v1alpha1",
            "kind": "KubeletGateConfiguration",
            "nodeName": "worker-1",
            "listen": [format!("[::]:{GATE}")],
            "kubeconfig": "kubeconfig",
            "upstream": {"url": "https://127.0.0.1:10250", "certificateFile": "kubelet-serving.crt"},
            "tlsCertFile": "gate-serving.crt",
            "tlsPrivateKeyFile": "gate-serving.key",
            "authentication": {"x509": {"clientCAFile": "ca.crt"}},
            "readOnlyPort": {"listen": ["[::]:19255"]},
            "audit": {"path": "audit/audit.log"},
            "admin": {"listen": ADMIN},
            "firewall": {
                "backend": self.backend, "required": self.required, "managed": self.required,
                "stateDirectory": "state", "runDirectory": "run",
            },
        });
        change(&mut configuration);
        let file = self.file("kubelet-gate.yaml");
        fs::write(&file, format!("{configuration:#}\n")).unwrap();
        file
    }

    /// A command on this node. Its iptables-legacy has a lock of its own, as on a machine of its own.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("XTABLES_LOCKFILE", self.file("xtables.lock"));
        command
    }

    /// Runs a line on this node, which must succeed.
    #[track_caller]
    pub(crate) fn shell(&self, line: &str) -> String {
        succeeded(self.command("sh").args(["-ec", line]), line)
    }

    /// Starts the gate as a user of its own, in a cgroup of its own, and waits until it listens.
    pub(crate) async fn start_gate(&mut self) {
        self.start_gate_with(|_| ()).await;
    }

    /// The same with this change of the configuration.
    pub(crate) async fn start_gate_with(&mut self, change: impl FnOnce(&mut Value)) {
        self.start_gate_as(self.gate_uid, change).await;
    }

    /// The same as another user.
    pub(crate) async fn start_gate_as(&mut self, uid: u32, change: impl FnOnce(&mut Value)) {
        let file = self.configuration(change);
        let mut command = self.gate_command(uid);
        let log = fs::File::create(self.file("gate.log")).unwrap();
        let child = command
            .args(["serve", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.gate = Some(child.unwrap());
        eventually_answers("the gate listens", async || self.admin("/livez").await.is_some()).await;
    }

    /// A command that becomes the program, as a user of its own, in a cgroup of its own.
    pub(crate) fn gate_command(&self, uid: u32) -> Command {
        let mut command = self.command_in(self.cgroup.as_deref(), "setpriv");
        if uid != 0 {
            let capabilities = "+net_admin,+net_raw,+dac_read_search,+sys_ptrace";
            command.args([
                &format!("--reuid={uid}"),
                &format!("--regid={uid}"),
                "--clear-groups",
                &format!("--inh-caps={capabilities}"),
                &format!("--ambient-caps={capabilities}"),
            ]);
        }
        command.arg(env!("CARGO_BIN_EXE_kubelet-gate"));
        command
    }

    /// A command that enters a cgroup, if any, before it becomes this program.
    pub(crate) fn command_in(&self, cgroup: Option<&Path>, program: &str) -> Command {
        let mut command = self.command("sh");
        let enter = r#"[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec "$@""#;
        command
            .args(["-ec", enter])
            .arg(cgroup.unwrap_or_else(|| Path::new("")));
        command.arg(program);
        command
    }

    /// Kills the gate, as a crash does.
    pub(crate) fn kill_gate(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            gate.kill().unwrap();
            gate.wait().unwrap();
        }
    }

    /// The API server calls the gate's own port once.
    pub(crate) async fn api_server_calls_gate(&self) {
        self.api_server_calls(SocketAddr::from(([127, 0, 0, 1], GATE)))
            .await;
    }

    /// The API server calls the kubelet's port, from this node and through a tunnel that dials loopback: both
    /// lead to the gate.
    pub(crate) async fn api_server_calls_kubelet(&self) {
        for address in ["127.0.0.1:10250", "[::1]:10250", "192.0.2.10:10250"] {
            self.api_server_calls(address.parse().unwrap()).await;
        }
    }

    async fn api_server_calls(&self, address: SocketAddr) {
        let client = self.client(API_SERVER, address);
        let answer = client.get("/containerLogs/default/web/nginx").await.unwrap();
        assert_eq!(answer.status(), 200, "{address}: {answer:?}");
    }

    /// A client with the certificate of this name.
    pub(crate) fn client(&self, name: &str, address: SocketAddr) -> Client {
        let pair = PKI.pair(name).unwrap();
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..ClientTls::default()
        };
        Client::new(address, tls).unwrap().with_deadline(patience())
    }

    /// Ends the kubelet and starts it again, as an upgrade does.
    pub(crate) async fn restart_kubelet(&mut self) {
        self.replace_kubelet(options(10250, true)).await;
    }

    /// Ends the kubelet and starts it again on this address alone.
    pub(crate) async fn move_kubelet(&mut self, address: &str) {
        let address = address.parse().unwrap();
        self.replace_kubelet(FakeKubeletOptions {
            address,
            ..options(10250, true)
        })
        .await;
    }

    /// Ends the kubelet; a server with another key takes its port.
    pub(crate) async fn replace_kubelet_by_a_squatter(&mut self) {
        let pair = &PKI.gate_serving;
        let certificate = Some((pair.chain.clone(), pair.key.clone_key()));
        self.replace_kubelet(FakeKubeletOptions {
            certificate,
            ..options(10250, true)
        })
        .await;
    }

    async fn replace_kubelet(&mut self, options: FakeKubeletOptions) {
        self.kubelet.take().unwrap().shutdown().await;
        self.kubelet = Some(FakeKubelet::start(options).await.unwrap());
    }

    /// Status and body of an answer of the admin port.
    pub(crate) async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let client = Client::plain(ADMIN.parse().unwrap()).with_deadline(patience());
        let answer = client.get(path).await.ok()?;
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Some((answer.status().as_u16(), body))
    }

    /// Waits until the gate is ready.
    pub(crate) async fn eventually_ready(&self) {
        eventually_answers("the gate is ready", async || {
            self.admin("/readyz")
                .await
                .is_some_and(|(status, _)| status == 200)
        })
        .await;
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.admin("/metrics").await.unwrap().1, name, labels)
    }

    /// What the gate says about itself in `firewall.runDirectory`.
    pub(crate) fn running_gate(&self) -> Value {
        serde_json::from_slice(&fs::read(self.file("run/exemption.json")).unwrap()).unwrap()
    }

    /// Ends everything. The gate must end well.
    pub(crate) async fn stop(mut self) {
        if let Some(gate) = &mut self.gate {
            let pid = rustix::process::Pid::from_child(gate);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let mut status = None;
            eventually("the gate has ended", || {
                status = gate.try_wait().unwrap();
                status.is_some()
            })
            .await;
            assert!(status.unwrap().success(), "{status:?}");
            self.gate = None;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("gate.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_gate();
        if let Some(cgroup) = &self.cgroup {
            // It cannot be removed while a process is still ending there; it is gone with the machine.
            let _ = fs::remove_dir(cgroup);
        }
        if std::thread::panicking() {
            eprintln!("{}: the gate said:\n{}", self.backend, self.log());
        }
    }
}

/// A kubelet on every address, as a node has it.
pub(crate) fn options(port: u16, secure: bool) -> FakeKubeletOptions {
    let pair = &PKI.kubelet_serving;
    FakeKubeletOptions {
        certificate: secure.then(|| (pair.chain.clone(), pair.key.clone_key())),
        address: SocketAddr::from(([0_u16; 8], port)),
        ..FakeKubeletOptions::default()
    }
}

/// A new cgroup of version 2, where the machine has these.
fn own_cgroup(number: u32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })?;
    let cgroup = root.join(format!("kubelet-gate-test-{}-{number}", std::process::id()));
    fs::create_dir(&cgroup).ok()?;
    Some(cgroup)
}

/// Runs a line in this thread's network namespace, which must succeed.
#[track_caller]
pub(crate) fn shell(line: &str) -> String {
    succeeded(Command::new("sh").args(["-ec", line]), line)
}

#[track_caller]
fn succeeded(command: &mut Command, line: &str) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
