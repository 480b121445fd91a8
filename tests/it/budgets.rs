//! Failing credentials cost the gate signature checks and the API server reviews. A stranger must not cause
//! either without a bound, nor take them from other clients.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fakes::apiserver::{Api, METRICS_TOKEN, User};
use serde_json::json;
use tokio::task::JoinSet;

use crate::patience::{eventually, eventually_answers};
use crate::world::{PKI, Status as _, WithToken, World, assert_answer, header, request, with_junk};

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

/// Seen red: with a thousandth of the rate at which it comes back.
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

/// 200 addresses of which none has a good token.
fn flood_of_random_tokens(world: &World, tokens: usize) -> JoinSet<()> {
    let mut flood = JoinSet::new();
    for address in 0..200 {
        let stranger = world.stranger().with_source([127, 0, 1, address].into());
        flood.spawn(async move {
            let mut connection = stranger.connect().await.unwrap();
            for number in 0..tokens {
                let authorization = format!("Bearer random-{address}-{number}");
                let headers = [("authorization", authorization.as_str())];
                let answer = connection.send(request("GET", "/pods", &headers)).await.unwrap();
                assert!(matches!(answer.status().as_u16(), 401 | 429), "{answer:?}");
            }
        });
    }
    flood
}

/// Seen red: with sources that have not failed yet always allowed (each of the 200 was asked about), with
/// nothing charged before a review ends (64 reviews), and with no part kept for known sources (429).
#[tokio::test(flavor = "multi_thread")]
async fn random_tokens_of_many_addresses_are_bounded_together_and_known_addresses_go_first() {
    let world = World::builder()
        .set("limits.rejectedTokensPerAddress", 1)
        .start()
        .await;
    // The address is known by a request that a review allowed.
    assert_eq!(world.token_client(METRICS_TOKEN).status("/metrics").await, 200);
    world.api.clear_reviews();
    // Many tokens come while the first of them are being reviewed.
    world.api.set_latency(Duration::from_millis(100));
    let began = Instant::now();
    let mut flood = flood_of_random_tokens(&world, 5);
    let mut good = 0;
    while !flood.is_empty() {
        let token = format!("good-{good}");
        world
            .api
            .add_token(&token, User::service_account("monitoring", "metrics"));
        assert_eq!(world.token_client(&token).status("/metrics").await, 200);
        good += 1;
        while let Some(ended) = flood.try_join_next() {
            ended.unwrap();
        }
    }
    let random = world.api.count(Api::Token) - good;
    // Five in a second and 50 at once, half of which are kept for known addresses.
    let bound = 25 + began.elapsed().as_secs_f64().mul_add(2.5, 1.0) as usize;
    assert!(
        (20..=bound).contains(&random),
        "{random} reviews, at most {bound}"
    );
    assert!(
        world.metric(
            "authentication_failures_total",
            &[("reason", "credentials_total")]
        ) >= 1.0
    );
    // An address that was not seen before gets its share once each of the others has had its turn.
    let other = world.stranger().with_source(elsewhere()).with_token("another");
    eventually_answers("it is asked about", async || other.status("/pods").await == 401).await;
    world.stop().await;
}

/// Where attacker and client share an address, as behind NAT, only the share of that address is promised.
///
/// Seen red: with remembered tokens asked about again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_shares_its_address_with_an_attacker_shares_its_budget_for_new_tokens_alone() {
    let world = World::builder()
        .set("limits.rejectedTokensPerAddress", 2)
        .start()
        .await;
    let cached = world.token_client(METRICS_TOKEN);
    assert_eq!(cached.status("/metrics").await, 200);
    let bob = world.client("bob");
    assert_eq!(bob.status("/pods").await, 200);
    let new = world.token_client("new");
    world
        .api
        .add_token("new", User::service_account("monitoring", "metrics"));

    let attack = async {
        for number in 0.. {
            let status = world
                .token_client(&format!("random-{number}"))
                .status("/pods")
                .await;
            assert!(matches!(status, 401 | 429), "{status}");
        }
    };
    let client = async {
        eventually("the budget is spent", || {
            world.metric("authentication_failures_total", &[("reason", "credentials")]) >= 1.0
        })
        .await;
        assert_eq!(cached.status("/metrics").await, 200, "a remembered token");
        assert_eq!(bob.status("/pods").await, 200, "a remembered certificate");
        eventually_answers("a new token gets its turn", async || {
            let status = new.status("/metrics").await;
            assert!(matches!(status, 200 | 429), "{status}");
            status == 200
        })
        .await;
    };
    tokio::select! {
        () = attack => unreachable!("it has no end"),
        () = client => {}
    }
    world.stop().await;
}

/// Seen red: with the token asked about.
#[tokio::test(flavor = "multi_thread")]
async fn a_json_web_token_that_has_expired_is_refused_unasked() {
    let world = World::start().await;
    let token = |claims: serde_json::Value| {
        let encoded = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.c2ln", encoded(json!({"alg": "RS256"})), encoded(claims))
    };
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    for (claims, asked) in [
        (json!({"exp": now - 3600}), 0),
        (json!({"exp": now - 10}), 1),
        (json!({"exp": now + 3600}), 1),
        (json!({"exp": "soon"}), 1),
    ] {
        world.api.clear_reviews();
        let answer = world
            .token_client(&token(claims.clone()))
            .get("/pods")
            .await
            .unwrap();
        assert_answer(&answer, 401, "Unauthorized");
        assert_eq!(world.api.count(Api::Token), asked, "{claims}");
    }
    let reason = |reason| world.metric("authentication_failures_total", &[("reason", reason)]);
    assert_eq!((reason("expired_token"), reason("invalid_token")), (1.0, 3.0));
    world.stop().await;
}

/// The audit never sums up the refusals of such a token: it may be stolen.
///
/// Seen red: with tokens that were accepted before not told apart.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_good_and_is_rejected_now_has_a_reason_of_its_own() {
    let world = World::builder().without_caches().start().await;
    world.api.add_token("once-good", User::new("zoe", &["admins"]));
    let once_good = world.token_client("once-good");
    assert_eq!(once_good.status("/pods").await, 200);
    world.api.revoke_token("once-good");
    assert_eq!(once_good.status("/pods").await, 401);
    assert_eq!(world.token_client("never-good").status("/pods").await, 401);
    // Also beside a bad certificate.
    let both = world.client("wrong-ca").with_token("once-good");
    assert_eq!(both.status("/pods").await, 401);
    let reason = |reason| world.metric("authentication_failures_total", &[("reason", reason)]);
    assert_eq!((reason("revoked_token"), reason("invalid_token")), (2.0, 1.0));
    world.stop().await;
}

/// Seen red with refusals not charged: every connection's chain was judged.
#[tokio::test(flavor = "multi_thread")]
async fn bad_certificates_are_verified_a_bounded_number_of_times() {
    let world = World::builder()
        .set("limits.refusedCertificatesPerAddress", 1)
        .start()
        .await;
    // A chain that was refused is remembered: each of these is another one.
    let mut number = 0;
    let mut evil = || {
        number += 1;
        world.client_with(&with_junk(&PKI.wrong_ca, number))
    };
    let mut known = world.client("bob").connect().await.unwrap();
    assert_eq!(known.status("/pods").await, 200);
    let mut status = 401;
    eventually_answers("the budget is spent", async || {
        let answer = evil().get("/pods").await.unwrap();
        status = answer.status().as_u16();
        assert!(matches!(status, 401 | 429), "{status}");
        status == 429
    })
    .await;
    assert_eq!(known.status("/pods").await, 200, "judged before");
    let other = world.client("bob").with_source(elsewhere());
    assert_eq!(other.status("/pods").await, 200);

    // Neither a refused certificate nor one that is not looked at keeps a token from counting.
    let both = evil().with_token(METRICS_TOKEN);
    assert_eq!(both.status("/metrics").await, 200);
    drop(known);
    world.stop().await;
}
