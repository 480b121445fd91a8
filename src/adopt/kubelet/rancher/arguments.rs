//! Arguments for the kubelet: k3s' own, and those of `kubelet-arg`.

use std::collections::BTreeMap;

use crate::adopt::kubelet::invocation::Word;

/// The name that an argument sets: without the hyphens before it, its value, and what says how it is merged.
pub(super) fn name(argument: &str) -> &str {
    let argument = argument.strip_prefix("--").unwrap_or(argument);
    let (name, _) = argument.split_once('=').unwrap_or((argument, ""));
    name.trim_end_matches(['-', '+'])
}

/// Both, as the kubelet gets them: sorted by name. A given argument replaces the own one of its name, unless
/// its name ends with a plus, which adds after it, or a hyphen, which adds before it.
pub(super) fn merged(own: &[Word], given: &[Word]) -> Vec<Word> {
    let mut initial: BTreeMap<&str, &Word> = own.iter().map(|word| (name(&word.text), word)).collect();
    let mut all: BTreeMap<&str, Vec<Word>> = BTreeMap::new();
    for word in given {
        let text = word.text.strip_prefix("--").unwrap_or(&word.text);
        let (written, value) = text.split_once('=').unwrap_or((text, "true"));
        let name = name(text);
        let argument = Word {
            text: format!("--{name}={value}"),
            place: word.place.clone(),
        };
        // Only the first argument of a name finds the own one.
        let before = initial.remove(name).cloned();
        let values = all.entry(name).or_default();
        if written.ends_with('-') {
            values.splice(0..0, [argument].into_iter().chain(before));
        } else {
            values.extend(before.filter(|_| written.ends_with('+')));
            values.push(argument);
        }
    }
    for (name, word) in initial {
        all.insert(name, vec![word.clone()]);
    }
    all.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adopt::kubelet::invocation::placed;

    /// Seen red: with every given argument behind the own ones.
    #[test]
    fn a_given_argument_replaces_the_own_one_or_adds_to_it() {
        let own = ["--read-only-port=0", "--node-ip=192.0.2.1"].map(str::to_owned);
        for (given, expected) in [
            (
                &["read-only-port=1"][..],
                "--node-ip=192.0.2.1 --read-only-port=1",
            ),
            (&["--node-ip=::1"], "--node-ip=::1 --read-only-port=0"),
            (
                &["node-ip+=::1", "node-ip=::2"],
                "--node-ip=192.0.2.1 --node-ip=::1 --node-ip=::2 --read-only-port=0",
            ),
            (
                &["node-ip-=::1", "node-ip-=::2"],
                "--node-ip=::2 --node-ip=::1 --node-ip=192.0.2.1 --read-only-port=0",
            ),
            (
                &["seccomp-default"],
                "--node-ip=192.0.2.1 --read-only-port=0 --seccomp-default=true",
            ),
            (
                &["read_only_port=1"],
                "--node-ip=192.0.2.1 --read-only-port=0 --read_only_port=1",
            ),
        ] {
            let words: Vec<String> = given.iter().map(ToString::to_string).collect();
            let merged = merged(&placed(&own, "own"), &placed(&words, "given"));
            let merged: Vec<&str> = merged.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(merged.join(" "), expected, "{given:?}");
        }
    }
}
