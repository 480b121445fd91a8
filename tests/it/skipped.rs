//! Tests that cannot run on this machine. libtest counts them as passed and hides what they print. What was
//! skipped, and why, is therefore printed to the real standard error when the test process has ended.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// It reads to the end of its input, and that is the end of this process.
static REPORTER: Mutex<Option<Child>> = Mutex::new(None);

const REPORT: &str = r#"lines=$(sort -u); printf '%s\n%s tests or parts of tests were skipped\n' "$lines" "$(echo "$lines" | wc -l)""#;

/// Skips the test that runs on this thread.
pub(crate) fn skip(why: &str) {
    let thread = std::thread::current();
    skip_test(thread.name().unwrap_or("a test"), why);
}

/// The same for a test whose thread has another name.
pub(crate) fn skip_test(test: &str, why: &str) {
    let mut reporter = REPORTER.lock().unwrap();
    let mut list = reporter.get_or_insert_with(start).stdin.as_ref().unwrap();
    writeln!(list, "skipped: {test}: {why}").unwrap();
}

fn start() -> Child {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    Command::new("sh")
        .args(["-c", REPORT])
        .stdin(Stdio::piped())
        .stdout(stderr)
        .spawn()
        .unwrap()
}
