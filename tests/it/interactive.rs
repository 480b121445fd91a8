//! A client that may `get nodes/proxy`, as every monitoring stack may, can run commands in every pod of an
//! ordinary kubelet, because a WebSocket handshake is a GET. Through the gate this needs `create`, however
//! the request is spelled.

use fakes::apiserver::{PROXY_GET_TOKEN, Rule, Subject};
use fakes::client::{Client, UpgradeAnswer, WsSession};

use crate::world::{Status as _, WithToken as _, World, assert_answer};

/// Every path that runs a process in a pod or connects to one, in several spellings.
const PATHS: [&str; 12] = [
    "/exec/default/web/nginx?command=id&output=1",
    "/exec/default/web/1f0c1a52-6b1e-4f0a-9a55-0c3f5f0e7a01/nginx?command=id&output=1",
    "/attach/default/web/nginx?output=1",
    "/portForward/default/web?port=80",
    "/run/default/web/nginx?cmd=id",
    "/cri/exec/token",
    "/%65xec/default/web/nginx?command=id&output=1",
    "/ex%65c/default/web/nginx?command=id&output=1",
    "/port%46orward/default/web?port=80",
    "/exec/default/web/nginx/?command=id&output=1",
    "/exec",
    "/cri",
];

const FORBIDDEN: &str = "Forbidden (user=system:serviceaccount:monitoring:reader, verb=create, \
                         resource=nodes, subresource(s)=[proxy])\n";

async fn websocket(client: &Client, target: &str, token: &str) -> UpgradeAnswer<WsSession> {
    let authorization = format!("Bearer {token}");
    let headers = [("authorization", authorization.as_str())];
    client
        .websocket(target, &["v5.channel.k8s.io"], &headers)
        .await
        .unwrap()
}

/// Seen red: with `is_interactive` answering false, the request is at the kubelet.
#[tokio::test(flavor = "multi_thread")]
async fn get_over_websocket_needs_create() {
    let world = World::start().await;
    // The token works for what it is meant for.
    let reader = world.token_client(PROXY_GET_TOKEN);
    let logs = reader.get("/containerLogs/default/web/nginx").await.unwrap();
    assert_eq!(logs.status(), 200);
    assert_eq!(world.api.checks(), ["get/proxy"]);
    world.kubelet.clear();
    world.api.clear_reviews();

    for path in PATHS {
        let answer = websocket(&world.stranger(), path, PROXY_GET_TOKEN).await;
        assert_answer(&answer.refused().expect(path), 403, FORBIDDEN);
    }
    assert_eq!(
        world.api.checks(),
        ["create/proxy"],
        "asked once, remembered for all of them"
    );
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// Neither an upgrade header, nor its absence, nor its spelling lowers what is needed.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_the_upgrade_and_no_method_needs_less() {
    let world = World::start().await;
    let reader = world.token_client(PROXY_GET_TOKEN);
    let spellings: [&[(&str, &str)]; 10] = [
        &[],
        &[("connection", "Upgrade"), ("upgrade", "websocket")],
        &[("connection", "upgrade"), ("upgrade", "WebSocket")],
        &[("connection", "keep-alive, Upgrade"), ("upgrade", "WEBSOCKET")],
        &[
            ("connection", "keep-alive"),
            ("connection", "UPGRADE"),
            ("upgrade", "websocket"),
        ],
        &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")],
        &[("connection", "Upgrade"), ("upgrade", "spdy/3.1")],
        &[("upgrade", "websocket")],
        &[("connection", "upgrade")],
        &[("connection", "upgrade,"), ("upgrade", " websocket ")],
    ];
    for path in PATHS {
        for headers in spellings {
            for method in ["GET", "HEAD", "POST"] {
                let answer = reader.call(method, path, headers, "").await.unwrap();
                let status = answer.status().as_u16();
                let halved = headers.len() == 1;
                assert_eq!(
                    status,
                    if halved { 400 } else { 403 },
                    "{method} {path} {headers:?}"
                );
            }
        }
        let h2 = world
            .tls_client(None, fakes::client::Alpn::H2)
            .with_token(PROXY_GET_TOKEN);
        assert_eq!(h2.status(path).await, 403, "{path}");
    }
    assert_eq!(world.api.checks(), ["create/proxy"]);
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// Paths that only look like the interactive ones are ordinary: the kubelet compares bytes, whole segments
/// and case.
#[tokio::test(flavor = "multi_thread")]
async fn paths_that_the_kubelet_takes_for_others_are_judged_as_others() {
    let world = World::start().await;
    let reader = world.token_client(PROXY_GET_TOKEN);
    for path in [
        "/EXEC/default/web/nginx",
        "/execute",
        "/portforward/default/web",
        "/runx",
        "/x/exec/a/b/c",
    ] {
        assert_eq!(reader.status(path).await, 404, "{path}: the kubelet's own answer");
    }
    assert_eq!(world.api.checks(), ["get/proxy"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn create_is_enough_for_commands() {
    let world = World::start().await;
    let reader = Subject::service_account("monitoring", "reader");
    world
        .api
        .set_rules(vec![Rule::allow(reader, &["create"], &["proxy"])]);
    let answer = websocket(&world.stranger(), PATHS[0], PROXY_GET_TOKEN).await;
    assert_eq!(answer.status(), 101);
    let outcome = answer.switched().unwrap().exec_read().await.unwrap();
    assert_eq!(outcome.stdout_text(), "uid=0(root) gid=0(root) groups=0(root)\n");

    let token = world.token_client(PROXY_GET_TOKEN);
    assert_eq!(token.call("POST", PATHS[4], &[], "").await.unwrap().status(), 200);
    assert_eq!(
        token.status("/containerLogs/default/web/nginx").await,
        403,
        "create is not get"
    );
    world.stop().await;
}

/// With the guard off the gate behaves as the kubelet does, with all that follows.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_guard_the_method_decides_the_verb() {
    let world = World::builder()
        .set("authorization.interactive.requireCreate", false)
        .start()
        .await;
    let answer = websocket(&world.stranger(), PATHS[0], PROXY_GET_TOKEN).await;
    assert_eq!(answer.status(), 101);
    assert_eq!(world.api.checks(), ["get/proxy"]);
    drop(answer);
    let post = world
        .token_client(PROXY_GET_TOKEN)
        .call("POST", PATHS[4], &[], "")
        .await
        .unwrap();
    assert_eq!(post.status(), 403);
    world.stop().await;
}

/// An upgrade on a path without streams is an ordinary request: it must not become a tunnel past the checks.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_elsewhere_is_an_ordinary_request() {
    let world = World::start().await;
    let bob = world.client("bob");
    let answer = bob.websocket("/pods", &["v5.channel.k8s.io"], &[]).await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = &world.kubelet.requests()[0];
    assert_eq!(
        (seen.header("upgrade"), seen.header("connection"), seen.upgrade),
        (None, None, false)
    );
    assert_eq!(world.api.checks(), ["get/pods"]);
    world.stop().await;
}
