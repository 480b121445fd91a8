//! The programs that speak to the kernel's packet filter: found, run, and given up on in time.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::error::FirewallError;
use crate::host::{Helper, children};

/// None of them takes a second where nothing is wrong.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a gate that runs has run: programs, and the arguments that each of them takes.
const OF_A_RUNNING_GATE: [(&[&str], &[&[&str]]); 6] = [
    (
        &["nft"],
        &[
            &["--version"],
            &["list", "ruleset"],
            &["-j", "list", "tables"],
            &["-j", "-n", "-n", "-n", "list", "table", "inet", "kubelet_gate"],
            &[
                "-j",
                "-n",
                "-n",
                "-n",
                "list",
                "table",
                "inet",
                "kubelet_gate_draining",
            ],
            &["-f", "-"],
            &["-c", "-f", "-"],
        ],
    ),
    (&["iptables-nft", "iptables-legacy"], &[&["--version"]]),
    (
        &[
            "iptables-nft-save",
            "ip6tables-nft-save",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
        ],
        &[&[]],
    ),
    (
        &[
            "iptables-nft-restore",
            "ip6tables-nft-restore",
            "iptables-legacy-restore",
            "ip6tables-legacy-restore",
        ],
        &[&["--noflush", "--wait", "5"], &["--test", "--noflush"]],
    ),
    (
        &["ipset"],
        &[
            &["--version"],
            &["list", "-name"],
            &["list", "kubelet-gate-trial"],
            &["restore"],
            &["destroy", "kubelet-gate-trial"],
        ],
    ),
    (&["ip"], &[&["-4", "rule", "show"], &["-6", "rule", "show"]]),
];

/// The options in the seal's rules for iptables. There are others by which it starts a program (`-M`).
const OPTIONS: [&str; 24] = [
    "-A",
    "-D",
    "-F",
    "-I",
    "-X",
    "-d",
    "-g",
    "-i",
    "-j",
    "-m",
    "-o",
    "-p",
    "-s",
    "--comment",
    "--ctstate",
    "--dport",
    "--dst-type",
    "--mark",
    "--match-set",
    "--reject-with",
    "--tcp-flags",
    "--to-destination",
    "--to-ports",
    "--uid-owner",
];

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

/// A run of a program.
#[derive(Deserialize, Serialize)]
pub(crate) struct ToolRun {
    tool: String,
    arguments: Vec<String>,
    /// What it reads from its standard input.
    input: String,
}

/// Why a program did not do what it was asked to.
#[derive(Deserialize, Serialize)]
pub(crate) enum ToolFailure {
    /// It is not installed.
    Missing,
    /// How it ended and what it said.
    Failed(String),
}

/// Runs it with `input` and yields what it printed; a gate that runs has its helper do it. `doing` is for the
/// error: "listing the rules".
///
/// # Errors
/// It is missing, fails, or is not done in ten seconds.
pub(crate) fn run<A: AsRef<str>>(
    tool: &str,
    arguments: &[A],
    input: &str,
    doing: &'static str,
) -> Result<String, FirewallError> {
    let run = ToolRun {
        tool: tool.to_owned(),
        arguments: arguments
            .iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect(),
        input: input.to_owned(),
    };
    let ended = match Helper::of_this_process() {
        None => run.run_here(),
        Some(helper) => helper
            .ask(ToolRun::KIND, &run, DEADLINE)
            .unwrap_or_else(|error| Err(ToolFailure::Failed(error.to_string()))),
    };
    let tool = run.tool;
    ended.map_err(|failure| match failure {
        ToolFailure::Missing => FirewallError::Missing { tool },
        ToolFailure::Failed(why) => FirewallError::Failed { tool, doing, why },
    })
}

// === impl ToolRun ===

impl ToolRun {
    /// The kind of the question to the helper.
    pub(crate) const KIND: &str = "tool";

    /// Whether a gate that runs may have it run: it looks at the rules, and puts back those that were
    /// confirmed. The list is closed, and so is what the input may say: each of these programs has a word by
    /// which it reads or writes another file, or starts another program.
    pub(crate) fn is_of_a_running_gate(&self) -> bool {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let listed = OF_A_RUNNING_GATE
            .iter()
            .any(|(tools, all)| tools.contains(&self.tool.as_str()) && all.contains(&arguments.as_slice()));
        listed
            && match self.tool.as_str() {
                "nft" => !self.input.contains("include"),
                "ipset" => is_plain(&self.input, &["-exist"]),
                _ => is_plain(&self.input, &OPTIONS),
            }
    }

    /// Runs it as a child of this process.
    pub(crate) fn run_here(&self) -> Result<String, ToolFailure> {
        let failed = |error: io::Error| ToolFailure::Failed(error.to_string());
        let program = find(&self.tool).map_err(|_| ToolFailure::Missing)?;
        let spawn = || {
            Command::new(program)
                .args(&self.arguments)
                .env("LC_ALL", "C")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0)
                .spawn()
        };
        let (mut child, group) = children::start(spawn, |child| Some(child.id())).map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            let input = self.input.clone();
            // A tool that does not read to the end says itself what it did not like.
            std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        }
        let until = Instant::now() + DEADLINE;
        let printed = (reader(child.stdout.take()), reader(child.stderr.take()));
        let in_time =
            |end: &Receiver<Vec<u8>>| end.recv_timeout(until.saturating_duration_since(Instant::now()));
        let (Ok(stdout), Ok(stderr)) = (in_time(&printed.0), in_time(&printed.1)) else {
            group.kill();
            let _ = child.wait();
            return Err(ToolFailure::Failed(format!("not done in {DEADLINE:?}")));
        };
        let status = child.wait().map_err(failed)?;
        if !status.success() {
            let stderr = String::from_utf8_lossy(&stderr);
            return Err(ToolFailure::Failed(format!("{status}: {}", stderr.trim())));
        }
        String::from_utf8(stdout).map_err(|_| ToolFailure::Failed("what it printed is not UTF-8".to_owned()))
    }
}

/// Whether it is made of words as the seal's own are: none is quoted, and each that begins with a hyphen
/// is one of `options`. The programs take quotes away, complete what is shortened, and read several
/// options of a letter in one word.
fn is_plain(input: &str, options: &[&str]) -> bool {
    let is_plain = |c: char| c == '\n' || (' '..='~').contains(&c) && !['"', '\'', '\\'].contains(&c);
    // A single one stands for the policy of a chain.
    let is_known = |word: &str| !word.starts_with('-') || word == "-" || options.contains(&word);
    input.chars().all(is_plain) && input.split_whitespace().all(is_known)
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

    #[test]
    fn a_gate_that_runs_may_have_the_seals_own_commands_run_and_no_others() {
        let allowed = |tool: &str, arguments: &[&str], input: &str| {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let (tool, input) = (tool.to_owned(), input.to_owned());
            ToolRun {
                tool,
                arguments,
                input,
            }
            .is_of_a_running_gate()
        };
        let restore = ["--noflush", "--wait", "5"];
        assert!(allowed("nft", &["-f", "-"], "add table inet kubelet_gate\n"));
        assert!(allowed(
            "ipset",
            &["restore"],
            "add kubelet-gate-trial 10250 timeout 60 -exist\n"
        ));
        assert!(allowed(
            "ip6tables-legacy-restore",
            &restore,
            "*filter\n:KG-OUT - [0:0]\n-A KG-OUT -m owner --uid-owner 7 -m mark --mark 0x10/0x10 -j RETURN\n\
             -I INPUT 1 ! -i lo -p tcp -m tcp --dport 10250 --tcp-flags FIN,SYN,RST,ACK SYN -j DROP\nCOMMIT\n"
        ));
        for (tool, arguments, input) in [
            ("sh", &["-c", "id"][..], ""),
            ("/usr/sbin/nft", &["-f", "-"], ""),
            ("nft", &["-f", "/etc/shadow"], ""),
            ("nft", &["-f", "-", "-I", "/etc"], ""),
            ("iptables-nft-restore", &["--modprobe=/tmp/x"], ""),
            ("ip", &["netns", "exec", "x", "sh"], ""),
            ("ss", &["-K"], ""),
            ("systemctl", &["--version"], ""),
            ("nft", &["-f", "-"], "include \"/etc/shadow\"\n"),
            (
                "iptables-nft-restore",
                &restore,
                "*filter\n-A INPUT -M /tmp/x -m mark\nCOMMIT\n",
            ),
            (
                "iptables-nft-restore",
                &restore,
                "*filter\n-A INPUT --modp=/tmp/x -m mark\nCOMMIT\n",
            ),
            (
                "iptables-nft-restore",
                &restore,
                "*filter\n-A INPUT \"-M\" /tmp/x -m mark\nCOMMIT\n",
            ),
            (
                "iptables-nft-restore",
                &restore,
                "*filter\n-A INPUT -nM/tmp/x -m mark\nCOMMIT\n",
            ),
            (
                "iptables-nft-restore",
                &restore,
                "*filter\n-A INPUT -m\u{b}mark\nCOMMIT\n",
            ),
            (
                "iptables-nft-restore",
                &restore,
                "*filter\n-A INPUT --mod /tmp/x\nCOMMIT\n",
            ),
            ("ipset", &["restore"], "save \"-file\" /etc/passwd\n"),
            ("ipset", &["restore"], "save \\-file /etc/passwd\n"),
            ("ipset", &["restore"], "save -f /etc/passwd\n"),
            ("ipset", &["restore"], "save -file /etc/passwd\n"),
        ] {
            assert!(!allowed(tool, arguments, input), "{tool} {arguments:?} {input}");
        }
    }
}
