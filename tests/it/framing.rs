//! The end of a request is the beginning of the next one. Every row of the table is an oddly framed request
//! with a second one behind it that its sender may not make: however the gate reads the first, it must judge
//! the second on its own, and the kubelet must see one well-formed request or none.

use std::time::Duration;

use fakes::apiserver::{ADMIN_TOKEN, METRICS_TOKEN};

use crate::corpus::{bytes, rows};
use crate::patience::{eventually, stretched};
use crate::smuggling::assert_well_formed;
use crate::world::{World, assert_answer};

/// A gate that sends nothing for so long waits for more.
const SILENCE: Duration = Duration::from_secs(3);

/// What becomes of the two requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// The first passes with this many bytes of body, the second is refused for its own sake.
    Passed(u64),
    /// The first passes with this many bytes of body, and the connection is closed behind it.
    PassedAndClosed(u64),
    /// The gate answers with this status, nothing passes, and the connection is closed.
    Refused(u16),
    /// The gate answers the first with this status, and the second with 403.
    Answered(u16),
    /// The head may have passed; the body is broken off, at the kubelet as at the client.
    BrokenOff,
    /// By its framing the second is part of the first, whose rest the gate waits for.
    Waits,
}
use Fate::{Answered, BrokenOff, Passed, PassedAndClosed, Refused, Waits};

impl Fate {
    fn of(text: &str) -> Self {
        let (word, number) = text.split_once(' ').unwrap_or((text, "0"));
        let number: u64 = number.parse().unwrap();
        match word {
            "Passed" => Passed(number),
            "PassedAndClosed" => PassedAndClosed(number),
            "Refused" => Refused(u16::try_from(number).unwrap()),
            "Answered" => Answered(u16::try_from(number).unwrap()),
            "BrokenOff" => BrokenOff,
            "Waits" => Waits,
            other => panic!("{other} is no fate"),
        }
    }
}

/// A request that its sender may not make.
fn second() -> String {
    format!(
        "GET /pods?second HTTP/1.1\r\nHost: node\r\nConnection: close\r\nAuthorization: Bearer \
         {METRICS_TOKEN}\r\n\r\n"
    )
}

/// The statuses of the answers, without 100 Continue.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    text.match_indices("HTTP/1.")
        .filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok())
        .filter(|status| *status >= 200)
        .collect()
}

/// Seen red with `headers::for_kubelet` removing nothing (the first row's token is at the kubelet), with the
/// coding not looked at ("identity, chunked" passes), and with `may_be_an_upgrade` looking at `Upgrade` alone
/// ("half the word upgrade": the second request is answered).
#[tokio::test(flavor = "multi_thread")]
async fn one_request_is_one_request() {
    let world = World::start().await;
    let mut wrong = Vec::new();
    for row in rows(include_str!("data/framing.tsv")) {
        let [name, fate, head, body] = row[..] else {
            panic!("{row:?}")
        };
        let fate = Fate::of(fate);
        world.kubelet.clear();
        let mut message = bytes(head);
        let first_line = message.split(|byte| *byte == b'\n').next().unwrap();
        if !String::from_utf8_lossy(first_line).contains(" HTTP/") && !head.starts_with(r"\r") {
            message.splice(..0, *b"POST /lab/echo HTTP/1.1\r\n");
        }
        message.extend(format!("\r\nHost: node\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n").bytes());
        message.extend(bytes(body));
        message.extend(second().bytes());
        let client = world.stranger().with_deadline(stretched(SILENCE));
        let answers = client.raw(&message).await.unwrap_or_default();
        let statuses = statuses(&answers);
        if fate != Waits {
            eventually("nothing is in flight", || {
                world.metric("requests_in_flight", &[]) == 0.0
            })
            .await;
        }
        let seen = world.kubelet.requests();
        assert!(seen.len() <= 1, "{name}: {seen:#?}");
        for seen in &seen {
            assert!(seen.target.starts_with("/lab/"), "{name}: {seen:?}");
            for dropped in [
                "authorization",
                "trailer",
                "x-end",
                "te",
                "connection",
                "upgrade",
                "expect",
            ] {
                assert_eq!(seen.header(dropped), None, "{name}");
            }
            if matches!(fate, Passed(_) | PassedAndClosed(_)) {
                assert_well_formed(name, seen);
            }
        }
        let body = seen.first().map(|seen| seen.body_len);
        let right = match fate {
            Passed(length) => statuses == [200, 403] && body == Some(length),
            PassedAndClosed(length) => statuses == [200] && body == Some(length),
            Refused(status) => statuses == [status] && body.is_none(),
            Answered(status) => statuses == [status, 403] && body.is_none(),
            BrokenOff => matches!(statuses[..], [] | [200 | 400 | 502]),
            Waits => statuses.is_empty() && body.is_none_or(|length| length < 2000),
        };
        if !right {
            wrong.push(format!("{name}: {fate:?}, but {statuses:?} and {body:?}"));
        }
        // The next client on this connection to the kubelet gets the answer to its own request.
        let next = world
            .token_client(METRICS_TOKEN)
            .get("/metrics/resource?next")
            .await;
        assert_eq!(next.unwrap().status(), 200, "{name}");
    }
    assert_eq!(wrong, [""; 0]);
    assert_answer(&world.client("bob").get("/healthz").await.unwrap(), 200, "ok");
    world.stop().await;
}
