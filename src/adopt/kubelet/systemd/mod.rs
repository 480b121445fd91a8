//! What a systemd unit starts, read from its files as systemd 252 reads them: the fragment, its drop-ins, and
//! the environment they name.
//!
//! ```text
//! reading      what the files of a unit set                    reading.rs
//! command      commands, and their variables replaced          command.rs
//! variables    the environment                                 variables.rs
//! specifiers   `%H` and its like                               specifiers.rs
//! search       the unit's own file, its names, its drop-ins    search.rs
//! socket       socket units                                    socket.rs
//! keys         the keys that systemd knows                     keys.rs
//! lines        the lines of a file                             lines.rs
//! words        the words of a line                             words.rs
//! pattern      patterns of file names                          pattern.rs
//! error        why it is not known what a unit starts          error.rs
//! ```

mod command;
mod error;
mod keys;
mod lines;
mod pattern;
mod reading;
#[cfg(test)]
mod recorded;
mod search;
mod socket;
mod specifiers;
mod variables;
mod words;

pub use self::error::UnitError;
pub(crate) use self::socket::{SocketLine, SocketUnit, socket_unit};

use std::collections::BTreeMap;

use self::reading::UnitFiles;
use super::invocation::{KubeletUnit, Word, kubelet_arguments};
use super::root::Root;

/// What a unit starts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct UnitStart {
    /// The file of the unit itself.
    pub(super) file: String,
    /// What is started, with every variable in its place.
    pub(super) words: Vec<Word>,
    /// `WorkingDirectory`, `/` unless set.
    pub(super) directory: String,
    /// The environment, as far as the unit makes it.
    pub(super) environment: BTreeMap<String, String>,
    /// With `IPAddressDeny=any`, the addresses that `IPAddressAllow` lets in.
    pub(super) allows_only: Option<Vec<String>>,
    /// What may surprise the operator.
    pub(super) notes: Vec<String>,
    /// Sources that could not be read, and may hold any option.
    pub(super) unread: Vec<String>,
}

impl UnitStart {
    /// The unit.
    pub(super) fn unit(&self) -> KubeletUnit {
        KubeletUnit {
            file: self.file.clone(),
            allows_only: self.allows_only.clone(),
        }
    }
}

/// What the unit of this name starts. `None`: there is no such unit, or it is masked.
///
/// # Errors
/// One of its files cannot be read, systemd refuses it, or it starts nothing.
pub(super) fn started(root: &Root, name: &str) -> Result<Option<UnitStart>, UnitError> {
    let Some(found) = search::find(root, name)? else {
        return Ok(None);
    };
    let mut unit = UnitFiles::of(root, name, found)?;
    let variables = unit.variables()?;
    let file = unit.fragment().to_owned();
    let mut commands = std::mem::take(&mut unit.commands);
    if let [_, second, ..] = &commands[..]
        && !unit.is_oneshot
    {
        return Err(UnitError::Refused {
            place: second.place.to_string(),
            why: "a second ExecStart, which units of Type=oneshot alone may have".to_owned(),
        });
    }
    let mut told = std::mem::take(&mut unit.told);
    let Some(last) = commands.pop() else {
        return Err(UnitError::NoCommand(file));
    };
    let started = |command: &command::Command, told: &mut lines::Told| {
        let started = command.started(&variables, told);
        started.ok_or_else(|| UnitError::LongCommand(command.place.file.to_string()))
    };
    // A one-shot unit runs its commands one after the other: what counts is the one that is a kubelet.
    let mut words = None;
    for command in &commands {
        let mut own = lines::Told::default();
        let candidate = started(command, &mut own)?;
        if kubelet_arguments(&candidate).is_some() {
            told.notes.extend(own.notes);
            told.unread.extend(own.unread);
            words = Some(candidate);
            break;
        }
    }
    let words = match words {
        Some(words) => words,
        None => started(&last, &mut told)?,
    };
    Ok(Some(UnitStart {
        file,
        words,
        directory: match unit.directory.as_str() {
            "" => "/".to_owned(),
            directory => directory.to_owned(),
        },
        environment: variables.into_known(),
        allows_only: unit
            .denied
            .iter()
            .any(|word| word == "any")
            .then_some(unit.allowed),
        notes: told.notes,
        unread: told.unread,
    }))
}

#[cfg(test)]
mod tests;
