//! How far a long command has come, for the person who waits for it.

use std::time::{Duration, Instant};

use super::terminal::Stream;

/// Between two lines on a terminal that cannot write over one.
const PAUSE: Duration = Duration::from_secs(10);

/// One line that is written over, and cleared at the end. A terminal that cannot do that gets a line every
/// ten seconds, and a pipe or a file gets nothing.
pub(super) struct Progress<'a> {
    stream: &'a mut Stream,
    shown: Option<Instant>,
}

impl<'a> Progress<'a> {
    pub(super) fn on(stream: &'a mut Stream) -> Self {
        Self { stream, shown: None }
    }

    pub(super) fn show(&mut self, text: &str) {
        if self.stream.overwrites() {
            self.stream.overwrite(text);
        } else if self.stream.is_terminal() && self.shown.is_none_or(|shown| shown.elapsed() >= PAUSE) {
            self.stream.text(text);
        } else {
            return;
        }
        self.shown = Some(Instant::now());
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if self.shown.is_some() && self.stream.overwrites() {
            self.stream.overwrite("");
        }
    }
}
