//! The files that the configuration names, by the clock: no request fails while they are replaced.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fakes::pki::Pair;
use serde_json::json;
use time::Duration as Span;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Node, write_private};
use crate::patience::{eventually, eventually_answers};
use crate::trust_changes::{aged_list, named_list, revocation_list, serving_pair};
use crate::world::{PKI, Status as _};

/// Clients that ask all the time, on new connections and on kept ones. Each answer must be a 200.
struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(node: &Node) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for keeps in [true, false] {
            let client = node.client(&PKI.bob);
            let (stop, answered) = (stop.clone(), answered.clone());
            clients.spawn(async move {
                let mut connection = client.connect().await.unwrap();
                while !stop.is_cancelled() {
                    if !keeps {
                        connection = client.connect().await.unwrap();
                    }
                    assert_eq!(connection.status("/healthz").await, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            stop,
            answered,
            clients,
        }
    }

    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("requests are answered", || {
            self.answered.load(Ordering::Relaxed) > before + 10
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.clients.join_all().await;
    }
}

fn ok(what: &str) -> [(&str, &str); 2] {
    [("what", what), ("result", "ok")]
}

/// Each file by another way of replacing it, all at the same time. (Not seen red: what keeps half a file out
/// is tested for each kind of file elsewhere.)
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_every_file_is_replaced() {
    let node = Node::start(|file, folder| {
        mount(folder, "serving", 1, &PKI.gate_serving);
        write_private(&folder.join("token"), "first");
        fs::write(folder.join("ca.crl"), revocation_list(&PKI.ca, &[], Span::DAY)).unwrap();
        file["tlsCertFile"] = json!("serving/..data/tls.crt");
        file["tlsPrivateKeyFile"] = json!("serving/..data/tls.key");
        file["authentication"]["x509"]["crlFiles"] = json!(["ca.crl"]);
        file["authentication"]["webhook"] = json!({"cacheTTL": "1s"});
        file["authorization"]["webhook"] = json!({"cacheAuthorizedTTL": "1s"});
        file["upstream"]["tokenFile"] = json!("token");
    })
    .await;
    let load = Load::start(&node);
    load.goes_on().await;

    let renewed = serving_pair();
    mount(node.directory.path(), "serving", 2, &renewed);
    // Emptied, then written in two parts.
    let bundle = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()].concat();
    let mut file = fs::File::create(node.path("ca.crt")).unwrap();
    let (first, second) = bundle.split_at(bundle.len() - 100);
    file.write_all(first.as_bytes()).unwrap();
    load.goes_on().await;
    file.write_all(second.as_bytes()).unwrap();
    node.put("ca.crl", &revocation_list(&PKI.ca, &[&PKI.alice], Span::DAY));
    node.put("token", "second");
    let kubeconfig = fs::read_to_string(node.path("kubeconfig")).unwrap();
    node.put("kubeconfig", &format!("{kubeconfig}\n# rotated\n"));

    eventually_answers("the new certificate is shown", async || {
        let shown = node.client(&PKI.bob).handshake().await.unwrap();
        shown.server_certificate.unwrap() == renewed.chain[0].to_vec()
    })
    .await;
    eventually_answers("the new CA is accepted", async || {
        node.client(&PKI.carol).status("/healthz").await == 200
    })
    .await;
    eventually_answers("the list is in force", async || {
        node.client(&PKI.alice).status("/healthz").await == 401
    })
    .await;
    eventually_answers("the token is sent", async || {
        node.metric("reloads_total", &ok("upstream")).await >= 1.0
    })
    .await;
    load.goes_on().await;
    load.stop().await;
    assert_eq!(node.metric("reloads_total", &[("result", "error")]).await, 0.0);
    node.stop().await;
}

/// Seen red: with the gauge never raised.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_for_a_while_is_missed_by_no_client() {
    let node = Node::start(|_, _| {}).await;
    let load = Load::start(&node);
    let failing = [("what", "serving")];
    fs::rename(node.path("ca.crt"), node.path("ca.old")).unwrap();
    node.shows("reload_failing", &failing, 1.0).await;
    load.goes_on().await;
    let old = fs::read_to_string(node.path("ca.old")).unwrap();
    node.put("ca.crt", &format!("{old}{}", PKI.rotated_ca.certificate_pem()));
    node.shows("reload_failing", &failing, 0.0).await;
    assert_eq!(node.client(&PKI.carol).status("/healthz").await, 200);
    load.goes_on().await;
    load.stop().await;
    node.stop().await;
}

/// A file with the lists of two CAs, of which a writer has left the first alone.
///
/// Seen red: with `lost_lists` finding none.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_lets_no_revocation_list_go() {
    let node = Node::start(|file, folder| {
        let second = named_list(&PKI.rotated_ca, "kubernetes-rotated", &[&PKI.carol], Span::DAY);
        let lists = [revocation_list(&PKI.ca, &[], Span::DAY), second].concat();
        fs::write(folder.join("lists.crl"), lists).unwrap();
        let bundle = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()].concat();
        fs::write(folder.join("ca.crt"), bundle).unwrap();
        file["authentication"]["x509"]["crlFiles"] = json!(["lists.crl"]);
    })
    .await;
    let carol = node.client(&PKI.carol);
    assert_eq!(carol.status("/healthz").await, 401);
    let one = revocation_list(&PKI.ca, &[], Span::DAY);
    node.put("lists.crl", &one);
    node.says("no list of ").await;
    node.shows("reload_failing", &[("what", "serving")], 1.0).await;
    assert_eq!(carol.status("/healthz").await, 401);
    node.hang_up();
    eventually_answers("the list is let go", async || {
        carol.status("/healthz").await == 200
    })
    .await;
    eventually("it is in the audit", || {
        node.loosened()
            .iter()
            .any(|loosened| loosened.contains("authentication.x509.crlFiles has no list of"))
    })
    .await;
    node.shows("reload_failing", &[("what", "serving")], 0.0).await;
    node.stop().await;
}

/// A job that fetches an old copy, and one that writes the first of two lists of one CA.
///
/// (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_takes_no_older_revocation_list_up() {
    let list =
        |pairs: &[&Pair], hours| aged_list(&PKI.ca, "kubernetes", pairs, Span::hours(hours), Span::DAY);
    let (yesterdays, todays, second) = (list(&[], 20), list(&[], 2), list(&[&PKI.bob], 2));
    let node = Node::start(|file, folder| {
        fs::write(folder.join("lists.crl"), format!("{todays}{second}")).unwrap();
        file["authentication"]["x509"]["crlFiles"] = json!(["lists.crl"]);
    })
    .await;
    let bob = node.client(&PKI.bob);
    assert_eq!(bob.status("/healthz").await, 401);
    let failing = [("what", "serving")];
    for (number, lists) in [&todays, &yesterdays].into_iter().enumerate() {
        node.put("lists.crl", lists);
        node.shows("reload_failing", &failing, 1.0).await;
        node.says("as new as the one in force").await;
        assert_eq!(bob.status("/healthz").await, 401);
        if number == 0 {
            node.put("lists.crl", &format!("{todays}{second}"));
            node.shows("reload_failing", &failing, 0.0).await;
        }
    }
    node.hang_up();
    eventually_answers("the list is taken up", async || {
        bob.status("/healthz").await == 200
    })
    .await;
    node.says("what is allowed was loosened: authentication.x509.crlFiles has no list of")
        .await;
    node.stop().await;
}

/// Puts a pair in place as the kubelet does with a secret: a new folder, to which `..data` is switched.
fn mount(folder: &Path, name: &str, version: usize, pair: &Pair) {
    let folder = folder.join(name);
    let versioned = folder.join(format!("..{version}"));
    fs::create_dir_all(&versioned).unwrap();
    for (file, text) in [("tls.crt", pair.certificate_pem()), ("tls.key", pair.key_pem())] {
        write_private(&versioned.join(file), &text);
    }
    symlink(format!("..{version}"), folder.join("..next")).unwrap();
    fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
}
