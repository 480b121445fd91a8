//! The gate's answers while the API server or the kubelet fails. No request may pass that was not permitted,
//! and an operator must see from the answer what failed.

use bytes::Bytes;
use fakes::apiserver::{Behaviour, METRICS_TOKEN};
use fakes::kubelet::Fault;
use fakes::pki::{Ca, CertificateSpec};

use crate::answers::assert_refusal;
use crate::patience::eventually_answers;
use crate::world::{PKI, Status as _, World, header};

const FORBIDDEN_PODS: &str =
    "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
/// What a client is told, to the byte.
pub(crate) const NO_TOKEN_REVIEW: &str =
    "TokenReview failed: the API server cannot be asked whether this request is allowed\n";
pub(crate) const NO_ACCESS_REVIEW: &str =
    "SubjectAccessReview failed: the API server cannot be asked whether this request is allowed\n";

/// While the API server cannot be asked no request may pass.
#[tokio::test(flavor = "multi_thread")]
async fn reviews_that_cannot_be_made_are_503_with_a_retry_after() {
    let world = World::builder()
        .without_caches()
        .set("limits.reviewTimeout", "300ms")
        .start()
        .await;
    let exec = "/exec/default/web/nginx?command=id&output=1";
    let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
    for (number, behaviour) in [
        Behaviour::Fail(500),
        Behaviour::Fail(403),
        Behaviour::Close,
        Behaviour::Garbage,
        Behaviour::Hang,
        Behaviour::Throttle(1),
        Behaviour::Raw(201, "{}".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        world.api.behave_all(behaviour);
        // A failure is remembered for a second, per token and per user: each of these asks once.
        let token = world.token_client(&format!("token-{number}"));
        let answer = token.get("/metrics").await.unwrap();
        assert_refusal(&answer, 503, NO_TOKEN_REVIEW);
        let seconds: u32 = header(&answer, "retry-after").parse().unwrap();
        assert!((5..=15).contains(&seconds), "{seconds}");

        let dave = PKI
            .client(
                "dave",
                &CertificateSpec::client(&format!("dave-{number}")).group("admins"),
            )
            .unwrap();
        let answer = world.client_with(&dave).get("/pods").await.unwrap();
        assert_refusal(&answer, 503, NO_ACCESS_REVIEW);
        assert_ne!(header(&answer, "retry-after"), "");

        // For an upgrade it is the same without Retry-After.
        let answer = world
            .client_with(&dave)
            .call("GET", exec, &websocket, "")
            .await
            .unwrap();
        assert_refusal(&answer, 503, NO_ACCESS_REVIEW);
        assert_eq!(header(&answer, "retry-after"), "");
        let token = world.token_client(&format!("upgrade-{number}"));
        let answer = token.call("GET", exec, &websocket, "").await.unwrap();
        assert_refusal(&answer, 503, NO_TOKEN_REVIEW);
        assert_eq!(header(&answer, "retry-after"), "");
    }
    world.assert_nothing_forwarded();

    world.api.heal();
    assert_eq!(world.token_client(METRICS_TOKEN).status("/metrics").await, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_down_is_503() {
    let world = World::start().await;
    world.api.down().await.unwrap();
    let answer = world.token_client(METRICS_TOKEN).get("/metrics").await.unwrap();
    assert_refusal(&answer, 503, NO_TOKEN_REVIEW);
    let answer = world.client("bob").get("/pods").await.unwrap();
    assert_refusal(&answer, 503, NO_ACCESS_REVIEW);
    world.assert_nothing_forwarded();

    // Requests that need no review are answered as always.
    assert_refusal(&world.stranger().get("/pods").await.unwrap(), 401, "Unauthorized");
    world.api.up().await.unwrap();
    let bob = world.client("bob");
    eventually_answers("the error is forgotten", async || {
        bob.status("/pods").await == 200
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_kubelet_is_502() {
    // Bound and not listening: the kernel gives this port to no other socket.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let world = World::builder()
        .set("upstream.url", format!("https://{address}"))
        .start()
        .await;
    let answer = world.client("bob").get("/pods").await.unwrap();
    assert_refusal(&answer, 502, "the kubelet cannot be reached\n");
    assert_eq!(header(&answer, "retry-after"), "");
    // A client without permission learns nothing of it.
    assert_refusal(
        &world.client("alice").get("/pods").await.unwrap(),
        403,
        FORBIDDEN_PODS,
    );
    world.stop().await;
}

/// A local user could bind the kubelet's port while it restarts, and would receive every request.
#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_the_pinned_one_is_502() {
    let world = World::start().await;
    let bob = world.client("bob");
    assert_eq!(bob.status("/healthz").await, 200);
    world.kubelet.clear();

    let ca = Ca::generate("squatter").unwrap();
    let squatter = ca
        .issue(
            "kubelet-serving",
            &CertificateSpec::server("worker-1", &["worker-1"]),
        )
        .unwrap();
    world
        .kubelet
        .rotate_certificate(squatter.chain.clone(), squatter.key.clone_key())
        .unwrap();
    // The pooled connection is to the pinned kubelet; new ones are not.
    world.kubelet.fail("/lab/close", Fault::Close);
    assert_eq!(bob.status("/lab/close").await, 502);
    world.kubelet.clear();
    for _ in 0..3 {
        let answer = bob.get("/pods").await.unwrap();
        assert_refusal(&answer, 502, "the kubelet's certificate is not the pinned one\n");
    }
    world.assert_nothing_forwarded();

    // The kubelet has rotated its certificate and written the file, which is read again at once.
    squatter.write(world.file("").as_path()).unwrap();
    assert_eq!(bob.status("/pods").await, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_answers_nonsense_is_502() {
    let world = World::start().await;
    let bob = world.client("bob");
    let raw = |bytes: &'static str| Fault::Raw {
        bytes: Bytes::from_static(bytes.as_bytes()),
        close: true,
    };
    for fault in [
        raw("SSH-2.0-OpenSSH_9.9\r\n"),
        raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        raw("HTTP/1.1 abc\r\n\r\n"),
        raw(""),
        Fault::Close,
    ] {
        world.kubelet.heal();
        world.kubelet.fail("/pods", fault.clone());
        let answer = bob.get("/pods").await.unwrap();
        assert_eq!(answer.status(), 502, "{fault:?}");
        assert_refusal(&answer, 502, "the kubelet gave no usable answer\n");
    }
    // A 101 without a requested upgrade would make a tunnel of an ordinary request.
    let switched =
        raw("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    world.kubelet.heal();
    world.kubelet.fail("/pods", switched);
    let answer = bob.get("/pods").await.unwrap();
    assert_eq!(answer.status(), 502);
    world.kubelet.heal();
    assert_eq!(bob.status("/pods").await, 200);
    world.stop().await;
}
