use std::net::IpAddr;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

/// What a step of a handshake costs here.
const WORK: Duration = Duration::from_millis(2);

fn source(number: u8) -> Source {
    Source::of(IpAddr::from([192, 0, 2, number]))
}

/// Turns whose giver runs, and what happens in which order.
struct Stage {
    turns: Arc<Turns>,
    metrics: Arc<Metrics>,
    seen: Arc<Mutex<Vec<u8>>>,
    tasks: JoinSet<()>,
}

impl Stage {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let turns = Arc::new(Turns::new(metrics.clone()));
        let giver = turns.clone();
        tokio::spawn(async move { giver.give().await });
        Self {
            turns,
            metrics,
            seen: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// A handshake with one step, which notes the source.
    fn begin(&mut self, number: u8, is_known: bool) -> tokio::task::AbortHandle {
        let (turns, seen) = (self.turns.clone(), self.seen.clone());
        self.tasks.spawn(async move {
            let step = async {
                let began = std::time::Instant::now();
                while began.elapsed() < WORK {
                    std::hint::spin_loop();
                }
                seen.lock().unwrap().push(number);
            };
            turns.run(source(number), is_known, step).await;
        })
    }

    async fn finish(&mut self) -> Vec<u8> {
        while let Some(ended) = self.tasks.join_next().await {
            assert!(ended.is_ok_and(|()| true));
        }
        let state = self.turns.lock();
        assert!(state.is_empty() && state.given.is_none());
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Seen red: with one queue for all sources.
#[tokio::test]
async fn sources_take_turns() {
    let mut stage = Stage::new();
    for _ in 0..40 {
        stage.begin(1, false);
    }
    for number in [2, 3, 2, 3] {
        stage.begin(number, false);
    }
    let seen = stage.finish().await;
    let late = seen.iter().rposition(|number| *number != 1).unwrap();
    assert!(late < 8, "{seen:?}");
    assert_eq!(seen.len(), 44);
}

/// Seen red: with `FOR_UNKNOWN` never reached, and with one round for all.
#[tokio::test]
async fn known_sources_come_first_and_starve_no_other() {
    let mut stage = Stage::new();
    for number in 1..=30 {
        stage.begin(number, false);
    }
    for _ in 0..30 {
        stage.begin(100, true);
    }
    let seen = stage.finish().await;
    let known = seen.iter().take(20).filter(|number| **number == 100).count();
    assert!((13..=16).contains(&known), "{seen:?}");
}

/// Seen red: with a turn that ends giving the next at once.
#[tokio::test]
async fn everything_that_is_ready_runs_between_two_turns() {
    let mut stage = Stage::new();
    let other = tokio::spawn({
        let seen = stage.seen.clone();
        async move {
            loop {
                yield_now().await;
                let mut seen = seen.lock().unwrap();
                if seen.last() != Some(&0) {
                    seen.push(0);
                }
            }
        }
    });
    for number in 1..=20 {
        stage.begin(number, number.is_multiple_of(2));
    }
    let seen = stage.finish().await;
    other.abort();
    let handshakes = seen.iter().filter(|number| **number != 0).count();
    assert_eq!(handshakes, 20);
    // The first did not have to wait for its turn.
    let longest = seen
        .chunk_by(|one, next| *one != 0 && *next != 0)
        .map(<[u8]>::len)
        .max();
    assert!(longest <= Some(2), "{seen:?}");
}

/// Seen red: without the pause, and with a pause whatever is in flight.
#[tokio::test]
async fn while_requests_are_in_flight_the_next_turn_waits_as_long_as_the_last_ones_took() {
    let mut stage = Stage::new();
    stage.metrics.requests_in_flight.inc();
    stage.turns.lock().ahead = Duration::from_secs(60);
    stage.begin(1, false);
    yield_now().await;
    let pause = stage.turns.give_next();
    assert!(
        pause.is_some_and(|pause| pause > Duration::from_secs(1)),
        "{pause:?}"
    );
    assert!(stage.seen.lock().unwrap().is_empty());

    stage.metrics.requests_in_flight.dec();
    assert_eq!(stage.turns.give_next(), None);
    assert_eq!(stage.finish().await, [1]);
}

/// Seen red: without `Drop` for [`Step`], the turn of a handshake that had been given up was waited for.
#[tokio::test]
async fn a_handshake_that_is_given_up_gives_its_turn_to_the_next() {
    let mut stage = Stage::new();
    let begun: Vec<_> = (1..=20).map(|number| stage.begin(number, false)).collect();
    yield_now().await;
    // One of them has been given a turn by now, and has not begun.
    for handshake in begun.iter().step_by(2) {
        handshake.abort();
    }
    let ended = async { while stage.tasks.join_next().await.is_some() {} };
    timeout(Duration::from_secs(60), ended).await.unwrap();
    let state = stage.turns.lock();
    assert!(state.is_empty() && state.given.is_none());
    assert!(stage.seen.lock().unwrap().len() >= 10);
}

/// A handshake with a source of its own each leaves nothing behind.
///
/// Seen red: with a source without steps left in the table when its turn has passed.
#[tokio::test]
async fn sources_are_forgotten_when_they_have_no_step_left() {
    let mut stage = Stage::new();
    for round in 0..20 {
        for number in 0..50 {
            stage.begin(number, false).abort();
        }
        stage.begin(round, false);
        stage.begin(round, false);
        while stage.tasks.join_next().await.is_some() {}
    }
    let state = stage.turns.lock();
    assert!(state.unknown.order.len() <= 2, "{:?}", state.unknown.order);
    assert_eq!(state.unknown.order.len(), state.unknown.sources.len());
}
