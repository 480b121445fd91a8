//! `kubeadm upgrade node` writes the cluster's configuration over the node's, and
//! `address: 127.0.0.1` is gone. A gate that held on to port 10250 would then keep the next kubelet
//! from starting, and the node would be lost.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use fakes::client::{Alpn, Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use serde_json::json;

use crate::patience::{eventually, eventually_answers, patience, stays};
use crate::program::{
    Installation, Serving, assert_says, code, kubelet_gate_after, kubelet_gate_beside, kubelet_program,
    output, stderr,
};
use crate::world::{API_SERVER, PKI, sum};

/// A node whose gate holds the kubelet's ports on another address than the kubelet's. The kubelet's process
/// and the servers on its ports are two things here: the process is a shell that has stopped itself, and the
/// servers are this test's.
struct Node {
    installation: Installation,
    gate: Serving,
    secure: u16,
    read_only: u16,
    /// What the shell that starts and ends the kubelet is told.
    orders: File,
    told: usize,
}

const GATE: &str = "127.0.0.2";
const DROP_IN: &str = "etc/systemd/system/kubelet.service.d/10-flags.conf";
const SAFE: &str = "address: 127.0.0.1";

impl Node {
    /// With a kubelet on 127.0.0.1, and the server on its port. `None` where the
    /// machine allows no namespaces.
    async fn start(has_unit: bool) -> Option<(Self, FakeKubelet)> {
        let installation = Installation::new();
        PKI.write(installation.directory.path()).unwrap();
        let kubelet = kubelet_on("127.0.0.1:0").await.unwrap();
        let secure = kubelet.address().port();
        let read_only = TcpListener::bind((GATE, 0)).unwrap().local_addr().unwrap().port();
        installation.configure(|configuration| {
            configuration["nodeName"] = json!("worker-1");
            configuration["listen"] = json!([format!("{GATE}:{secure}")]);
            configuration["readOnlyPort"] = json!({"listen": [format!("{GATE}:{read_only}")]});
            configuration["upstream"]["url"] = json!(format!("https://127.0.0.1:{secure}"));
            configuration["authentication"]["webhook"] = json!({"enabled": false});
            configuration["authorization"] = json!({"mode": "AlwaysAllow"});
        });
        let (folder, program) = (installation.path(""), kubelet_program());
        let units = installation.path("etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        if has_unit {
            fs::create_dir(format!("{units}/kubelet.service.d")).unwrap();
            let unit = format!("[Service]\nExecStart=/usr/bin/kubelet --config={folder}config.yaml $MORE\n");
            fs::write(format!("{units}/kubelet.service"), unit).unwrap();
        }
        fs::write(
            installation.path("config.yaml"),
            kubelet_configuration(SAFE, secure, read_only),
        )
        .unwrap();
        // The shell that starts the kubelet waits for its end, as systemd does.
        let script = format!(
            "cd {folder}
             mount --bind etc /etc
             mkfifo orders
             start() {{
                 {program} -c 'kill -STOP $$' --config={folder}config.yaml \"$@\" & kubelet=$!
                 until grep -q '^{program}' /proc/$kubelet/cmdline; do sleep 0.01; done
                 echo start >> told
             }}
             supervise() {{
                 start
                 while read -r order; do
                     case $order in
                     start) start ;;
                     start-open) start --address=0.0.0.0 ;;
                     end) kill -KILL $kubelet; wait $kubelet || echo end >> told ;;
                     esac
                 done < orders
             }}
             supervise 2>/dev/null &
             until [ -e told ]; do sleep 0.01; done
             exec \"$@\"
            "
        );
        let gate = Serving::by(kubelet_gate_after(&script)?, &installation.config()).await;
        let orders = installation.path("orders");
        let node = Self {
            orders: OpenOptions::new().read(true).write(true).open(orders).unwrap(),
            told: 1,
            installation,
            gate,
            secure,
            read_only,
        };
        Some((node, kubelet))
    }

    /// Writes the kubelet's configuration file.
    fn configure_kubelet(&self, address: &str) {
        let text = kubelet_configuration(address, self.secure, self.read_only);
        fs::write(self.installation.path("config.yaml"), text).unwrap();
    }

    /// Has the kubelet's process ended or started.
    async fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        self.told += 1;
        eventually(order, || {
            let told = fs::read_to_string(self.installation.path("told")).unwrap();
            told.lines().count() == self.told
        })
        .await;
    }

    fn address(&self) -> SocketAddr {
        format!("{GATE}:{}", self.secure).parse().unwrap()
    }

    fn client(&self, alpn: Alpn) -> Client {
        let pair = PKI.pair(API_SERVER).unwrap();
        let tls = ClientTls {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            alpn,
            ..ClientTls::default()
        };
        Client::new(self.address(), tls)
            .unwrap()
            .with_deadline(patience())
    }

    async fn admin(&self, path: &str) -> (u16, String) {
        let answer = Client::plain(self.gate.admin).get(path).await.unwrap();
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        (answer.status().as_u16(), body)
    }

    /// Waits until the readiness has this in a line, and yields its status and text.
    async fn eventually_says(&self, line: &str) -> (u16, String) {
        let mut said = (0, String::new());
        eventually_answers(line, async || {
            said = self.admin("/readyz?verbose").await;
            said.1.contains(line)
        })
        .await;
        said
    }

    async fn metric(&self, name: &str, port: u16, verdict: &str) -> f64 {
        let address = format!("{GATE}:{port}");
        let mut labels = vec![("address", address.as_str())];
        labels.extend((!verdict.is_empty()).then_some(("verdict", verdict)));
        sum(&self.admin("/metrics").await.1, name, &labels)
    }

    fn log(&self) -> String {
        self.gate.later().iter().map(ToString::to_string).collect()
    }
}

fn kubelet_configuration(address: &str, port: u16, read_only: u16) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nport: {port}\n\
         readOnlyPort: {read_only}\n{address}\n"
    )
}

/// A kubelet's server.
async fn kubelet_on(address: &str) -> std::io::Result<FakeKubelet> {
    let pair = &PKI.kubelet_serving;
    FakeKubelet::start(FakeKubeletOptions {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        address: address.parse().unwrap(),
        ..FakeKubeletOptions::default()
    })
    .await
}

/// The same once the address is free.
async fn eventually_kubelet_on(address: &str) -> FakeKubelet {
    let mut kubelet = None;
    eventually_answers("the kubelet can bind its port", async || {
        kubelet = kubelet_on(address).await.ok();
        kubelet.is_some()
    })
    .await;
    kubelet.unwrap()
}

fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Seen red: without the watch, and with the port not taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_whose_address_was_rewritten_starts() {
    let Some((mut node, kubelet)) = Node::start(true).await else {
        return;
    };
    node.eventually_says("[+] next-start ok").await;
    let (secure, read_only) = (node.secure, node.read_only);
    assert_eq!(node.metric("kubelet_next_start", secure, "free").await, 1.0);
    let mut open = Vec::new();
    for alpn in [Alpn::H1, Alpn::H2] {
        let mut connection = node.client(alpn).connect().await.unwrap();
        assert_eq!(connection.get("/pods").await.unwrap().status(), 200);
        open.push(connection);
    }

    node.configure_kubelet("");
    let taken =
        format!("[!] next-start: {GATE}:{secure}: the kubelet's next start would bind 0.0.0.0:{secure}");
    let (status, said) = node.eventually_says(&taken).await;
    assert_eq!(status, 200, "{said}");
    assert_says(
        &said,
        &[
            "address=0.0.0.0 (default)",
            &format!("read from {}", node.installation.path("config.yaml")),
            &format!("[!] next-start: {GATE}:{read_only}: the kubelet's next start would bind 0.0.0.0"),
        ],
    );
    assert_eq!(node.metric("kubelet_next_start", secure, "taken").await, 1.0);
    assert_eq!(node.metric("kubelet_next_start", secure, "free").await, 0.0);
    assert_eq!(node.metric("address_held", secure, "").await, 1.0);
    assert!(listens(node.address()), "as long as the kubelet runs");

    kubelet.shutdown().await;
    node.tell("end").await;
    let kubelet = eventually_kubelet_on(&format!("0.0.0.0:{secure}")).await;
    let read_only_port = TcpListener::bind(("0.0.0.0", read_only)).unwrap();
    node.tell("start").await;
    let given_up = format!("{GATE}:{secure}: let go of");
    let (status, said) = node.eventually_says(&given_up).await;
    assert_eq!(status, 503, "{said}");
    assert_says(
        &said,
        &["[-] listener: ", &format!("{GATE}:{read_only}: let go of")],
    );
    assert_eq!(node.admin("/readyz").await.0, 503);
    assert_eq!(node.admin("/livez").await.0, 200);
    assert_eq!(node.metric("address_held", secure, "").await, 0.0);
    for connection in &mut open {
        assert_eq!(
            connection.get("/pods").await.unwrap().status(),
            200,
            "it is still open"
        );
    }
    assert_says(
        &node.log(),
        &["let go of, so that the kubelet can bind it", "would bind 0.0.0.0"],
    );

    // Mended, and not restarted yet.
    node.configure_kubelet(SAFE);
    node.eventually_says(&format!("{GATE}:{secure}: cannot be bound again yet"))
        .await;
    kubelet.shutdown().await;
    drop(read_only_port);
    node.tell("end").await;
    let _kubelet = eventually_kubelet_on(&format!("127.0.0.1:{secure}")).await;
    node.tell("start").await;
    let (status, said) = node.eventually_says("[+] listener ok").await;
    assert_eq!(status, 200, "{said}");
    node.eventually_says("[+] next-start ok").await;
    assert_eq!(node.metric("address_held", secure, "").await, 1.0);
    assert_eq!(node.client(Alpn::H2).get("/pods").await.unwrap().status(), 200);
    let read_only = Client::plain(format!("{GATE}:{read_only}").parse().unwrap());
    assert_eq!(read_only.get("/pods").await.unwrap().status(), 410);
}

/// Between a rewritten file and the restart there may be a second. Seen red: with what the last look found
/// believed when the kubelet ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_rewritten_just_before_the_restart_counts() {
    let Some((mut node, kubelet)) = Node::start(true).await else {
        return;
    };
    node.eventually_says("[+] next-start ok").await;
    kubelet.shutdown().await;
    node.configure_kubelet("");
    node.tell("end").await;
    eventually_kubelet_on(&format!("0.0.0.0:{}", node.secure)).await;
}

/// Otherwise every restart of the kubelet would leave the port to any process of the node. Seen red: with the
/// port let go of at each end, and with a unit's drop-in not read.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_starts_as_before_costs_the_gate_no_port() {
    let Some((mut node, _kubelet)) = Node::start(true).await else {
        return;
    };
    node.eventually_says("[+] next-start ok").await;
    for _ in 0..3 {
        node.tell("end").await;
        stays(Duration::from_millis(300), "the gate listens", || {
            listens(node.address())
        })
        .await;
        node.tell("start").await;
    }
    let (status, said) = node.admin("/readyz?verbose").await;
    assert_eq!(status, 200, "{said}");
    assert!(!node.log().contains("let go of"), "{}", node.log());

    // Started by hand, in another way than the unit says.
    node.tell("end").await;
    node.tell("start-open").await;
    eventually("the port is free", || !listens(node.address())).await;
    node.tell("end").await;
    node.tell("start").await;
    eventually("the gate listens again", || listens(node.address())).await;

    let drop_in = "[Service]\nEnvironment=MORE=--address=0.0.0.0\n";
    fs::write(node.installation.path(DROP_IN), drop_in).unwrap();
    let (status, said) = node.eventually_says("[!] next-start").await;
    assert_says(&said, &["by /etc/systemd/system/kubelet.service", DROP_IN]);
    assert_eq!(status, 200);
    fs::remove_file(node.installation.path(DROP_IN)).unwrap();
    node.eventually_says("[+] next-start ok").await;
    // A file that cannot be read whole, as while it is written.
    fs::write(node.installation.path("config.yaml"), "kind: [").unwrap();
    let (status, said) = node.eventually_says("[?] next-start").await;
    assert_says(&said, &["config.yaml", "broken YAML"]);
    assert_eq!(status, 200);
}

/// Seen red: with an unknown next start taken for a harmless one, the port was not free; with the port taken
/// back only if the next start is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_of_no_unit_finds_its_port_free_and_the_gate_takes_it_again() {
    let Some((mut node, _kubelet)) = Node::start(false).await else {
        return;
    };
    let (status, said) = node.eventually_says("[?] next-start: 127").await;
    assert_says(
        &said,
        &[
            "it is not known whether the kubelet's next start binds it",
            "no kubelet is started",
        ],
    );
    assert_eq!(status, 200);
    node.tell("end").await;
    eventually("the port is free", || !listens(node.address())).await;
    node.tell("start").await;
    eventually("the gate listens again", || listens(node.address())).await;
    assert_eq!(node.eventually_says("[+] listener ok").await.0, 200);
}

/// Seen red: without the warning.
#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_the_next_start_would_do() {
    let installation = Installation::new();
    installation.configure(|configuration| {
        configuration["nodeName"] = json!("worker-1");
        configuration["listen"] = json!(["192.0.2.10:10250"]);
    });
    let flags = ["--address=127.0.0.1 --read-only-port=0"];
    let Some(mut gate) = kubelet_gate_beside(&flags) else {
        return;
    };
    gate.args(["check", "--offline", "--config", &installation.config()]);
    let output = output(gate).await;
    let said = stderr(&output);
    assert_eq!(code(&output), 0, "{said}");
    assert_says(&said, &["warning: ", "listen: 192.0.2.10:10250: "]);
}
