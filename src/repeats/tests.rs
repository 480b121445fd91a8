use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Keeps the messages that pass the filter.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Written {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line.text);
    }
}

/// What is written of what `log` logs. The filter's memory is the process', so this is one test.
fn written(log: impl FnOnce()) -> Vec<String> {
    let written = Written::default();
    let subscriber = tracing_subscriber::registry().with(written.clone()).with(Repeats);
    tracing::subscriber::with_default(subscriber, log);
    let lines = written.0.lock().unwrap();
    lines.clone()
}

/// Seen red: without the filter, and with `peer` compared.
#[test]
fn a_few_lines_are_written_and_the_others_are_counted() {
    let fault = |peer: u32, error: &str| tracing::warn!(peer, "not answered: {error}");
    let lines = written(|| {
        for peer in 0..1000 {
            fault(peer, "the kubelet cannot be reached");
        }
        fault(1000, "another");
        for _ in 0..10 {
            tracing::info!(what = "serving", "files changed");
            tracing::info!(what = "upstream", "another place, with another field");
        }
        for number in 0..1000 {
            tracing::error!("something new: {number}");
        }
        for _ in 0..1000 {
            tracing::warn!(target: "h2::proto", "recv PING ack that we never sent");
            tracing::debug!("what was asked for");
        }
    });
    let count = |start: &str| lines.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("not answered: the kubelet cannot be reached"), 1);
    assert_eq!(count("not answered: another"), 1);
    assert_eq!(count("files changed"), 5);
    assert_eq!(count("another place"), 5);
    assert_eq!(count("something new"), 32);
    assert_eq!(count("recv PING"), 1);
    assert_eq!(count("what was asked for"), 1000);

    assert_eq!(written(report), [] as [&str; 0], "the minute is not over");
    let mut reported = written(report_all);
    reported.retain(|line| !line.ends_with("files changed") && !line.contains("another place"));
    reported.sort();
    assert_eq!(
        reported,
        [
            "more lines in the last minute like: not answered: the kubelet cannot be reached",
            "more lines in the last minute like: recv PING ack that we never sent",
            "more lines in the last minute like: something new: 999",
        ]
    );
    assert_eq!(written(report_all), [] as [&str; 0], "each is reported once");
    let again = written(|| fault(1, "the kubelet cannot be reached"));
    assert_eq!(again.len(), 1, "a new window");
}
