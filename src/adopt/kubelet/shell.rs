//! The little of a shell that is read: a text that is one command, and a script that only passes its
//! arguments on. Whatever else a shell can do is not guessed at.

use std::collections::BTreeMap;

/// What ends a command, starts another, matches files, or is otherwise more than a word.
const SYNTAX: &str = ";&|<>()`*?[]{}!~#\n\r";

/// Whether a program is a shell.
pub(super) fn is(program: &str) -> bool {
    matches!(program, "sh" | "bash" | "dash" | "ash" | "ksh" | "zsh")
}

/// The variables that a text sets for its command, and that command's words without `exec`. `None`: the text
/// is more than one simple command, or has expansions other than plain variables.
pub(super) fn simple_command(
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Option<(BTreeMap<String, String>, Vec<String>)> {
    let mut words = words(text.trim(), environment)?.into_iter().peekable();
    let mut assignments = BTreeMap::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        if !is_name(name) {
            break;
        }
        assignments.insert(name.to_owned(), value.to_owned());
        words.next();
    }
    words.next_if(|word| word == "exec");
    // Options of exec, or no command.
    let words: Vec<String> = words.collect();
    let plain = words.first().is_some_and(|word| !word.starts_with('-'));
    plain.then_some((assignments, words))
}

/// Whether each `"$@"` of a script is quoted and the end of its command, and nothing changes the arguments.
pub(super) fn passes_arguments_on(script: &str) -> bool {
    let lines = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'));
    let mut passes = false;
    for line in lines {
        let first = line.split_whitespace().next().unwrap_or_default();
        if matches!(first, "shift" | "set" | "source" | "." | "eval") && !line.starts_with("set -") {
            return false;
        }
        if line.contains("set --") || line.contains("$*") || (first == "exec" && line.contains("kubelet")) {
            return false;
        }
        let mut rest = line;
        while let Some(at) = rest.find("$@") {
            let (before, after) = (&rest[..at], &rest[at + 2..]);
            let Some(after) = after.strip_prefix('"').filter(|_| before.ends_with('"')) else {
                return false;
            };
            if !after.trim_start().is_empty() && !after.trim_start().starts_with([';', '}']) {
                return false;
            }
            passes = true;
            rest = after;
        }
    }
    passes
}

/// The words of a text, quotes taken away and variables replaced: of one that is not in quotes each word is a
/// word.
fn words(text: &str, environment: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\'' if !quoted => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c if quoted && !matches!(c, '$' | '`' | '"' | '\\') => {
                    word.get_or_insert_default().extend(['\\', c]);
                }
                c => word.get_or_insert_default().push(c),
            },
            '$' => {
                let name = variable(&mut chars)?;
                // What else the shell finds there, or systemd sets, is not known.
                let value = environment.get(&name)?.as_str();
                if quoted {
                    word.get_or_insert_default().push_str(value);
                    continue;
                }
                // A match of file names.
                if value.contains(['*', '?', '[', '\\']) {
                    return None;
                }
                if value.starts_with(char::is_whitespace) {
                    words.extend(word.take());
                }
                let mut parts = value.split_whitespace().peekable();
                while let Some(part) = parts.next() {
                    word.get_or_insert_default().push_str(part);
                    if parts.peek().is_some() || value.ends_with(char::is_whitespace) {
                        words.extend(word.take());
                    }
                }
            }
            '`' => return None,
            c if quoted => word.get_or_insert_default().push(c),
            c if SYNTAX.contains(c) => return None,
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return None;
    }
    words.extend(word);
    Some(words)
}

/// The name behind a dollar: `NAME` or `{NAME}`.
fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    let braced = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if braced && chars.next() != Some('}') {
        return None;
    }
    is_name(&name).then_some(name)
}

fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(first) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Words without anything of a shell's come back as they are, and no text makes this panic.
        #[test]
        fn any_text_is_read_or_refused(
            plain in prop::collection::vec("[a-zA-Z0-9/_.,:=-]{1,12}", 1..5),
            any in "([$\"'\\\\{}a-z@ \n-]|exec |[ -~]){0,40}",
        ) {
            let plain = [vec!["kubelet".to_owned()], plain].concat();
            let read = simple_command(&plain.join("  "), &BTreeMap::new());
            prop_assert_eq!(read.map(|(_, words)| words), Some(plain));
            let _ = simple_command(&any, &BTreeMap::from([("a".to_owned(), any.clone())]));
            let _ = passes_arguments_on(&any);
        }
    }

    /// (Not seen red.)
    #[test]
    fn one_command_is_read_and_nothing_else_is_guessed_at() {
        let environment = BTreeMap::from([
            ("FLAGS".to_owned(), " --a=1  --b ".to_owned()),
            ("HOST".to_owned(), "h".to_owned()),
            ("GLOB".to_owned(), "--a=*".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]);
        let read = |text: &str| simple_command(text, &environment);
        for (text, expected) in [
            ("exec kubelet $FLAGS --c", &["kubelet", "--a=1", "--b", "--c"][..]),
            ("A=b kubelet \"$FLAGS\"x", &["kubelet", " --a=1  --b x"]),
            (
                "kubelet --x=${HOST}y '$HOST' \\$HOST",
                &["kubelet", "--x=hy", "$HOST", "$HOST"],
            ),
            (
                "kubelet x$FLAGS\"y\" $EMPTY \"$EMPTY\"",
                &["kubelet", "x", "--a=1", "--b", "y", ""],
            ),
            ("kubelet \"a  b\" 'c  d'", &["kubelet", "a  b", "c  d"]),
            ("kubelet \\\n  --a", &["kubelet", "--a"]),
        ] {
            assert_eq!(read(text).unwrap().1, expected, "{text}");
        }
        assert_eq!(read("A=b C='d e' exec kubelet").unwrap().0.len(), 2);
        for text in [
            "",
            "exec -a x kubelet",
            "sleep 1; kubelet",
            "kubelet && true",
            "kubelet | tee x",
            "kubelet > log",
            "kubelet $(cat flags)",
            "kubelet `cat flags`",
            "kubelet \"`cat flags`\"",
            "kubelet ${X:-y}",
            "kubelet $1 $@",
            "kubelet $GLOB",
            "kubelet --a=*",
            "kubelet 'open",
            "kubelet \"open",
            "kubelet $PATH",
            "kubelet $NONE",
            "[ -f x ]",
            "# kubelet",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_script_that_adds_to_its_arguments_is_not_taken_for_one_that_passes_them_on() {
        for (script, passes) in [
            ("#!/bin/bash\nexec \"$@\"\n", true),
            (
                "if [ -n \"$N\" ]; then\n  exec nsenter --mount=$N \"$@\"; else\nexec \"$@\"; fi",
                true,
            ),
            ("exec \"$@\" --anonymous-auth=true", false),
            ("exec $@", false),
            ("shift\nexec \"$@\"", false),
            ("set -- a\nexec \"$@\"", false),
            ("exec kubelet \"$@\"", false),
            ("exec true", false),
            ("", false),
        ] {
            assert_eq!(passes_arguments_on(script), passes, "{script}");
        }
    }
}
