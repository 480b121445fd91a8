//! How long the tests wait. Every deadline is made here, so that `KUBELET_GATE_TEST_PATIENCE=3` makes each of
//! them three times as long on a slow machine. A long deadline costs nothing: a test that passes does not
//! wait for it.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static FACTOR: LazyLock<f64> = LazyLock::new(|| {
    let Some(text) = std::env::var_os("KUBELET_GATE_TEST_PATIENCE") else {
        return 1.0;
    };
    let factor = text.to_str().and_then(|text| text.parse().ok());
    factor
        .filter(|factor| (1.0..=100.0).contains(factor))
        .unwrap_or_else(|| panic!("KUBELET_GATE_TEST_PATIENCE is {text:?}: expected a number from 1 to 100"))
});

/// For whatever has no deadline of its own. Far longer than anything takes, since the machine may be busy.
pub(crate) fn patience() -> Duration {
    stretched(Duration::from_secs(20))
}

/// A deadline of this length on a fast machine.
pub(crate) fn stretched(deadline: Duration) -> Duration {
    deadline.mul_f64(*FACTOR)
}

/// Polls until the condition holds; fails with its description after [`patience`].
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    eventually_answers(what, async || condition()).await;
}

/// [`eventually`] for a condition that takes a request to find out.
pub(crate) async fn eventually_answers(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {:?}: {what}", patience());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Checks over this time that the condition holds.
pub(crate) async fn stays(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "it does not stay so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
