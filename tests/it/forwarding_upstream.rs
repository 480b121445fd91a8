//! How the gate reaches the kubelet: with its own credential, in plain HTTP, over a unix socket,
//! verified by a pin or by a CA. If it showed a client's credential, or verified nothing, the
//! kubelet's port would be a trap.

use fakes::apiserver::ADMIN_TOKEN;
use fakes::kubelet::ClientCa;

use crate::forwarding::pattern;
use crate::world::{PKI, Status as _, World, assert_answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_authenticates_receives_the_gates_own_certificate() {
    let world = World::builder()
        .kubelet(|kubelet| {
            kubelet.client_ca = Some(ClientCa {
                roots: vec![PKI.ca.certificate().clone()],
                mandatory: true,
            });
        })
        .set("upstream.clientCertificateFile", "gate.crt")
        .set("upstream.clientKeyFile", "gate.key")
        .start()
        .await;
    let answer = world
        .client("bob")
        .call("GET", "/healthz", &[("authorization", "Bearer clients-own")], "")
        .await
        .unwrap();
    assert_answer(&answer, 200, "ok");
    let seen = &world.kubelet.requests()[0];
    assert_eq!(seen.peer_certificate.as_deref(), Some(&*PKI.gate.chain[0]));
    assert_eq!(seen.header("authorization"), None);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_wants_a_token_receives_the_gates_own() {
    let world = World::builder()
        .configure(|configuration, folder| {
            fakes::pki::write_secret(folder.join("kubelet-token"), "gates-own\n").unwrap();
            configuration["upstream"]["tokenFile"] = "kubelet-token".into();
        })
        .start()
        .await;
    world
        .kubelet
        .adjust(|knobs| knobs.required_token = Some("gates-own".to_owned()));
    assert_answer(
        &world.token_client(ADMIN_TOKEN).get("/healthz").await.unwrap(),
        200,
        "ok",
    );

    // A new token is sent once its file has been read.
    world
        .kubelet
        .adjust(|knobs| knobs.required_token = Some("next".to_owned()));
    assert_eq!(
        world.client("bob").status("/healthz").await,
        502,
        "the kubelet refuses the gate, not bob"
    );
    fakes::pki::write_secret(world.file("kubelet-token"), "next").unwrap();
    world.gate.reload();
    assert_answer(&world.client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_can_be_reached_in_plain_http_or_over_a_unix_socket() {
    for builder in [World::builder().http_upstream(), World::builder().unix_upstream()] {
        let world = builder.start().await;
        let bob = world.client("bob");
        assert_answer(&bob.get("/healthz").await.unwrap(), 200, "ok");
        let sent = pattern(300_000);
        assert!(
            bob.call("POST", "/lab/echo", &[], sent.clone())
                .await
                .unwrap()
                .body()
                == &sent
        );
        let exec = "/exec/default/web/nginx?command=id&output=1";
        let answer = bob.websocket(exec, &["v5.channel.k8s.io"], &[]).await.unwrap();
        let outcome = answer.switched().unwrap().exec_read().await.unwrap();
        assert_eq!(outcome.exit_code(), Some(0));
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_can_be_verified_by_ca_and_name() {
    for (name, status) in [("worker-1", 200), ("worker-2", 502)] {
        let world = World::builder()
            .configure(move |configuration, folder| {
                let ca = fakes::pki::Pair {
                    name: "kubelet-ca".to_owned(),
                    chain: PKI.kubelet_serving.chain[1..].to_vec(),
                    key: PKI.kubelet_serving.key.clone_key(),
                };
                ca.write(folder).unwrap();
                let upstream = &mut configuration["upstream"];
                upstream["certificateFile"] = "".into();
                upstream["caFile"] = "kubelet-ca.crt".into();
                upstream["serverName"] = name.into();
            })
            .start()
            .await;
        assert_eq!(world.client("bob").status("/healthz").await, status);
        world.stop().await;
    }
}
