//! A node of its own to seal: network namespaces for the node, a neighbour and a pod, a wide open kubelet, an API server, and
//! the gate as a process with a user and a cgroup of its own.
//!
//! It takes root, `ip`, `nft` and the rest. Elsewhere these tests are skipped and say so; where
//! `KUBELET_GATE_NAMESPACES` names a file they must not be, and each notes there that it ran.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use fakes::apiserver::FakeApiServer;
use fakes::client::{Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions, Fault};
use fakes::pki::Credential;
use kubelet_gate::host::Namespace;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{API_SERVER, PKI, eventually, eventually_answers, sum};

/// The gate's user: nobody else's, not even that of the same tests run beside these.
pub(crate) fn gate_uid() -> u32 {
    100_000 + std::process::id() % 100_000
}

/// The node's own addresses, as its neighbour sees them.
pub(crate) const NODE: [&str; 2] = ["192.0.2.10", "[2001:db8::10]"];
/// The node as its pod sees it.
pub(crate) const GATEWAY: &str = "10.88.0.1";
/// Where the gate and its tombstone listen.
pub(crate) const GATE: u16 = 19443;
const ADMIN: &str = "127.0.0.1:19250";

/// A node, with everything on it.
pub(crate) struct Node {
    pub(crate) backend: &'static str,
    pub(crate) neighbour: Namespace,
    pub(crate) pod: Namespace,
    kubelet: Option<FakeKubelet>,
    /// Stand-ins for what only has to answer.
    _beside: (FakeApiServer, FakeKubelet, FakeKubelet),
    directory: TempDir,
    gate: Option<Child>,
    pub(crate) cgroup: Option<PathBuf>,
    required: bool,
}

/// Runs `test` on a node of its own, once for each packet filter.
pub(crate) fn on_every_backend(name: &str, test: impl AsyncFn(Node) + Sync) {
    for backend in ["nftables", "iptables-nft", "iptables-legacy"] {
        on(name, backend, &test);
    }
}

/// Runs `test` on a node of its own with nftables, where the packet filter makes no difference.
pub(crate) fn on_a_node(name: &str, test: impl AsyncFn(Node) + Sync) {
    on(name, "nftables", &test);
}

fn on(name: &str, backend: &'static str, test: &(impl AsyncFn(Node) + Sync)) {
    // Interfaces, rules and processes of several nodes at once would only wait for each other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let noted = std::env::var_os("KUBELET_GATE_NAMESPACES");
    if let Some(why) = missing(backend) {
        assert!(
            noted.is_none(),
            "{name} on {backend} must not be skipped here: {why}"
        );
        println!("SKIPPED: {name} on {backend}: {why}");
        return;
    }
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Relaxed);
    let namespace = |what: &str| Namespace::new(&format!("kg{what}{count}")).unwrap();
    sweep();
    let (node, neighbour, pod) = (namespace("node"), namespace("out"), namespace("pod"));
    wire(&node, &neighbour, &pod);
    node.run(|| {
        // The kubelet answers while the test waits for a thread in another namespace. Threads are born in their parent's.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let node = Node::start(backend, count, neighbour, pod).await;
            test(node).await;
        });
    })
    .unwrap();
    if let Some(file) = noted {
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .unwrap();
        writeln!(file, "{backend} {name}").unwrap();
    }
}

/// Takes away what runs that were killed left behind.
fn sweep() {
    let dead = |name: &str| {
        let pid = name.rsplit('-').next().and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["kgnode", "kgout", "kgpod"]
            .iter()
            .any(|ours| name.starts_with(ours))
            && dead(&name)
        {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// What keeps these tests from running here.
fn missing(backend: &str) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let tools: &[&str] = match backend {
        "nftables" => &["nft", "iptables-nft"],
        "iptables-nft" => &["iptables-nft", "ip6tables-nft", "ipset"],
        _ => &["iptables-legacy", "ip6tables-legacy", "ipset"],
    };
    let there = |tool: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let mut places = std::env::split_paths(&path).chain(administrators);
        places.any(|place| place.join(tool).exists())
    };
    let absent = ["ip", "setpriv", "ss", "python3"]
        .iter()
        .chain(tools)
        .find(|tool| !there(tool))?;
    Some(format!("{absent} is missing"))
}

/// Node and neighbour on one network, the pod behind the node.
fn wire(node: &Namespace, neighbour: &Namespace, pod: &Namespace) {
    let run = |namespace: &Namespace, line: &str| namespace.ip(&line.split(' ').collect::<Vec<_>>()).unwrap();
    let pair = |name: &str, other: &Namespace| {
        run(
            node,
            &format!("link add {name} type veth peer name eth0 netns {}", other.name()),
        );
        run(node, &format!("link set {name} up"));
        run(other, "link set eth0 up");
    };
    pair("eth0", neighbour);
    pair("pod0", pod);
    run(node, "addr add 192.0.2.10/24 dev eth0");
    run(node, "addr add 2001:db8::10/64 dev eth0 nodad");
    run(neighbour, "addr add 192.0.2.20/24 dev eth0");
    run(neighbour, "addr add 2001:db8::20/64 dev eth0 nodad");
    run(node, "addr add 10.88.0.1/24 dev pod0");
    run(pod, "addr add 10.88.0.2/24 dev eth0");
    run(pod, "route add default via 10.88.0.1");
    node.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap())
        .unwrap();
}

impl Node {
    async fn start(backend: &'static str, count: usize, neighbour: Namespace, pod: Namespace) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        PKI.write(folder).unwrap();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        fs::write(
            folder.join("kubeconfig"),
            api.kubeconfig(&PKI, Credential::Certificate(&PKI.gate)),
        )
        .unwrap();
        let healthz = FakeKubelet::start(options(10248, false)).await.unwrap();
        // A kubelet has had no profiles there for long.
        healthz.fail("/debug/", Fault::status(404));
        for name in ["run", "audit"] {
            fs::create_dir(folder.join(name)).unwrap();
            chown(folder.join(name), Some(gate_uid()), Some(gate_uid())).unwrap();
        }
        Self {
            backend,
            neighbour,
            pod,
            kubelet: Some(FakeKubelet::start(options(10250, true)).await.unwrap()),
            _beside: (
                api,
                FakeKubelet::start(options(10255, false)).await.unwrap(),
                healthz,
            ),
            cgroup: own_cgroup(count),
            directory,
            gate: None,
            required: false,
        }
    }

    /// `firewall.required` from the next start on, and `firewall.managed`.
    pub(crate) fn require(&mut self) {
        self.required = true;
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file whose keys can be changed before the gate starts, or a command is run.
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

    /// Starts the gate, as its own user, in its own cgroup, and waits until it listens.
    pub(crate) async fn start_gate(&mut self) {
        self.start_gate_as(gate_uid(), |_| ()).await;
    }

    pub(crate) async fn start_gate_as(&mut self, uid: u32, change: impl FnOnce(&mut Value)) {
        let file = self.configuration(change);
        let mut command = Command::new("setpriv");
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
        let log = fs::File::create(self.file("gate.log")).unwrap();
        command
            .args([env!("CARGO_BIN_EXE_kubelet-gate"), "serve", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .stderr(log);
        // Children are born in their parent's cgroup: the parent goes there for the moment.
        let home = self.cgroup.as_ref().map(|cgroup| enter(cgroup));
        let child = command.spawn();
        if let Some(home) = home {
            fs::write(home.join("cgroup.procs"), "0").unwrap();
        }
        self.gate = Some(child.unwrap());
        eventually_answers("the gate listens", async || self.admin("/livez").await.is_some()).await;
    }

    /// Kills the gate, as a crash does.
    pub(crate) fn kill_gate(&mut self) {
        if let Some(mut gate) = self.gate.take() {
            gate.kill().unwrap();
            gate.wait().unwrap();
        }
    }

    /// Has the API server come once, through the gate's own port.
    pub(crate) async fn api_server_comes(&self) {
        let client = self.client(API_SERVER, SocketAddr::from(([127, 0, 0, 1], GATE)));
        let answer = client.get("/containerLogs/default/web/nginx").await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
    }

    /// Has the API server come from this very node, and through a tunnel that dials loopback: both are brought to the gate.
    pub(crate) async fn api_server_comes_to_the_kubelets_port(&self) {
        for address in ["127.0.0.1:10250", "[::1]:10250", "192.0.2.10:10250"] {
            let client = self.client(API_SERVER, address.parse().unwrap());
            let answer = client.get("/containerLogs/default/web/nginx").await.unwrap();
            assert_eq!(answer.status(), 200, "{address}: {answer:?}");
        }
    }

    /// A client with the certificate of this name.
    pub(crate) fn client(&self, name: &str, address: SocketAddr) -> Client {
        let pair = PKI.pair(name).unwrap();
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..ClientTls::default()
        };
        Client::new(address, tls).unwrap()
    }

    /// `kubelet-gate firewall` with these words, as root.
    fn firewall(&self, words: &str) -> Output {
        self.firewall_command(words).output().unwrap()
    }

    pub(crate) fn firewall_command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubelet-gate"));
        command.arg("firewall").args(words.split(' '));
        if words.starts_with("confirm")
            || words.starts_with("remove")
            || words.starts_with("status")
            || words.contains("verified")
        {
            command.arg("--unit-directory").arg(self.directory.path());
        }
        command.arg("--config").arg(self.file("kubelet-gate.yaml"));
        command
    }

    /// The same, which must end with this code. Yields what it said.
    #[track_caller]
    pub(crate) fn firewall_ends(&self, code: i32, words: &str) -> String {
        self.ended(code, words, &self.firewall(words))
    }

    #[track_caller]
    fn ended(&self, code: i32, words: &str, output: &Output) -> String {
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}: firewall {words}: {said}",
            self.backend
        );
        said
    }

    /// The same with a packet filter's program that loads nothing: somebody else holds its lock, say.
    #[track_caller]
    pub(crate) fn firewall_ends_where_nothing_is_loaded(&self, code: i32, words: &str) -> String {
        let tools = self.file("tools");
        fs::create_dir_all(&tools).unwrap();
        for tool in [
            "nft",
            "iptables-nft-restore",
            "ip6tables-nft-restore",
            "iptables-legacy-restore",
            "ip6tables-legacy-restore",
        ] {
            // What is only tried or listed goes on.
            let script = format!(
                "#!/bin/sh\ncase \" $* \" in *\" -c \"*|*\" --test \"*|*list*|*--version*) exec /usr/sbin/{tool} \"$@\";; esac\n\
                 echo another program holds the lock >&2; exit 4\n"
            );
            let file = tools.join(tool);
            fs::write(&file, script).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
        let output = self.firewall_command(words).env("PATH", path).output();
        self.ended(code, words, &output.unwrap())
    }

    /// What it says, however it ends.
    pub(crate) fn firewall_says(&self, words: &str) -> String {
        let output = self.firewall(words);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Begins it, and goes on.
    pub(crate) fn firewall_begins(&self, words: &str) -> Child {
        self.firewall_command(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The same while other things go on; it must end well.
    pub(crate) async fn firewall_beside(&self, words: &str) -> String {
        let output = tokio::process::Command::from(self.firewall_command(words))
            .output()
            .await
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: firewall {words}: {said}",
            self.backend
        );
        said
    }

    /// Waits until the seal lets the gate through: by itself, or by whoever started it where that takes root.
    pub(crate) async fn admitted(&self) {
        if self.backend == "iptables-legacy" {
            self.firewall_ends(0, "admit");
        }
        eventually_answers("the gate is let through", async || {
            self.admin("/readyz")
                .await
                .is_some_and(|(_, said)| !said.contains("[-] kubelet"))
        })
        .await;
    }

    /// Waits until the kernel lists these rules, but for whom they let through.
    pub(crate) async fn eventually_listed(&self, rules: &str) {
        let expected = self.without_exemption(rules);
        eventually(&format!("the rules are\n{expected}"), || {
            self.listed() == expected
        })
        .await;
    }

    /// What the kernel lists, without whom it lets through.
    pub(crate) fn listed(&self) -> String {
        self.without_exemption(&self.rules())
    }

    pub(crate) fn without_exemption(&self, rules: &str) -> String {
        let exempts = |line: &&str| line.contains("skuid") || line.contains("--uid-owner");
        rules
            .lines()
            .filter(|line| !exempts(line))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    /// The kubelet ends and starts again, as an upgrade has it.
    pub(crate) async fn restart_kubelet(&mut self) {
        let options = || options(10250, true);
        let old = self.kubelet.take().unwrap();
        old.shutdown().await;
        self.kubelet = Some(FakeKubelet::start(options()).await.unwrap());
    }

    /// The kubelet ends and starts again on this address alone.
    pub(crate) async fn move_kubelet(&mut self, address: &str) {
        self.kubelet.take().unwrap().shutdown().await;
        let moved = FakeKubeletOptions {
            address: address.parse().unwrap(),
            ..options(10250, true)
        };
        self.kubelet = Some(FakeKubelet::start(moved).await.unwrap());
    }

    /// Somebody with a key of their own has the port.
    pub(crate) async fn replace_kubelet_by_a_squatter(&mut self) {
        self.kubelet.take().unwrap().shutdown().await;
        let pair = &PKI.gate_serving;
        let squatter = FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..options(10250, true)
        };
        self.kubelet = Some(FakeKubelet::start(squatter).await.unwrap());
    }

    /// A gate that has served the API server, and a confirmed seal around it.
    pub(crate) async fn seal(&mut self) {
        self.start_gate().await;
        self.api_server_comes().await;
        self.firewall_ends(0, "apply --confirm-within 60s");
        self.firewall_ends(0, "confirm");
    }

    /// An answer of the admin port.
    pub(crate) async fn admin(&self, path: &str) -> Option<(u16, String)> {
        let client = Client::plain(ADMIN.parse().unwrap()).with_deadline(Duration::from_secs(5));
        let answer = client.get(path).await.ok()?;
        Some((
            answer.status().as_u16(),
            String::from_utf8_lossy(answer.body()).into_owned(),
        ))
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.admin("/metrics").await.unwrap().1, name, labels)
    }

    /// What the packet filter lists, without what only counts.
    pub(crate) fn rules(&self) -> String {
        let list = match self.backend {
            "nftables" => "nft -s list ruleset",
            "iptables-nft" => "iptables-nft-save; ip6tables-nft-save",
            _ => "iptables-legacy-save; ip6tables-legacy-save",
        };
        let text = shell(list);
        let counts = |word: &&str| !(word.starts_with('[') && word.ends_with(']'));
        text.lines()
            // A table that was never looked at is listed, empty, once somebody has.
            .filter(|line| !line.starts_with(['#', '*']) && *line != "COMMIT" && !line.contains(" ACCEPT ["))
            .map(|line| line.split(' ').filter(counts).collect::<Vec<_>>().join(" ") + "\n")
            .collect()
    }

    /// How the gate's own watch finds the seal.
    pub(crate) async fn seal_is(&self) -> String {
        let seal: Value = serde_json::from_str(&self.admin("/seal").await.unwrap().1).unwrap();
        seal["seal"]["state"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn running_gate(&self) -> Value {
        serde_json::from_slice(&fs::read(self.file("run/exemption.json")).unwrap()).unwrap()
    }

    /// Ends everything.
    pub(crate) async fn stop(mut self) {
        if let Some(mut gate) = self.gate.take() {
            let pid = rustix::process::Pid::from_child(&gate);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            let status = gate.wait().unwrap();
            assert!(status.success(), "{status}: {}", self.log());
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
            // What is still ending there goes with the machine.
            let _ = fs::remove_dir(cgroup);
        }
        if std::thread::panicking() {
            eprintln!("the gate said:\n{}", self.log());
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

/// A new cgroup of version 2, where there is such a thing.
fn own_cgroup(count: usize) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })?;
    let cgroup = root.join(format!("kubelet-gate-test-{}-{count}", std::process::id()));
    fs::create_dir(&cgroup).ok()?;
    Some(cgroup)
}

/// Brings this process into a cgroup; yields where it was.
fn enter(cgroup: &Path) -> PathBuf {
    let at = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = at
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    let home = cgroup.parent().unwrap().join(path);
    fs::write(cgroup.join("cgroup.procs"), "0").unwrap();
    home
}

/// Runs a line in this thread's network namespace; it must succeed.
#[track_caller]
pub(crate) fn shell(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Who answers here: `gate`, `kubelet`, `nobody`.
pub(crate) async fn who_answers(address: &str) -> &'static str {
    let address: SocketAddr = address.parse().unwrap();
    let client = if address.port() == 10250 {
        Client::new(address, ClientTls::default()).unwrap()
    } else {
        Client::plain(address)
    };
    match client.with_deadline(Duration::from_secs(1)).get("/pods").await {
        Ok(answer) if answer.status() == 200 => "kubelet",
        Ok(answer) if matches!(answer.status().as_u16(), 401 | 410) => "gate",
        Ok(answer) => panic!("{address}: {answer:?}"),
        Err(_) => "nobody",
    }
}

/// The same, asked from another network.
pub(crate) fn who_answers_in(namespace: &Namespace, address: &str) -> &'static str {
    namespace
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(who_answers(address))
        })
        .unwrap()
}
