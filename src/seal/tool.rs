//! The programs that speak to the kernel's packet filter: found, run, and given up on in time.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::error::FirewallError;

/// None of them takes a second where nothing is wrong.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where a service's `PATH` may not lead.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// The program's path: by `PATH`, or where administrators' programs are.
///
/// # Errors
/// It is nowhere.
pub(crate) fn find(tool: &str) -> Result<PathBuf, FirewallError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .chain(DIRECTORIES.map(PathBuf::from))
        .map(|directory| directory.join(tool))
        .find(|file| file.is_file())
        .ok_or_else(|| FirewallError::Missing {
            tool: tool.to_owned(),
        })
}

/// Runs it with `input` and yields what it printed. `doing` is for the error: "listing the rules".
///
/// # Errors
/// It is missing, fails, or is not done in ten seconds.
pub(crate) fn run<A: AsRef<OsStr>>(
    tool: &str,
    arguments: &[A],
    input: &str,
    doing: &'static str,
) -> Result<String, FirewallError> {
    let failed = |why: String| FirewallError::Failed {
        tool: tool.to_owned(),
        doing,
        why,
    };
    let mut child = Command::new(find(tool)?)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_owned();
        // A tool that does not read to the end says itself what it did not like.
        std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let until = Instant::now() + DEADLINE;
    let printed = (reader(child.stdout.take()), reader(child.stderr.take()));
    let in_time = |end: &Receiver<Vec<u8>>| end.recv_timeout(until.saturating_duration_since(Instant::now()));
    let (Ok(stdout), Ok(stderr)) = (in_time(&printed.0), in_time(&printed.1)) else {
        // Whether it can still be killed changes nothing about the answer.
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(format!("not done in {DEADLINE:?}")));
    };
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        return Err(failed(format!("{status}: {}", stderr.trim())));
    }
    String::from_utf8(stdout).map_err(|_| failed("what it printed is not UTF-8".to_owned()))
}

/// What a pipe yields, once it has ended.
fn reader(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (end, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe
            && pipe.read_to_end(&mut bytes).is_ok()
        {
            // After the deadline there is no receiver any more.
            let _ = end.send(bytes);
        }
    });
    receiver
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tool_prints_comes_back_and_what_it_says_of_its_failure_is_in_the_error() {
        assert_eq!(run("cat", &["-"], "rules\n", "copying").unwrap(), "rules\n");
        let error = run("sh", &["-c", "echo no such table >&2; exit 3"], "", "removing").unwrap_err();
        let text = error.to_string();
        for word in ["sh", "removing", "exit status: 3", "no such table"] {
            assert!(text.contains(word), "{text}");
        }
        let error = run::<&str>("no-such-tool", &[], "", "trying").unwrap_err();
        assert!(matches!(error, FirewallError::Missing { .. }), "{error}");
    }
}
