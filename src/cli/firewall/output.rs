//! Printing. Where the reader has gone (`confirm | head -1`), what was begun is finished all the same.

use std::fmt::Display;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::cli::complain;

/// A line to standard output.
pub(super) fn say(line: impl Display) {
    printed(writeln!(io::stdout().lock(), "{line}"));
}

/// A text, as it is, to standard output.
pub(super) fn print(text: &str) {
    printed(io::stdout().lock().write_all(text.as_bytes()));
}

/// A value as one line of JSON.
pub(super) fn say_json(value: &impl Serialize) -> serde_json::Result<()> {
    say(serde_json::to_string(value)?);
    Ok(())
}

/// A line to standard error. If that is gone, too, the exit code has to do.
pub(super) fn complain_of(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn printed(outcome: io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&error);
    }
}
