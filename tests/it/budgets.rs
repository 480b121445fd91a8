//! Failing credentials cost the gate signature checks and the API server reviews. A stranger must not cause
//! either without a bound, nor take them from other clients.

use std::net::IpAddr;
use std::time::Instant;

use fakes::apiserver::{Api, METRICS_TOKEN};

use crate::patience::eventually_answers;
use crate::world::{Status as _, WithToken, World, assert_answer, header, request};

const EXHAUSTED: &str = "too many credentials of this address were refused just now\n";

fn elsewhere() -> IpAddr {
    IpAddr::from([127, 0, 0, 2])
}

/// Seen red with `Budget::allows` always true: every one of the 2000 tokens was asked about.
#[tokio::test(flavor = "multi_thread")]
async fn random_tokens_cause_a_bounded_number_of_reviews_and_other_clients_are_served() {
    let world = World::builder()
        .set("limits.rejectedTokensPerAddress", 1)
        .set("limits.cacheEntries", 64)
        .start()
        .await;
    let known = world.token_client(METRICS_TOKEN);
    assert_eq!(known.status("/metrics").await, 200);
    world.api.clear_reviews();

    let (began, mut connection) = (Instant::now(), world.stranger().connect().await.unwrap());
    let mut refused = 0;
    for number in 0..2000 {
        let authorization = format!("Bearer random-{number}");
        let answer = connection
            .send(request("GET", "/pods", &[("authorization", &authorization)]))
            .await
            .unwrap();
        // A connection of a stranger ends after some refusals.
        if header(&answer, "connection") == "close" {
            connection = world.stranger().connect().await.unwrap();
        }
        if answer.status() == 401 {
            continue;
        }
        assert_answer(&answer, 429, EXHAUSTED);
        assert_eq!(header(&answer, "retry-after"), "1");
        refused += 1;
    }
    let reviews = world.api.count(Api::Token);
    let bound = 10 + began.elapsed().as_secs() as usize + 1;
    assert!(
        (10..=bound).contains(&reviews),
        "{reviews} reviews, at most {bound}"
    );
    assert_eq!(refused, 2000 - reviews, "each was asked about or refused");
    world.assert_nothing_forwarded_but("/metrics");

    // A remembered token, certificates, and clients at other addresses go on.
    assert_eq!(known.status("/metrics").await, 200);
    assert_eq!(world.client("bob").status("/pods").await, 200);
    let other = world.stranger().with_source(elsewhere()).with_token("another");
    assert_answer(&other.get("/pods").await.unwrap(), 401, "Unauthorized");
    drop(connection);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_comes_back_with_time() {
    let world = World::builder()
        .set("limits.rejectedTokensPerAddress", 1)
        .start()
        .await;
    let mut number = 0;
    let mut next = async || {
        number += 1;
        let client = world.token_client(&format!("random-{number}"));
        client.status("/pods").await
    };
    eventually_answers("the budget is spent", async || next().await == 429).await;
    eventually_answers("some of it is back", async || next().await == 401).await;
    world.stop().await;
}

/// Seen red with refusals not charged: every connection's chain was judged.
#[tokio::test(flavor = "multi_thread")]
async fn bad_certificates_are_verified_a_bounded_number_of_times() {
    let world = World::builder()
        .set("limits.refusedCertificatesPerAddress", 1)
        .start()
        .await;
    let evil = world.client("wrong-ca");
    let mut known = world.client("bob").connect().await.unwrap();
    assert_eq!(known.status("/pods").await, 200);
    let mut status = 401;
    eventually_answers("the budget is spent", async || {
        let answer = evil.get("/pods").await.unwrap();
        status = answer.status().as_u16();
        assert!(matches!(status, 401 | 429), "{status}");
        status == 429
    })
    .await;
    assert_eq!(known.status("/pods").await, 200, "judged before");
    let other = world.client("bob").with_source(elsewhere());
    assert_eq!(other.status("/pods").await, 200);

    // Neither a refused certificate nor one that is not looked at keeps a token from counting.
    let both = evil.with_token(METRICS_TOKEN);
    assert_eq!(both.status("/metrics").await, 200);
    drop(known);
    world.stop().await;
}
