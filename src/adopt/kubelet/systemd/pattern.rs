//! Patterns of file names, as `glob` reads them.

use std::io;
use std::path::Path;

use crate::adopt::kubelet::root::Root;

/// How many files a pattern may match.
const MATCHES: usize = 1024;

/// The files that match a path, in the order of their names; none if there are none.
///
/// # Errors
/// A folder cannot be listed, or there are far too many.
pub(super) fn matching(root: &Root, pattern: &str) -> io::Result<Vec<String>> {
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for folder in &found {
            if part.contains(['*', '?', '[', '\\']) {
                // What is not a folder has nothing in it.
                let inside = match root.list(Path::new("/").join(folder.trim_start_matches('/'))) {
                    Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
                    listed => listed?,
                };
                let hidden = part.starts_with('.');
                let names = inside.into_iter().filter(|name| hidden || !name.starts_with('.'));
                let names = names.filter(|name| like(name, part));
                next.extend(names.map(|name| format!("{folder}/{name}")));
            } else {
                next.push(format!("{folder}/{part}"));
            }
            if next.len() > MATCHES {
                return Err(io::Error::other("the pattern matches far too many files"));
            }
        }
        found = next;
    }
    let mut existing = Vec::new();
    for path in found {
        if root.exists(&path)? {
            existing.push(path);
        }
    }
    Ok(existing)
}

/// One place of a pattern.
enum Place {
    Any,
    Star,
    Is(char),
    OneOf { ranges: Vec<(char, char)>, other: bool },
}

/// Whether a name matches a pattern. If the match fails, the last star takes one more character: there are at
/// most as many steps as both lengths multiplied.
fn like(name: &str, pattern: &str) -> bool {
    let (name, pattern): (Vec<char>, Vec<Place>) = (name.chars().collect(), places(pattern));
    let (mut n, mut p) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match (pattern.get(p), star) {
            (Some(Place::Star), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(place), _) if place.is(name[n]) => (n, p) = (n + 1, p + 1),
            (_, Some((at, from))) => {
                star = Some((at, from + 1));
                (n, p) = (from + 1, at + 1);
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(|place| matches!(place, Place::Star))
}

fn places(pattern: &str) -> Vec<Place> {
    let mut places = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        places.push(match c {
            '*' => Place::Star,
            '?' => Place::Any,
            '\\' => {
                let escaped = rest.chars().next().unwrap_or(c);
                rest = rest.get(escaped.len_utf8()..).unwrap_or_default();
                Place::Is(escaped)
            }
            '[' => match one_of(rest) {
                Some((place, after)) => {
                    rest = after;
                    place
                }
                None => Place::Is(c),
            },
            c => Place::Is(c),
        });
    }
    places
}

/// What is between brackets, and what is after them; `None`: they are not closed.
fn one_of(rest: &str) -> Option<(Place, &str)> {
    let inside = rest.strip_prefix(['!', '^']);
    let (rest, other) = inside.map_or((rest, false), |inside| (inside, true));
    let mut ranges = Vec::new();
    let chars: Vec<(usize, char)> = rest.char_indices().collect();
    let mut at = 0;
    loop {
        let (_, from) = *chars.get(at)?;
        if from == ']' && at > 0 {
            let after = &rest[chars[at].0 + 1..];
            return Some((Place::OneOf { ranges, other }, after));
        }
        let to = chars.get(at + 2).map(|(_, to)| *to).filter(|to| *to != ']');
        match to.filter(|_| chars.get(at + 1).is_some_and(|(_, dash)| *dash == '-')) {
            Some(to) => {
                ranges.push((from, to));
                at += 3;
            }
            None => {
                ranges.push((from, from));
                at += 1;
            }
        }
    }
}

impl Place {
    fn is(&self, c: char) -> bool {
        match self {
            Self::Any => true,
            Self::Star => false,
            Self::Is(own) => *own == c,
            Self::OneOf { ranges, other } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_glob_reads_them() {
        for (pattern, fits, differs) in [
            ("kubelet", &["kubelet"][..], &["kubelet2", "kubele"][..]),
            (
                "kube*.e?v",
                &["kube-1.env", "kube.env"],
                &["kube-1.envy", "kube.ev"],
            ),
            ("k[a-cx]*", &["ka", "kx1"], &["kd", "k"]),
            ("k[!a-c]", &["kd"], &["ka", "k"]),
            ("k[]a]", &["k]", "ka"], &["kb"]),
            ("k[a", &["k[a"], &["ka"]),
            ("k\\*", &["k*"], &["ka"]),
        ] {
            for name in fits {
                assert!(like(name, pattern), "{pattern} {name}");
            }
            for name in differs {
                assert!(!like(name, pattern), "{pattern} {name}");
            }
        }
    }

    proptest::proptest! {
        /// A pattern without wildcards is like itself alone, and a star like everything.
        #[test]
        fn patterns_are_names_with_gaps(name in "[a-c.]{0,8}", at in 0_usize..8) {
            proptest::prop_assert!(like(&name, &name));
            proptest::prop_assert!(like(&name, "*"));
            let at = at.min(name.len());
            let gap = format!("{}*{}", &name[..at], &name[at..]);
            proptest::prop_assert!(like(&name, &gap));
            let stars = "*".repeat(50) + "x";
            proptest::prop_assert!(!like(&name.repeat(30), &stars));
            proptest::prop_assert!(!like(&(name.clone() + "x"), &name));
        }

        #[test]
        fn any_pattern_ends(name in "[a-c\\[\\]!*\\\\-]{0,12}", pattern in "[a-c\\[\\]!*?\\\\-]{0,16}") {
            let _ = like(&name, &pattern);
        }
    }
}
