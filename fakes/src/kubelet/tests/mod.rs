#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use rcgen::{CertificateParams, CertifiedKey, Issuer, KeyPair};
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::client::{Client, ClientBody, ClientError, ClientTls};

mod knobs;
mod streams;

struct Lab {
    kubelet: FakeKubelet,
    client: Client,
}

impl Lab {
    async fn start() -> Self {
        let options = FakeKubeletOptions {
            certificate: Some(serving()),
            ..FakeKubeletOptions::default()
        };
        let kubelet = FakeKubelet::start(options).await.unwrap();
        let client = Client::new(kubelet.address(), ClientTls::default()).unwrap();
        Self { kubelet, client }
    }

    async fn text(&self, target: &str) -> (StatusCode, String) {
        let answer = self.client.get(target).await.unwrap();
        (
            answer.status(),
            String::from_utf8(answer.body().to_vec()).unwrap(),
        )
    }
}

fn serving() -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["worker-1".to_owned()]).unwrap();
    (
        vec![cert.der().clone()],
        PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
    )
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_page_answers_with_believable_content() {
    let lab = Lab::start().await;
    for (target, content_type, content) in [
        ("/pods", "application/json", "STRIPE_API_KEY"),
        ("/pods/", "application/json", "\"PodList\""),
        ("/runningpods/", "application/json", "ledger"),
        ("/healthz", "text/plain; charset=utf-8", "ok"),
        ("/healthz/ping", "text/plain; charset=utf-8", "ok"),
        ("/healthz/log", "text/plain; charset=utf-8", "ok"),
        ("/healthz/syncloop", "text/plain; charset=utf-8", "ok"),
        ("/metrics", METRICS, "kubelet_running_pods 3"),
        ("/metrics/cadvisor", METRICS, "container_memory_usage_bytes{"),
        ("/metrics/resource", METRICS, "container_cpu_usage_seconds_total{"),
        ("/metrics/probes", METRICS, "prober_probe_total{"),
        ("/metrics/slis", METRICS, "kubernetes_healthcheck{"),
        ("/stats/summary", "application/json", "\"nodeName\": \"worker-1\""),
        ("/configz", "application/json", "AlwaysAllow"),
        ("/flagz", "text/plain; charset=utf-8", "--anonymous-auth=true"),
        ("/statusz", "text/plain; charset=utf-8", "kubelet statusz"),
        ("/logs/", "text/html; charset=utf-8", "<a href=\"kubelet.log\">"),
        (
            "/logs/kubelet.log",
            "text/x-log; charset=utf-8",
            "Starting to listen",
        ),
        (
            "/debug/pprof/cmdline",
            "text/plain; charset=utf-8",
            "/usr/bin/kubelet\0--anonymous-auth=true",
        ),
    ] {
        let answer = lab.client.get(target).await.unwrap();
        assert_eq!(answer.status(), 200, "{target}");
        assert_eq!(answer.headers()["content-type"], content_type, "{target}");
        assert!(!answer.headers().contains_key("server"), "{target}");
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        assert!(body.contains(content), "{target}: {body}");
    }
    assert_eq!(lab.kubelet.request_count(), 19);
    lab.kubelet.shutdown().await;
}

#[tokio::test]
async fn errors_are_worded_and_headed_as_measured() {
    let lab = Lab::start().await;
    for (method, target, status, body) in [
        ("GET", "/", 404, "404 page not found\n"),
        ("GET", "/spec", 404, "404 page not found\n"),
        ("POST", "/pods", 405, "405: Method Not Allowed"),
        (
            "GET",
            "/run/default/web/nginx?cmd=id",
            405,
            "405: Method Not Allowed",
        ),
        (
            "POST",
            "/run/default/web/nginx?cmd=id",
            200,
            "uid=0(root) gid=0(root) groups=0(root)\n",
        ),
        ("POST", "/run/default/web/uid/nginx?cmd=echo+a%20b", 200, "a b\n"),
        (
            "POST",
            "/run/default/nope/nginx?cmd=id",
            404,
            "pod does not exist",
        ),
        (
            "GET",
            "/exec/default/web/nginx",
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        (
            "GET",
            "/exec/default/web/nginx?command=id&output=1",
            500,
            "Upgrade request required\n",
        ),
        (
            "POST",
            "/exec/default/nope/nginx?command=id&output=1",
            404,
            "pod does not exist",
        ),
        (
            "POST",
            "/exec/default/web/zz?command=id&output=1",
            500,
            "container not found (\"zz\")",
        ),
        (
            "GET",
            "/portForward/default/web",
            500,
            "Upgrade request required\n",
        ),
        (
            "GET",
            "/containerLogs/default/nope/c",
            404,
            "pod \"nope\" does not exist",
        ),
        (
            "GET",
            "/containerLogs/default/web/nginx?tailLines=1",
            200,
            "10.244.0.7 - - \"GET /favicon.ico HTTP/1.1\" 404 153\n",
        ),
        ("GET", "/debug/flags/v", 406, "unrecognized method in body"),
        (
            "PUT",
            "/debug/flags/v",
            200,
            "successfully set klog.logging.verbosity to 9",
        ),
        ("POST", "/metrics/../run/default/web/nginx?cmd=id", 301, ""),
        (
            "GET",
            "/stats",
            301,
            "<a href=\"/stats/\">Moved Permanently</a>.\n\n",
        ),
    ] {
        let sent = if method == "PUT" { "9" } else { "" };
        let answer = lab.client.call(method, target, &[], sent).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (status, body.as_bytes()),
            "{method} {target}"
        );
        assert!(answer.headers().contains_key("date"));
    }
    let moved = lab
        .client
        .get("/pods/%2e%2e/exec/default/web/nginx?output=1")
        .await
        .unwrap();
    assert_eq!(moved.headers()["location"], "/exec/default/web/nginx?output=1");
    let checkpoint = lab
        .client
        .call("POST", "/checkpoint/default/web/nginx", &[], "")
        .await
        .unwrap();
    assert!(checkpoint.body().starts_with(b"{\"items\":["));
}

#[tokio::test]
async fn the_read_only_port_gives_away_pods_but_runs_nothing() {
    let options = FakeKubeletOptions {
        read_only_port: true,
        ..FakeKubeletOptions::default()
    };
    let kubelet = FakeKubelet::start(options).await.unwrap();
    let client = Client::plain(kubelet.read_only_address().unwrap());
    assert!(client.get("/pods").await.unwrap().body().starts_with(b"{"));
    assert_eq!(client.get("/stats/summary").await.unwrap().status(), 200);
    let run = client
        .call("POST", "/run/default/web/nginx?cmd=id", &[], "")
        .await
        .unwrap();
    assert_eq!(
        (run.status().as_u16(), run.body().as_ref()),
        (405, b"Debug endpoints are disabled.\n".as_ref())
    );
    assert_eq!(client.get("/configz").await.unwrap().status(), 404);
    assert!(kubelet.requests().iter().all(|seen| seen.read_only));
}

#[tokio::test]
async fn requests_are_recorded_as_they_were_sent() {
    let lab = Lab::start().await;
    let lab_client = lab.client.clone().with_deadline(Duration::from_secs(2));
    let sent = b"POST /lab/echo?x=%20 HTTP/1.1\r\nhOst: a\r\nX-Two: 1\r\nx-two:  2 \r\nTransfer-Encoding: chunked\r\n\
        Connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = String::from_utf8(lab_client.raw(sent).await.unwrap()).unwrap();
    assert!(
        answer.ends_with("\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        "{answer}"
    );
    let seen = lab.kubelet.requests().pop().unwrap();
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/lab/echo?x=%20")
    );
    let names = seen
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect::<Vec<_>>();
    assert_eq!(names[..3], [("hOst", "a"), ("X-Two", "1"), ("x-two", "2")]);
    assert_eq!((seen.body_len, seen.body.as_slice()), (5, b"abcde".as_slice()));
    assert!(!seen.upgrade && seen.peer_certificate.is_none());
    lab.kubelet.clear();
    assert_eq!(
        (lab.kubelet.request_count(), lab.kubelet.requests().len()),
        (0, 0)
    );
}

#[tokio::test]
async fn what_is_no_http_gets_a_short_400() {
    let lab = Lab::start().await;
    let bad = lab.client.raw(b"GET pods\r\n\r\n").await.unwrap();
    assert!(bad.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
    let plain = Client::plain(lab.kubelet.address())
        .raw(b"GET /pods HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(plain, connection::HTTP_ON_TLS_PORT);
}

#[tokio::test]
async fn a_connection_is_kept_and_counted() {
    let lab = Lab::start().await;
    let mut connection = lab.client.connect().await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.get("/pods").await.unwrap().status(), 200);
    }
    assert_eq!(
        (lab.kubelet.connections_accepted(), lab.kubelet.open_connections()),
        (1, 1)
    );
    drop(connection);
    eventually("the connection's end", || lab.kubelet.open_connections() == 0).await;
    assert_eq!(lab.kubelet.cut_seen(), 0);

    let mut connection = lab.client.connect().await.unwrap();
    lab.kubelet.shutdown().await;
    eventually("the notice of the end", || connection.is_closed()).await;
    assert!(matches!(
        connection.get("/pods").await,
        Err(ClientError::Closed(_))
    ));
}

#[tokio::test]
async fn followed_logs_start_at_once_and_end_with_the_client() {
    let lab = Lab::start().await;
    lab.kubelet
        .adjust(|knobs| knobs.log_interval = Duration::from_millis(100));
    let target = "/containerLogs/payments/ledger/app?follow=true&tailLines=1";
    let started = Instant::now();
    let request = Request::get(target).body(Full::<Bytes>::default()).unwrap();
    let mut answer = lab.client.open(request).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(100),
        "the head waited for the first line"
    );
    assert!(!answer.headers().contains_key("content-type"));
    assert_eq!(
        answer.body_mut().next().await.unwrap().unwrap(),
        "booked 7 transfers\n"
    );
    assert_eq!(
        answer.body_mut().next().await.unwrap().unwrap(),
        "still here, line 1\n"
    );
    assert_eq!(lab.kubelet.cut_seen(), 0);
    drop(answer);
    eventually("the cut", || lab.kubelet.cut_seen() == 1).await;
    eventually("the connection's end", || lab.kubelet.open_connections() == 0).await;
}

#[tokio::test]
async fn the_lab_pages_move_bytes() {
    let lab = Lab::start().await;
    assert_eq!(lab.text("/lab/bytes?n=100000").await.1.len(), 100_000);
    assert_eq!(lab.text("/lab/bytes?n=100000&chunked=1").await.1.len(), 100_000);
    let request = Request::get("/lab/trailers")
        .body(Full::<Bytes>::default())
        .unwrap();
    let mut answer = lab.client.open(request).await.unwrap();
    while answer.body_mut().next().await.unwrap().is_some() {}
    assert_eq!(answer.body().trailers().unwrap()["x-lab-lines"], "2");

    let (feed, body) = ClientBody::channel();
    let request = Request::post("/lab/echo").body(body).unwrap();
    let mut answer = lab.client.open(request).await.unwrap();
    for piece in ["first", "second"] {
        assert!(feed.send(piece).await);
        assert_eq!(answer.body_mut().next().await.unwrap().unwrap(), piece);
    }
    drop(feed);
    assert_eq!(answer.body_mut().next().await.unwrap(), None);
    assert_eq!(lab.kubelet.requests().pop().unwrap().body, b"firstsecond");
}

#[tokio::test]
async fn it_listens_on_a_unix_socket_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubelet.sock");
    let options = FakeKubeletOptions {
        unix: Some(path.clone()),
        ..FakeKubeletOptions::default()
    };
    let kubelet = FakeKubelet::start(options).await.unwrap();
    let client = Client::unix(&path);
    let mut kept = client.connect().await.unwrap();
    assert_eq!(kept.get("/healthz").await.unwrap().body(), "ok");
    let plain = Client::plain(kubelet.address());
    let logs = Request::get("/containerLogs/default/web/nginx?follow=1")
        .body(Bytes::new())
        .unwrap();
    let following = plain.open(logs).await.unwrap();
    kubelet.shutdown().await;
    assert!(!path.exists());
    assert!(matches!(
        following.into_body().collect().await,
        Err(ClientError::Closed(_))
    ));
    assert!(matches!(plain.get("/healthz").await, Err(ClientError::Refused)));
    assert!(matches!(client.get("/healthz").await, Err(ClientError::Refused)));
}

const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
