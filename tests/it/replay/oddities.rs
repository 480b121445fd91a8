//! HTTP/1.1 that no client should write. If the gate understood it differently from the kubelet, or forwarded
//! what it did not understand, a client could smuggle requests past the gate. The recording has a name and
//! the kubelet's bytes for each; the requests are written here.

use fakes::client::{Alpn, Client};
use serde_json::Value;

use super::caller::Wire;
use crate::corpus::{rows, text};
use crate::smuggling::assert_well_formed;
use crate::world::{PKI, World};

/// Name, reply, and whether the connection was open (`open`) or ended (`eof`) after it.
const RECORDED: &str = include_str!("../data/kubelet-http.jsonl");

/// Sent behind each oddity, to see whether the connection is still served.
const THEN: &[u8] = b"GET /healthz?then HTTP/1.1\r\nHost: node\r\n\r\n";

/// The request of this name.
fn request(name: &str) -> Vec<u8> {
    let get = |lines: &str| format!("GET /healthz HTTP/1.1\r\nHost: node\r\n{lines}\r\n");
    let post = |lines: &str, body: &str| format!("POST /healthz HTTP/1.1\r\nHost: node\r\n{lines}\r\n{body}");
    let version = |version: &str| format!("GET /healthz HTTP/{version}\r\nHost: node\r\n\r\n");
    if let Some((kind, number)) = name.rsplit_once(' ')
        && let Ok(number) = number.parse()
    {
        return match kind {
            "big header value" => get(&format!("X-Big: {}\r\n", "a".repeat(number))),
            "long uri" => format!(
                "GET /healthz?{} HTTP/1.1\r\nHost: node\r\n\r\n",
                "a".repeat(number)
            ),
            "many headers" => {
                let lines = (0..number).map(|number| format!("X-{number}: a\r\n"));
                get(&lines.collect::<String>())
            }
            other => panic!("what is {other}?"),
        }
        .into_bytes();
    }
    match name {
        "plain-http-on-tls-port" => get(""),
        "http1.0" => version("1.0"),
        "http1.0 keepalive" => "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into(),
        "no-host" => "GET /healthz HTTP/1.1\r\n\r\n".into(),
        "two-hosts" => get("Host: other\r\n"),
        "bad-host" => "GET /healthz HTTP/1.1\r\nHost: no de\r\n\r\n".into(),
        "host-empty" => "GET /healthz HTTP/1.1\r\nHost: \r\n\r\n".into(),
        "http2-preface" => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        "http1.2" => version("1.2"),
        "http3.0" => version("3.0"),
        "http0.9" => "GET /healthz\r\n".into(),
        "pipelined x3" => get("").repeat(3),
        "LF-only" => get("").replace('\r', ""),
        "leading CRLF" => format!("\r\n{}", get("")),
        "conn close" => get("Connection: close\r\n"),
        "TE+CL" => post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        "TE gzip,chunked" => post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        "TE identity" => post("Transfer-Encoding: identity\r\n", ""),
        "TE xchunked" => post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        "TE twice" => post(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        "CL twice same" => post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        "CL twice differ" => post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        "CL negative" => post("Content-Length: -1\r\n", ""),
        "CL plus" => post("Content-Length: +3\r\n", "abc"),
        "CL list" => post("Content-Length: 0, 0\r\n", ""),
        "TE in 1.0" => post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n").replacen("1.1", "1.0", 1),
        "header space before colon" => get("Foo : bar\r\n"),
        "obs-fold" => get("Foo: a\r\n b\r\n"),
        "nul in header" => get("Foo: a\0b\r\n"),
        "bare CR in header" => get("Foo: a\rb\r\n"),
        "no-colon line" => get("nothing\r\n"),
        "utf8 header" => get("Foo: é\r\n"),
        "empty header name" => get(": bar\r\n"),
        "expect 100 post" => post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
        "expect other" => get("Expect: something\r\n"),
        "chunk ext+trailer" => post(
            "Transfer-Encoding: chunked\r\nTrailer: X-Foo\r\n",
            "5;a=b\r\nhello\r\n0\r\nX-Foo: bar\r\n\r\n",
        ),
        "chunk bad size" => post("Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n0\r\n\r\n"),
        "upgrade h2c" => get(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \
             AAMAAABkAARAAAAAAAIAAAAA\r\n",
        ),
        other => panic!("what is {other}?"),
    }
    .into_bytes()
}

/// The statuses in a recorded reply: a body here is never mistaken for a status line.
fn statuses(reply: &str) -> Vec<u16> {
    reply
        .match_indices("HTTP/1.")
        .filter_map(|(at, _)| reply[at + 9..at + 12].parse().ok())
        .collect()
}

/// Seen red: before the gate looked at the number and the bytes of `Host`, and at transfer codings before
/// `chunked`, with no-host, two-hosts, bad-host, "TE gzip,chunked" and "TE twice" passed on (two-hosts with
/// both, the codings without).
#[tokio::test(flavor = "multi_thread")]
async fn oddities_get_the_kubelets_answer_or_a_stricter_one() {
    let world = World::start().await;
    let (mut equal, mut wrong, mut differ) = (0, Vec::new(), Vec::new());
    let differences: Vec<Vec<&str>> = rows(include_str!("../data/oddity_differences.tsv")).collect();
    let recorded: Vec<Value> = RECORDED
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(recorded.len(), 57);
    for recorded in &recorded {
        let name = recorded["name"].as_str().unwrap();
        let kubelet = (
            statuses(recorded["reply"].as_str().unwrap()),
            recorded["open"] == true,
        );
        world.kubelet.clear();
        let client = if name == "plain-http-on-tls-port" {
            Client::plain(world.address)
        } else {
            world.tls_client(Some(&PKI.bob), Alpn::Absent)
        };
        let mut wire = Wire::new(client.stream().await.unwrap());
        wire.write(&request(name)).await;
        let mut gate = (Vec::new(), true);
        for _ in 0..kubelet.0.len() {
            match wire.answer(false).await {
                Some(answer) => gate.0.push(answer.status),
                None => gate.1 = false,
            }
        }
        wire.write(THEN).await;
        gate.1 &= wire.answer(false).await.is_some();
        let seen: Vec<_> = world.kubelet.requests();
        let seen: Vec<_> = seen
            .iter()
            .filter(|seen| seen.target != "/healthz?then")
            .collect();
        for seen in &seen {
            assert_well_formed(name, seen);
        }
        let passed = gate.0.iter().filter(|status| **status == 200).count();
        if seen.len() != passed {
            wrong.push(format!("{name}: {gate:?}, but the kubelet saw {seen:?}"));
        }
        let differs = |row: &[&str]| {
            let statuses: Vec<u16> = text(row[1]).parse().into_iter().collect();
            kubelet != gate && gate == (statuses, row[2] == "open")
        };
        match differences.iter().find(|row| row[0] == name) {
            None if gate == kubelet => equal += 1,
            Some(row) if differs(row) => differ.push(name),
            _ => wrong.push(format!("{name}: the kubelet {kubelet:?}, the gate {gate:?}")),
        }
    }
    println!(
        "replay of odd HTTP: {} compared, {equal} equal, {} differ on purpose, {} others",
        recorded.len(),
        differ.len(),
        wrong.len()
    );
    for row in &differences {
        println!("  {}: {}, {}", row[0], row[1], row[3]);
    }
    assert_eq!(wrong, [""; 0]);
    world.stop().await;
}
