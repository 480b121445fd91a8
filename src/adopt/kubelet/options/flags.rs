//! Flags as they were given.

use super::error::OptionsError;
use super::fields::{FIELDS, Field};
use super::flag_names::{Arity, arity};
use crate::adopt::kubelet::invocation::{Invocation, Word};

/// A flag as it was given.
pub(super) struct GivenFlag<'a> {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) place: &'a str,
}

/// The words of a command line, read.
#[derive(Default)]
pub(super) struct CommandLine<'a> {
    pub(super) flags: Vec<GivenFlag<'a>>,
    /// What may surprise the operator.
    pub(super) notes: Vec<String>,
    /// Why a kubelet does not start with these words.
    pub(super) refused: Vec<String>,
    /// Why a word may mean something else than is read here.
    pub(super) unread: Vec<String>,
    /// The flag before the word, if that may go on with the flag's value, which may be a secret.
    secret: Option<String>,
}

/// Flags with credentials in their values.
const SECRETS: [&str; 4] = [
    "manifest-url",
    "manifest-url-header",
    "storage-driver-password",
    "storage-driver-user",
];

impl<'a> CommandLine<'a> {
    /// The words as pflag reads them: `--name=value`, `--name value`, `--switch`; `_` may stand for `-`.
    pub(super) fn of(invocation: &'a Invocation) -> Self {
        let mut line = Self::default();
        let mut words = invocation.words.iter();
        while let Some(word) = words.next() {
            let text = word.text.as_str();
            if text == "--" {
                // What follows is no flag, whatever it looks like.
                let rest: Vec<&Word> = words.by_ref().collect();
                rest.into_iter().for_each(|word| line.stray(word));
            } else if let Some(flag) = text.strip_prefix("--") {
                line.long(word, flag, &mut words);
            } else if text.len() > 1 && text.starts_with('-') {
                line.short(word, &text[1..], &mut words);
            } else {
                line.stray(word);
            }
        }
        line
    }

    fn long(&mut self, word: &'a Word, flag: &str, words: &mut std::slice::Iter<'a, Word>) {
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name.replace('_', "-"), Some(value.to_owned())),
            None => (flag.replace('_', "-"), None),
        };
        let place = &*word.place;
        if name.is_empty() || name.starts_with('-') {
            self.refused.push(format!(
                "{place}: a word begins with {} and names no flag: a kubelet exits on it",
                if name.is_empty() { "--=" } else { "---" }
            ));
            return;
        }
        let arity = arity(&name);
        let may_be_secret = arity == Arity::Unknown || SECRETS.contains(&&*name);
        self.secret = may_be_secret.then(|| excerpt(&name));
        if arity == Arity::Unknown {
            self.notes.push(format!(
                "{place}: the flag --{} is unknown: no kubelet up to Kubernetes 1.36 has it, and a kubelet \
                 exits on a flag that it does not have",
                excerpt(&name)
            ));
        }
        let value = match (value, arity) {
            (Some(value), _) => value,
            (None, Arity::Switch) => "true".to_owned(),
            (None, Arity::Valued) => match words.next() {
                Some(value) => value.text.clone(),
                None => {
                    self.refused.push(format!(
                        "{place}: --{name} is the last word and needs a value: a kubelet exits"
                    ));
                    return;
                }
            },
            (None, Arity::Unknown) => {
                if words
                    .as_slice()
                    .first()
                    .is_some_and(|next| next.text.starts_with('-'))
                {
                    self.unread.push(format!(
                        "{place}: whether the word after the unknown flag --{} is its value is not known; \
                         write it with =",
                        excerpt(&name)
                    ));
                }
                let is_value = words
                    .as_slice()
                    .first()
                    .is_some_and(|next| !next.text.starts_with('-'));
                match is_value.then(|| words.next()).flatten() {
                    Some(value) => value.text.clone(),
                    None => "true".to_owned(),
                }
            }
        };
        self.flags.push(GivenFlag { name, value, place });
    }

    /// Of one letter, a kubelet has `-v`, which is about its log, and `-h`, with which it does not start.
    fn short(&mut self, word: &'a Word, letters: &str, words: &mut std::slice::Iter<'a, Word>) {
        let place = &*word.place;
        self.secret = None;
        match letters.strip_prefix('v') {
            // The level follows in the same word.
            Some(level) if !level.is_empty() => {}
            Some(_) if words.next().is_some() => {}
            Some(_) => self.refused.push(format!(
                "{place}: -v is the last word and needs a value: a kubelet exits"
            )),
            None => self.refused.push(format!(
                "{place}: the word {:?} begins with one hyphen and is none of a kubelet's flags, which have \
                 two: a kubelet exits on it",
                shown(&word.text)
            )),
        }
    }

    fn stray(&mut self, word: &'a Word) {
        let shown = match &self.secret {
            // A value with a space in it, without quotes.
            Some(flag) => format!("\"…\" after --{flag}"),
            None => format!("{:?}", shown(&word.text)),
        };
        self.refused.push(format!(
            "{}: the word {shown} is not a flag: a kubelet exits on it",
            word.place
        ));
    }

    /// The last value of a flag, if it is given and not empty.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        let given = self.flags.iter().rev().find(|given| given.name == name)?;
        Some(given.value.as_str()).filter(|value| !value.is_empty())
    }

    /// The switches of `--feature-gates`, in their order.
    ///
    /// # Errors
    /// One is no pair.
    pub(super) fn feature_gates(&self) -> Result<Vec<(&str, &str, &GivenFlag<'a>)>, OptionsError> {
        let given = self.flags.iter().filter(|given| given.name == "feature-gates");
        let pairs = given.flat_map(|given| given.value.split(',').map(move |pair| (pair, given)));
        let pairs = pairs.filter(|(pair, _)| !pair.is_empty());
        pairs
            .map(|(pair, given)| match pair.split_once('=') {
                Some((name, on)) => Ok((name.trim(), on.trim(), given)),
                None => Err(OptionsError {
                    place: given.place.to_owned(),
                    why: format!(
                        "--feature-gates: {:?} is not NAME=true or NAME=false",
                        excerpt(pair)
                    ),
                }),
            })
            .collect()
    }
}

/// The field that a flag sets.
pub(super) fn is_of(field: &Field, given: &GivenFlag<'_>) -> bool {
    !field.flag.is_empty() && given.name == field.flag
}

/// The last value of a flag, if it is given and not empty. Files are not read for it.
#[must_use]
pub(crate) fn given(invocation: &Invocation, flag: &str) -> Option<String> {
    CommandLine::of(invocation).last(flag).map(str::to_owned)
}

/// The flags as they were given. Values of other flags than those that are read are left out,
/// since they may be secrets.
pub(crate) fn arguments(invocation: &Invocation) -> Vec<String> {
    let shown = |given: GivenFlag<'_>| match FIELDS.iter().any(|field| field.flag == given.name) {
        true => format!("--{}={}", given.name, given.value),
        false => format!("--{}=…", given.name),
    };
    CommandLine::of(invocation).flags.into_iter().map(shown).collect()
}

/// A word of the command line, as messages show it. What may be a secret is left out: the value in
/// `name=value`, unless `name` is a flag that is read, and from the fourth character on what mixes digits and
/// letters as keys and tokens do.
fn shown(word: &str) -> String {
    let name = |word: &str| {
        word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
            .replace('_', "-")
    };
    if let Some((before, _)) = word.split_once('=') {
        return match FIELDS
            .iter()
            .any(|field| !field.flag.is_empty() && field.flag == name(before))
        {
            true => excerpt(word),
            false => format!("{}=…", excerpt(before)),
        };
    }
    match may_be_secret(word) {
        true => format!("{}…", word.chars().take(3).collect::<String>()),
        false => excerpt(word),
    }
}

/// Names of nodes, paths, addresses, numbers and words of a language are none.
fn may_be_secret(word: &str) -> bool {
    let mixes = |part: &str, letter: fn(&char) -> bool| {
        part.chars().any(|c| c.is_ascii_digit()) && part.chars().any(|c| letter(&c))
    };
    let has_runs = |least: usize| {
        let mut runs = word.split(|c: char| !c.is_ascii_alphanumeric());
        runs.any(|run| run.len() >= least && mixes(run, char::is_ascii_alphabetic))
    };
    word.len() >= 8
        && !word.starts_with(['/', '.'])
        && (mixes(word, char::is_ascii_uppercase) || has_runs(12))
        || word.len() > 40
}

/// The start of a text, for messages.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}
