//! The API server decides every request. If its failure, or a server that impersonates it, opened the gate,
//! an outage would be a break-in.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use fakes::apiserver::{Api, Behaviour, GATE_TOKEN, User, certificate_hash, token_hash};
use fakes::pki::{CertificateSpec, Pair};
use serde_json::{Value, json};
use time::Duration as Span;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::patience::{eventually, stretched};
use crate::program::{Installation, code, stderr};
use crate::world::{PKI, Status as _, World, assert_answer, header};

/// What a client is told, to the byte.
const NO_TOKEN_REVIEW: &str =
    "TokenReview failed: the API server cannot be asked whether this request is allowed\n";
const NO_ACCESS_REVIEW: &str =
    "SubjectAccessReview failed: the API server cannot be asked whether this request is allowed\n";

fn client_pair(name: &str) -> Pair {
    PKI.client(name, &CertificateSpec::client(name).group("admins"))
        .unwrap()
}

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

// === failing ===

/// How often the gate may ask for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Once,
    /// At least twice: contract §1.7.
    Again,
}

/// T22. Seen red: with a review that failed taken for an allow, the first row; with `allowed` and `denied` at
/// once, or `authenticated` and `error`, not refused, that row; with every 503 retried, that row.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_api_server_answers_wrongly_nothing_gets_through() {
    let world = World::builder()
        .without_caches()
        .set("limits.reviewTimeout", "2s")
        .start()
        .await;
    let raw = |code: u16, body: &str| Behaviour::Raw(code, body.to_owned());
    let status = Behaviour::status;
    let access = r#""kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1""#;
    let token = r#""kind":"TokenReview","apiVersion":"authentication.k8s.io/v1""#;
    let user = json!({"authenticated": true, "user": {"username": "admin", "groups": ["admins"]}});
    let mut user_with_error = user.clone();
    user_with_error["error"] = json!("or not");
    let both = [
        (Behaviour::Fail(500), Asked::Again),
        (Behaviour::Fail(504), Asked::Again),
        (Behaviour::Fail(503), Asked::Once),
        (Behaviour::Fail(401), Asked::Once),
        (Behaviour::Fail(403), Asked::Once),
        (Behaviour::Fail(404), Asked::Once),
        (Behaviour::Throttle(1), Asked::Again),
        // Longer than the review may take.
        (Behaviour::Throttle(60), Asked::Once),
        (Behaviour::Hang, Asked::Once),
        (Behaviour::Close, Asked::Once),
        (Behaviour::Break, Asked::Once),
        (Behaviour::Drip(Duration::from_millis(100)), Asked::Once),
        (Behaviour::Garbage, Asked::Once),
        (Behaviour::Huge(2 << 20), Asked::Once),
        (raw(200, ""), Asked::Once),
        (raw(200, "null"), Asked::Once),
        (raw(200, "[true]"), Asked::Once),
        (raw(200, "<html>please log in</html>"), Asked::Once),
        (raw(201, &format!("{{{access}}}")), Asked::Once),
        (raw(201, &format!("{{{token}}}")), Asked::Once),
        (raw(201, r#"{"kind":"Status","status":"Success"}"#), Asked::Once),
        (raw(204, ""), Asked::Once),
        (raw(302, ""), Asked::Once),
        (
            raw(202, &format!(r#"{{{access},"status":{{"allowed":true}}}}"#)),
            Asked::Once,
        ),
    ];
    let only_access = [
        raw(201, &format!(r#"{{{token},"status":{{"allowed":true}}}}"#)),
        raw(201, r#"{"status":{"allowed":true}}"#),
        raw(201, &format!(r#"{{{access},"status":{{"allowed":"true"}}}}"#)),
        status(json!({"allowed": true, "denied": true})),
        status(json!({"allowed": 1})),
        status(json!({"reason": "no word on it"})),
    ];
    let only_token = [
        raw(201, &format!(r#"{{{access},"status":{user}}}"#)),
        raw(201, &format!(r#"{{"status":{user}}}"#)),
        status(json!({"authenticated": "true", "user": {"username": "admin"}})),
        status(json!({"authenticated": true, "user": {"groups": ["system:masters"]}})),
        status(json!({"authenticated": true})),
        status(user_with_error),
    ];
    let once = |behaviours: [Behaviour; 6]| behaviours.map(|behaviour| (behaviour, Asked::Once));
    let rows = both.clone().into_iter().chain(once(only_access));
    let rows = rows.map(|row| (Api::Access, row));
    let rows = rows.chain(
        both.into_iter()
            .chain(once(only_token))
            .map(|row| (Api::Token, row)),
    );

    for (number, (api, (behaviour, asked))) in rows.enumerate() {
        world.api.heal();
        world.api.behave(api, behaviour);
        world.api.clear_reviews();
        // A user of its own: a failure is remembered for a second.
        let name = format!("user-{number}");
        let (answer, body) = match api {
            Api::Access => {
                let answer = world.client_with(&client_pair(&name)).get("/pods").await;
                (answer.unwrap(), NO_ACCESS_REVIEW)
            }
            Api::Token => (
                world.token_client(&name).get("/pods").await.unwrap(),
                NO_TOKEN_REVIEW,
            ),
        };
        let row = format!("row {number} {api:?}");
        assert_eq!(answer.status(), 503, "{row}: {answer:?}");
        assert_answer(&answer, 503, body);
        assert_ne!(header(&answer, "retry-after"), "", "{row}");
        match asked {
            Asked::Once => assert_eq!(world.api.count(api), 1, "{row}"),
            Asked::Again => assert!(world.api.count(api) > 1, "{row}"),
        }
    }
    world.assert_nothing_forwarded();
    world.api.heal();
    let answer = world
        .client_with(&client_pair("healed"))
        .get("/pods")
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    world.stop().await;
}

/// Contract §1.7: a failure that is over within the deadline is not seen by the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_short_failure_of_the_api_server_is_not_seen_by_the_client() {
    let world = World::builder().without_caches().start().await;
    // Leaves a connection for the next review.
    assert_eq!(world.client("bob").status("/healthz").await, 200);
    for (name, behaviours) in [
        ("throttled", vec![Behaviour::Throttle(1)]),
        ("failing", vec![Behaviour::Fail(500), Behaviour::Fail(504)]),
        // On a kept connection, which the server may have closed as idle.
        ("closed", vec![Behaviour::Close]),
    ] {
        world.api.clear_reviews();
        let expected = behaviours.len() + 1;
        world.api.behave_next(Api::Access, behaviours);
        let answer = world
            .client_with(&client_pair(name))
            .get("/healthz")
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(world.api.count(Api::Access), expected, "{name}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_api_server_is_503_at_once_and_reported() {
    let world = World::start().await;
    world.api.down().await.unwrap();
    let answer = world.client("bob").get("/pods").await.unwrap();
    assert_answer(&answer, 503, NO_ACCESS_REVIEW);
    let answer = world.token_client("t").get("/pods").await.unwrap();
    assert_answer(&answer, 503, NO_TOKEN_REVIEW);
    world.assert_nothing_forwarded();
    let report = world.admin_client().get("/readyz?verbose").await.unwrap();
    let said = String::from_utf8_lossy(report.body()).into_owned();
    let expected = format!(
        "[!] api-server: the last review failed: TokenReview failed: cannot connect to {}",
        world.api.address()
    );
    assert!(said.contains(&expected), "{said}");
    world.api.up().await.unwrap();
    assert_eq!(world.client("bob").status("/metrics").await, 200);
    world.stop().await;
}

/// T23. Seen red: with a verifier that believes every certificate, the first row is answered 200.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_impersonates_the_api_server_receives_nothing() {
    let names = ["127.0.0.1", "::1", "localhost"];
    let good = CertificateSpec::server("kube-apiserver", &names);
    for (pair, why) in [
        (PKI.untrusted_ca.issue("x", &good).unwrap(), "BadSignature"),
        (PKI.rotated_ca.issue("x", &good).unwrap(), "UnknownIssuer"),
        (
            PKI.client(
                "x",
                &CertificateSpec::server("kube-apiserver", &["other.example"]),
            )
            .unwrap(),
            "not valid for name",
        ),
        (
            PKI.client("x", &good.clone().valid(-Span::days(2), -Span::DAY))
                .unwrap(),
            "expired",
        ),
        (
            PKI.client("x", &good.clone().valid(Span::DAY, Span::days(2)))
                .unwrap(),
            "not valid yet",
        ),
        // A client of the cluster, such as another node, is not its API server.
        (
            PKI.client("x", &CertificateSpec::client("system:node:worker-2"))
                .unwrap(),
            "certificate",
        ),
    ] {
        let world = World::start().await;
        world.api.set_serving(&pair).unwrap();
        let answer = world.client("bob").get("/pods").await.unwrap();
        assert_answer(&answer, 503, NO_ACCESS_REVIEW);
        let answer = world.token_client("secret").get("/pods").await.unwrap();
        assert_answer(&answer, 503, NO_TOKEN_REVIEW);
        world.assert_nothing_forwarded();
        assert_eq!(world.api.reviews(), []);
        assert_eq!(
            world.api.credentials(),
            Vec::<String>::new(),
            "the gate showed its credential"
        );
        let report = world.admin_client().get("/readyz?verbose").await.unwrap();
        let said = String::from_utf8_lossy(report.body()).into_owned();
        assert!(said.contains("TLS handshake with"), "{said}");
        assert!(said.contains(why), "{why:?} is not in {said}");
        assert!(said.contains("certificate-authority, tls-server-name"), "{said}");
        world.stop().await;
    }
}

/// T23: a kubeconfig by which the gate would trust any server.
#[test]
fn a_kubeconfig_that_verifies_no_server_is_refused_at_start() {
    let node = Installation::new();
    let kubeconfig: Value = serde_json::from_slice(&fs::read(node.path("kubeconfig")).unwrap()).unwrap();
    for (key, value, way_out) in [
        (
            "insecure-skip-tls-verify",
            json!(true),
            "remove it and give certificate-authority",
        ),
        (
            "proxy-url",
            json!("http://192.0.2.1:3128"),
            "remove it and give a server in direct reach",
        ),
        (
            "certificate-authority",
            Value::Null,
            "give the cluster's CA bundle",
        ),
        ("server", json!("http://127.0.0.1:1"), "not https://"),
    ] {
        let mut changed = kubeconfig.clone();
        changed["clusters"][0]["cluster"][key] = value;
        fs::write(node.path("kubeconfig"), changed.to_string()).unwrap();
        let checked = node.check(&[]);
        let said = stderr(&checked);
        assert_eq!(code(&checked), 64, "{said}");
        assert!(said.contains(&format!("clusters[c].cluster.{key}: ")), "{said}");
        assert!(said.contains(way_out), "{said}");
    }
}

/// A hundred scrapes of a node whose API server is dead cause one review each for user and token, and all end
/// by its deadline.
///
/// Seen red: with a running review not joined, the API server is asked 50 times.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_waiters_on_a_dead_api_server_are_answered_within_one_deadline() {
    let world = World::builder().set("limits.reviewTimeout", "3s").start().await;
    world.api.behave_all(Behaviour::Hang);
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for number in 0..100 {
        let (bob, token) = (world.client("bob"), world.token_client("token"));
        waiting.spawn(async move {
            match number % 2 {
                0 => bob.status("/pods").await,
                _ => token.status("/pods").await,
            }
        });
    }
    for status in waiting.join_all().await {
        assert_eq!(status, 503);
    }
    let (took, deadline) = (began.elapsed(), Duration::from_secs(3));
    assert!(took >= deadline && took < stretched(3 * deadline), "{took:?}");
    assert_eq!(
        (world.api.count(Api::Access), world.api.count(Api::Token)),
        (1, 1)
    );
    world.assert_nothing_forwarded();
    world.stop().await;
}

// === rotation ===

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
    fs::write(&temporary, text).unwrap();
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
