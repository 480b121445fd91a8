//! Judging streams again costs the API server reviews. One review for each stream would be a flood in
//! a cluster of thousands of nodes, and an API server that is down must not end every shell at once,
//! nor let one live for ever.

use std::time::{Duration, Instant};

use fakes::apiserver::{ADMIN_TOKEN, Api, Behaviour};

use crate::live_streams::{Kind, Live, Shows, no_stream_is_left, watchful};
use crate::patience::{eventually, stays};
use crate::world::{PKI, World};

fn ends(world: &World, by: &str) -> f64 {
    world.metric("stream_ends_total", &[("ended_by", by)])
}

/// Twenty streams and four checks in a round, and as many reviews as checks.
///
/// Seen red: with each stream's rounds counted from its own beginning, and with the cache asked for no answer
/// that is fresh enough: twenty reviews in a round.
#[tokio::test(flavor = "multi_thread")]
async fn the_streams_of_one_user_share_their_reviews() {
    let world = World::builder()
        .set("streams.recheckInterval", "1s")
        .start()
        .await;
    let mut open = Vec::new();
    for shows in [Shows::Certificate(&PKI.bob), Shows::Token(ADMIN_TOKEN)] {
        for _ in 0..10 {
            open.push(Live::open(&world, Kind::Spdy, shows).await);
        }
        for _ in 0..2 {
            open.push(Live::open(&world, Kind::Http1Log, shows).await);
        }
    }
    let rounds = 4;
    let began = Instant::now();
    world.api.clear_reviews();
    eventually("some rounds are over", || {
        world.api.count(Api::Access) >= 4 * rounds
    })
    .await;
    let passed = began.elapsed().as_secs_f64();
    let (access, tokens) = (world.api.count(Api::Access), world.api.count(Api::Token));
    // Two users, and two checks of each. A round may have begun before, and one may end later.
    assert!(
        access as f64 <= 4.0 * (passed + 2.0),
        "{access} reviews in {passed} s"
    );
    assert!(tokens as f64 <= passed + 2.0, "{tokens} reviews in {passed} s");
    assert!(tokens >= rounds - 1, "{tokens} reviews of the token");
    for check in ["create/proxy", "get/proxy"] {
        assert!(world.api.checks().iter().any(|asked| asked == check));
    }
    for live in &mut open {
        live.assert_alive().await;
    }
    drop(open);
    world.stop().await;
}

/// Seen red: with a failed review ending the stream, and with no end at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lives_on_while_reviews_fail_and_not_for_ever() {
    let world = watchful(World::builder())
        .set("streams.maxUnverified", "2s")
        .start()
        .await;
    for failure in [Behaviour::Fail(500), Behaviour::Garbage, Behaviour::Close] {
        let before = ends(&world, "unverified");
        let mut open = Live::open_all(&world, Shows::Token(ADMIN_TOKEN)).await;
        world.api.behave_all(failure);
        let began = Instant::now();
        stays(Duration::from_secs(1), "no stream ends", || {
            ends(&world, "unverified") == before
        })
        .await;
        for live in &mut open {
            live.assert_alive().await;
        }
        for live in open {
            live.assert_ended(
                1008,
                "the API server cannot be asked whether this is still allowed",
            )
            .await;
        }
        // The last allow was at most an interval before the failures began.
        assert!(
            began.elapsed() >= Duration::from_millis(1700),
            "{:?}",
            began.elapsed()
        );
        no_stream_is_left(&world).await;
        eventually("each end is counted", || {
            ends(&world, "unverified") == before + 4.0
        })
        .await;
        world.api.heal();
    }
    let events = world.audit();
    let end = events
        .iter()
        .rev()
        .find(|event| event["annotations"]["kubelet-gate.dev/ended-by"] == "unverified");
    let error = end.unwrap()["annotations"]["kubelet-gate.dev/error"]
        .as_str()
        .unwrap();
    assert!(!error.is_empty() && !error.contains(ADMIN_TOKEN), "{error}");
    world.stop().await;
}

/// Seen red: with the time counted from the first allow.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_allowed_again_in_time_goes_on() {
    let world = watchful(World::builder())
        .set("streams.maxUnverified", "3s")
        .start()
        .await;
    let mut open = Live::open_all(&world, Shows::Certificate(&PKI.bob)).await;
    let errors = || world.metric("reviews_total", &[("result", "error")]);
    for _ in 0..3 {
        let before = errors();
        world.api.down().await.unwrap();
        eventually("a review fails", || errors() > before).await;
        tokio::time::sleep(Duration::from_millis(1000)).await;
        world.api.up().await.unwrap();
        let answered = world.metric("reviews_total", &[("result", "ok")]);
        eventually("reviews succeed again", || {
            world.metric("reviews_total", &[("result", "ok")]) > answered + 2.0
        })
        .await;
    }
    for live in &mut open {
        live.assert_alive().await;
    }
    assert_eq!(ends(&world, "unverified"), 0.0);
    drop(open);
    world.stop().await;
}

/// A review that never ends must not hold back what needs none.
///
/// Seen red: with a change waiting for the judgement that is running.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_ca_counts_at_once_while_the_api_server_hangs() {
    let world = watchful(World::builder())
        .set("limits.reviewTimeout", "1m")
        .set("streams.maxUnverified", "10m")
        .start()
        .await;
    let both = [PKI.ca.certificate_pem(), PKI.rotated_ca.certificate_pem()];
    std::fs::write(world.file("ca.crt"), both.concat()).unwrap();
    world.gate.reload();
    let open = Live::open_all(&world, Shows::Certificate(&PKI.carol)).await;
    world.api.behave_all(Behaviour::Hang);
    world.api.clear_reviews();
    eventually("a review hangs", || world.api.count(Api::Access) > 0).await;
    std::fs::write(world.file("ca.crt"), &both[0]).unwrap();
    world.gate.reload();
    for live in open {
        live.assert_ended(1008, "the credential is no longer accepted")
            .await;
    }
    world.api.heal();
    no_stream_is_left(&world).await;
    world.stop().await;
}
