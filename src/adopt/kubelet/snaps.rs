//! Snaps that keep the kubelet's arguments in a file: MicroK8s, whose `kubelite` is all of Kubernetes in one
//! process, and Canonical Kubernetes, whose service passes them to a kubelet.

use super::invocation::{Invocation, Source, Word, placed, program};
use super::root::Root;

/// One of them.
#[derive(Debug)]
pub(super) struct Snap {
    /// The name of its service for `snap run`.
    service: &'static str,
    /// Its kubelet.
    pub(super) program: &'static str,
    /// The file, unless a process names another.
    pub(super) arguments: &'static str,
    /// What the variables in it stand for, longer names first.
    variables: [(&'static str, &'static str); 3],
}

const MICROK8S: Snap = Snap {
    service: "microk8s.daemon-kubelite",
    program: "/snap/microk8s/current/kubelite",
    arguments: "/var/snap/microk8s/current/args/kubelet",
    variables: [
        ("SNAP_COMMON", "/var/snap/microk8s/common"),
        ("SNAP_DATA", "/var/snap/microk8s/current"),
        ("SNAP", "/snap/microk8s/current"),
    ],
};
const CANONICAL: Snap = Snap {
    service: "k8s.kubelet",
    program: "/snap/k8s/current/bin/kubelet",
    arguments: "/var/snap/k8s/common/args/kubelet",
    variables: [
        ("SNAP_COMMON", "/var/snap/k8s/common"),
        ("SNAP_DATA", "/var/snap/k8s/current"),
        ("SNAP", "/snap/k8s/current"),
    ],
};
pub(super) const SNAPS: [Snap; 2] = [MICROK8S, CANONICAL];
const FLAG: &str = "--kubelet-args-file";

/// Whether this command starts `kubelite`.
pub(super) fn is_kubelite(words: &[Word]) -> bool {
    words
        .first()
        .is_some_and(|word| program(&word.text) == "kubelite")
}

/// The kubelet inside a `kubelite` with this command.
pub(super) fn of_kubelite(command: &[Word], source: Source, root: Root) -> Invocation {
    let named = command.iter().enumerate().find_map(|(at, word)| {
        let value = word.text.strip_prefix(FLAG)?;
        match value.strip_prefix('=') {
            Some(file) => Some(file.to_owned()),
            None => command
                .get(at + 1)
                .filter(|_| value.is_empty())
                .map(|next| next.text.clone()),
        }
    });
    MICROK8S.read(named.as_deref().unwrap_or(MICROK8S.arguments), source, root)
}

impl Snap {
    /// The snap whose service this command runs.
    pub(super) fn run_by(words: &[Word]) -> Option<&'static Self> {
        let [first, run, rest @ ..] = words else {
            return None;
        };
        let runs = program(&first.text) == "snap" && run.text == "run";
        let service = rest.iter().find(|word| !word.text.starts_with('-'))?;
        SNAPS.iter().find(|snap| runs && snap.service == service.text)
    }

    /// The kubelet that its file of arguments starts.
    pub(super) fn invocation(&self, source: Source, root: Root) -> Invocation {
        self.read(self.arguments, source, root)
    }

    fn read(&self, file: &str, source: Source, root: Root) -> Invocation {
        let (text, mut unread) = match root.read(file) {
            Ok(text) => (text, Vec::new()),
            Err(error) => (String::new(), vec![format!("{file}: {error}")]),
        };
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut arguments = Vec::new();
        for (number, line) in lines.filter(|(_, line)| !line.starts_with('#')) {
            // The two differ in what quotes around a space, and whatever else is a shell's, mean.
            let quoted = line.split(['"', '\'']).skip(1).step_by(2);
            if quoted.clone().any(|part| part.contains(char::is_whitespace))
                || line.contains(['\\', '`', '(', ';', '&', '|', '*', '?'])
            {
                unread.push(format!(
                    "{file}:{number}: quotes around spaces, or characters of a shell, are not read here"
                ));
            }
            for word in line.replace(['"', '\''], "").split_whitespace() {
                let word = self.located(word);
                if word.contains('$') {
                    unread.push(format!("{file}:{number}: a variable that the snap does not set"));
                }
                arguments.push(word);
            }
        }
        Invocation {
            unread,
            ..Invocation::new(source, placed(&arguments, file), root)
        }
    }

    /// With the variables that snap sets.
    fn located(&self, word: &str) -> String {
        let replace = |word: String, (name, value): &(&str, &str)| {
            word.replace(&format!("${{{name}}}"), value)
                .replace(&format!("${name}"), value)
        };
        self.variables.iter().fold(word.to_owned(), replace)
    }
}
