//! Where a gate that is a unit of the service manager runs: kubelet, API server, and a folder with its
//! configuration. Its addresses are loopback, and no other test's.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use fakes::apiserver::FakeApiServer;
use fakes::client::Client;
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use fakes::pki::KubeconfigUser;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Expected, Load, Outages, Plan};
use crate::patience::{eventually_answers, patience};
use crate::program::kubelet_gate;
use crate::service_manager::Unit;
use crate::world::{PKI, sum};

/// The place.
pub(crate) struct Site {
    pub(crate) kubelet: FakeKubelet,
    pub(crate) api: FakeApiServer,
    directory: TempDir,
    configuration: Value,
    /// The TLS port.
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        PKI.write(directory.path()).unwrap();
        let kubelet = FakeKubelet::start(kubelet_options()).await.unwrap();
        let api = FakeApiServer::start(&PKI).await.unwrap();
        let kubeconfig = api.kubeconfig(&PKI, KubeconfigUser::Certificate(&PKI.gate));
        fakes::pki::write_secret(directory.path().join("kubeconfig"), kubeconfig).unwrap();
        let here = address();
        let (address, admin) = (
            SocketAddr::new(here.into(), 10443),
            SocketAddr::new(here.into(), 19250),
        );
        fs::create_dir(directory.path().join("run")).unwrap();
        let configuration = json!({
            "apiVersion": "kubelet-gate.dev/v1alpha1",
            "kind": "KubeletGateConfiguration",
            "listen": [address],
            "kubeconfig": "kubeconfig",
            "upstream": {
                "url": format!("https://{}", kubelet.address()),
                "certificateFile": "kubelet-serving.crt",
            },
            "tlsCertFile": "gate-serving.crt",
            "tlsPrivateKeyFile": "gate-serving.key",
            "authentication": {"x509": {"clientCAFile": "ca.crt"}},
            "readOnlyPort": {"listen": [SocketAddr::new(here.into(), 19255)]},
            "audit": {"path": "audit.log"},
            "admin": {"listen": admin},
            "firewall": {"runDirectory": "run"},
        });
        let site = Self {
            kubelet,
            api,
            directory,
            configuration,
            address,
            admin,
        };
        site.write_configuration();
        site
    }

    /// Changes the configuration, whose file is replaced by a rename.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.configuration);
        self.write_configuration();
    }

    fn write_configuration(&self) {
        self.put("gate.yaml", &format!("{:#}\n", self.configuration));
    }

    /// Puts a file in place as Kubernetes does: whole, by a rename.
    pub(crate) fn put(&self, name: &str, text: &str) {
        let temporary = self.path(&format!(".{name}"));
        fs::write(&temporary, text).unwrap();
        fs::set_permissions(&temporary, PermissionsExt::from_mode(0o600)).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The gate as a unit that binds its own sockets.
    pub(crate) fn unit(&self) -> Unit {
        Unit::new(kubelet_gate(), self.path("gate.yaml"))
    }

    /// Clients of this gate.
    pub(crate) async fn load(&self, plan: Plan) -> Load {
        self.load_with(plan, Arc::default()).await
    }

    /// The same, who expect refusals in these outages.
    pub(crate) async fn load_with(&self, plan: Plan, outages: Arc<Outages>) -> Load {
        let expected = Expected::of(self.kubelet.address()).await;
        Load::begin(&[self.address], expected, plan, outages)
    }

    /// What the admin port answers.
    pub(crate) async fn admin(&self, target: &str) -> String {
        let admin = Client::plain(self.admin).with_deadline(patience());
        let answer = admin.get(target).await.unwrap();
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.admin("/metrics").await, name, labels)
    }

    /// Waits until a metric has this value.
    pub(crate) async fn shows(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name} {labels:?} is {value}");
        eventually_answers(&what, async || self.metric(name, labels).await == value).await;
    }

    /// Ends the kubelet: its port refuses connections.
    pub(crate) async fn replace_kubelet(&mut self, away: impl AsyncFnOnce()) {
        let address = self.kubelet.address();
        let stand_in = FakeKubelet::start(FakeKubeletOptions::default()).await.unwrap();
        std::mem::replace(&mut self.kubelet, stand_in).shutdown().await;
        away().await;
        let options = FakeKubeletOptions {
            address,
            ..kubelet_options()
        };
        self.kubelet = FakeKubelet::start(options).await.unwrap();
    }
}

fn kubelet_options() -> FakeKubeletOptions {
    let pair = &PKI.kubelet_serving;
    FakeKubeletOptions {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        ..FakeKubeletOptions::default()
    }
}

/// An address of 127.64.0.0/10 for this process and this site.
fn address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = (std::process::id() << 6) + COUNT.fetch_add(1, Relaxed) % 64;
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() | (number & 0x3f_ffff))
}
