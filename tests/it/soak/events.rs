//! What happens to a gate while it serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fakes::client::{Alpn, Client, ClientTls};
use fakes::pki::{CertificateSpec, NODE_NAME, Pair};
use serde_json::json;

use super::scaled;
use crate::load::{Outage, Outages, Site};
use crate::patience::{eventually_answers, patience};
use crate::service_manager::ServiceManager;
use crate::world::{PKI, Status as _, WithToken as _};

/// One of them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Event {
    /// The API server refuses connections for a while.
    ApiServer,
    /// The gate's serving certificate is renewed.
    Certificates,
    /// A path is denied, or no longer.
    Configuration,
    /// A user is denied, or no longer.
    DenyList,
    /// The kubelet ends, and is started again.
    Kubelet,
    /// The gate is replaced by hand-over.
    Upgrade,
}

/// What has happened.
pub(super) struct Events {
    counts: BTreeMap<Event, u32>,
    outages: Arc<Outages>,
    mallory: Pair,
}

impl Events {
    pub(super) fn new(outages: Arc<Outages>) -> Self {
        let spec = CertificateSpec::client("mallory").group("admins");
        Self {
            counts: BTreeMap::new(),
            outages,
            mallory: PKI.client("mallory", &spec).unwrap(),
        }
    }

    /// How often one of these has happened.
    pub(super) fn count(&self, events: &[Event]) -> u32 {
        let counted = self.counts.iter().filter(|(event, _)| events.contains(event));
        counted.map(|(_, count)| count).sum()
    }

    /// Has it happen, and waits until it has its effect.
    pub(super) async fn play(&mut self, event: Event, site: &mut Site, manager: &ServiceManager) {
        let count = self.counts.entry(event).or_default();
        *count += 1;
        let odd = *count % 2 == 1;
        let bob = client(site, Some(&PKI.bob));
        match event {
            Event::Certificates => {
                let spec = CertificateSpec::server("kubelet-gate", &["127.0.0.1", "localhost", NODE_NAME]);
                let pair = PKI.ca.issue("gate-serving", &spec).unwrap();
                site.put("gate-serving.crt", &pair.certificate_pem());
                site.put("gate-serving.key", &pair.key_pem());
                manager.hang_up();
                eventually_answers("the new certificate is shown", async || {
                    let shown = bob.handshake().await.unwrap().server_certificate;
                    shown.as_deref() == Some(&pair.chain[0][..])
                })
                .await;
            }
            Event::Configuration => {
                let denied = if odd { json!(["/debug/pprof"]) } else { json!([]) };
                site.configure(|file| file["authorization"]["paths"]["deny"] = denied);
                manager.hang_up();
                eventually_answers("the path is denied, or no longer", async || {
                    (bob.status("/debug/pprof/cmdline").await == 403) == odd
                })
                .await;
            }
            Event::DenyList => {
                let denied = if odd { "user mallory\n# end\n" } else { "# end\n" };
                site.put("denied.txt", denied);
                manager.hang_up();
                let mallory = client(site, Some(&self.mallory));
                eventually_answers("the user is denied, or no longer", async || {
                    (mallory.status("/healthz").await != 200) == odd
                })
                .await;
            }
            Event::Kubelet => {
                self.outages.begin(Outage::Kubelet);
                site.replace_kubelet(away).await;
                eventually_answers("the kubelet is reached", async || {
                    bob.status("/healthz").await == 200
                })
                .await;
                self.outages.end();
            }
            Event::ApiServer => {
                self.outages.begin(Outage::ApiServer);
                site.api.down().await.unwrap();
                away().await;
                site.api.up().await.unwrap();
                let mut tokens = 0..;
                eventually_answers("new tokens are reviewed", async || {
                    let token = format!("unknown-{}", tokens.next().unwrap());
                    let stranger = client(site, None).with_token(&token);
                    stranger.get("/healthz").await.unwrap().status() == 401
                })
                .await;
                self.outages.end();
            }
            Event::Upgrade => {
                // While two processes drain, a third hand-over is refused.
                manager.eventually_others(1).await;
                manager.upgrade().await;
            }
        }
    }
}

async fn away() {
    tokio::time::sleep(scaled(Duration::from_millis(100), Duration::from_secs(2))).await;
}

fn client(site: &Site, pair: Option<&Pair>) -> Client {
    let tls = ClientTls {
        certificate: pair.map(|pair| (pair.chain.clone(), pair.key.clone_key())),
        alpn: Alpn::H1,
        ..ClientTls::default()
    };
    Client::new(site.address, tls).unwrap().with_deadline(patience())
}
