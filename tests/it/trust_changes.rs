//! Trust is withdrawn while connections are open: if only new ones noticed, whoever was revoked would keep a
//! keep-alive connection, and with it the node, for as long as they like.

use std::fs;
use std::time::Duration;

use kubelet_gate::lab::client::{Alpn, Connection};
use kubelet_gate::lab::pki::{CertificateSpec, Pair};
use time::Duration as Span;

use crate::world::{PKI, World, assert_answer, eventually};

async fn status(connection: &mut Connection) -> u16 {
    connection.get("/healthz").await.unwrap().status().as_u16()
}

fn write_bundle(world: &World, cas: &[String]) {
    fs::write(world.file("ca.crt"), cas.concat()).unwrap();
}

fn reloads(world: &World, what: &str, result: &str) -> f64 {
    world.metric("reloads_total", &[("what", what), ("result", result)])
}

/// Seen red with `Presented::judge` not comparing the generation: carol stays in.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_taken_out_of_the_bundle_bites_on_open_connections_and_comes_back() {
    let world = World::start().await;
    let both = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()];
    write_bundle(&world, &both);
    world.gate.reload();
    for alpn in [Alpn::H1, Alpn::H2] {
        let mut carol = world.tls_client(Some(&PKI.carol), alpn).connect().await.unwrap();
        let mut bob = world.tls_client(Some(&PKI.bob), alpn).connect().await.unwrap();
        assert_eq!((status(&mut carol).await, status(&mut bob).await), (200, 200));

        write_bundle(&world, &both[..1]);
        world.gate.reload();
        world.kubelet.clear();
        assert_eq!(status(&mut carol).await, 401, "{alpn:?}");
        world.assert_nothing_forwarded();
        assert_eq!(status(&mut bob).await, 200, "{alpn:?}");

        write_bundle(&world, &both);
        world.gate.reload();
        assert_eq!(status(&mut carol).await, 200, "{alpn:?}");
        assert!(!carol.is_closed() && !bob.is_closed());
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_serving_pair_is_shown_to_new_connections_and_old_ones_go_on() {
    let world = World::start().await;
    let mut open = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut open).await, 200);
    let shown = async || {
        world
            .stranger()
            .handshake()
            .await
            .unwrap()
            .server_certificate
            .unwrap()
    };
    assert_eq!(shown().await, PKI.gate_serving.chain[0].to_vec());

    let renewed = serving_pair();
    renewed.write(world.file("").as_path()).unwrap();
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "ok"), 1.0);
    assert_eq!(shown().await, renewed.chain[0].to_vec());
    assert_eq!(status(&mut open).await, 200, "on the old connection");
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "ok"), 1.0, "nothing changed");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_leave_the_last_good_in_force() {
    let world = World::start().await;
    let mut open = world.client("bob").connect().await.unwrap();
    let other = serving_pair();
    let half = PKI.ca.certificate_pem();
    let half = &half[..half.len() / 2];
    let bad: [(&str, &str, &str); 7] = [
        ("half a certificate", "gate-serving.crt", half),
        ("an empty certificate", "gate-serving.crt", ""),
        (
            "a certificate of another key",
            "gate-serving.crt",
            &other.certificate_pem(),
        ),
        (
            "a key of another certificate",
            "gate-serving.key",
            &other.key_pem(),
        ),
        ("no key", "gate-serving.key", "# soon\n"),
        ("half a CA", "ca.crt", half),
        ("no CA", "ca.crt", ""),
    ];
    for (count, (what, file, content)) in bad.into_iter().enumerate() {
        let path = world.file(file);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        world.gate.reload();
        assert_eq!(reloads(&world, "serving", "error"), (count + 1) as f64, "{what}");
        assert_eq!(reloads(&world, "serving", "ok"), 0.0, "{what}");
        assert_eq!(status(&mut open).await, 200, "{what}");
        let handshake = world.stranger().handshake().await.unwrap();
        assert_eq!(
            handshake.server_certificate.unwrap(),
            PKI.gate_serving.chain[0].to_vec()
        );
        let mut fresh = world.client("bob").connect().await.unwrap();
        assert_eq!(status(&mut fresh).await, 200, "{what}");
        fs::write(&path, good).unwrap();
    }
    // A missing file is an error as well, and no trust is not a reason to trust nobody or everybody.
    fs::remove_file(world.file("ca.crt")).unwrap();
    world.gate.reload();
    assert_eq!(reloads(&world, "serving", "error"), 8.0);
    assert_eq!(status(&mut open).await, 200);
    let answer = world.client("wrong-ca").get("/healthz").await.unwrap();
    assert_answer(&answer, 401, "Unauthorized");
    world.stop().await;
}

/// Seen red with `Judgement::stands` at the end of time.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_while_its_connection_is_open_is_refused() {
    let world = World::start().await;
    let spec = CertificateSpec::client("dora")
        .group("admins")
        .valid(-Span::HOUR, Span::seconds(3));
    let pair = PKI.client("dora", &spec).unwrap();
    let mut connection = world.client_with(&pair).connect().await.unwrap();
    assert_eq!(status(&mut connection).await, 200);
    let deadline = std::time::Instant::now() + Duration::from_secs(6);
    while status(&mut connection).await == 200 {
        assert!(std::time::Instant::now() < deadline, "it should be over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status(&mut connection).await, 401);
    assert!(!connection.is_closed(), "the same connection");
    assert!(world.metric("authentication_failures_total", &[("reason", "expired")]) >= 1.0);
    world.stop().await;
}

/// Seen red with `connect` not reading the pin again.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_rotated_its_certificate_is_followed_at_once_if_its_file_was_written() {
    let world = World::start().await;
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 200);
    let rotated = kubelet_pair();
    rotate_kubelet(&world, &rotated).await;
    rotated.write(world.file("").as_path()).unwrap();
    // Nobody has told the gate.
    assert_eq!(status(&mut bob).await, 200);
    assert_eq!(reloads(&world, "upstream", "ok"), 1.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_the_pinned_one_is_502_and_gets_nothing() {
    let world = World::start().await;
    let mut bob = world.client("bob").connect().await.unwrap();
    assert_eq!(status(&mut bob).await, 200);
    rotate_kubelet(&world, &kubelet_pair()).await;
    world.kubelet.clear();
    for _ in 0..2 {
        let answer = bob.get("/pods").await.unwrap();
        assert_answer(&answer, 502, "the kubelet's certificate is not the pinned one\n");
    }
    world.assert_nothing_forwarded();
    eventually("both refusals are written", || {
        let refused = |event: &serde_json::Value| {
            event["responseStatus"]["code"] == 502 && event["requestURI"] == "/pods"
        };
        world.audit().iter().filter(|event| refused(event)).count() == 2
    })
    .await;
    let events = world.audit();
    let error = events[events.len() - 1]["annotations"]["kubelet-gate.dev/error"]
        .as_str()
        .unwrap();
    assert!(error.contains("upstream.certificateFile"), "{error}");
    world.stop().await;
}

fn serving_pair() -> Pair {
    PKI.client(
        "gate-serving",
        &CertificateSpec::server("gate", &["localhost", "127.0.0.1"]),
    )
    .unwrap()
}

fn kubelet_pair() -> Pair {
    PKI.client(
        "kubelet-serving",
        &CertificateSpec::server("worker-1@1", &["worker-1"]),
    )
    .unwrap()
}

/// The kubelet shows this pair from now on, and has none of its old connections left.
async fn rotate_kubelet(world: &World, pair: &Pair) {
    world
        .kubelet
        .rotate_certificate(pair.chain.clone(), pair.key.clone_key())
        .unwrap();
    world
        .kubelet
        .fail("/healthz", kubelet_gate::lab::fake_kubelet::Fault::Close);
    while world.kubelet.open_connections() > 0 {
        // Each takes one of the pool's connections along.
        world.client("bob").get("/healthz").await.unwrap();
    }
    world.kubelet.heal();
    eventually("the kubelet has no connection left", || {
        world.kubelet.open_connections() == 0
    })
    .await;
}
