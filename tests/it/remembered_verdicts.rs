//! A judgement of a certificate costs signature checks. If connections caused it again and again, a stranger
//! could keep the gate busy with bad certificates; if its verdict were kept for too long, a withdrawn
//! certificate would go on.

use std::fs;
use std::time::Duration;

use fakes::client::{Alpn, Connection};

use crate::patience::{eventually, eventually_answers, stays};
use crate::world::{PKI, Status as _, World, with_junk};

/// How many verdicts had this result so far.
fn judgements(world: &World, result: &str) -> usize {
    world.metric("certificate_judgements_total", &[("result", result)]) as usize
}

fn judged(world: &World) -> usize {
    judgements(world, "accepted") + judgements(world, "refused")
}

/// A CA more or less in the bundle: the trust changes.
fn write_bundle(world: &World, cas: &[String]) {
    fs::write(world.file("ca.crt"), cas.concat()).unwrap();
    world.gate.reload();
}

/// Seen red: with refusals that are judged again after a second.
#[tokio::test(flavor = "multi_thread")]
async fn kept_alive_connections_with_refused_certificates_are_judged_once() {
    let world = World::start().await;
    let mut connections = Vec::new();
    for number in 0..150 {
        let client = world.client_with(&with_junk(&PKI.wrong_ca, number));
        connections.push(client.connect().await.unwrap());
    }
    let ask_all = async |connections: &mut Vec<Connection>| {
        for connection in connections {
            assert_eq!(connection.status("/healthz").await, 401);
        }
    };
    ask_all(&mut connections).await;
    assert_eq!(judged(&world), 150);
    stays(Duration::from_millis(1500), "judged once", || {
        judged(&world) == 150
    })
    .await;
    ask_all(&mut connections).await;
    assert_eq!(judged(&world), 150);

    // The same chain on a new connection.
    let again = world.client_with(&with_junk(&PKI.wrong_ca, 7));
    assert_eq!(again.status("/healthz").await, 401);
    assert_eq!((judged(&world), judgements(&world, "remembered")), (150, 1));
    drop(connections);
    world.stop().await;
}

/// Seen red: with the judgement left to the first request.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_judged_after_the_handshake_and_no_more_by_requests() {
    let world = World::start().await;
    let mut connection = world.client("bob").connect().await.unwrap();
    eventually("it is judged", || judged(&world) == 1).await;
    for _ in 0..3 {
        assert_eq!(connection.status("/healthz").await, 200);
    }
    assert_eq!(world.client("bob").status("/healthz").await, 200);
    assert_eq!((judged(&world), judgements(&world, "remembered")), (1, 1));
    drop(connection);
    world.stop().await;
}

/// Seen red: with verdicts that are kept neither on the connection nor for others.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_trust_has_each_connection_judged_once_more() {
    let world = World::start().await;
    let ca = PKI.ca.certificate_pem();
    let mut connections = Vec::new();
    for (pair, alpn, status) in [
        (&PKI.bob, Alpn::H2, 200),
        (&PKI.alice, Alpn::H1, 403),
        (&PKI.wrong_ca, Alpn::H1, 401),
    ] {
        let client = world.tls_client(Some(pair), alpn);
        connections.push((client.connect().await.unwrap(), status));
    }
    eventually("all are judged", || judged(&world) == 3).await;
    for round in 1..=3 {
        let rotated = (round % 2 == 1).then(|| PKI.rotated_ca.certificate_pem());
        write_bundle(&world, &[&[ca.clone()][..], rotated.as_slice()].concat());
        assert_eq!(judged(&world), 3 * round, "requests cause it");
        for (connection, status) in &mut connections {
            for _ in 0..2 {
                assert_eq!(connection.status("/healthz").await, *status);
            }
        }
        assert_eq!(judged(&world), 3 * (round + 1));
    }
    drop(connections);
    world.stop().await;
}

/// Seen red: with the whole chain judged and charged (429), and with the judgement after a change of the
/// trust charged.
#[tokio::test(flavor = "multi_thread")]
async fn junk_chains_of_an_address_do_not_keep_its_good_certificates_out() {
    let world = World::builder()
        .set("limits.refusedCertificatesPerAddress", 1)
        .start()
        .await;
    let issuer = PKI.ca.intermediate("issuer").unwrap();
    let spec = fakes::pki::CertificateSpec::client("erin").group("admins");
    let erin = issuer.issue("erin", &spec).unwrap();
    for pair in [&PKI.bob, &erin] {
        assert_eq!(world.client_with(pair).status("/healthz").await, 200);
    }
    let mut number = 0;
    let mut exhaust = async || {
        eventually_answers("the budget is spent", async || {
            number += 1;
            let junk = world.client_with(&with_junk(&PKI.wrong_ca, number));
            let status = junk.status("/healthz").await;
            assert!(matches!(status, 401 | 429), "{status}");
            status == 429
        })
        .await;
    };
    exhaust().await;
    let both = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()];
    for round in 0..3 {
        let accepted = judgements(&world, "accepted");
        for beside in 0..5 {
            for pair in [&PKI.bob, &erin] {
                let client = world.client_with(&with_junk(pair, beside));
                assert_eq!(client.status("/healthz").await, 200, "round {round}");
            }
        }
        let more = if round == 0 { 0 } else { 2 };
        assert_eq!(judgements(&world, "accepted"), accepted + more);
        // A good leaf that was not seen yet is an unknown chain, whatever its leaf.
        exhaust().await;
        assert_eq!(world.client("alice").status("/healthz").await, 429);
        write_bundle(&world, &both[..1 + (round + 1) % 2]);
    }
    world.stop().await;
}
