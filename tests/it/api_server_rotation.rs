//! The gate's credentials for the API server rotate, and so does the API server's CA. If the gate noticed
//! late, every node would go dark at once.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fakes::apiserver::{GATE_TOKEN, User, certificate_hash, token_hash};
use fakes::pki::{CertificateSpec, Pair, write_secret};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api_server::client_pair;
use crate::patience::eventually;
use crate::program::{Installation, code, stderr};
use crate::world::{PKI, World};

fn gate_pair() -> Pair {
    let spec = CertificateSpec::client("system:node:worker-1").group("system:nodes");
    PKI.client("gate", &spec).unwrap()
}

fn gate_user() -> User {
    User::service_account("kube-system", "kubelet-gate")
}

fn kubeconfig_reloads(world: &World, result: &str) -> f64 {
    world.metric("reloads_total", &[("what", "kubeconfig"), ("result", result)])
}

/// Clients that send requests all the time, and must not notice the rotation. Every request is a review.
struct Load {
    stop: CancellationToken,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

const CLIENTS: usize = 4;

impl Load {
    fn start(world: &World) -> Self {
        let (stop, answered) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = world.client_with(&client_pair(&format!("client-{number}")));
            let (stop, answered) = (stop.clone(), answered.clone());
            clients.spawn(async move {
                let mut connection = client.connect().await.unwrap();
                while !stop.is_cancelled() {
                    let answer = connection.get("/healthz").await.unwrap();
                    assert_eq!(answer.status(), 200, "{answer:?}");
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

    /// Waits for so many more answers.
    async fn goes_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually("requests are answered", || {
            self.answered.load(Ordering::Relaxed) > before + 5 * CLIENTS
        })
        .await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.clients.join_all().await;
    }
}

/// A file that is there whole or not at all, as Kubernetes writes its own.
fn write(world: &World, name: &str, text: &str) {
    let temporary = world.file(&format!(".{name}"));
    write_secret(&temporary, text).unwrap();
    fs::rename(temporary, world.file(name)).unwrap();
}

fn write_kubeconfig(world: &World, user: &Value) {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "c",
            "cluster": {"server": world.api.url(), "certificate-authority": "api-ca.crt"},
        }],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    });
    write(world, "kubeconfig", &kubeconfig.to_string());
}

fn both(pair: &Pair) -> String {
    format!("{}{}", pair.certificate_pem(), pair.key_pem())
}

async fn world_and_load() -> (World, Load) {
    let world = World::builder().without_caches().start().await;
    write(&world, "api-ca.crt", &PKI.ca.certificate_pem());
    let load = Load::start(&world);
    load.goes_on().await;
    (world, load)
}

/// The files are read, and from then on nothing but this credential is shown, on connections made with it.
async fn taken_up(world: &World, load: &Load, credential: &str) {
    let before = kubeconfig_reloads(world, "ok");
    world.gate.reload();
    assert_eq!(kubeconfig_reloads(world, "ok"), before + 1.0);
    load.goes_on().await;
    shows_only(world, load, credential).await;
}

async fn shows_only(world: &World, load: &Load, credential: &str) {
    world.api.clear_reviews();
    load.goes_on().await;
    let shown = world.api.credentials();
    assert!(
        shown.len() > CLIENTS && shown.iter().all(|one| one == credential),
        "{shown:?}"
    );
    eventually("the connections of the old one are closed", || {
        world.api.connections() <= CLIENTS
    })
    .await;
}

/// The files cannot be used: it is counted, and what there was stays in use.
async fn left_alone(world: &World, load: &Load, credential: &str, what: &str) {
    let before = kubeconfig_reloads(world, "error");
    world.gate.reload();
    assert_eq!(kubeconfig_reloads(world, "error"), before + 1.0, "{what}");
    shows_only(world, load, credential).await;
}

/// Seen red: with `Connection::leads_to` true of every endpoint, the old certificate is shown on.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_rotates_as_the_kubelet_rotates_it() {
    let (world, load) = world_and_load().await;
    let pairs = [gate_pair(), gate_pair(), gate_pair()];
    // One file with both halves behind a symlink.
    for (number, pair) in pairs.iter().enumerate() {
        write(&world, &format!("client-{number}.pem"), &both(pair));
    }
    let switch = |number: usize| {
        let temporary = world.file(".current.pem");
        std::os::unix::fs::symlink(format!("client-{number}.pem"), &temporary).unwrap();
        fs::rename(temporary, world.file("current.pem")).unwrap();
    };
    switch(0);
    write_kubeconfig(
        &world,
        &json!({"client-certificate": "current.pem", "client-key": "current.pem"}),
    );
    taken_up(&world, &load, &certificate_hash(&pairs[0])).await;
    for (number, pair) in pairs.iter().enumerate().skip(1) {
        switch(number);
        taken_up(&world, &load, &certificate_hash(pair)).await;
    }
    let last = certificate_hash(&pairs[2]);
    let whole = both(&pairs[2]);
    for (text, what) in [
        (&whole[..whole.len() - 80], "half a key"),
        (&pairs[0].certificate_pem(), "no key"),
        ("", "empty"),
        (
            &format!("{}{}", pairs[0].certificate_pem(), pairs[1].key_pem()),
            "another's key",
        ),
    ] {
        write(&world, "client-2.pem", text);
        left_alone(&world, &load, &last, what).await;
    }
    fs::remove_file(world.file("client-2.pem")).unwrap();
    left_alone(&world, &load, &last, "missing").await;
    load.stop().await;
    world.stop().await;
}

/// Two files cannot be switched at once: between the two writes they do not match.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_key_in_two_files_rotate_one_after_the_other() {
    let (world, load) = world_and_load().await;
    let (old, new) = (gate_pair(), gate_pair());
    write(&world, "client.crt", &old.certificate_pem());
    write(&world, "client.key", &old.key_pem());
    write_kubeconfig(
        &world,
        &json!({"client-certificate": "client.crt", "client-key": "client.key"}),
    );
    taken_up(&world, &load, &certificate_hash(&old)).await;
    write(&world, "client.crt", &new.certificate_pem());
    left_alone(&world, &load, &certificate_hash(&old), "only the certificate").await;
    write(&world, "client.key", &new.key_pem());
    taken_up(&world, &load, &certificate_hash(&new)).await;
    load.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_and_the_kubeconfig_itself_rotate() {
    let (world, load) = world_and_load().await;
    world.api.add_token("second", gate_user());
    write(&world, "token", GATE_TOKEN);
    write_kubeconfig(&world, &json!({"tokenFile": "token", "token": "loses"}));
    taken_up(&world, &load, &token_hash(GATE_TOKEN)).await;
    write(&world, "token", "second\n");
    taken_up(&world, &load, &token_hash("second")).await;
    world.api.revoke_token(GATE_TOKEN);
    for useless in ["", "\n", "two\nlines"] {
        write(&world, "token", useless);
        left_alone(&world, &load, &token_hash("second"), "useless").await;
    }
    fs::remove_file(world.file("token")).unwrap();
    left_alone(&world, &load, &token_hash("second"), "missing").await;

    let pair = gate_pair();
    write_kubeconfig(
        &world,
        &json!({
            "client-certificate-data": BASE64_STANDARD.encode(pair.certificate_pem()),
            "client-key-data": BASE64_STANDARD.encode(pair.key_pem()),
            // Data wins.
            "client-certificate": "missing.crt",
            "client-key": "missing.key",
        }),
    );
    taken_up(&world, &load, &certificate_hash(&pair)).await;
    write(&world, "kubeconfig", "apiVersion: v1\nkind: Conf");
    left_alone(&world, &load, &certificate_hash(&pair), "half a kubeconfig").await;
    load.stop().await;
    world.stop().await;
}

/// A cluster's CA is replaced as Kubernetes says: first both are trusted, then the servers change, then the
/// old one goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_ca_rotates() {
    let (world, load) = world_and_load().await;
    let pair = gate_pair();
    write(&world, "current.pem", &both(&pair));
    write_kubeconfig(
        &world,
        &json!({"client-certificate": "current.pem", "client-key": "current.pem"}),
    );
    let credential = certificate_hash(&pair);
    taken_up(&world, &load, &credential).await;

    let (old, new) = (PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem());
    write(&world, "api-ca.crt", &format!("{old}{new}"));
    taken_up(&world, &load, &credential).await;
    let serving = CertificateSpec::server("kube-apiserver", &["127.0.0.1"]);
    world
        .api
        .set_serving(&PKI.rotated_ca.issue("api", &serving).unwrap())
        .unwrap();
    let accepted = world.api.connections_accepted();
    write(&world, "api-ca.crt", &new);
    taken_up(&world, &load, &credential).await;
    assert!(world.api.connections_accepted() > accepted, "all is judged anew");
    for useless in ["", "-----BEGIN CERTIFICATE-----\n"] {
        write(&world, "api-ca.crt", useless);
        left_alone(&world, &load, &credential, "no CA").await;
    }
    load.stop().await;
    world.stop().await;
}

/// Seen red: with no second call after a 401, clients see the revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_credential_rotates_when_it_is_refused() {
    let (world, load) = world_and_load().await;
    for token in ["first", "second"] {
        world.api.add_token(token, gate_user());
    }
    let answer = json!({
        "kind": "ExecCredential",
        "apiVersion": "client.authentication.k8s.io/v1",
        "status": {"token": "first"},
    });
    write(&world, "answer.json", &answer.to_string());
    write(&world, "plugin.sh", "echo >>$1/runs; cat $1/answer.json");
    let folder = world.file("");
    let exec = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "sh",
        "args": [world.file("plugin.sh"), folder],
    }});
    let runs = || fs::read_to_string(world.file("runs")).unwrap().lines().count();
    write_kubeconfig(&world, &exec);
    taken_up(&world, &load, &token_hash("first")).await;
    assert_eq!(runs(), 1, "once for all");

    write(
        &world,
        "answer.json",
        &answer.to_string().replace("first", "second"),
    );
    shows_only(&world, &load, &token_hash("first")).await;
    world.api.revoke_token("first");
    load.goes_on().await;
    shows_only(&world, &load, &token_hash("second")).await;
    assert_eq!(runs(), 2);
    load.stop().await;
    world.stop().await;
}

/// `check` runs the plugin as `serve` does, and passes its words on.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_works_from_the_command_line() {
    let node = Installation::new();
    PKI.write(node.directory.path()).unwrap();
    let api = fakes::apiserver::FakeApiServer::start(&PKI).await.unwrap();
    let mut kubeconfig: Value = serde_json::from_slice(&fs::read(node.path("kubeconfig")).unwrap()).unwrap();
    kubeconfig["clusters"][0]["cluster"]["server"] = json!(api.url());
    node.configure(|configuration| configuration["nodeName"] = json!("worker-1"));
    let answer = format!(
        r#"echo '{{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{{"token":"{GATE_TOKEN}"}}}}'"#
    );
    for (script, said) in [
        (answer.as_str(), "may not read this Node"),
        (
            "echo no luck >&2; exit 7",
            "users[u].user.exec: sh: exit status: 7: no luck",
        ),
    ] {
        kubeconfig["users"][0]["user"] = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "interactiveMode": "IfAvailable",
            "command": "sh",
            "args": ["-c", script],
        }});
        fs::write(node.path("kubeconfig"), kubeconfig.to_string()).unwrap();
        let checked = node.check(&[]);
        assert_eq!(code(&checked), 0, "{}", stderr(&checked));
        assert!(stderr(&checked).contains(said), "{}", stderr(&checked));
    }
    assert_eq!(api.credentials()[0], token_hash(GATE_TOKEN));
}
