//! Flags as they were given.

use super::fields::{FIELDS, ValueKind};
use crate::adopt::kubelet::invocation::Invocation;

/// A flag as it was given.
pub(super) struct GivenFlag<'a> {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) place: &'a str,
}

/// The words as pflag reads them: `--name=value`, `--name value`, `--switch`; `_` may stand for `-`.
pub(super) fn parsed<'a>(invocation: &'a Invocation, notes: &mut Vec<String>) -> Vec<GivenFlag<'a>> {
    let mut flags = Vec::new();
    let mut words = invocation.words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.text.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
            // One-letter flags, such as -v 2, are about logs.
            let short = word.text.starts_with('-') && word.text != "--";
            if short && word.text.len() == 2 {
                words.next_if(|next| !next.text.starts_with('-'));
            } else if !short {
                // Mostly the value meant for a switch. The value of an unknown flag may be a secret.
                let shown = match word.text.as_str() {
                    "true" | "false" => &word.text,
                    _ => "…",
                };
                notes.push(format!(
                    "{}: the word {shown:?} is not a flag: a kubelet exits on it",
                    word.place
                ));
            }
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.replace('_', "-"), value.to_owned()),
            None => {
                let name = flag.replace('_', "-");
                let known = FIELDS.iter().find(|field| field.flag == name);
                let value = match known {
                    Some(field) if field.kind == ValueKind::Bool => None,
                    Some(_) => words.next(),
                    // An unknown flag may be a switch.
                    None => words.next_if(|next| !next.text.starts_with('-')),
                };
                (
                    name,
                    value.map_or_else(|| "true".to_owned(), |value| value.text.clone()),
                )
            }
        };
        flags.push(GivenFlag {
            name,
            value,
            place: &word.place,
        });
    }
    flags
}

/// The last value of a flag, if it is given and not empty. Files are not read for it.
#[must_use]
pub(crate) fn given(invocation: &Invocation, flag: &str) -> Option<String> {
    let flags = parsed(invocation, &mut Vec::new());
    let last = flags.into_iter().rev().find(|given| given.name == flag)?;
    Some(last.value).filter(|value| !value.is_empty())
}

/// The flags as they were given. Values of unknown flags are left out, since they may be secrets.
pub(crate) fn arguments(invocation: &Invocation) -> Vec<String> {
    let shown = |given: GivenFlag<'_>| match FIELDS.iter().any(|field| field.flag == given.name) {
        true => format!("--{}={}", given.name, given.value),
        false => format!("--{}=…", given.name),
    };
    parsed(invocation, &mut Vec::new())
        .into_iter()
        .map(shown)
        .collect()
}
