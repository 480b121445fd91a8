//! If two different questions shared a decision, or a decision outlived its time, a user could do what is not
//! permitted. If nothing were shared, every scrape of every node would be a review at the API server.

use std::time::{Duration, Instant};

use fakes::apiserver::{Api, Behaviour, Rule, Subject, User};
use fakes::pki::{CertificateSpec, Pair};
use serde_json::{Value, json};

use crate::patience::{eventually, eventually_answers};
use crate::world::{API_SERVER, PKI, Status as _, World, assert_answer};

const EXEC: &str = "/exec/default/web/nginx?command=id&output=1";
const RUN: &str = "/run/default/web/nginx?cmd=id";

fn alice_may(verbs: &[&str], subresources: &[&str]) -> Rule {
    Rule::allow(Subject::user("alice"), verbs, subresources)
}

fn client(name: &str, groups: &[&str]) -> Pair {
    let spec = groups
        .iter()
        .fold(CertificateSpec::client(name), |spec, group| spec.group(group));
    PKI.client(name, &spec).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_are_asked_in_the_kubelets_order_until_one_allows() {
    let world = World::builder().without_caches().start().await;
    let alice = world.client("alice");
    for (path, checks) in [
        ("/pods", &["get/pods", "get/proxy"][..]),
        ("/runningpods/", &["get/pods", "get/proxy"]),
        ("/healthz", &["get/healthz", "get/proxy"]),
        ("/configz", &["get/configz", "get/proxy"]),
        ("/flagz", &["get/configz"]),
        ("/statusz", &["get/statusz"]),
        ("/stats/summary", &["get/stats"]),
        ("/metrics/probes", &["get/metrics"]),
        ("/logs/", &["get/log"]),
        ("/checkpoint/a/b/c", &["get/checkpoint"]),
        ("/containerLogs/default/web/nginx", &["get/proxy"]),
        ("/metricsx", &["get/proxy"]),
        ("/%70ods", &["get/pods", "get/proxy"]),
        ("/", &["get/proxy"]),
    ] {
        world.api.clear_reviews();
        assert_eq!(alice.status(path).await, 403, "{path}");
        assert_eq!(world.api.checks(), checks, "{path}");
    }
    world.assert_nothing_forwarded();

    for (subresource, checks) in [("pods", &["get/pods"][..]), ("proxy", &["get/pods", "get/proxy"])] {
        world.api.set_rules(vec![alice_may(&["get"], &[subresource])]);
        world.api.clear_reviews();
        assert_eq!(alice.status("/pods").await, 200);
        assert_eq!(world.api.checks(), checks);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deny_is_final() {
    let world = World::start().await;
    world.api.add_rule(alice_may(&["get"], &["proxy"]));
    world
        .api
        .add_rule(Rule::deny(Subject::user("alice"), &["get"], &["pods"]));
    let answer = world.client("alice").get("/pods").await.unwrap();
    let sentence = "Forbidden (user=alice, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_answer(&answer, 403, sentence);
    assert_eq!(world.api.checks(), ["get/pods"]);
    world.assert_nothing_forwarded();
    world.stop().await;
}

/// After an error on the first check an allow on the second must not count, nor may a contradiction be read
/// as an allow.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_check_stops_the_rest() {
    let world = World::start().await;
    world.api.behave_next(Api::Access, [Behaviour::Fail(403)]);
    assert_eq!(world.client("bob").status("/pods").await, 503);
    assert_eq!(world.api.checks(), ["get/pods"]);

    let contradiction = json!({"allowed": true, "denied": true});
    world.api.behave(Api::Access, Behaviour::status(contradiction));
    assert_eq!(world.client("bob").status("/metrics").await, 503);
    // An evaluation error beside a decision changes nothing.
    let partial = json!({"allowed": true, "evaluationError": "one of the roles is gone"});
    world.api.behave(Api::Access, Behaviour::status(partial));
    assert_eq!(world.client("bob").status("/stats/summary").await, 200);
    world.assert_nothing_forwarded_but("/stats/summary");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_causes_no_review() {
    let world = World::start().await;
    for (name, status) in [("bob", 200), ("alice", 403)] {
        world.api.clear_reviews();
        for _ in 0..3 {
            assert_eq!(world.client(name).status("/metrics").await, status);
            assert_eq!(world.h2_client(name).status("/metrics?a=b").await, status);
            assert_eq!(world.client(name).status("/metrics/cadvisor").await, status);
        }
        assert_eq!(world.api.checks(), ["get/metrics"], "{name}");
    }
    assert_eq!(
        world.metric("cache_requests_total", &[("cache", "access"), ("result", "miss")]),
        2.0
    );
    assert_eq!(
        world.metric("cache_requests_total", &[("cache", "access"), ("result", "hit")]),
        16.0
    );
    assert_eq!(
        world.metric("reviews_total", &[("api", "subjectaccessreviews")]),
        2.0
    );
    world.stop().await;
}

/// Fifty scrapers after a restart cause one review, and its failure causes no retry of each.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_share_one_review_and_its_outcome() {
    let world = World::builder().set("workers", 2).start().await;
    world.api.set_latency(Duration::from_millis(150));
    for (path, behaviour, status) in [
        ("/metrics", Behaviour::Normal, 200),
        ("/stats/summary", Behaviour::Fail(403), 503),
    ] {
        world.api.behave(Api::Access, behaviour);
        world.api.clear_reviews();
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let bob = world.client("bob");
            requests.spawn(async move { bob.status(path).await });
        }
        for outcome in requests.join_all().await {
            assert_eq!(outcome, status);
        }
        assert_eq!(world.api.count(Api::Access), 1, "{path}");
    }
    world.stop().await;
}

/// A client that leaves must not cancel the review that others wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_cancel_the_review() {
    let world = World::start().await;
    world.api.set_latency(Duration::from_millis(200));
    let first = {
        let bob = world.client("bob");
        tokio::spawn(async move { bob.get("/metrics").await })
    };
    eventually("the first request waits for the review", || {
        world.metric("cache_requests_total", &[("cache", "access"), ("result", "miss")]) == 1.0
    })
    .await;
    let second = {
        let bob = world.client("bob");
        tokio::spawn(async move { bob.get("/metrics").await })
    };
    eventually("the second request waits too", || {
        world.metric("requests_in_flight", &[]) == 2.0
    })
    .await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    assert_eq!(world.api.count(Api::Access), 1);
    world.stop().await;
}

/// All that a review contains is part of the key: name, uid, groups in their order, extra, verb and
/// subresource. Seen red: with `hash` and equality of `Identity` reduced to the user name.
#[tokio::test(flavor = "multi_thread")]
async fn no_two_questions_share_an_answer() {
    let world = World::start().await;
    let users = [
        client("carl", &["admins"]),
        client("carl", &["developers"]),
        client("carl", &["admins", "developers"]),
        client("carl", &["developers", "admins"]),
        client("carla", &["admins"]),
    ];
    let expected = [200, 403, 200, 200, 200];
    for _ in 0..2 {
        for (user, status) in users.iter().zip(expected) {
            assert_eq!(world.client_with(user).status("/metrics").await, status);
        }
    }
    assert_eq!(world.api.count(Api::Access), 5);

    // Tokens of one user name, with different uids, groups and extra.
    world.api.clear_reviews();
    let named = |uid: &str, groups: &[&str], key: &str| User {
        uid: uid.to_owned(),
        extra: [(key.to_owned(), vec!["v".to_owned()])].into(),
        ..User::new("carl", groups)
    };
    for (token, user, status) in [
        ("t1", named("1", &["admins"], "k"), 200),
        ("t2", named("2", &["admins"], "k"), 200),
        ("t3", named("1", &["x"], "k"), 403),
        ("t4", named("1", &["admins"], "l"), 200),
        // The same user with another token is the same question.
        ("t5", named("1", &["admins"], "k"), 200),
    ] {
        world.api.add_token(token, user);
        assert_eq!(
            world.token_client(token).status("/metrics").await,
            status,
            "{token}"
        );
    }
    assert_eq!(world.api.count(Api::Access), 4);

    // Verbs and subresources of one user.
    world.api.clear_reviews();
    world.api.add_rule(alice_may(&["get"], &["log"]));
    let alice = world.client("alice");
    for (method, path, status) in [
        ("GET", "/logs/", 200),
        ("HEAD", "/logs/kubelet.log", 405),
        ("POST", "/logs/", 403),
        ("DELETE", "/logs/", 403),
        ("GET", "/stats/summary", 403),
        ("GET", "/logsx", 403),
    ] {
        assert_eq!(
            alice.call(method, path, &[], "").await.unwrap().status(),
            status,
            "{method} {path}"
        );
    }
    assert_eq!(
        world.api.checks(),
        ["get/log", "create/log", "delete/log", "get/stats", "get/proxy"]
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_for_a_command_is_remembered_for_a_shorter_time() {
    let world = World::builder()
        .set("authorization.interactive.cacheAuthorizedTTL", "300ms")
        .start()
        .await;
    let bob = world.client("bob");
    let run = async || bob.call("POST", RUN, &[], "").await.unwrap().status();
    // The long-lived answer to the same check on a path that runs no commands does not count here.
    assert_eq!(
        bob.call("POST", "/containerLogs/x", &[], "")
            .await
            .unwrap()
            .status(),
        404
    );
    assert_eq!((run().await.as_u16(), run().await.as_u16()), (200, 200));
    assert!(world.api.count(Api::Access) <= 3);
    assert_eq!(world.api.checks()[..2], ["create/proxy", "create/proxy"]);

    world.api.set_rules(vec![]);
    eventually_answers("the withdrawn permission no longer runs commands", async || {
        run().await == 403
    })
    .await;
    // The other answer holds for its five minutes.
    assert_eq!(
        bob.call("POST", "/containerLogs/x", &[], "")
            .await
            .unwrap()
            .status(),
        404
    );
    world.stop().await;
}

/// A scraper must not notice a short failure of the API server, and a long one must not leave the node open.
///
/// Seen red: with no renewal, a request waits for the second review; with a failed renewal stored over the
/// allow, the allow ends too early.
#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_allow_is_renewed_in_the_background_and_ends_in_time() {
    let life = Duration::from_secs(5);
    let world = World::builder()
        .set("authorization.webhook.cacheAuthorizedTTL", "5s")
        .set("limits.reviewTimeout", "1s")
        .start()
        .await;
    let bob = world.client("bob");
    let scrape = async || bob.status("/metrics").await;

    let began = Instant::now();
    assert_eq!(scrape().await, 200);
    world.api.behave(Api::Access, Behaviour::Hang);
    eventually_answers("a renewal is asked for while the allow holds", async || {
        assert_eq!(scrape().await, 200);
        world.api.count(Api::Access) > 1
    })
    .await;
    eventually_answers("the allow ends", async || scrape().await == 503).await;
    // An answer may end a tenth of its time early.
    assert!(began.elapsed() >= life - life / 10, "{:?}", began.elapsed());
    world.kubelet.clear();
    assert_eq!(scrape().await, 503);
    world.assert_nothing_forwarded();

    world.api.heal();
    eventually_answers("the API server is back", async || scrape().await == 200).await;
    world.stop().await;
}

/// A role that was just granted works once the refusal is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_remembered_for_its_own_time() {
    let world = World::builder()
        .set("authorization.webhook.cacheUnauthorizedTTL", "300ms")
        .start()
        .await;
    let alice = world.client("alice");
    assert_eq!(alice.status("/metrics").await, 403);
    world.api.add_rule(alice_may(&["get"], &["metrics"]));
    eventually_answers("the role that was granted works", async || {
        alice.status("/metrics").await == 200
    })
    .await;
    assert_eq!(alice.status("/metrics").await, 200);
    assert_eq!(world.api.count(Api::Access), 2);
    world.stop().await;
}

/// Where only the API server may run commands, not even a cluster admin runs them directly (T39).
#[tokio::test(flavor = "multi_thread")]
async fn allowed_users_narrow_the_interactive_paths_and_nothing_else() {
    let world = World::builder()
        .set("authorization.interactive.allowedUsers", json!([API_SERVER]))
        .start()
        .await;
    let bob = world.client("bob");
    let sentence = "Forbidden (user=bob, verb=create, resource=nodes, subresource(s)=[proxy])\n";
    assert_answer(&bob.call("POST", RUN, &[], "").await.unwrap(), 403, sentence);
    let websocket = bob.websocket(EXEC, &["v5.channel.k8s.io"], &[]).await.unwrap();
    assert_answer(&websocket.refused().unwrap(), 403, sentence);
    assert_eq!(world.api.reviews(), [], "no review can permit it");
    world.assert_nothing_forwarded();

    assert_eq!(bob.status("/pods").await, 200);
    let api_server = world.client(API_SERVER);
    assert_eq!(api_server.call("POST", RUN, &[], "").await.unwrap().status(), 200);
    // A user on the list still needs permission.
    world.api.set_rules(vec![]);
    let other = world
        .client(API_SERVER)
        .call("PUT", "/healthz", &[], "")
        .await
        .unwrap();
    assert_eq!(other.status(), 403);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_paths_are_refused_for_every_user() {
    let world = World::builder()
        .set(
            "authorization.paths.deny",
            json!(["/debug/pprof/", "/checkpoint"]),
        )
        .start()
        .await;
    let bob = world.client("bob");
    for (method, path) in [
        ("GET", "/debug/pprof"),
        ("GET", "/debug/pprof/"),
        ("GET", "/debug/pprof/profile?seconds=1"),
        ("GET", "/%64ebug/ppro%66/heap"),
        ("POST", "/checkpoint/default/web/nginx"),
        ("POST", "/checkpoint"),
    ] {
        assert_eq!(
            bob.call(method, path, &[], "").await.unwrap().status(),
            403,
            "{path}"
        );
    }
    assert_eq!(world.api.reviews(), []);
    world.assert_nothing_forwarded();
    for path in ["/debug/flags/v", "/debug/pprofx", "/checkpoints"] {
        assert_ne!(
            bob.call("PUT", path, &[], "").await.unwrap().status(),
            403,
            "{path}"
        );
    }
    assert_eq!(world.kubelet.request_count(), 3);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn always_allow_still_authenticates() {
    let world = World::builder().always_allow().start().await;
    assert_eq!(world.client("alice").status("/pods").await, 200);
    assert_eq!(
        world
            .client("alice")
            .call("POST", RUN, &[], "")
            .await
            .unwrap()
            .status(),
        200
    );
    assert_answer(&world.stranger().get("/pods").await.unwrap(), 401, "Unauthorized");
    assert_eq!(world.client("expired").status("/pods").await, 401);
    assert_eq!(world.client("alice").status("/pods/../exec").await, 400);
    assert_eq!(world.api.reviews(), []);
    assert_eq!(world.kubelet.request_count(), 2);
    world.stop().await;
}

/// RBAC with resourceNames would answer a review about another Node wrongly (T38).
#[tokio::test(flavor = "multi_thread")]
async fn a_review_names_this_node_in_lower_case() {
    let world = World::builder().set("nodeName", "Edge-7.Example").start().await;
    world.client("alice").get("/metrics").await.unwrap();
    assert_eq!(
        world.api.access_specs()[0]["resourceAttributes"]["name"],
        json!("edge-7.example")
    );
    world.stop().await;
}

/// A rule for one Node counts for that Node alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_another_node_allows_nothing() {
    let world = World::start().await;
    world.api.set_rules(vec![
        alice_may(&["*"], &["*"]).on_node("worker-2"),
        alice_may(&["get"], &["stats"]).on_node("worker-1"),
    ]);
    let alice = world.client("alice");
    assert_eq!(alice.status("/pods").await, 403);
    assert_eq!(alice.status("/stats/summary").await, 200);
    let names: Vec<Value> = world
        .api
        .access_specs()
        .iter()
        .map(|spec| spec["resourceAttributes"]["name"].clone())
        .collect();
    assert_eq!(names, vec![json!("worker-1"); 3]);
    world.stop().await;
}
