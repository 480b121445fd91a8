//! When files that have changed are taken up.
//!
//! A writer may stop at any byte, and what is there by then may be read without an error: a bundle with a
//! certificate less, or a configuration with a rule less. By the clock, files are therefore taken up only if
//! two looks, at least [`SETTLE`] apart, found the same bytes. SIGHUP takes up what is there: by it the
//! operator says that the files are complete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};

/// For so long files must have the same bytes before the clock takes them up.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// What makes the gate look at its files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trigger {
    Clock,
    /// SIGHUP.
    Signal,
}

/// What was found of the files that differ from those in force.
#[derive(Debug)]
pub(crate) struct Looks {
    trigger: Trigger,
    now: Instant,
    /// The number of this look.
    number: u64,
    seen: BTreeMap<&'static str, Seen>,
    unsettled: bool,
}

/// Bytes that are not in force, and when they were found first. Every look since has found them.
#[derive(Debug)]
struct Seen {
    digest: [u8; 32],
    since: Instant,
    /// The last look that found them.
    number: u64,
}

/// Files that must match, as they were taken up, and the value that was read from them.
#[derive(Debug)]
pub(crate) struct Unit<T> {
    files: Vec<Vec<u8>>,
    value: T,
}

/// What a look says of a unit.
#[derive(Debug)]
pub(crate) enum Next<T> {
    /// The files are those in force.
    Same,
    /// They differ, and may still be being written.
    Unsettled,
    New(T),
}

/// What became of the files of one kind.
#[derive(Debug)]
pub(crate) struct Reloaded<E> {
    /// Some of them are newly in force.
    pub(crate) changed: bool,
    /// Some of them differ, and are taken up if the next look finds them the same.
    pub(crate) unsettled: bool,
    /// Why others were not taken up.
    pub(crate) problems: Vec<E>,
    /// What the new ones allow that the ones before did not.
    pub(crate) loosened: Vec<String>,
}

// === impl Looks ===

impl Looks {
    /// A look that takes up what is there.
    pub(crate) fn at_once() -> Self {
        Self {
            trigger: Trigger::Signal,
            now: Instant::now(),
            number: 0,
            seen: BTreeMap::new(),
            unsettled: false,
        }
    }

    /// Begins the next look.
    pub(crate) fn begin(&mut self, trigger: Trigger, now: Instant) {
        (self.trigger, self.now, self.unsettled) = (trigger, now, false);
        self.number += 1;
    }

    pub(crate) fn trigger(&self) -> Trigger {
        self.trigger
    }

    /// Whether something waits for the next look.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Whether the files of `unit`, which differ from those in force, are taken up now.
    pub(crate) fn has_settled(&mut self, unit: &'static str, files: &[Vec<u8>]) -> bool {
        let digest = digest(files);
        let since = match self.seen.get(unit) {
            Some(seen) if seen.digest == digest && seen.number + 1 >= self.number => seen.since,
            _ => self.now,
        };
        let number = self.number;
        self.seen.insert(
            unit,
            Seen {
                digest,
                since,
                number,
            },
        );
        let settled = self.trigger == Trigger::Signal || self.now.duration_since(since) >= SETTLE;
        self.unsettled |= !settled;
        settled
    }
}

/// SHA-256 over the files, each after its length.
fn digest(files: &[Vec<u8>]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for file in files {
        context.update(&(file.len() as u64).to_be_bytes());
        context.update(file);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

// === impl Unit ===

impl<T> Unit<T> {
    /// Reads the value of these files.
    pub(crate) fn read<E>(
        files: Vec<Vec<u8>>,
        read: impl FnOnce(&[Vec<u8>]) -> Result<T, E>,
    ) -> Result<Self, E> {
        let value = read(&files)?;
        Ok(Self { files, value })
    }

    /// A value whose files are not known: whatever the first look finds is new.
    pub(crate) fn unread(value: T) -> Self {
        Self {
            files: Vec::new(),
            value,
        }
    }

    pub(crate) fn files(&self) -> &[Vec<u8>] {
        &self.files
    }

    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// The unit of the files that a look has `found`, if they are to be taken up.
    pub(crate) fn next<E>(
        &self,
        unit: &'static str,
        found: Result<Vec<Vec<u8>>, E>,
        looks: &mut Looks,
        read: impl FnOnce(&[Vec<u8>]) -> Result<T, E>,
    ) -> Result<Next<Self>, E> {
        let files = found?;
        if files == self.files {
            Ok(Next::Same)
        } else if looks.has_settled(unit, &files) {
            Self::read(files, read).map(Next::New)
        } else {
            Ok(Next::Unsettled)
        }
    }
}

// === impl Reloaded ===

impl<E> Default for Reloaded<E> {
    fn default() -> Self {
        Self {
            changed: false,
            unsettled: false,
            problems: Vec::new(),
            loosened: Vec::new(),
        }
    }
}

impl<E> Reloaded<E> {
    /// Notes what became of a unit; yields it if it is new.
    pub(crate) fn note<T>(&mut self, next: Result<Next<T>, E>) -> Option<T> {
        match next {
            Ok(Next::Same) => None,
            Ok(Next::Unsettled) => {
                self.unsettled = true;
                None
            }
            Ok(Next::New(value)) => Some(value),
            Err(error) => {
                self.problems.push(error);
                None
            }
        }
    }

    /// Whether something has changed, as one result.
    #[cfg(test)]
    pub(crate) fn into_result(self) -> Result<bool, E> {
        match self.problems.into_iter().next() {
            None => Ok(self.changed),
            Some(problem) => Err(problem),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PART: Duration = Duration::from_millis(500);

    fn next(unit: &Unit<String>, looks: &mut Looks, text: &str) -> Next<Unit<String>> {
        let found = Ok::<_, std::str::Utf8Error>(vec![text.as_bytes().to_vec()]);
        let read = |files: &[Vec<u8>]| std::str::from_utf8(&files[0]).map(str::to_owned);
        unit.next("unit", found, looks, read).unwrap()
    }

    fn unit(text: &str) -> Unit<String> {
        let read = |_: &[Vec<u8>]| Ok::<_, std::str::Utf8Error>(text.to_owned());
        Unit::read(vec![text.as_bytes().to_vec()], read).unwrap()
    }

    /// A writer that stops after every byte, for less than `SETTLE`: none of the parts is taken up.
    ///
    /// Seen red: with the time of the first difference kept when the bytes change again.
    #[test]
    fn no_part_of_a_file_that_is_still_being_written_is_taken_up() {
        let (old, new) = ("deny: [/a, /b]\n", "deny: [/a, /b, /c]\n");
        let (mut looks, start, held) = (Looks::at_once(), Instant::now(), unit(old));
        let mut at = start;
        for end in 0..new.len() {
            for _ in 0..4 {
                looks.begin(Trigger::Clock, at);
                let found = next(&held, &mut looks, &new[..end]);
                assert!(matches!(found, Next::Unsettled), "{end}");
                assert!(looks.is_unsettled());
                at += PART;
            }
        }
        looks.begin(Trigger::Clock, at);
        assert!(matches!(next(&held, &mut looks, new), Next::Unsettled));
        looks.begin(Trigger::Clock, at + SETTLE);
        let Next::New(taken) = next(&held, &mut looks, new) else {
            panic!("it is not taken up")
        };
        assert_eq!(taken.value(), new);
        assert!(!looks.is_unsettled());
    }

    /// Seen red: without a look at `number`.
    #[test]
    fn bytes_that_came_and_went_are_new_when_they_come_again() {
        let (mut looks, start, held) = (Looks::at_once(), Instant::now(), unit("old"));
        for (after, text) in [(0, "new"), (2, "old"), (4, "new")] {
            looks.begin(Trigger::Clock, start + Duration::from_secs(after));
            let found = next(&held, &mut looks, text);
            assert_eq!(matches!(found, Next::Same), text == "old");
            assert_eq!(matches!(found, Next::Unsettled), text == "new");
        }
    }

    #[test]
    fn a_signal_takes_up_what_is_there() {
        let (mut looks, held) = (Looks::at_once(), unit("old"));
        looks.begin(Trigger::Signal, Instant::now());
        assert!(matches!(next(&held, &mut looks, "ne"), Next::New(_)));
    }

    /// Seen red: with the files joined without their lengths.
    #[test]
    fn bytes_that_move_from_one_file_to_the_next_are_a_change() {
        let mut looks = Looks::at_once();
        let start = Instant::now();
        looks.begin(Trigger::Clock, start);
        assert!(!looks.has_settled("pair", &[b"ab".to_vec(), b"c".to_vec()]));
        looks.begin(Trigger::Clock, start + SETTLE);
        assert!(!looks.has_settled("pair", &[b"a".to_vec(), b"bc".to_vec()]));
    }
}
