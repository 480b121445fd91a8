//! With `staleAllow` a scraper is served while the API server is unreachable. If a client could switch that
//! on, or if it outlived the outage, a withdrawn right would go on.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fakes::apiserver::{Api, Behaviour, METRICS_TOKEN, PROXY_GET_TOKEN, Rule, Subject, User};
use fakes::pki::{CertificateSpec, Pair};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::answers_failures::{NO_ACCESS_REVIEW, NO_TOKEN_REVIEW};
use crate::patience::{eventually, eventually_answers};
use crate::world::{PKI, Status as _, World, WorldBuilder, assert_answer};

/// A world that remembers no review, so that each request would ask, and lets answers of the last hour count.
fn stale() -> WorldBuilder {
    World::builder()
        .without_caches()
        .set("authorization.webhook.staleAllow.maxAge", "1h")
        .set("limits.reviewTimeout", "500ms")
        .set("limits.rejectedTokensPerAddress", 1000)
}

fn used(world: &World) -> f64 {
    world.metric("stale_answers_total", &[])
}

/// A user with every right that no other test row has asked about: a failure is remembered for a second.
fn admin(number: usize) -> Pair {
    let name = format!("admin-{number}");
    PKI.client(&name, &CertificateSpec::client(&name).group("admins"))
        .unwrap()
}

/// What `/readyz?verbose` says of stale answers.
async fn said(world: &World) -> String {
    let answer = world.admin_client().get("/readyz?verbose").await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    text.lines()
        .find(|line| line.contains("stale-answers"))
        .unwrap_or_default()
        .to_owned()
}

fn stale_annotation(event: &Value) -> &str {
    event["annotations"]["kubelet-gate.dev/stale"]
        .as_str()
        .unwrap_or("")
}

/// Seen red: with the probe left out, earlier answers go on after the outage.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_allow_counts_while_the_api_server_is_unreachable_and_no_longer() {
    let world = stale().start().await;
    assert_eq!(
        said(&world).await,
        "[?] stale-answers: allowed, and none was used"
    );
    let outages = [
        None,
        Some(Behaviour::Fail(500)),
        Some(Behaviour::Fail(503)),
        Some(Behaviour::Hang),
        Some(Behaviour::Close),
    ];
    let mut events = 0;
    for (number, outage) in outages.into_iter().enumerate() {
        let token = format!("token-{number}");
        world
            .api
            .add_token(&token, User::service_account("monitoring", "metrics"));
        let (token, user) = (world.token_client(&token), world.client_with(&admin(number)));
        assert_eq!(token.status("/metrics").await, 200);
        assert_eq!(user.status("/metrics").await, 200);
        assert_eq!(user.status("/pods").await, 200);
        let before = used(&world);
        match outage {
            None => world.api.down().await.unwrap(),
            Some(behaviour) => world.api.behave_entirely(behaviour),
        }
        assert_eq!(token.status("/metrics").await, 200, "row {number}");
        assert_eq!(token.status("/metrics").await, 200, "row {number}");
        assert_eq!(user.status("/metrics").await, 200, "row {number}");
        assert_eq!(used(&world), before + 5.0, "row {number}");
        let answer = user.get("/pods").await.unwrap();
        assert_answer(&answer, 503, NO_ACCESS_REVIEW);
        let answer = world
            .token_client(&format!("new-{number}"))
            .get("/metrics")
            .await
            .unwrap();
        assert_answer(&answer, 503, NO_TOKEN_REVIEW);
        events += 8;
        let seen = world.audit_events(events).await;
        let shown: Vec<_> = seen[events - 5..].iter().map(stale_annotation).collect();
        let both = "TokenReview, SubjectAccessReview";
        assert_eq!(shown, [both, both, "SubjectAccessReview", "", ""], "row {number}");

        world.api.up().await.unwrap();
        world.api.heal();
        let (healed, before) = (Instant::now(), used(&world));
        eventually_answers("the API server is asked again", async || {
            assert_eq!(token.status("/metrics").await, 200);
            events += 1;
            used(&world) == before || {
                world.api.clear_reviews();
                assert_eq!(token.status("/metrics").await, 200);
                events += 1;
                world.api.count(Api::Token) == 1
            }
        })
        .await;
        // An outcome of the probe counts for a second.
        let late = healed.elapsed();
        assert!(
            late < crate::patience::stretched(Duration::from_secs(3)),
            "{late:?}"
        );
    }
    let said = said(&world).await;
    assert!(said.starts_with("[!] stale-answers: "), "{said}");
    assert!(said.contains(" were used, the last at 20"), "{said}");
    world.stop().await;
}

/// Two reviews of a user may overtake each other. An answer to a question that was asked before the user was
/// refused something must not stand when the refusal has been noted.
///
/// Seen red: with the time of the refusal not looked at, the last request is answered 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_older_allow_that_comes_after_a_refusal_is_not_kept() {
    let world = stale().set("limits.reviewTimeout", "60s").start().await;
    let user = admin(0);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let late = Behaviour::Answer(std::sync::Arc::new(move |_| {
        let _ = released.lock().unwrap().recv();
        json!({"allowed": true})
    }));
    let denied = Behaviour::status(json!({"allowed": false, "denied": true}));
    world.api.behave_next(Api::Access, [late, denied]);
    let client = world.client_with(&user);
    let older = tokio::spawn(async move { client.status("/metrics").await });
    eventually("the older question is asked", || {
        world.api.count(Api::Access) == 1
    })
    .await;
    assert_eq!(world.client_with(&user).status("/pods").await, 403);
    release.send(()).unwrap();
    assert_eq!(older.await.unwrap(), 200, "it was allowed when it was asked");
    world.api.down().await.unwrap();
    assert_eq!(world.client_with(&user).status("/metrics").await, 503);
    assert_eq!(used(&world), 0.0);
    world.stop().await;
}

/// An attacker must not be able to switch it on: each of these is a failure of a review, and no outage.
///
/// Seen red: with every failed review counted as an outage, the first row whose probe fails; with the probe
/// not asked, the first row.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_is_no_outage_makes_no_answer_stale() {
    let world = stale().start().await;
    let down = Behaviour::Fail(500);
    let contradiction = Behaviour::status(json!({
        "allowed": true, "denied": true, "authenticated": true, "user": {"username": "x"}, "error": "or not",
    }));
    for (number, (reviews, probe)) in [
        // The API server answers the probe: the failure is about the question.
        (Behaviour::Fail(500), Behaviour::Normal),
        (Behaviour::Hang, Behaviour::Normal),
        (Behaviour::Close, Behaviour::Normal),
        (Behaviour::Fail(500), Behaviour::Fail(401)),
        (Behaviour::Fail(500), Behaviour::Fail(403)),
        (Behaviour::Fail(500), Behaviour::Fail(429)),
        // The probe fails, and the reviews do not show an outage.
        (Behaviour::Fail(401), down.clone()),
        (Behaviour::Fail(403), down.clone()),
        (Behaviour::Throttle(60), down.clone()),
        (Behaviour::Garbage, down.clone()),
        (Behaviour::Huge(2 << 20), down.clone()),
        (Behaviour::Raw(200, "<html>".to_owned()), down.clone()),
        (Behaviour::Raw(302, String::new()), down.clone()),
        (contradiction, down),
    ]
    .into_iter()
    .enumerate()
    {
        let token = format!("token-{number}");
        world
            .api
            .add_token(&token, User::service_account("monitoring", "metrics"));
        let (token, user) = (world.token_client(&token), world.client_with(&admin(number)));
        assert_eq!(token.status("/metrics").await, 200);
        assert_eq!(user.status("/metrics").await, 200);
        world.api.behave_all(reviews);
        world.api.behave_probe(probe);
        assert_eq!(user.status("/metrics").await, 503, "row {number}");
        assert_eq!(token.status("/metrics").await, 503, "row {number}");
        world.api.heal();
        eventually_answers("the failure is forgotten", async || {
            token.status("/metrics").await == 200 && user.status("/metrics").await == 200
        })
        .await;
    }
    assert_eq!(used(&world), 0.0);
    world.stop().await;
}

/// Reviews that hang for the sake of their tokens take all slots: the others are not asked, and that is no
/// outage.
///
/// Seen red: with the probe not asked.
#[tokio::test(flavor = "multi_thread")]
async fn taken_slots_and_spent_budgets_make_no_answer_stale() {
    let world = stale()
        .set("limits.concurrentReviews", 2)
        .set("limits.reviewTimeout", "2s")
        .set("limits.rejectedTokensPerAddress", 1)
        .start()
        .await;
    let token = world.token_client(METRICS_TOKEN);
    assert_eq!(token.status("/metrics").await, 200);
    let user = world.client_with(&admin(0));
    assert_eq!(user.status("/metrics").await, 200);
    world.api.behave_all(Behaviour::Hang);
    let mut flood = JoinSet::new();
    for number in 0..40 {
        let (bad, other) = (
            world.token_client(&format!("bad-{number}")),
            world.client_with(&admin(number + 1)),
        );
        flood.spawn(async move {
            match number % 2 {
                0 => bad.status("/metrics").await,
                _ => other.status("/metrics").await,
            }
        });
    }
    eventually("the slots are taken", || world.api.reviews().len() >= 4).await;
    assert_eq!(user.status("/metrics").await, 503);
    let status = token.status("/metrics").await;
    assert!(matches!(status, 429 | 503), "{status}");
    for status in flood.join_all().await {
        assert!(matches!(status, 429 | 503), "{status}");
    }
    assert_eq!(used(&world), 0.0);
    world.stop().await;
}

/// Seen red: with everything covered, `/stats/summary` is served.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_get_of_what_is_named_is_served() {
    let world = stale()
        .set(
            "authorization.webhook.staleAllow.subresources",
            json!(["metrics", "healthz"]),
        )
        .start()
        .await;
    let reader = Rule::allow(Subject::user("reader"), &["*"], &["proxy"]);
    world.api.add_rule(reader);
    let websocket = [("connection", "upgrade"), ("upgrade", "websocket")];
    let asked = [
        ("GET", "/stats/summary", &[][..]),
        ("GET", "/pods", &[]),
        ("GET", "/configz", &[]),
        ("GET", "/logs/", &[]),
        ("GET", "/containerLogs/a/b/c", &[]),
        ("GET", "/", &[]),
        ("POST", "/metrics", &[]),
        ("PUT", "/healthz", &[]),
        ("GET", "/exec/a/b/c?command=id&output=1", &websocket[..]),
    ];
    world.api.add_token("admin", User::new("admin", &["admins"]));
    let (token, user) = (world.token_client("admin"), world.client_with(&admin(0)));
    for path in ["/metrics", "/healthz"] {
        assert_eq!(token.status(path).await, 200);
        assert_eq!(user.status(path).await, 200);
    }
    for (method, path, headers) in &asked[..8] {
        let answer = token.call(method, path, headers, "").await.unwrap();
        assert!(!answer.status().is_server_error(), "{method} {path}: {answer:?}");
        let answer = user.call(method, path, headers, "").await.unwrap();
        assert!(!answer.status().is_server_error(), "{method} {path}: {answer:?}");
    }
    // Allowed by `proxy`, the second check of /healthz: the first was refused.
    world.api.add_token("reader", User::new("reader", &[]));
    let reader = world.token_client("reader");
    assert_eq!(reader.status("/healthz").await, 200);
    world.api.down().await.unwrap();
    world.kubelet.clear();
    for (method, path, headers) in asked {
        let answer = token.call(method, path, headers, "").await.unwrap();
        assert_answer(&answer, 503, NO_TOKEN_REVIEW);
        let answer = user.call(method, path, headers, "").await.unwrap();
        assert_answer(&answer, 503, NO_ACCESS_REVIEW);
    }
    assert_eq!(reader.status("/healthz").await, 503);
    world.assert_nothing_forwarded();
    for path in ["/metrics", "/metrics/cadvisor", "/healthz"] {
        assert_eq!(token.status(path).await, 200, "{path}");
        assert_eq!(user.status(path).await, 200, "{path}");
    }
    let head = user.call("HEAD", "/metrics", &[], "").await.unwrap();
    assert_eq!(head.status(), 200);
    world.stop().await;
}

/// `/healthz` needs `healthz` or `proxy`. A token that was reviewed earlier gets the first, and not the
/// second by an allow that the cache still has. (Not seen red.)
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_reviewed_earlier_gets_nothing_by_the_next_check() {
    let world = World::builder()
        .flags(|flags| flags.authentication_token_webhook_cache_ttl = Some(Duration::ZERO))
        .set("authorization.webhook.staleAllow.maxAge", "1h")
        .start()
        .await;
    let reader = world.token_client(PROXY_GET_TOKEN);
    // The refusal of `healthz` is remembered only for the second request.
    for _ in 0..2 {
        assert_eq!(reader.status("/healthz").await, 200);
    }
    world.api.behave_entirely(Behaviour::Fail(503));
    world.kubelet.clear();
    let answer = reader.get("/healthz").await.unwrap();
    assert_answer(&answer, 503, NO_TOKEN_REVIEW);
    world.assert_nothing_forwarded();
    assert_eq!(used(&world), 1.0, "the token's");
    world.stop().await;
}

/// Seen red: with `forget_user` empty.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_refusal_after_it_removes_every_earlier_allow() {
    let world = stale().start().await;
    let service_account = |pod: &str| {
        let mut user = User::service_account("monitoring", "metrics");
        user.extra.insert(
            "authentication.kubernetes.io/pod-name".to_owned(),
            vec![pod.to_owned()],
        );
        user
    };
    let outage = async |tokens: [(&str, &str, u16); 4]| {
        world.api.behave_entirely(Behaviour::Fail(503));
        for (token, path, expected) in tokens {
            assert_eq!(
                world.token_client(token).status(path).await,
                expected,
                "{token} {path}"
            );
        }
        world.api.heal();
    };
    for token in ["one", "two"] {
        world.api.add_token(token, service_account(token));
        for path in ["/metrics", "/stats/summary"] {
            assert_eq!(world.token_client(token).status(path).await, 200);
        }
    }
    // A token: the other one of the same account goes on.
    world.api.revoke_token("one");
    assert_eq!(world.token_client("one").status("/metrics").await, 401);
    outage([
        // Remembered for ten seconds, outage or not.
        ("one", "/metrics", 401),
        ("one", "/stats/summary", 401),
        ("two", "/metrics", 200),
        ("two", "/stats/summary", 200),
    ])
    .await;
    world.api.behave_entirely(Behaviour::Fail(503));
    eventually_answers(
        "the refusal is forgotten, and the allow before it as well",
        async || {
            let status = world.token_client("one").status("/metrics").await;
            assert_ne!(status, 200);
            status == 503
        },
    )
    .await;
    world.api.heal();
    // A user: every token of it, and everything that it was allowed.
    world.api.add_token("one", service_account("one"));
    eventually_answers("the token is good again", async || {
        world.token_client("one").status("/metrics").await == 200
    })
    .await;
    world.api.set_rules(vec![Rule::allow(
        Subject::service_account("monitoring", "metrics"),
        &["get"],
        &["stats"],
    )]);
    assert_eq!(world.token_client("two").status("/metrics").await, 403);
    outage([
        ("one", "/metrics", 503),
        ("one", "/stats/summary", 503),
        ("two", "/metrics", 503),
        ("two", "/stats/summary", 503),
    ])
    .await;
    world.stop().await;
}

/// Seen red: with the life not cut by the token's end, and with an hour for every answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_allow_ends_with_its_age_and_with_its_token() {
    let world = stale()
        .set("authorization.webhook.staleAllow.maxAge", "3s")
        .start()
        .await;
    let (token, user) = (world.token_client(METRICS_TOKEN), world.client_with(&admin(0)));
    assert_eq!(token.status("/metrics").await, 200);
    assert_eq!(user.status("/metrics").await, 200);
    world.api.down().await.unwrap();
    assert_eq!(token.status("/metrics").await, 200);
    assert_eq!(user.status("/metrics").await, 200);
    eventually_answers("the answers are too old", async || {
        token.status("/metrics").await == 503 && user.status("/metrics").await == 503
    })
    .await;
    world.stop().await;

    let world = stale().start().await;
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3);
    let claims = URL_SAFE_NO_PAD.encode(json!({"exp": soon.as_secs_f64()}).to_string());
    let token = format!("e30.{claims}.sig");
    world
        .api
        .add_token(&token, User::service_account("monitoring", "metrics"));
    let token = world.token_client(&token);
    assert_eq!(token.status("/metrics").await, 200);
    world.api.down().await.unwrap();
    assert_eq!(token.status("/metrics").await, 200);
    eventually_answers("the token has expired", async || {
        token.status("/metrics").await == 503
    })
    .await;
    assert!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap() >= soon);
    world.stop().await;
}

/// Off by default: no earlier answer counts, and the API server sees no probe.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_an_outage_is_an_outage() {
    let world = World::builder().without_caches().start().await;
    let (token, user) = (world.token_client(METRICS_TOKEN), world.client_with(&admin(0)));
    assert_eq!(token.status("/metrics").await, 200);
    assert_eq!(user.status("/metrics").await, 200);
    world.api.behave_entirely(Behaviour::Fail(503));
    assert_answer(&token.get("/metrics").await.unwrap(), 503, NO_TOKEN_REVIEW);
    assert_answer(&user.get("/metrics").await.unwrap(), 503, NO_ACCESS_REVIEW);
    assert_eq!((world.api.probes(), used(&world)), (0, 0.0));
    assert_eq!(said(&world).await, "");
    world.stop().await;
}

/// Seen red: with each request probing for itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_probe_is_shared_bounded_and_spares_the_reviews() {
    let world = stale().start().await;
    let token = world.token_client(METRICS_TOKEN);
    assert_eq!(token.status("/metrics").await, 200);
    world.api.behave_entirely(Behaviour::Fail(503));
    assert_eq!(token.status("/metrics").await, 200);
    world.api.clear_reviews();
    let (began, before) = (Instant::now(), world.api.probes());
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let token = token.clone();
        asking.spawn(async move {
            for _ in 0..10 {
                assert_eq!(token.status("/metrics").await, 200);
            }
        });
    }
    asking.join_all().await;
    let (probes, most) = (
        world.api.probes() - before,
        1 + began.elapsed().as_secs() as usize,
    );
    assert!(probes <= most, "{probes}, at most {most}");
    assert_eq!(world.api.reviews(), [], "no request waits for a review to fail");
    world.stop().await;
}
