//! The tiny shell behind exec, attach and run: enough to show that a command ran, and as whom.

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
    /// Ended already.
    Done(Output),
    /// Gives back what it is given, until the end of its input.
    Cat,
    /// Runs the lines it is given.
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

    /// Feeds standard input. What comes back is to be written; the second value is the exit code, once it has ended.
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
                        return (
                            outputs,
                            Some(code.first().and_then(|code| code.parse().ok()).unwrap_or(0)),
                        );
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
    let said = |stdout: String| Output {
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
        ["id"] => said("uid=0(root) gid=0(root) groups=0(root)\n".into()),
        ["whoami"] => said("root\n".into()),
        ["hostname"] => said(format!("{}\n", pod.name)),
        ["echo", words @ ..] => said(format!("{}\n", words.join(" "))),
        ["env"] => {
            let own = format!("HOSTNAME={}\nKUBERNETES_SERVICE_HOST=10.96.0.1\n", pod.name);
            said(
                pod.env
                    .iter()
                    .fold(own, |all, (name, value)| all + &format!("{name}={value}\n")),
            )
        }
        ["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"] => {
            said(format!("eyJhbGciOiJub25lIn0.lab-only.{}", pod.name))
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

#[cfg(test)]
mod tests {
    use super::super::pages::PODS;
    use super::*;

    #[test]
    fn commands_answer_as_root_and_unknown_ones_fail_with_127() {
        let id = run_line(&PODS[0], "id");
        assert_eq!(
            (id.stdout.as_str(), id.code),
            ("uid=0(root) gid=0(root) groups=0(root)\n", 0)
        );
        assert_eq!(run_line(&PODS[0], "hostname").stdout, "web\n");
        let unknown = run_line(&PODS[0], "nmap -sS");
        assert_eq!(
            (unknown.stderr.as_str(), unknown.code),
            ("sh: nmap: not found\n", 127)
        );
    }

    #[test]
    fn a_shell_runs_whole_lines_and_ends_with_its_exit_code() {
        let mut shell = Program::start(&PODS[1], &["sh".into()]);
        assert_eq!(shell.input(&PODS[1], b"ec"), (vec![], None));
        let (outputs, code) = shell.input(&PODS[1], b"ho a b\nexit 3\nid\n");
        assert_eq!((outputs.len(), code), (1, Some(3)));
        assert_eq!(outputs[0].stdout, "a b\n");
    }
}
