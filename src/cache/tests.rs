#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::*;

type Answered = Result<u32, &'static str>;

const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(10);

fn cache() -> Cache<String, Answered> {
    Cache::new(64, Handle::current(), Err("lost"))
}

fn remembered_at(cache: &Cache<String, Answered>, now: Instant) -> Option<Answered> {
    cache.shared.get_at("a", now).map(|remembered| remembered.value)
}

fn remembered(cache: &Cache<String, Answered>, key: &str) -> Option<Answered> {
    cache.get(key).map(|remembered| remembered.value)
}

async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A review that counts its calls and withholds its answer until it is released.
#[derive(Clone, Default)]
struct HeldReview {
    calls: Arc<AtomicUsize>,
    release: Arc<Notify>,
}

impl HeldReview {
    fn review(
        &self,
        outcome: ReviewOutcome<Answered>,
    ) -> impl Future<Output = ReviewOutcome<Answered>> + Send + 'static {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let release = Arc::clone(&self.release);
        async move {
            release.notified().await;
            outcome
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn an_answer_lives_at_most_its_life_and_at_least_nine_tenths_of_it() {
    let cache = cache();
    let before = Instant::now();
    assert_eq!(
        cache
            .get_or_review("a".to_owned(), Freshness::Remembered, || async {
                ReviewOutcome::Granted(Ok(1), MINUTE)
            })
            .await
            .value,
        Ok(1)
    );
    let after = Instant::now();
    // Looked up repeatedly meanwhile: a hit must not extend it.
    for tenths in 0..9 {
        assert_eq!(remembered_at(&cache, before + MINUTE * tenths / 10), Some(Ok(1)));
    }
    assert_eq!(cache.len(), 1);
    assert_eq!(remembered_at(&cache, after + MINUTE), None);
    assert_eq!(cache.len(), 0, "an expired answer is removed on sight");
}

#[tokio::test]
async fn a_remembered_answer_costs_no_review() {
    let cache = cache();
    assert_eq!(
        cache
            .get_or_review("a".to_owned(), Freshness::Remembered, || async {
                ReviewOutcome::Granted(Ok(1), MINUTE)
            })
            .await
            .value,
        Ok(1)
    );
    let again = cache
        .get_or_review("a".to_owned(), Freshness::Remembered, || async {
            unreachable!("it is remembered")
        })
        .await
        .value;
    assert_eq!(again, Ok(1));
    assert_eq!(remembered(&cache, "a"), Some(Ok(1)));
    assert_eq!(remembered(&cache, "b"), None);
}

#[tokio::test]
async fn an_answer_without_life_is_not_kept() {
    let cache = cache();
    for life in [Duration::ZERO, Duration::MAX] {
        assert_eq!(
            cache
                .get_or_review("a".to_owned(), Freshness::Remembered, move || async move {
                    ReviewOutcome::Granted(Ok(1), life)
                })
                .await
                .value,
            Ok(1)
        );
        assert_eq!(remembered(&cache, "a"), None);
        assert_eq!((cache.len(), cache.in_flight()), (0, 0));
    }
}

#[test]
fn jitter_only_shortens() {
    for _ in 0..1000 {
        let before = Instant::now();
        let expires = expiry(MINUTE).unwrap();
        assert!(expires >= before + MINUTE * 9 / 10 && expires <= Instant::now() + MINUTE);
    }
    let lives: std::collections::HashSet<_> = (0..100)
        .map(|_| expiry(MINUTE).unwrap().duration_since(Instant::now()).as_secs())
        .collect();
    assert!(
        lives.len() > 2,
        "a hundred lives spread over six seconds: {lives:?}"
    );
}

#[tokio::test]
async fn a_hundred_waiters_share_one_failed_review() {
    let (cache, held) = (Arc::new(cache()), HeldReview::default());
    let (mut waiters, asked) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..100 {
        let (cache, held, asked) = (Arc::clone(&cache), held.clone(), Arc::clone(&asked));
        waiters.spawn(async move {
            // On this runtime of one thread, a task that has counted itself has also reached its wait.
            asked.fetch_add(1, Ordering::SeqCst);
            cache
                .get_or_review("a".to_owned(), Freshness::Remembered, || {
                    held.review(ReviewOutcome::Failed(Err("connection refused"), Duration::ZERO))
                })
                .await
                .value
        });
    }
    eventually(|| asked.load(Ordering::SeqCst) == 100).await;
    assert_eq!(cache.in_flight(), 1);
    held.release.notify_one();
    while let Some(outcome) = waiters.join_next().await {
        assert_eq!(outcome.unwrap(), Err("connection refused"));
    }
    assert_eq!(held.calls(), 1);
    assert_eq!((cache.in_flight(), cache.len()), (0, 0));
}

#[tokio::test]
async fn the_caller_that_started_a_review_may_leave() {
    let (cache, held) = (Arc::new(cache()), HeldReview::default());
    let ask = || {
        let (cache, held) = (Arc::clone(&cache), held.clone());
        tokio::spawn(async move {
            cache
                .get_or_review("a".to_owned(), Freshness::Remembered, || {
                    held.review(ReviewOutcome::Granted(Ok(1), MINUTE))
                })
                .await
                .value
        })
    };
    let leader = ask();
    eventually(|| cache.in_flight() == 1).await;
    let waiter = ask();
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    held.release.notify_one();
    assert_eq!(waiter.await.unwrap(), Ok(1));
    assert_eq!((held.calls(), cache.in_flight()), (1, 0));
}

#[tokio::test]
async fn an_answer_without_waiters_is_kept() {
    let (cache, held) = (Arc::new(cache()), HeldReview::default());
    let asked = {
        let (cache, held) = (Arc::clone(&cache), held.clone());
        tokio::spawn(async move {
            cache
                .get_or_review("a".to_owned(), Freshness::Remembered, || {
                    held.review(ReviewOutcome::Granted(Ok(1), MINUTE))
                })
                .await
                .value
        })
    };
    eventually(|| held.calls() == 1).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    held.release.notify_one();
    eventually(|| cache.in_flight() == 0).await;
    assert_eq!(remembered(&cache, "a"), Some(Ok(1)));
}

#[tokio::test]
async fn a_panicking_review_leaves_no_caller_waiting() {
    let (cache, release) = (Arc::new(cache()), Arc::new(Notify::new()));
    let mut waiters = JoinSet::new();
    for _ in 0..10 {
        let (cache, release) = (Arc::clone(&cache), Arc::clone(&release));
        waiters.spawn(async move {
            let review = || async move {
                release.notified().await;
                panic!("a review panics on purpose")
            };
            cache
                .get_or_review("a".to_owned(), Freshness::Remembered, review)
                .await
                .value
        });
    }
    eventually(|| cache.in_flight() == 1).await;
    release.notify_one();
    while let Some(outcome) = tokio::time::timeout(PATIENCE, waiters.join_next()).await.unwrap() {
        assert_eq!(outcome.unwrap(), Err("lost"));
    }
    assert_eq!((cache.in_flight(), cache.len()), (0, 0));
    assert_eq!(
        cache
            .get_or_review("a".to_owned(), Freshness::Remembered, || async {
                ReviewOutcome::Granted(Ok(2), MINUTE)
            })
            .await
            .value,
        Ok(2)
    );
}

#[tokio::test]
async fn a_panic_before_the_review_leaves_no_flight_behind() {
    let cache = Arc::new(cache());
    let caller = {
        let cache = Arc::clone(&cache);
        let review =
            || -> std::future::Ready<ReviewOutcome<Answered>> { panic!("a review panics on purpose") };
        tokio::spawn(async move {
            cache
                .get_or_review("a".to_owned(), Freshness::Remembered, review)
                .await
                .value
        })
    };
    assert!(caller.await.unwrap_err().is_panic());
    assert_eq!(cache.in_flight(), 0);
}

#[tokio::test]
async fn a_control_runtime_that_has_ended_leaves_no_caller_waiting() {
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let cache = Cache::<String, Answered>::new(64, control.handle().clone(), Err("lost"));
    control.shutdown_background();
    let asked = cache.get_or_review("a".to_owned(), Freshness::Remembered, || async {
        ReviewOutcome::Granted(Ok(1), MINUTE)
    });
    assert_eq!(
        tokio::time::timeout(PATIENCE, asked).await.unwrap().value,
        Err("lost")
    );
    assert_eq!(cache.in_flight(), 0);
}

#[tokio::test]
async fn the_number_of_answers_is_bounded() {
    let cache = cache();
    for number in 0..10_000 {
        let outcome = cache
            .get_or_review(number.to_string(), Freshness::Remembered, || async move {
                ReviewOutcome::Granted(Ok(number), MINUTE)
            })
            .await
            .value;
        assert_eq!(outcome, Ok(number));
    }
    assert!((1..=64).contains(&cache.len()), "{}", cache.len());
}

/// Ages an answer so that `left` of its life remains.
fn age(cache: &Cache<String, Answered>, left: Duration) {
    let now = Instant::now();
    let mut answer = cache.shared.answers.get("a").unwrap();
    let renewed_in = (answer.expires - answer.remembered.fresh_until).min(answer.expires - now);
    answer.expires = now + left;
    answer.remembered.fresh_until = answer.expires - renewed_in;
    cache.shared.answers.insert("a".to_owned(), answer);
}

async fn granted(cache: &Cache<String, Answered>) {
    let review = || async { ReviewOutcome::Granted(Ok(1), MINUTE) };
    assert_eq!(
        cache
            .get_or_review("a".to_owned(), Freshness::Remembered, review)
            .await
            .value,
        Ok(1)
    );
}

#[tokio::test]
async fn a_granted_answer_is_due_in_the_last_fifth_of_its_life_and_a_refusal_never() {
    let cache = cache();
    granted(&cache).await;
    let answer = cache.shared.answers.get("a").unwrap();
    assert!(!answer.remembered.is_due());
    let ahead = answer.expires - answer.remembered.fresh_until;
    assert!(ahead >= MINUTE * 9 / 50 && ahead <= MINUTE / 5, "{ahead:?}");
    age(&cache, MINUTE / 10);
    assert!(cache.get("a").unwrap().is_due());

    let review = || async { ReviewOutcome::Refused(Ok(2), MINUTE) };
    cache
        .get_or_review("b".to_owned(), Freshness::Remembered, review)
        .await;
    let refused = cache.shared.answers.get("b").unwrap();
    assert_eq!(refused.remembered.fresh_until, refused.expires);
}

#[tokio::test]
async fn an_answer_is_renewed_once_and_no_caller_waits_for_it() {
    let (cache, review) = (Arc::new(cache()), HeldReview::default());
    granted(&cache).await;
    age(&cache, MINUTE / 10);
    for _ in 0..10 {
        cache.renew("a".to_owned(), || {
            review.review(ReviewOutcome::Granted(Ok(2), MINUTE))
        });
        assert_eq!(
            remembered(&cache, "a"),
            Some(Ok(1)),
            "the old answer stands meanwhile"
        );
    }
    assert_eq!((review.calls(), cache.in_flight()), (1, 1));
    review.release.notify_one();
    eventually(|| cache.in_flight() == 0).await;
    let renewed = cache.get("a").unwrap();
    assert_eq!((renewed.value, renewed.is_due()), (Ok(2), false));
}

/// Seen red with `Failed` kept like other outcomes: the failure replaced the answer. Also seen red with the
/// answer's end moved by its renewal: it outlived the minute.
#[tokio::test]
async fn a_failed_renewal_neither_ends_nor_extends_an_answer() {
    let cache = cache();
    granted(&cache).await;
    age(&cache, MINUTE / 10);
    let expires = cache.shared.answers.get("a").unwrap().expires;
    for _ in 0..3 {
        let failure = ReviewOutcome::Failed(Err("API server down"), Duration::from_millis(1));
        cache.renew("a".to_owned(), || async { failure });
        eventually(|| cache.in_flight() == 0).await;
        assert_eq!(remembered(&cache, "a"), Some(Ok(1)));
        assert_eq!(cache.shared.answers.get("a").unwrap().expires, expires);
    }
    let failure = ReviewOutcome::Failed(Err("API server down"), Duration::from_secs(1));
    cache.renew("a".to_owned(), || async { failure });
    eventually(|| cache.in_flight() == 0).await;
    assert!(!cache.get("a").unwrap().is_due(), "it is not asked again at once");
    assert_eq!(remembered_at(&cache, expires), None);
}

#[tokio::test]
async fn a_refusal_replaces_a_granted_answer_even_if_it_may_not_be_kept() {
    for life in [MINUTE, Duration::ZERO] {
        let cache = cache();
        granted(&cache).await;
        let refusal = ReviewOutcome::Refused(Ok(0), life);
        cache.renew("a".to_owned(), || async { refusal });
        eventually(|| cache.in_flight() == 0).await;
        let kept = if life.is_zero() { None } else { Some(Ok(0)) };
        assert_eq!(remembered(&cache, "a"), kept);
    }
}

/// Seen red: with the remembered answer taken.
#[tokio::test]
async fn an_answer_that_must_be_fresh_is_reviewed_once_and_replaces_the_old_one() {
    let cache = cache();
    let reviews = AtomicUsize::new(0);
    let ask = async |freshness, outcome: ReviewOutcome<Answered>| {
        let review = || {
            reviews.fetch_add(1, Ordering::SeqCst);
            async { outcome }
        };
        cache.get_or_review("a".to_owned(), freshness, review).await.value
    };
    let granted = |value| ReviewOutcome::Granted(Ok(value), MINUTE);
    assert_eq!(ask(Freshness::Remembered, granted(1)).await, Ok(1));
    let now = Freshness::Since(Instant::now());
    assert_eq!(ask(now, granted(2)).await, Ok(2));
    assert_eq!(ask(now, granted(3)).await, Ok(2), "it is fresh enough");
    assert_eq!(ask(Freshness::Remembered, granted(4)).await, Ok(2));
    assert_eq!(reviews.load(Ordering::SeqCst), 2);

    // A failure is an answer for those that asked since the same time, and for no other.
    let now = Freshness::Since(Instant::now());
    let failed = ReviewOutcome::Failed(Err("connection refused"), MINUTE);
    assert_eq!(ask(now, failed).await, Err("connection refused"));
    assert_eq!(ask(now, granted(5)).await, Err("connection refused"));
    assert_eq!(ask(Freshness::Remembered, granted(6)).await, Ok(2), "it stands");
    assert_eq!(reviews.load(Ordering::SeqCst), 3);
    let refused = ReviewOutcome::Refused(Err("no"), MINUTE);
    assert_eq!(ask(Freshness::Since(Instant::now()), refused).await, Err("no"));
    assert_eq!(ask(Freshness::Remembered, granted(7)).await, Err("no"));
}

/// A review that is running may have been answered before the right was withdrawn.
///
/// Seen red: with the remembered answer taken.
#[tokio::test]
async fn a_review_that_began_too_early_is_waited_for_and_followed_by_one_for_all() {
    let cache = Arc::new(cache());
    let (early, late) = (HeldReview::default(), HeldReview::default());
    let ask = |freshness, held: &HeldReview, value| {
        let (cache, held) = (cache.clone(), held.clone());
        let outcome = ReviewOutcome::Granted(Ok(value), MINUTE);
        tokio::spawn(async move {
            let review = || held.review(outcome);
            cache.get_or_review("a".to_owned(), freshness, review).await.value
        })
    };
    let first = ask(Freshness::Remembered, &early, 1);
    eventually(|| early.calls() == 1).await;
    let now = Freshness::Since(Instant::now());
    let waiting: Vec<_> = (0..5).map(|_| ask(now, &late, 2)).collect();
    tokio::task::yield_now().await;
    assert_eq!(late.calls(), 0);
    early.release.notify_one();
    assert_eq!(first.await.unwrap(), Ok(1));
    eventually(|| late.calls() == 1).await;
    late.release.notify_one();
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap(), Ok(2));
    }
    assert_eq!(late.calls(), 1);
}
