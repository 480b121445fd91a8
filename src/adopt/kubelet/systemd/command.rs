//! Commands: `ExecStart=`, and what becomes of one when it is started.

use std::sync::Arc;

use super::lines::{LinePlace, Told, WHITESPACE, is_safe};
use super::specifiers::Specifiers;
use super::variables::{LookedUp, Variables};
use super::words::{WordRules, take_word, words};
use crate::adopt::kubelet::invocation::Word;

/// How long a command may become, with every variable in its place.
const LONGEST_COMMAND: usize = 4 * 1024 * 1024;

/// A program and its arguments, before variables are replaced.
#[derive(Debug)]
pub(super) struct Command {
    program: String,
    /// From `argv[0]` on.
    argv: Vec<String>,
    /// Variables are replaced: no prefix `:`.
    expands: bool,
    pub(super) place: LinePlace,
}

/// What is wrong with a line that starts something.
#[derive(Debug)]
pub(super) enum BadCommand {
    /// systemd ignores the line from there on.
    Ignored(String),
    /// systemd refuses the unit.
    Refused(String),
}

/// Reads the commands of a line, which single semicolons separate.
///
/// # Errors
/// systemd does not take one. Those before it are in `found`.
pub(super) fn commands(
    value: &str,
    specifiers: &Specifiers<'_>,
    place: &LinePlace,
    told: &mut Told,
    found: &mut Vec<Command>,
) -> Result<(), BadCommand> {
    let mut rest = value;
    loop {
        let first = match take_word(&mut rest, WordRules::KeptEscapes) {
            Ok(Some(first)) => first,
            Ok(None) => return Ok(()),
            Err(_) => return Err(BadCommand::Ignored("a quote is not closed".to_owned())),
        };
        if first == b";" {
            continue;
        }
        let (command, goes_on) = command(&first, &mut rest, specifiers, place, told)?;
        found.push(command);
        if !goes_on {
            return Ok(());
        }
    }
}

/// One command whose first word is given; and whether another follows.
fn command(
    first: &[u8],
    rest: &mut &str,
    specifiers: &Specifiers<'_>,
    place: &LinePlace,
    told: &mut Told,
) -> Result<(Command, bool), BadCommand> {
    let first = String::from_utf8_lossy(first);
    let prefix = Prefix::of(&first);
    // With the prefix `-` what is wrong is overlooked, also here.
    let bad = |why: &str| {
        if prefix.ignores {
            BadCommand::Ignored(why.to_owned())
        } else {
            BadCommand::Refused(why.to_owned())
        }
    };
    if prefix.path.starts_with('|') {
        return Err(BadCommand::Refused(
            "systemd before 258 does not know the prefix \"|\", and later ones run a shell".to_owned(),
        ));
    }
    let unknown = |letter| bad(&format!("the specifier \"%{letter}\" is unknown"));
    let program = specifiers.replaced(prefix.path, place, told).map_err(unknown)?;
    if !is_program(&program) {
        return Err(bad(
            "the first word is neither an absolute path nor a program's name",
        ));
    }
    let mut argv = if prefix.names_itself {
        Vec::new()
    } else {
        vec![program.clone()]
    };
    let mut goes_on = false;
    while !rest.is_empty() {
        if let Some(after) = lone(rest, ";") {
            (*rest, goes_on) = (after, true);
            break;
        }
        if let Some(after) = lone(rest, "\\;") {
            *rest = after;
            argv.push(";".to_owned());
            continue;
        }
        match take_word(rest, WordRules::KeptEscapes) {
            Ok(None) => break,
            Ok(Some(word)) => argv.push(
                specifiers
                    .replaced(&text(word, told), place, told)
                    .map_err(unknown)?,
            ),
            Err(_) => return Err(bad("a quote is not closed")),
        }
    }
    if argv.first().is_none_or(String::is_empty) {
        return Err(bad("there is no name for the program after the prefix \"@\""));
    }
    let command = Command {
        program,
        argv,
        expands: prefix.expands,
        place: place.clone(),
    };
    Ok((command, goes_on))
}

fn text(word: Vec<u8>, told: &mut Told) -> String {
    String::from_utf8(word).unwrap_or_else(|error| {
        let note = "some arguments are not UTF-8; such bytes are shown as \u{fffd}";
        told.notes.push(note.to_owned());
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })
}

/// What follows a word that stands alone.
fn lone<'a>(rest: &'a str, word: &str) -> Option<&'a str> {
    let after = rest.strip_prefix(word)?;
    (after.is_empty() || after.starts_with(WHITESPACE)).then(|| after.trim_start_matches(WHITESPACE))
}

fn is_program(path: &str) -> bool {
    let parts = || path.split('/');
    is_safe(path)
        && !path.ends_with('/')
        && parts().all(|part| part.len() <= 255)
        && match path.strip_prefix('/') {
            Some(_) => true,
            None => !path.contains('/') && !matches!(path, "" | "." | ".."),
        }
}

/// What stands before a program's path.
struct Prefix<'a> {
    path: &'a str,
    ignores: bool,
    names_itself: bool,
    expands: bool,
}

impl<'a> Prefix<'a> {
    fn of(word: &'a str) -> Self {
        let mut prefix = Self {
            path: word,
            ignores: false,
            names_itself: false,
            expands: true,
        };
        // `+`, `!` and `!!` exclude each other.
        let mut credentials = "";
        while let Some(c) = prefix.path.chars().next() {
            match c {
                '-' if !prefix.ignores => prefix.ignores = true,
                '@' if !prefix.names_itself => prefix.names_itself = true,
                ':' if prefix.expands => prefix.expands = false,
                '+' if credentials.is_empty() => credentials = "+",
                '!' if credentials.is_empty() => credentials = "!",
                '!' if credentials == "!" => credentials = "!!",
                _ => break,
            }
            prefix.path = &prefix.path[1..];
        }
        prefix
    }
}

impl Command {
    /// The command as it is started: `${NAME}` replaced within a word, `$NAME` alone by as many words as it
    /// has. `None`: it becomes far too long.
    pub(super) fn started(&self, variables: &Variables, told: &mut Told) -> Option<Vec<Word>> {
        let file = &self.place.file;
        let as_it_is = |word: &String| Word {
            text: word.clone(),
            place: Arc::clone(file),
        };
        let mut words = Vec::new();
        let mut length = 0;
        for word in &self.argv {
            let before = words.len();
            let alone = word
                .strip_prefix('$')
                .filter(|name| !name.starts_with(['{', '$']));
            match alone {
                _ if !self.expands => words.push(as_it_is(word)),
                Some(name) => words.extend(self.split(name, variables, told)),
                None => words.push(self.replaced(word, variables, told)),
            }
            length += words[before..]
                .iter()
                .map(|word| word.text.len() + 1)
                .sum::<usize>();
            if length > LONGEST_COMMAND {
                return None;
            }
        }
        // `argv[0]` is not the program.
        let arguments = words.into_iter().skip(1);
        Some(
            std::iter::once(as_it_is(&self.program))
                .chain(arguments)
                .collect(),
        )
    }

    /// The words of a variable.
    fn split(&self, name: &str, variables: &Variables, told: &mut Told) -> Vec<Word> {
        let of_value = |(text, file): (&str, &Arc<str>)| {
            let word = |text| Word {
                text,
                place: Arc::clone(file),
            };
            words(text).into_iter().map(word).collect()
        };
        self.value(name, variables, told).map_or_else(Vec::new, of_value)
    }

    /// A word with each `${NAME}` replaced, and `$$` by `$`. Its place is where the variable is set.
    fn replaced(&self, word: &str, variables: &Variables, told: &mut Told) -> Word {
        let mut text = String::new();
        let mut place = &self.place.file;
        let mut rest = word;
        while let Some((before, after)) = rest.split_once('$') {
            text.push_str(before);
            rest = if let Some(after) = after.strip_prefix('$') {
                text.push('$');
                after
            } else if let Some(braced) = after.strip_prefix('{') {
                let end = braced.find(['}', ':']);
                let (name, after) = end.map_or((braced, ""), |end| braced.split_at(end));
                if let Some(after) = after.strip_prefix('}') {
                    if let Some((value, file)) = self.value(name, variables, told) {
                        text.push_str(value);
                        place = file;
                    }
                    after
                } else {
                    // Not closed, or with a colon: systemd leaves it as it is.
                    text.push_str("${");
                    text.push_str(name);
                    after
                }
            } else {
                text.push('$');
                // What follows a single dollar sign is not looked at again.
                let kept = after.chars().next().map_or(0, char::len_utf8);
                text.push_str(&after[..kept]);
                &after[kept..]
            };
            if text.len() > LONGEST_COMMAND {
                break;
            }
        }
        text.push_str(rest);
        Word {
            text,
            place: Arc::clone(place),
        }
    }

    fn value<'a>(
        &self,
        name: &str,
        variables: &'a Variables,
        told: &mut Told,
    ) -> Option<(&'a str, &'a Arc<str>)> {
        match variables.get(name) {
            LookedUp::Set(text, file) => Some((text, file)),
            LookedUp::Unset => None,
            LookedUp::Unknown(why) => {
                told.unknown(
                    &self.place,
                    format!("the value of ${name} is not known here: {why}"),
                );
                None
            }
        }
    }
}
