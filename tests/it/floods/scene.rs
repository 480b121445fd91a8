//! The gate as a process, between a kubelet and an API server of this one.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use fakes::apiserver::{Api, FakeApiServer, Rule, Subject, User};
use fakes::client::{Alpn, Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use fakes::pki::{KubeconfigUser, Pair};
use procfs::process::Process;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::ground::Ground;
use crate::patience::patience;
use crate::program::{Serving, kubelet_gate, kubelet_gate_with_files};
use crate::world::{PKI, sum};

/// A change of the configuration, whose folder is the path.
pub(super) type Change = Box<dyn FnOnce(&mut Value, &Path) + Send>;

/// A token that may read metrics and nothing else. The legitimate client's tokens are another user's.
pub(super) const SCRAPER_TOKEN: &str = "scraper-token";

/// Descriptors that the gate may have more than before an attack: connections to the API server are kept.
const KEPT: usize = 64;

/// The gate's certificate has an RSA key, as many a node's has: the gate signs with it in each handshake.
static SERVING: LazyLock<(String, String)> = LazyLock::new(|| {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (certificate.pem(), key.serialize_pem())
});

/// A gate that runs, and its neighbours.
pub(super) struct Scene {
    pub(super) ground: Ground,
    pub(super) gate: Serving,
    pub(super) api: FakeApiServer,
    pub(super) kubelet: FakeKubelet,
    directory: TempDir,
}

/// What the gate has at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holdings {
    /// Resident memory, in KiB.
    pub(super) memory: u64,
    /// The most resident memory since the start, in KiB.
    pub(super) most_memory: u64,
    pub(super) descriptors: usize,
    pub(super) reviews: usize,
    pub(super) audit_bytes: u64,
    pub(super) log_lines: usize,
}

impl Scene {
    pub(super) async fn start(ground: Ground, descriptors: Option<u64>, changes: Vec<Change>) -> Self {
        // The attackers hold thousands of connections, and so does the gate, which inherits the limit.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        )
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path();
        PKI.write(folder).unwrap();
        fs::write(folder.join("serving.crt"), &SERVING.0).unwrap();
        fakes::pki::write_secret(folder.join("serving.key"), &SERVING.1).unwrap();
        let pair = &PKI.kubelet_serving;
        let kubelet = FakeKubelet::start(FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        });
        let kubelet = kubelet.await.unwrap();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        let scraper = User::service_account("monitoring", "scraper");
        api.add_rule(Rule::allow(Subject::user(&scraper.name), &["get"], &["metrics"]));
        api.add_token(SCRAPER_TOKEN, scraper);
        let kubeconfig = api.kubeconfig(&PKI, KubeconfigUser::Certificate(&PKI.gate));
        fakes::pki::write_secret(folder.join("kubeconfig"), kubeconfig).unwrap();
        let listen = match ground {
            Ground::Loopback => "127.0.0.1:0",
            Ground::Network => "[::]:0",
        };
        let mut configuration = json!({
            "apiVersion": "kubelet-gate.dev/v1alpha1",
            "kind": "KubeletGateConfiguration",
            "listen": [listen],
            "kubeconfig": "kubeconfig",
            "upstream": {
                "url": format!("https://{}", kubelet.address()),
                "certificateFile": "kubelet-serving.crt",
            },
            "tlsCertFile": "serving.crt",
            "tlsPrivateKeyFile": "serving.key",
            "authentication": {"x509": {"clientCAFile": "ca.crt"}},
            "readOnlyPort": {"listen": [listen], "healthz": true},
            "limits": {"shutdownTimeout": "5s"},
            "audit": {"path": "audit.log"},
            "admin": {"listen": "127.0.0.1:0"},
            "firewall": {"runDirectory": "run"},
        });
        fs::create_dir(folder.join("run")).unwrap();
        for change in changes {
            change(&mut configuration, folder);
        }
        let file = folder.join("kubelet-gate.yaml");
        fs::write(&file, configuration.to_string()).unwrap();
        let gate = match descriptors {
            Some(descriptors) => kubelet_gate_with_files(&format!("-n {descriptors}")),
            None => kubelet_gate(),
        };
        Self {
            ground,
            gate: Serving::by(gate, file.to_str().unwrap()).await,
            api,
            kubelet,
            directory,
        }
    }

    /// The gate's TLS port.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ground.gate(), self.gate.address.port())
    }

    /// The port that answers in place of the kubelet's read-only port, at this address.
    pub(super) fn read_only(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.gate.read_only.unwrap().port())
    }

    /// What the gate has now.
    pub(super) fn holdings(&self) -> Holdings {
        let process = Process::new(self.gate.pid().cast_signed()).unwrap();
        let status = process.status().unwrap();
        let audit = fs::read_dir(self.directory.path()).unwrap().flatten();
        let audit = audit.filter(|entry| entry.file_name().to_string_lossy().starts_with("audit"));
        Holdings {
            memory: status.vmrss.unwrap(),
            most_memory: status.vmhwm.unwrap(),
            descriptors: process.fd_count().unwrap(),
            reviews: self.api.count(Api::Token) + self.api.count(Api::Access),
            audit_bytes: audit.map(|entry| entry.metadata().unwrap().len()).sum(),
            log_lines: self.gate.later().len(),
        }
    }

    /// The sum of all series of a metric of the gate that have these labels.
    pub(super) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.metrics().await, name, labels)
    }

    async fn metrics(&self) -> String {
        let client = Client::plain(self.gate.admin).with_deadline(patience());
        let answer = client.get("/metrics").await.unwrap();
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    /// Waits until no connection, request or stream of a client is left, nor a descriptor.
    ///
    /// # Errors
    /// What is left.
    pub(super) async fn eventually_idle(&self, descriptors: usize) -> Result<(), String> {
        const NAMES: [&str; 4] = [
            "connections",
            "requests_in_flight",
            "streams",
            "upstream_idle_connections",
        ];
        let deadline = Instant::now() + patience();
        loop {
            let metrics = self.metrics().await;
            let [connections, requests, streams, idle] = NAMES.map(|name| sum(&metrics, name, &[]) as usize);
            let open = self.holdings().descriptors;
            let upstream = self.kubelet.open_connections() as usize;
            if connections + requests + streams == 0
                && upstream == idle
                && open <= descriptors + upstream + KEPT
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "left: {connections} connections, {requests} requests, {streams} streams, {upstream} \
                     connections to the kubelet of which {idle} are idle, {open} descriptors where there were \
                     {descriptors}"
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the gate, which must end well.
    pub(super) async fn stop(mut self) {
        self.gate.signal(Signal::TERM);
        let status = self.gate.exit().await;
        assert!(status.success(), "{status}");
    }
}

/// A client of an address that is no gate's own, which takes any server certificate.
pub(super) fn client(to: SocketAddr, pair: Option<&Pair>, alpn: Alpn) -> Client {
    let tls = ClientTls {
        certificate: pair.map(|pair| (pair.chain.clone(), pair.key.clone_key())),
        alpn,
        ..ClientTls::default()
    };
    Client::new(to, tls).unwrap().with_deadline(patience())
}
