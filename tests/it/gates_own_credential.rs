//! If the kubelet's refusal of the gate were passed on, each caller would take it for a refusal of its own,
//! would learn what the gate is called, and no operator would look at the gate's credential.

use bytes::Bytes;
use fakes::kubelet::{Fault, Knobs, Rights};
use http::Response;

use crate::world::{Status as _, World, assert_answer, header};

const GATE: &str = "kubelet-gate:worker-1";
const FORBIDDEN: &str = "the kubelet forbids this to the gate's own credential\n";
const UNAUTHORIZED: &str = "the kubelet does not accept the gate's own credential\n";
const UNDECIDED: &str = "the kubelet could not authorize the gate's own credential\n";

fn rights(verbs: &[&str], subresources: &[&str]) -> Rights {
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Rights {
        user: GATE.to_owned(),
        verbs: strings(verbs),
        subresources: strings(subresources),
    }
}

/// Answers every request so.
fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> impl FnOnce(&mut Knobs) + use<> {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let body = Bytes::from(body.to_owned());
    move |knobs| {
        knobs.faults = vec![(
            "/".to_owned(),
            Fault::Answer {
                status,
                headers,
                body,
            },
        )];
    }
}

/// An answer in chunks of one byte.
fn in_chunks(status: &str, body: &str) -> impl FnOnce(&mut Knobs) + use<> {
    let chunks: String = body.chars().map(|one| format!("1\r\n{one}\r\n")).collect();
    let bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
    );
    move |knobs| {
        knobs.faults = vec![(
            "/".to_owned(),
            Fault::Raw {
                bytes: bytes.into(),
                close: false,
            },
        )];
    }
}

fn assert_names_no_gate(answer: &Response<Bytes>) {
    let said = format!(
        "{:?} {}",
        answer.headers(),
        String::from_utf8_lossy(answer.body())
    );
    for secret in [GATE, "user=", "worker-1"] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
}

/// Seen red: with the kubelet's answers passed on as they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_gate_is_the_operators_and_does_not_name_the_gate() {
    let world = World::start().await;
    let bob = world.client("bob");
    let may = rights(&["get", "create"], &["proxy", "metrics"]);
    world.kubelet.adjust(|knobs| knobs.rights = Some(may));
    assert_eq!(bob.status("/metrics").await, 200);
    for (method, target) in [
        ("GET", "/stats/summary"),
        ("GET", "/statusz"),
        ("DELETE", "/pods"),
    ] {
        let refused = bob.call(method, target, &[], "").await.unwrap();
        assert_answer(&refused, 502, FORBIDDEN);
        assert_names_no_gate(&refused);
    }
    // HEAD needs a verb of its own, and its answer has no words.
    let refused = bob.call("HEAD", "/metrics", &[], "").await.unwrap();
    assert_answer(&refused, 502, "");
    assert_names_no_gate(&refused);
    world
        .kubelet
        .adjust(|knobs| knobs.rights = Some(rights(&["get", ""], &["metrics"])));
    let answered = bob.call("HEAD", "/metrics", &[], "").await.unwrap();
    assert_eq!(answered.status(), 200);

    // A command, by SPDY.
    let target = "/exec/default/web/app?command=ls&output=1";
    let refused = bob.spdy("POST", target, &[]).await.unwrap();
    let refused = refused.refused().expect("no tunnel");
    assert_answer(&refused, 502, FORBIDDEN);
    assert_names_no_gate(&refused);

    assert_eq!(
        world.metric("upstream_refusals_total", &[("reason", "kubelet_forbidden")]),
        5.0
    );
    let refused = [("code", "502"), ("decision", "allow")];
    assert_eq!(world.metric("requests_total", &refused), 5.0);

    world.kubelet.adjust(|knobs| {
        knobs.rights = None;
        knobs.required_token = Some("another".to_owned());
    });
    let refused = bob.get("/pods").await.unwrap();
    assert_answer(&refused, 502, UNAUTHORIZED);
    assert_eq!(bob.call("HEAD", "/pods", &[], "").await.unwrap().status(), 502);
    assert_eq!(
        world.metric("upstream_refusals_total", &[("reason", "kubelet_unauthorized")]),
        2.0
    );
    world.stop().await;
}

/// However the kubelet's words arrive, and in the words of older kubelets too. Seen red: with the first piece
/// of the body judged alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_known_in_pieces_and_in_older_words() {
    let world = World::start().await;
    let bob = world.client("bob");
    let plain = [("Content-Type", "text/plain; charset=utf-8")];
    let old = format!("Forbidden (user={GATE}, verb=get, resource=nodes, subresource=proxy)");
    let undecided = format!("Authorization error (user={GATE}, verb=get, resource=nodes, subresource=proxy)");
    let long = format!("Forbidden (user={GATE}{})", "x".repeat(100_000));
    for (status, words, ours) in [
        (403, old.as_str(), FORBIDDEN),
        (403, &long, FORBIDDEN),
        (500, &undecided, UNDECIDED),
        (401, "Unauthorized", UNAUTHORIZED),
        (401, "Unauthorized\n", UNAUTHORIZED),
    ] {
        world.kubelet.adjust(answer(status, &plain, words));
        assert_answer(&bob.get("/pods").await.unwrap(), 502, ours);
        if words.len() < 1000 {
            world.kubelet.adjust(in_chunks(&format!("{status} X"), words));
            assert_answer(&bob.get("/pods").await.unwrap(), 502, ours);
        }
    }
    // An answer that breaks off decides nothing.
    world.kubelet.adjust(|knobs| {
        let bytes = "HTTP/1.1 403 Forbidden\r\nContent-Length: 90\r\n\r\nForb";
        knobs.faults = vec![(
            "/".to_owned(),
            Fault::Raw {
                bytes: bytes.into(),
                close: true,
            },
        )];
    });
    assert_answer(
        &bob.get("/pods").await.unwrap(),
        502,
        "the kubelet gave no usable answer\n",
    );
    world.stop().await;
}

/// A 403 for a log file that the kubelet may not read is an answer to the caller. Seen red: with what
/// was read ahead left out of the body; with a longer text that begins with `Unauthorized` taken for one.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_kubelet_says_about_the_request_itself_is_passed_on_untouched() {
    let world = World::start().await;
    let bob = world.client("bob");
    let large = "0123456789abcdef".repeat(20_000);
    let by_http_error = ("X-Content-Type-Options", "nosniff");
    for (status, headers, body) in [
        (403, &[by_http_error][..], "403 Forbidden\n"),
        (403, &[], ""),
        (403, &[], "Forbidden"),
        (403, &[], "Forbidden (us"),
        (
            403,
            &[],
            "Authorization error: could not determine attributes for request",
        ),
        (403, &[], &large),
        (401, &[], "Unauthorized to read this image"),
        (401, &[], "Unauthorized\n\n"),
        (401, &[by_http_error], ""),
        (500, &[], "Internal Server Error"),
        (500, &[], "Forbidden (user=x)"),
        (404, &[], "Forbidden (user=x)"),
        (200, &[], "Forbidden (user=x)"),
    ] {
        world.kubelet.adjust(answer(status, headers, body));
        let passed = bob.get("/logs/secret").await.unwrap();
        assert_answer(&passed, status, body);
        if body.len() < 2000 {
            assert_eq!(header(&passed, "content-length"), body.len().to_string());
        }
        let chunked = in_chunks(&format!("{status} X"), &body[..body.len().min(1000)]);
        world.kubelet.adjust(chunked);
        assert_answer(
            &bob.get("/logs/secret").await.unwrap(),
            status,
            &body[..body.len().min(1000)],
        );
    }
    let plain = ("Content-Type", "text/plain; charset=utf-8");
    world
        .kubelet
        .adjust(answer(403, &[plain, by_http_error], "403 Forbidden\n"));
    let passed = bob.call("HEAD", "/logs/secret", &[], "").await.unwrap();
    assert_eq!(passed.status(), 403);
    assert_eq!(world.metric("upstream_refusals_total", &[]), 0.0);
    world.stop().await;
}
