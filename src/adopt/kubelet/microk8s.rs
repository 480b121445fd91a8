//! MicroK8s: one process for all of Kubernetes, `kubelite`, which reads the kubelet's arguments from a file.

use super::invocation::{Invocation, Source, Word, placed, program};
use super::root::Root;
use super::systemd;

/// The file, unless the process names another.
pub(super) const ARGUMENTS: &str = "/var/snap/microk8s/current/args/kubelet";
const FLAG: &str = "--kubelet-args-file=";

/// Whether this command starts `kubelite`.
pub(super) fn is(words: &[Word]) -> bool {
    words
        .first()
        .is_some_and(|word| program(&word.text) == "kubelite")
}

/// The kubelet of this command, or of a node's files.
pub(super) fn invocation(command: &[Word], source: Source, root: Root) -> Invocation {
    let named = command.iter().find_map(|word| word.text.strip_prefix(FLAG));
    let file = named.unwrap_or(ARGUMENTS);
    let (text, unread) = match root.read(file) {
        Ok(text) => (text, Vec::new()),
        Err(error) => (String::new(), vec![format!("{file}: {error}")]),
    };
    let arguments: Vec<String> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(systemd::words)
        .map(|word| located(&word))
        .collect();
    Invocation {
        unread,
        ..Invocation::new(source, placed(&arguments, file), root)
    }
}

/// With the variables that snap sets. Longer names first.
fn located(word: &str) -> String {
    const VARIABLES: [(&str, &str); 3] = [
        ("SNAP_COMMON", "/var/snap/microk8s/common"),
        ("SNAP_DATA", "/var/snap/microk8s/current"),
        ("SNAP", "/snap/microk8s/current"),
    ];
    let replace = |word: String, (name, value): &(&str, &str)| {
        word.replace(&format!("${{{name}}}"), value)
            .replace(&format!("${name}"), value)
    };
    VARIABLES.iter().fold(word.to_owned(), replace)
}
