//! The small shell behind exec, attach and run: enough to show that a command ran, and as which user.

use super::pages::Pod;

/// What a command wrote, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) code: u8,
}

/// A command under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// The command has ended.
    Done(Output),
    /// Writes its input to its output, until the end of the input.
    Cat,
    /// Runs each line of its input.
    Shell { partial: String },
}

// === impl Program ===

impl Program {
    pub(super) fn start(pod: &Pod, command: &[String]) -> Self {
        let words = command.iter().map(String::as_str).collect::<Vec<_>>();
        match words.as_slice() {
            ["cat"] => Self::Cat,
            ["sh" | "/bin/sh" | "bash" | "/bin/bash"] => Self::Shell {
                partial: String::new(),
            },
            ["sh" | "/bin/sh" | "bash" | "/bin/bash", "-c", line, ..] => Self::Done(run_line(pod, line)),
            words => Self::Done(run(pod, words)),
        }
    }

    /// Feeds standard input. Yields the output, and the exit code once the command has ended.
    pub(super) fn input(&mut self, pod: &Pod, data: &[u8]) -> (Vec<Output>, Option<u8>) {
        let text = String::from_utf8_lossy(data);
        match self {
            Self::Done(output) => (Vec::new(), Some(output.code)),
            Self::Cat => (
                vec![Output {
                    stdout: text.into_owned(),
                    ..Output::default()
                }],
                None,
            ),
            Self::Shell { partial } => {
                partial.push_str(&text);
                let mut outputs = Vec::new();
                while let Some(end) = partial.find('\n') {
                    let line = partial.drain(..=end).collect::<String>();
                    if let ["exit", code @ ..] = line.split_whitespace().collect::<Vec<_>>().as_slice() {
                        let code = code.first().and_then(|code| code.parse().ok());
                        return (outputs, Some(code.unwrap_or(0)));
                    }
                    outputs.push(run_line(pod, &line));
                }
                (outputs, None)
            }
        }
    }
}

/// One command line, split on white space: the shell has no quotes, pipes or variables.
pub(super) fn run_line(pod: &Pod, line: &str) -> Output {
    run(pod, &line.split_whitespace().collect::<Vec<_>>())
}

fn run(pod: &Pod, words: &[&str]) -> Output {
    let printed = |stdout: String| Output {
        stdout,
        ..Output::default()
    };
    match words {
        [] | ["true"] => Output::default(),
        ["false"] => Output {
            code: 1,
            ..Output::default()
        },
        ["exit", code] => Output {
            code: code.parse().unwrap_or(2),
            ..Output::default()
        },
        ["id"] => printed("uid=0(root) gid=0(root) groups=0(root)\n".into()),
        ["whoami"] => printed("root\n".into()),
        ["hostname"] => printed(format!("{}\n", pod.name)),
        ["echo", words @ ..] => printed(format!("{}\n", words.join(" "))),
        ["env"] => {
            let own = format!("HOSTNAME={}\nKUBERNETES_SERVICE_HOST=10.96.0.1\n", pod.name);
            printed(
                pod.env
                    .iter()
                    .fold(own, |all, (name, value)| all + &format!("{name}={value}\n")),
            )
        }
        ["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"] => {
            printed(format!("eyJhbGciOiJub25lIn0.lab-only.{}", pod.name))
        }
        ["cat", files @ ..] if !files.is_empty() => Output {
            stderr: format!("cat: {}: No such file or directory\n", files[0]),
            code: 1,
            ..Output::default()
        },
        [unknown, ..] => Output {
            stderr: format!("sh: {unknown}: not found\n"),
            code: 127,
            ..Output::default()
        },
    }
}
