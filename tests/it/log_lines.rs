//! A log that a client can fill is a disk that a client can fill, and hides the line that matters.

use fakes::client::{Alpn, Client, ClientTls};
use fakes::kubelet::{FakeKubelet, FakeKubeletOptions, Rights};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::http2_frames::{ACK, Frames, PING, frame};
use crate::patience::{eventually, patience};
use crate::program::{Installation, Serving};
use crate::world::PKI;

fn client(serving: &Serving, alpn: Alpn) -> Client {
    let tls = ClientTls {
        alpn,
        ..ClientTls::default()
    };
    Client::new(serving.address, tls)
        .unwrap()
        .with_deadline(patience())
}

/// The fields of the lines whose message has this part.
fn with_message<'a>(lines: &'a [Value], part: &str) -> Vec<&'a Value> {
    let fields = lines.iter().map(|line| &line["fields"]);
    let has = |fields: &&Value| fields["message"].as_str().unwrap().contains(part);
    fields.filter(has).collect()
}

/// The API server cannot be reached, and a stranger sends tokens: each is a 503, and a fault of the API
/// server.
///
/// Seen red: without the filter, 300 lines.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_clients_meet_is_one_line_a_minute_and_a_count() {
    let mut serving = Serving::start(&Installation::new()).await;
    let mut asking = JoinSet::new();
    for connection in 0..3 {
        let client = client(&serving, Alpn::H1);
        asking.spawn(async move {
            let mut faults = 0;
            for number in 0..100 {
                let token = format!("Bearer random-{connection}-{number}");
                let answer = client
                    .call("GET", "/pods", &[("authorization", &token)], "")
                    .await
                    .unwrap();
                faults += u64::from(answer.status() == 503);
            }
            faults
        });
    }
    let mut faults = 0;
    while let Some(asked) = asking.join_next().await {
        faults += asked.unwrap();
    }
    assert!(faults > 100, "{faults}");
    let written = with_message(&serving.later(), "not answered").len() as u64;
    assert!((1..=4).contains(&written), "{written}: {:#?}", serving.later());
    let lines = until_the_end(&mut serving).await;
    let counts = with_message(&lines, "more lines in the last minute like: not answered");
    let counted: u64 = counts.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(counted + written, faults, "{lines:#?}");
}

/// The kubelet refuses the gate: each request is a fault of the operator's, who has to hear of it once and
/// with the kubelet's own sentence. Seen red: with the lines left unfiltered.
#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_that_refuses_the_gate_is_a_few_lines_and_a_count() {
    let kubelet = FakeKubelet::start(FakeKubeletOptions::default()).await.unwrap();
    kubelet.adjust(|knobs| {
        knobs.rights = Some(Rights {
            user: "kubelet-gate:worker-1".to_owned(),
            verbs: Vec::new(),
            subresources: Vec::new(),
        });
    });
    let installation = Installation::new();
    PKI.write(installation.directory.path()).unwrap();
    installation.configure(|configuration| {
        configuration["upstream"] = json!({"url": format!("http://{}", kubelet.address())});
        configuration["authorization"] = json!({"mode": "AlwaysAllow"});
    });
    let mut serving = Serving::start(&installation).await;
    let pair = PKI.pair("bob").unwrap();
    let tls = ClientTls {
        certificate: Some((pair.chain.clone(), pair.key.clone_key())),
        ..ClientTls::default()
    };
    let bob = Client::new(serving.address, tls)
        .unwrap()
        .with_deadline(patience());
    for _ in 0..100 {
        assert_eq!(bob.get("/stats/summary").await.unwrap().status(), 502);
    }
    let lines = until_the_end(&mut serving).await;
    let written = with_message(&lines, "not answered");
    assert!((1..=5).contains(&written.len()), "{written:#?}");
    let first = written[0]["message"].as_str().unwrap();
    for part in [
        "answers 403 to the gate's own credential",
        "Forbidden (user=kubelet-gate:worker-1, verb=get, resource=nodes, subresource(s)=[stats])",
        "NEXT.md",
    ] {
        assert!(first.contains(part), "{part}: {first}");
    }
    let counts = with_message(&lines, "more lines in the last minute like: not answered");
    let counted: u64 = counts.iter().map(|line| line["count"].as_u64().unwrap()).sum();
    assert_eq!(
        counted + written.len() as u64 - counts.len() as u64,
        100,
        "{lines:#?}"
    );
}

/// Ends the gate, and yields its lines to the last.
async fn until_the_end(serving: &mut Serving) -> Vec<Value> {
    serving.signal(Signal::TERM);
    assert!(serving.exit().await.success());
    eventually("the last line is read", || {
        !with_message(&serving.later(), "stopped").is_empty()
    })
    .await;
    serving.later()
}

/// Seen red: without the filter, 500 lines at `warn`.
#[tokio::test(flavor = "multi_thread")]
async fn what_h2_says_of_a_client_is_one_line_a_minute() {
    let mut serving = Serving::start(&Installation::new()).await;
    for _ in 0..5 {
        let mut frames = Frames::open(&client(&serving, Alpn::H2), &[]).await;
        let acknowledged = frame(PING, ACK, 0, b"unasked.");
        for _ in 0..100 {
            frames.send(&acknowledged).await;
        }
        // Its own ping is answered once all before it have been read.
        frames.send(&frame(PING, 0, 0, b"question")).await;
        frames.find(PING, 0, patience()).await.unwrap();
    }
    let lines = serving.later();
    assert_eq!(with_message(&lines, "recv PING ack").len(), 1, "{lines:#?}");
    let lines = until_the_end(&mut serving).await;
    let counts = with_message(&lines, "more lines in the last minute like: recv PING ack");
    assert_eq!(
        (counts.len(), counts[0]["count"].as_u64()),
        (1, Some(499)),
        "{lines:#?}"
    );
}
