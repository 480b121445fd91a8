//! What passes of a request's and an answer's head. If a header passed that should not, the kubelet or a
//! container runtime behind it would learn a credential or believe a claim.

use std::time::Duration;

use bytes::Bytes;
use fakes::apiserver::ADMIN_TOKEN;
use fakes::client::Alpn;
use fakes::kubelet::{Fault, RecordedRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::patience::{eventually, stretched};
use crate::world::{PKI, Status as _, World, assert_answer};

fn names(seen: &RecordedRequest) -> Vec<&str> {
    seen.headers.iter().map(|(name, _)| name.as_str()).collect()
}

/// T11, T12, T36. Seen red: with `forbidden` answering false.
#[tokio::test(flavor = "multi_thread")]
async fn no_credential_and_no_claim_of_an_identity_reaches_the_kubelet() {
    let world = World::start().await;
    let claims = [
        ("authorization", "Bearer stolen"),
        ("cookie", "session=stolen"),
        ("proxy-authorization", "Basic c3RvbGVu"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-client-cert", "Subject=x"),
        ("x-real-ip", "192.0.2.1"),
        ("x-remote-user", "system:admin"),
        ("x-remote-group", "system:masters"),
        ("x-remote-extra-scopes", "all"),
        ("x-remote-uid", "0"),
        ("impersonate-user", "system:admin"),
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", "0"),
        ("impersonate-extra-a", "b"),
        ("x-ssl-client-dn", "CN=admin"),
        ("x-client-cert", "MIIB"),
        ("x-client-cert-dn", "CN=admin"),
        ("x-http-method-override", "DELETE"),
        ("X_Remote_User", "system:admin"),
        ("x_forwarded_for", "192.0.2.1"),
        ("Impersonate_User", "system:admin"),
        ("X-REMOTE-User", "system:admin"),
        ("te", "trailers"),
    ];
    let harmless = [
        ("user-agent", "kubectl/1.36"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("x-request-id", "7"),
        ("audit-id", "a-b-c"),
        ("range", "bytes=0-1"),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("x-custom", "one"),
        ("x-custom", "two"),
    ];
    let lower = claims.map(|(name, value)| (name.to_ascii_lowercase(), value));
    let mut headers: Vec<(&str, &str)> = lower
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    headers.extend(harmless);
    for alpn in [Alpn::H1, Alpn::H2] {
        world.kubelet.clear();
        let bob = world.tls_client(PKI.pair("bob"), alpn);
        let answer = bob.call("GET", "/healthz", &headers, "").await.unwrap();
        assert_eq!(answer.status(), 200);
        let seen = &world.kubelet.requests()[0];
        let mut passed: Vec<(&str, &str)> = seen
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        passed.retain(|(name, _)| *name != "host");
        // Only values of the same name have an order.
        passed.sort_by_key(|(name, _)| *name);
        let mut expected = harmless;
        expected.sort_by_key(|(name, _)| *name);
        assert_eq!(passed, expected, "{alpn:?}");
    }
    // A token that authenticated the request ends at the gate as well.
    world.kubelet.clear();
    assert_eq!(world.token_client(ADMIN_TOKEN).status("/healthz").await, 200);
    let seen = format!("{:?}", world.kubelet.requests());
    assert!(!seen.contains(ADMIN_TOKEN), "{seen}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_end_at_the_gate_both_ways() {
    let world = World::builder()
        .configure(|configuration, folder| {
            fakes::pki::write_secret(folder.join("kubelet-token"), "gates-own\n").unwrap();
            configuration["upstream"]["tokenFile"] = "kubelet-token".into();
        })
        .start()
        .await;
    // `Connection` removes the headers that it names, but neither what the gate adds nor what frames the
    // message (T12).
    let answer = world
        .client("bob")
        .call(
            "POST",
            "/lab/echo",
            &[
                ("connection", "keep-alive, X-Hop, Authorization, Host"),
                ("connection", "content-length, accept"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("x-hop", "1"),
                ("accept", "a/b"),
                ("x-end", "2"),
            ],
            "body",
        )
        .await
        .unwrap();
    assert_answer(&answer, 200, "body");
    let seen = &world.kubelet.requests()[0];
    let mut passed = names(seen);
    passed.sort_unstable();
    assert_eq!(passed, ["authorization", "content-length", "host", "x-end"]);
    assert_eq!(seen.header("authorization"), Some("Bearer gates-own"));

    let headers = [
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=90"),
        ("Proxy-Authenticate", "Basic"),
        ("Upgrade", "h2c"),
        ("X-End", "2"),
        ("Content-Type", "text/x-lab"),
        ("Set-Cookie", "a=b"),
        ("Location", "/elsewhere"),
        ("X-End", "3"),
    ];
    let fault = Fault::Answer {
        status: 307,
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
        body: Bytes::from_static(b"over there"),
    };
    world.kubelet.fail("/moved", fault);
    for alpn in [Alpn::H1, Alpn::H2] {
        let answer = world
            .tls_client(PKI.pair("bob"), alpn)
            .get("/moved")
            .await
            .unwrap();
        assert_answer(&answer, 307, "over there");
        let mut passed: Vec<_> = answer.headers().keys().map(|name| name.as_str()).collect();
        passed.sort_unstable();
        let expected = [
            "content-length",
            "content-type",
            "date",
            "location",
            "set-cookie",
            "x-end",
        ];
        assert_eq!(passed, expected, "{alpn:?}");
        assert_eq!(
            answer.headers().get_all("x-end").iter().collect::<Vec<_>>(),
            ["2", "3"]
        );
        assert_eq!(answer.headers().get_all("date").iter().count(), 1);
    }
    world.stop().await;
}

/// The gate forwards exactly what was authorized; it normalises nothing.
#[tokio::test(flavor = "multi_thread")]
async fn target_and_host_pass_unchanged() {
    let world = World::start().await;
    let bob = world.client("bob");
    for target in [
        "/logs/a%20b~@:%25;x=1,(y)!$&'*+",
        "/logs/%C3%A9/%c3%a9?q=%2f..%2F//..&x=%00&y=\\",
        "/%70ods",
        "/pods/",
        "/pods?",
        "/?a",
        "/logs/\u{e9}?\u{e9}",
        "/metrics?match[]={a=b}|^`",
    ] {
        world.kubelet.clear();
        let head = format!("GET {target} HTTP/1.1\r\nHost: node.example:1\r\nConnection: close\r\n\r\n");
        let answer = bob.raw(head.as_bytes()).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 "), "{target}");
        let seen = world.kubelet.requests();
        assert_eq!(seen.len(), 1, "{target}: {}", String::from_utf8_lossy(&answer));
        // The fake kubelet shows bytes beyond ASCII as ISO 8859-1.
        let bytes: Vec<u8> = seen[0].target.chars().map(|char| char as u8).collect();
        assert!(
            bytes == target.as_bytes() || seen[0].target == target,
            "{target}: {}",
            seen[0].target
        );
        assert_eq!(seen[0].header("host"), Some("node.example:1"));
    }
    // In HTTP/2 the authority is the host.
    world.kubelet.clear();
    world.h2_client("bob").get("/pods?x=%2e%2e").await.unwrap();
    let seen = &world.kubelet.requests()[0];
    assert_eq!(seen.target, "/pods?x=%2e%2e");
    assert_eq!(
        seen.header("host").unwrap(),
        format!("localhost:{}", world.address.port())
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_method_passes_unchanged() {
    let world = World::start().await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
        world.kubelet.clear();
        world
            .client("bob")
            .call(method, "/lab/method", &[], "")
            .await
            .unwrap();
        assert_eq!(world.kubelet.requests()[0].method, method);
    }
    world.stop().await;
}

/// The gate sends "100 Continue" itself, and only after the request is permitted.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_permitted_client_is_told_to_continue() {
    let world = World::start().await;
    let head = "POST /lab/echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\
                Connection: close\r\n\r\n";
    let mut stream = world.client("bob").stream().await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 25];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nbody"),
        "{rest}"
    );
    assert_eq!(world.kubelet.requests()[0].header("expect"), None);

    let answer = world.client("alice").raw(head.as_bytes()).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403 Forbidden\r\n"));
    assert_eq!(world.kubelet.request_count(), 1);
    world.stop().await;
}

/// T10: the kubelet reads the request that was authorized, one for each decision, even where framing is
/// contradictory.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_contradictory_framing_passes_once_or_not_at_all() {
    let world = World::start().await;
    let bob = world.client("bob");
    let second = "GET /configz HTTP/1.1\r\nHost: x\r\n\r\n";
    for first in [
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nContent-Length: 41\r\nTransfer-Encoding: \
         chunked\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: \
         4\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: \
         identity\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /lab/a HTTP/1.1\r\nHost: x\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0;ext=\"\r\n\r\n",
        "POST /lab/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \
         chunked\r\n\r\nfffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "POST /lab/a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        world.kubelet.clear();
        let before = world.metric("requests_total", &[("decision", "allow")]);
        let client = bob.clone().with_deadline(stretched(Duration::from_secs(1)));
        let _ = client.raw(format!("{first}{second}").as_bytes()).await;
        eventually("nothing is in flight", || {
            world.metric("requests_in_flight", &[]) == 0.0
        })
        .await;
        let judged = world.metric("requests_total", &[("decision", "allow")]) - before;
        let seen = world.kubelet.requests();
        assert!(
            seen.len() as f64 <= judged,
            "{first:?}: {judged} judged, but {seen:#?}"
        );
        for seen in &seen {
            let framed = ["content-length", "transfer-encoding"].map(|name| seen.header(name).is_some());
            assert_ne!(framed, [true, true], "{first:?}: {seen:#?}");
        }
    }
    world.stop().await;
}
