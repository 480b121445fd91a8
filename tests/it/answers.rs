//! If an answer of the gate differs from the kubelet's by a byte, clients that compare it break for reasons
//! no operator can find. If it says too much, strangers learn from it.

use bytes::Bytes;
use fakes::apiserver::{Api, METRICS_TOKEN};
use fakes::client::{Alpn, Client};
use fakes::kubelet::Fault;
use fakes::pki::{Attribute, CertificateSpec};
use http::Response;

use crate::patience::eventually;
use crate::world::{API_SERVER, PKI, Status as _, World, assert_answer, header};

/// An HTTP/1.1 answer as text, without its date, which changes.
async fn raw(client: &Client, request: &str) -> String {
    let answer = client.raw(request.as_bytes()).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let date = text
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with("date: "))
        .unwrap_or_else(|| panic!("there is no Date in {text:?}"))
        .to_owned();
    assert!(date.ends_with(" GMT") && date.len() == "date: Thu, 01 Jan 1970 00:00:00 GMT".len());
    text.replacen(&format!("{date}\r\n"), "", 1)
}

/// Checks an answer of the gate itself: plain text with a date.
#[track_caller]
pub(crate) fn assert_refusal(answer: &Response<Bytes>, status: u16, body: &str) {
    assert_answer(answer, status, body);
    assert_eq!(header(answer, "content-type"), "text/plain; charset=utf-8");
    assert!(header(answer, "date").ends_with(" GMT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthorized_is_the_kubelets_answer_byte_for_byte() {
    let world = World::start().await;
    let answer = raw(
        &world.stranger(),
        "GET /pods HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(
        answer,
        "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
         content-length: 12\r\n\r\nUnauthorized"
    );
    world.assert_nothing_forwarded();
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_is_the_kubelets_sentence_byte_for_byte() {
    let world = World::start().await;
    let answer = raw(
        &world.client("alice"),
        "GET /pods HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(
        answer,
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
         content-length: 78\r\n\r\nForbidden (user=alice, verb=get, resource=nodes, \
         subresource(s)=[pods proxy])\n"
    );
    for (method, path, verb, subresources) in [
        ("GET", "/metrics/cadvisor", "get", "metrics"),
        ("POST", "/run/default/web/nginx", "create", "proxy"),
        ("PUT", "/debug/flags/v", "update", "proxy"),
        ("PATCH", "/healthz", "patch", "healthz proxy"),
        ("DELETE", "/logs/", "delete", "log"),
        ("GET", "/", "get", "proxy"),
    ] {
        let answer = world.client("alice").call(method, path, &[], "").await.unwrap();
        let sentence =
            format!("Forbidden (user=alice, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n");
        assert_refusal(&answer, 403, &sentence);
    }
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// The kubelet echoes the name as it is: a line feed in a CN forges lines in the terminal or log that shows
/// the answer.
#[tokio::test(flavor = "multi_thread")]
async fn control_characters_in_a_name_are_escaped() {
    let world = World::start().await;
    let eve = PKI
        .client("eve", &CertificateSpec::client("eve\r\n\u{1b}[2J\u{85}é"))
        .unwrap();
    let answer = world.client_with(&eve).get("/metrics").await.unwrap();
    let sentence = "Forbidden (user=eve\\r\\n\\u{1b}[2J\\u{85}é, verb=get, resource=nodes, \
                    subresource(s)=[metrics])\n";
    assert_refusal(&answer, 403, sentence);
    world.stop().await;
}

/// Refused before authentication: no review, nothing forwarded, even for an administrator.
#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_targets_are_400_and_name_the_rule() {
    let world = World::start().await;
    let bob = world.client("bob");
    for (target, rule) in [
        ("//pods", "the path has an empty segment\n"),
        ("/exec//a/b", "the path has an empty segment\n"),
        ("/pods/../exec/a/b/c", "the path has a dot segment\n"),
        ("/pods/./x", "the path has a dot segment\n"),
        ("/metrics/%2e%2e/exec/a/b/c", "the path has a dot segment\n"),
        ("/metrics/.%2E/exec/a/b/c", "the path has a dot segment\n"),
        ("/logs/..%2f..%2fetc/passwd", "the path has an encoded slash\n"),
        ("/metrics%2Fcadvisor", "the path has an encoded slash\n"),
        ("/logs/a\\b", "the path has a backslash\n"),
        ("/logs/a%5Cb", "the path has a backslash\n"),
        ("/exec%00", "the path has a NUL byte\n"),
        ("/logs/%zz", "the path has an incomplete percent-encoding\n"),
        ("/logs/%4", "the path has an incomplete percent-encoding\n"),
        ("/logs/%ff", "the path is not UTF-8 after percent-decoding\n"),
        (
            "http://127.0.0.1:10250/pods",
            "the request target must be a path: absolute-form is refused\n",
        ),
        ("*", "the request target must be a path starting with /\n"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        let answer = raw(&bob, &request).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{target}: {answer}"
        );
        assert!(answer.ends_with(&format!("\r\n\r\n{rule}")), "{target}: {answer}");
    }
    world.assert_nothing_forwarded();
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_contradicts_the_host_is_400() {
    let world = World::start().await;
    let bob = world.h2_client("bob");
    let answer = bob
        .call("GET", "/pods", &[("host", "elsewhere")], "")
        .await
        .unwrap();
    assert_refusal(&answer, 400, ":authority and Host contradict each other\n");
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_upgrade_is_400() {
    let world = World::start().await;
    let bob = world.client("bob");
    for (headers, rule) in [
        (
            &[("connection", "upgrade")][..],
            "Connection: upgrade without an Upgrade header\n",
        ),
        (
            &[("upgrade", "websocket")],
            "an Upgrade header without Connection: upgrade\n",
        ),
        (
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            "only websocket and SPDY/3.1 can be upgraded to\n",
        ),
        (
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            "only websocket and SPDY/3.1 can be upgraded to\n",
        ),
        (
            &[
                ("connection", "upgrade"),
                ("upgrade", "SPDY/3.1"),
                ("upgrade", "websocket"),
            ],
            "more than one Upgrade header\n",
        ),
    ] {
        let answer = bob
            .call("GET", "/exec/default/web/nginx?command=id&output=1", headers, "")
            .await
            .unwrap();
        assert_refusal(&answer, 400, rule);
    }
    let upgrade = [("connection", "upgrade"), ("upgrade", "SPDY/3.1")];
    let answer = bob
        .call(
            "POST",
            "/exec/default/web/nginx?command=id&output=1",
            &upgrade,
            "body",
        )
        .await
        .unwrap();
    assert_refusal(&answer, 400, "an upgrade request must not have a body\n");
    let old = "GET /exec/default/web/nginx HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = raw(&bob, old).await;
    assert!(
        answer.starts_with("HTTP/1.0 400 ") && answer.ends_with("an upgrade needs HTTP/1.1\n"),
        "{answer}"
    );
    world.assert_nothing_forwarded();
    assert_eq!(world.api.reviews(), []);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_405_with_allow() {
    let world = World::start().await;
    let bob = world.client("bob");
    for line in [
        "OPTIONS /pods",
        "OPTIONS *",
        "TRACE /pods",
        "CONNECT 127.0.0.1:10250",
        "PROPFIND /pods",
        "get /pods",
        "PRI /pods",
    ] {
        let answer = raw(
            &bob,
            &format!("{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert_eq!(
            answer,
            "HTTP/1.1 405 Method Not Allowed\r\ncontent-type: text/plain; charset=utf-8\r\n\
             allow: GET, HEAD, POST, PUT, PATCH, DELETE\r\nconnection: close\r\ncontent-length: 23\r\n\r\n\
             405: Method Not Allowed",
            "{line}"
        );
    }
    // A header that names another method changes nothing.
    let override_ = [("x-http-method-override", "DELETE")];
    let answer = bob.call("GET", "/healthz", &override_, "").await.unwrap();
    assert_answer(&answer, 200, "ok");
    assert_eq!(world.api.checks(), ["get/healthz"]);
    assert_eq!(world.kubelet.requests()[0].header("x-http-method-override"), None);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_expectation_is_417() {
    let world = World::start().await;
    let answer = world
        .client("bob")
        .call("GET", "/healthz", &[("expect", "miracles")], "")
        .await
        .unwrap();
    assert_refusal(&answer, 417, "");
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_streams_of_one_user_are_429() {
    let world = World::builder().set("limits.streamsPerIdentity", 1).start().await;
    let exec = "/exec/default/web/nginx?command=sh&input=1&output=1";
    let bob = world.client("bob");
    let open = bob.websocket(exec, &["v5.channel.k8s.io"], &[]).await.unwrap();
    assert_eq!(open.status(), 101);

    let refused = bob.websocket(exec, &["v5.channel.k8s.io"], &[]).await.unwrap();
    let refused = refused.refused().unwrap();
    assert_refusal(&refused, 429, "too many streams are open for this user\n");
    assert_eq!(
        header(&refused, "retry-after"),
        "",
        "a client that upgrades does not read it"
    );
    // Another user has a limit of its own, and other requests go on.
    let other = world
        .client(API_SERVER)
        .websocket(exec, &["v5.channel.k8s.io"], &[])
        .await
        .unwrap();
    assert_eq!(other.status(), 101);
    assert_eq!(bob.status("/healthz").await, 200);

    drop((open, other));
    eventually("the stream's slot is free", || {
        world.metric("streams", &[]) == 0.0
    })
    .await;
    let again = bob.websocket(exec, &["v5.channel.k8s.io"], &[]).await.unwrap();
    assert_eq!(again.status(), 101);
    drop(again);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_checkpoint_at_once_is_429() {
    let world = World::start().await;
    let path = "/checkpoint/default/web/nginx";
    world.kubelet.fail(path, Fault::Hang);
    let bob = world.client("bob");
    let first = {
        let bob = bob.clone();
        tokio::spawn(async move { bob.call("POST", path, &[], "").await })
    };
    eventually("the first checkpoint is at the kubelet", || {
        world.kubelet.request_count() == 1
    })
    .await;

    let second = bob.call("POST", path, &[], "").await.unwrap();
    assert_refusal(&second, 429, "another checkpoint is being written on this node\n");
    assert_eq!(header(&second, "retry-after"), "1");
    assert_eq!(world.kubelet.request_count(), 1);

    // A client that leaves frees the slot.
    first.abort();
    world.kubelet.heal();
    eventually("the first checkpoint is cancelled", || {
        world.metric("requests_in_flight", &[]) == 0.0
    })
    .await;
    assert_eq!(bob.call("POST", path, &[], "").await.unwrap().status(), 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_tls_port_gets_the_kubelets_short_answer() {
    let world = World::start().await;
    let plain = Client::plain(world.address);
    for request in [
        "GET /pods HTTP/1.1\r\nHost: node\r\n\r\n",
        "POST /run/a/b/c HTTP/1.0\r\n\r\n",
    ] {
        let answer = plain.raw(request.as_bytes()).await.unwrap();
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
        );
    }
    assert_eq!(world.metric("handshakes_total", &[("result", "not_tls")]), 2.0);
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// These requests never reach the stations: they get the library's bare answer and are counted.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_cannot_be_parsed_get_a_bare_answer_and_are_counted() {
    let world = World::start().await;
    let bob = world.client("bob");
    let many = (0..101).fold(String::new(), |all, number| all + &format!("x-{number}: y\r\n"));
    let large = (0..20).fold(String::new(), |all, number| {
        all + &format!("x-{number}: {}\r\n", "y".repeat(7000))
    });
    for (head, status) in [
        (
            format!("GET /pods HTTP/1.1\r\nhost: node\r\n{many}\r\n"),
            "431 Request Header Fields Too Large",
        ),
        (
            format!("GET /pods HTTP/1.1\r\nhost: node\r\n{large}\r\n"),
            "431 Request Header Fields Too Large",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nhost: node\r\n\r\n", "y".repeat(65_535)),
            "414 URI Too Long",
        ),
        (
            "GET /pods HTTP/1.1\r\nhost : node\r\n\r\n".to_owned(),
            "400 Bad Request",
        ),
        (
            "GET /pods HTTP/1.1\r\nhost: node\r\n folded\r\n\r\n".to_owned(),
            "400 Bad Request",
        ),
        (
            "POST /pods HTTP/1.1\r\nhost: node\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"
                .to_owned(),
            "400 Bad Request",
        ),
        (
            "POST /pods HTTP/1.1\r\nhost: node\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "400 Bad Request",
        ),
    ] {
        let answer = raw(&bob, &head).await;
        let line = head.lines().next().unwrap().chars().take(40).collect::<String>();
        assert_eq!(
            answer,
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
            "{line}"
        );
    }
    // Counted when the connection ends, a moment after its answer.
    let rejections = |reason| world.metric("rejections_total", &[("reason", reason)]);
    eventually("the rejections are counted by kind", || {
        (rejections("head_too_large"), rejections("malformed_http")) == (3.0, 4.0)
    })
    .await;
    world.assert_nothing_forwarded();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_head_has_a_head_and_no_body() {
    let world = World::start().await;
    let close = "Host: node\r\nConnection: close\r\n\r\n";
    let answer = raw(&world.stranger(), &format!("HEAD /pods HTTP/1.1\r\n{close}")).await;
    assert_eq!(
        answer,
        "HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
         content-length: 12\r\n\r\n"
    );
    // HEAD is reviewed as `get`; the kubelet sends an empty verb.
    let token = world.token_client(METRICS_TOKEN);
    let answer = token.call("HEAD", "/metrics", &[], "").await.unwrap();
    assert_answer(&answer, 200, "");
    assert_ne!(header(&answer, "content-length"), "0");
    assert_eq!(world.api.checks(), ["get/metrics"]);
    assert_eq!(world.kubelet.requests()[0].method, "HEAD");
    let answer = world
        .tls_client(PKI.pair("bob"), Alpn::H2)
        .call("HEAD", "/healthz", &[], "")
        .await
        .unwrap();
    assert_answer(&answer, 200, "");
    world.stop().await;
}

/// A client that is refused while it still sends must be able to read why, and must not be able to send
/// without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reads_a_small_body_and_gives_up_on_an_endless_one() {
    let world = World::start().await;
    let mut connection = world.stranger().connect().await.unwrap();
    let small = http::Request::post("/run/default/web/nginx")
        .body(Bytes::from(vec![b'x'; 200 * 1024]))
        .unwrap();
    let answer = connection.send(small).await.unwrap();
    assert_refusal(&answer, 401, "Unauthorized");
    assert_eq!(connection.status("/pods").await, 401, "the connection stays open");

    let mut connection = world.client("alice").connect().await.unwrap();
    let (sender, body) = fakes::client::ClientBody::channel();
    let endless = http::Request::post("/run/default/web/nginx").body(body).unwrap();
    let answer = connection.open(endless).await.unwrap();
    assert_eq!(answer.status(), 403);
    drop((answer, sender, connection));
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// The name is data, even where it looks like the sentence around it.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_cannot_forge_the_sentence() {
    let world = World::start().await;
    let forger = CertificateSpec::client("first")
        .attribute(Attribute::CommonName, "bob, verb=get")
        .group("x");
    let forger = PKI.client("forger", &forger).unwrap();
    let answer = world.client_with(&forger).get("/stats/summary").await.unwrap();
    assert_refusal(
        &answer,
        403,
        "Forbidden (user=bob, verb=get, verb=get, resource=nodes, subresource(s)=[stats])\n",
    );
    assert_eq!(world.api.count(Api::Access), 1);
    world.stop().await;
}
