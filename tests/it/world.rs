//! A world to test in: a fake kubelet, a fake API server, and a gate between them that was started as `serve`
//! starts it.
//!
//! [`World::stop`] ends every test: it shows that nothing leaked. Nothing here sleeps for a fixed time;
//! [`eventually`] waits for what takes time.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use fakes::apiserver::FakeApiServer;
use fakes::client::{Alpn, Client, ClientError, ClientTls, Connection};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use fakes::pki::{KubeconfigUser, Pair, Pki, write_secret};
use http::{Request, Response};
use http_body_util::Full;
use kubelet_gate::audit::AuditThread;
use kubelet_gate::serve::Stopped;
use kubelet_gate::serve::start::{Started, start};
use kubelet_gate::serve::{Ends, Inherited, Instance, serve};
use kubelet_gate::settings::{KubeletFlags, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::patience::{eventually, patience};

/// The file name of the API server's client certificate, for [`World::client`].
pub(crate) const API_SERVER: &str = "kube-apiserver-kubelet-client";

/// Keys and certificates, made once for all tests.
pub(crate) static PKI: LazyLock<Pki> = LazyLock::new(|| Pki::generate().unwrap());

/// Fakes and gate, running.
pub(crate) struct World {
    pub(crate) kubelet: FakeKubelet,
    pub(crate) api: FakeApiServer,
    pub(crate) gate: Arc<Instance>,
    /// The TLS port.
    pub(crate) address: SocketAddr,
    /// The admin port.
    pub(crate) admin: SocketAddr,
    /// The tombstone on the read-only port.
    pub(crate) read_only: SocketAddr,
    /// Holds the configuration, every file it names, and the audit file.
    directory: TempDir,
    serving: Option<JoinHandle<std::io::Result<Stopped>>>,
    audit_thread: Option<AuditThread>,
    ends: Ends,
}

/// How a world differs from the default.
pub(crate) struct WorldBuilder {
    directory: TempDir,
    kubelet: FakeKubeletOptions,
    upstream: Upstream,
    flags: KubeletFlags,
    changes: Vec<Change>,
}

/// A change of the configuration, whose folder is the path.
type Change = Box<dyn FnOnce(&mut Value, &Path)>;

/// How the gate reaches the kubelet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upstream {
    Tls,
    Http,
    Unix,
}

/// A client that sends a bearer token with every request.
#[derive(Clone)]
pub(crate) struct TokenClient {
    client: Client,
    authorization: String,
}

// === impl WorldBuilder ===

impl WorldBuilder {
    /// Sets a key of the configuration: `set("authentication.anonymous.enabled", true)`.
    pub(crate) fn set(self, key: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.configure(move |configuration, _| {
            let pointer = format!("/{}", key.replace('.', "/"));
            if let Some(present) = configuration.pointer_mut(&pointer) {
                *present = value;
                return;
            }
            let mut at = configuration;
            for name in key.split('.') {
                if at.is_null() {
                    *at = json!({});
                }
                at = &mut at[name];
            }
            *at = value;
        })
    }

    /// Changes the configuration before it is written; the path is its folder.
    pub(crate) fn configure(mut self, change: impl FnOnce(&mut Value, &Path) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Changes how the kubelet starts.
    pub(crate) fn kubelet(mut self, change: impl FnOnce(&mut FakeKubeletOptions)) -> Self {
        change(&mut self.kubelet);
        self
    }

    /// Reaches the kubelet in plain HTTP.
    pub(crate) fn http_upstream(mut self) -> Self {
        self.upstream = Upstream::Http;
        self.kubelet.certificate = None;
        self
    }

    /// Reaches the kubelet over a unix socket.
    pub(crate) fn unix_upstream(mut self) -> Self {
        self.upstream = Upstream::Unix;
        self.kubelet.unix = Some(self.directory.path().join("kubelet.sock"));
        self
    }

    /// Allows requests without credentials, to be judged as `system:anonymous`.
    pub(crate) fn anonymous(self) -> Self {
        self.set("authentication.anonymous.enabled", true)
    }

    /// Permits every authenticated client everything.
    pub(crate) fn always_allow(self) -> Self {
        self.set("authorization.mode", "AlwaysAllow")
    }

    /// Sets flags that a kubelet has too, as on the command line.
    pub(crate) fn flags(mut self, change: impl FnOnce(&mut KubeletFlags)) -> Self {
        change(&mut self.flags);
        self
    }

    /// Remembers no review, so that every request asks. By flags: in the file a 0 means the default, as in a
    /// kubelet's.
    pub(crate) fn without_caches(self) -> Self {
        self.flags(|flags| {
            flags.authentication_token_webhook_cache_ttl = Some(Duration::ZERO);
            flags.authorization_webhook_cache_authorized_ttl = Some(Duration::ZERO);
            flags.authorization_webhook_cache_unauthorized_ttl = Some(Duration::ZERO);
        })
    }

    /// Starts everything.
    pub(crate) async fn start(self) -> World {
        let Self {
            directory,
            kubelet,
            upstream,
            flags,
            changes,
        } = self;
        let folder = directory.path().to_owned();
        PKI.write(&folder).unwrap();
        let kubelet = FakeKubelet::start(kubelet).await.unwrap();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        let kubeconfig = api.kubeconfig(&PKI, KubeconfigUser::Certificate(&PKI.gate));
        write_secret(folder.join("kubeconfig"), kubeconfig).unwrap();

        let mut configuration = configuration(upstream, kubelet.address(), &folder);
        for change in changes {
            change(&mut configuration, &folder);
        }
        let file = folder.join("kubelet-gate.yaml");
        // JSON is YAML.
        fs::write(&file, format!("{configuration:#}\n")).unwrap();
        let settings = Settings::load(&file, &flags).unwrap();
        let Started {
            instance: gate,
            sockets,
            audit,
        } = start(settings, Inherited::default(), &Handle::current()).unwrap();
        let ends = Ends::new();
        World {
            kubelet,
            api,
            address: sockets.addresses()[0],
            admin: sockets.admin_address().unwrap(),
            read_only: sockets.tombstone_addresses()[0],
            serving: Some(tokio::spawn(serve(gate.clone(), sockets, ends.clone()))),
            gate,
            directory,
            audit_thread: Some(audit),
            ends,
        }
    }
}

/// The kubelet as a node has it: it admits every client, and has a self-signed certificate.
fn kubelet_options() -> FakeKubeletOptions {
    let pair = &PKI.kubelet_serving;
    FakeKubeletOptions {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        ..FakeKubeletOptions::default()
    }
}

/// A configuration as an operator would write it for this node.
fn configuration(upstream: Upstream, kubelet: SocketAddr, folder: &Path) -> Value {
    json!({
        "apiVersion": "kubelet-gate.dev/v1alpha1",
        "kind": "KubeletGateConfiguration",
        "listen": ["127.0.0.1:0"],
        "kubeconfig": "kubeconfig",
        "upstream": match upstream {
            Upstream::Tls => json!({
                "url": format!("https://{kubelet}"),
                "certificateFile": "kubelet-serving.crt",
            }),
            Upstream::Http => json!({"url": format!("http://{kubelet}")}),
            Upstream::Unix => json!({"url": format!("unix://{}", folder.join("kubelet.sock").display())}),
        },
        "tlsCertFile": "gate-serving.crt",
        "tlsPrivateKeyFile": "gate-serving.key",
        "authentication": {"x509": {"clientCAFile": "ca.crt"}},
        "readOnlyPort": {"listen": ["127.0.0.1:0"]},
        "limits": {"shutdownTimeout": "5s"},
        "audit": {"path": "audit.log"},
        "admin": {"listen": "127.0.0.1:0"},
        "firewall": {"runDirectory": "run"},
    })
}

// === impl World ===

impl World {
    /// A world to be changed before it starts.
    pub(crate) fn builder() -> WorldBuilder {
        WorldBuilder {
            directory: tempfile::tempdir().unwrap(),
            kubelet: kubelet_options(),
            upstream: Upstream::Tls,
            flags: KubeletFlags::default(),
            changes: Vec::new(),
        }
    }

    /// The world as it is by default: certificates and tokens, reviews by the API server, a pinned kubelet.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// A client with the certificate of this file name: `bob` may do everything, `alice` nothing.
    pub(crate) fn client(&self, name: &str) -> Client {
        self.client_with(PKI.pair(name).expect("no such pair"))
    }

    /// The same over HTTP/2.
    pub(crate) fn h2_client(&self, name: &str) -> Client {
        self.tls_client(Some(PKI.pair(name).expect("no such pair")), Alpn::H2)
    }

    /// A client with this certificate.
    pub(crate) fn client_with(&self, pair: &Pair) -> Client {
        self.tls_client(Some(pair), Alpn::H1)
    }

    /// A client without credentials.
    pub(crate) fn stranger(&self) -> Client {
        self.tls_client(None, Alpn::H1)
    }

    /// A client with this token and no certificate.
    pub(crate) fn token_client(&self, token: &str) -> TokenClient {
        self.stranger().with_token(token)
    }

    /// A client that trusts the cluster's CA, with or without a certificate.
    pub(crate) fn tls_client(&self, pair: Option<&Pair>, alpn: Alpn) -> Client {
        let tls = ClientTls {
            roots: Some(vec![PKI.ca.certificate().clone()]),
            certificate: pair.map(|pair| (pair.chain.clone(), pair.key.clone_key())),
            alpn,
            ..ClientTls::default()
        };
        Client::new(self.address, tls).unwrap().with_deadline(patience())
    }

    /// A client that speaks plain HTTP to the admin port.
    pub(crate) fn admin_client(&self) -> Client {
        Client::plain(self.admin).with_deadline(patience())
    }

    /// A file of the configuration's folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The sum of all series of a metric that have these labels: `metric("requests_total", &[("code",
    /// "401")])`.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.gate.metrics().encode(), name, labels)
    }

    /// The audit events written so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        // A line being written has no end yet.
        let text = fs::read_to_string(self.file("audit.log")).unwrap();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for this number of audit events.
    pub(crate) async fn audit_events(&self, count: usize) -> Vec<Value> {
        eventually("the audit events are written", || self.audit().len() >= count).await;
        let events = self.audit();
        assert_eq!(events.len(), count, "{events:#?}");
        events
    }

    /// Checks that nothing was passed to the kubelet since the start, or since `kubelet.clear()`.
    #[track_caller]
    pub(crate) fn assert_nothing_forwarded(&self) {
        assert_eq!(self.kubelet.requests(), []);
    }

    /// Checks that nothing but requests for this target was passed to the kubelet.
    #[track_caller]
    pub(crate) fn assert_nothing_forwarded_but(&self, target: &str) {
        let mut others = self.kubelet.requests();
        others.retain(|seen| seen.target != target);
        assert_eq!(others, []);
    }

    /// Ends the kubelet; its port refuses connections.
    pub(crate) async fn stop_kubelet(&mut self) -> SocketAddr {
        let address = self.kubelet.address();
        // Another one takes its place, on another port: the field is not optional for the sake of all other
        // tests.
        let stand_in = FakeKubelet::start(FakeKubeletOptions::default()).await.unwrap();
        std::mem::replace(&mut self.kubelet, stand_in).shutdown().await;
        address
    }

    /// Starts it again where it was, with the certificate it had.
    pub(crate) async fn start_kubelet(&mut self, address: SocketAddr) {
        let options = FakeKubeletOptions {
            address,
            ..kubelet_options()
        };
        self.kubelet = FakeKubelet::start(options).await.unwrap();
    }

    /// Tells the gate to stop, as SIGTERM does, and does not wait.
    pub(crate) fn begin_to_stop(&self) {
        self.ends.stop.cancel();
    }

    /// Tells the gate to leave, as after a hand-over, and does not wait.
    pub(crate) fn begin_to_leave(&self) {
        self.ends.leave.cancel();
    }

    /// Stops everything and checks that nothing is left: no request, stream or connection, on neither side.
    pub(crate) async fn stop(self) {
        for gauge in ["requests_in_flight", "streams", "followed_logs"] {
            eventually(&format!("{gauge} is back to 0"), || {
                self.metric(gauge, &[]) == 0.0
            })
            .await;
        }
        self.ends.stop.cancel();
        let stopped = self.end().await;
        assert_eq!(stopped.cut, 0, "something had to be cut");
    }

    /// Waits for the end of a gate that was told to stop or to leave, and checks that nothing is left.
    pub(crate) async fn end(mut self) -> Stopped {
        let stopped = timeout(patience(), self.serving.take().unwrap()).await;
        let stopped = stopped.expect("the gate does not end").unwrap().unwrap();
        let audit = self.audit_thread.take().unwrap();
        tokio::task::spawn_blocking(move || audit.shutdown(patience()))
            .await
            .unwrap()
            .unwrap();
        for gauge in [
            "connections",
            "unauthenticated_connections",
            "upstream_idle_connections",
        ] {
            eventually(&format!("{gauge} is back to 0"), || {
                self.metric(gauge, &[]) == 0.0
            })
            .await;
        }
        assert_eq!(self.metric("panics_total", &[]), 0.0, "a request panicked");
        eventually("the kubelet has no connection left", || {
            self.kubelet.open_connections() == 0 && self.kubelet.open_streams() == 0
        })
        .await;
        stopped
    }
}

impl Drop for World {
    /// A test that did not stop its world would not notice a leak.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(
                self.audit_thread.is_none(),
                "end the test with world.stop().await"
            );
        }
    }
}

/// Asks, and yields the status of the answer alone.
pub(crate) trait Status {
    async fn status(self, target: &str) -> u16;
}

impl Status for &Client {
    async fn status(self, target: &str) -> u16 {
        self.get(target).await.unwrap().status().as_u16()
    }
}

impl Status for &TokenClient {
    async fn status(self, target: &str) -> u16 {
        self.get(target).await.unwrap().status().as_u16()
    }
}

impl Status for &mut Connection {
    async fn status(self, target: &str) -> u16 {
        self.get(target).await.unwrap().status().as_u16()
    }
}

// === impl TokenClient ===

/// Makes a client send a token as well.
pub(crate) trait WithToken {
    /// The same, with this token in every request.
    fn with_token(self, token: &str) -> TokenClient;
}

impl WithToken for Client {
    fn with_token(self, token: &str) -> TokenClient {
        TokenClient {
            client: self,
            authorization: format!("Bearer {token}"),
        }
    }
}

impl TokenClient {
    pub(crate) async fn get(&self, target: &str) -> Result<Response<Bytes>, ClientError> {
        self.call("GET", target, &[], Bytes::new()).await
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.client
            .call(method, target, &self.headers(headers), body)
            .await
    }

    /// These headers and the token.
    pub(crate) fn headers<'a>(&'a self, headers: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&[("authorization", self.authorization.as_str())], headers].concat()
    }
}

/// A request without a body.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    headers
        .iter()
        .fold(
            Request::builder().method(method).uri(target),
            |builder, (name, value)| builder.header(*name, *value),
        )
        .body(Full::default())
        .unwrap()
}

/// `pair` with a certificate beside it that is none, and that no other chain has.
pub(crate) fn with_junk(pair: &Pair, number: usize) -> Pair {
    let mut pair = pair.clone();
    pair.chain.push(format!("junk {number}").into_bytes().into());
    pair
}

/// An answer's header as text, or "".
pub(crate) fn header<'a, B>(answer: &'a Response<B>, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Checks status and body of an answer.
#[track_caller]
pub(crate) fn assert_answer(answer: &Response<Bytes>, status: u16, body: &str) {
    let text = String::from_utf8_lossy(answer.body());
    assert_eq!((answer.status().as_u16(), text.as_ref()), (status, body));
}

/// The sum of the series of a metric in a text exposition that have these labels.
pub(crate) fn sum(exposition: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let name = format!("kubelet_gate_{name}");
    exposition
        .lines()
        .filter(|line| {
            line.strip_prefix(name.as_str())
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .filter(|line| {
            labels
                .iter()
                .all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}
