//! Everything the gate reads is read again while it serves. A gate that notices a change late keeps a revoked
//! client in; one that reads half a file may let a stranger in; one that ends over it takes the node away.

mod configuration;
mod files;
mod systemd;
mod units;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fakes::apiserver::FakeApiServer;
use fakes::client::{Alpn, Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions};
use fakes::pki::{KubeconfigUser, Pair};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::patience::{eventually, eventually_answers, patience};
use crate::program::{Serving, kubelet_gate};
use crate::world::{PKI, sum};

/// By the clock a change is in force after this time.
const BY_THE_CLOCK: Duration = Duration::from_secs(10);

/// A node whose gate is a process: it has a clock, and takes signals.
pub(crate) struct Node {
    _kubelet: FakeKubelet,
    pub(crate) api: FakeApiServer,
    directory: TempDir,
    configuration: Value,
    pub(crate) gate: Serving,
}

impl Node {
    async fn start(change: impl FnOnce(&mut Value, &Path)) -> Self {
        Self::by(kubelet_gate(), change).await
    }

    async fn by(command: Command, change: impl FnOnce(&mut Value, &Path)) -> Self {
        let api = FakeApiServer::start(&PKI).await.unwrap();
        Self::with_api_server(api, command, change).await
    }

    pub(crate) async fn with_api_server(
        api: FakeApiServer,
        command: Command,
        change: impl FnOnce(&mut Value, &Path),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        PKI.write(directory.path()).unwrap();
        let pair = &PKI.kubelet_serving;
        let options = FakeKubeletOptions {
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            ..FakeKubeletOptions::default()
        };
        let kubelet = FakeKubelet::start(options).await.unwrap();
        let kubeconfig = api.kubeconfig(&PKI, KubeconfigUser::Certificate(&PKI.gate));
        let path = directory.path().join("kubeconfig");
        write_private(&path, &kubeconfig);
        let mut configuration = json!({
            "apiVersion": "kubelet-gate.dev/v1alpha1",
            "kind": "KubeletGateConfiguration",
            "listen": ["127.0.0.1:0"],
            "kubeconfig": "kubeconfig",
            "upstream": {
                "url": format!("https://{}", kubelet.address()),
                "certificateFile": "kubelet-serving.crt",
            },
            "tlsCertFile": "gate-serving.crt",
            "tlsPrivateKeyFile": "gate-serving.key",
            "authentication": {"x509": {"clientCAFile": "ca.crt"}},
            "authorization": {"paths": {"deny": []}},
            "audit": {"path": "audit.log"},
            "admin": {"listen": "127.0.0.1:0"},
            "firewall": {"runDirectory": "run"},
        });
        change(&mut configuration, directory.path());
        let file = directory.path().join("gate.yaml");
        fs::write(&file, format!("{configuration:#}\n")).unwrap();
        Self {
            gate: Serving::by(command, file.to_str().unwrap()).await,
            _kubelet: kubelet,
            api,
            directory,
            configuration,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a file in place as Kubernetes does: whole, by a rename.
    fn put(&self, name: &str, text: &str) {
        let temporary = self.path(&format!(".{name}"));
        write_private(&temporary, text);
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// The configuration with a change, as text.
    fn changed(&mut self, change: impl FnOnce(&mut Value)) -> String {
        change(&mut self.configuration);
        format!("{:#}\n", self.configuration)
    }

    fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        let text = self.changed(change);
        self.put("gate.yaml", &text);
    }

    fn hang_up(&self) {
        self.gate.signal(Signal::HUP);
    }

    pub(crate) fn client(&self, pair: &Pair) -> Client {
        let tls = ClientTls {
            roots: Some(vec![PKI.ca.certificate().clone()]),
            certificate: Some((pair.chain.clone(), pair.key.clone_key())),
            alpn: Alpn::H1,
            ..ClientTls::default()
        };
        Client::new(self.gate.address, tls)
            .unwrap()
            .with_deadline(patience())
    }

    pub(crate) async fn admin(&self, target: &str) -> String {
        let admin = Client::plain(self.gate.admin).with_deadline(patience());
        let answer = admin.get(target).await.unwrap();
        String::from_utf8(answer.body().to_vec()).unwrap()
    }

    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.admin("/metrics").await, name, labels)
    }

    /// Waits until a metric has this value.
    pub(crate) async fn shows(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name} {labels:?} is {value}");
        eventually_answers(&what, async || self.metric(name, labels).await == value).await;
    }

    /// The messages that were logged and have this text.
    pub(crate) fn said(&self, text: &str) -> Vec<String> {
        let lines = self.gate.later();
        let messages = lines.iter().map(|line| line["fields"].to_string());
        messages.filter(|message| message.contains(text)).collect()
    }

    pub(crate) async fn says(&self, text: &str) {
        eventually(&format!("it says {text:?}"), || !self.said(text).is_empty()).await;
    }

    /// The audit events so far that say what was loosened.
    fn loosened(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("audit.log")).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let events = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let loosened = |event: Value| {
            let annotation = &event["annotations"]["kubelet-gate.dev/loosened"];
            annotation.as_str().map(str::to_owned)
        };
        events.filter_map(loosened).collect()
    }

    pub(crate) async fn stop(mut self) {
        self.gate.signal(Signal::TERM);
        assert!(self.gate.exit().await.success());
    }
}

/// Writes a file that only its owner reads.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}
