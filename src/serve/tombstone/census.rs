//! The callers of the read-only port, which must move to the authenticated port before the
//! read-only port can be sealed.
//!
//! Any process may call the port under any user agent, so the number of entries and the
//! size of each are bounded.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::timestamp::timestamp;

/// Callers remembered. Beyond that the one that was not seen for the longest time is dropped.
const ENTRIES: usize = 4096;
/// Bytes kept of a path, and of a user agent.
const KEPT: usize = 256;

/// The callers of the read-only port, since the gate started.
pub(crate) struct Census {
    since: SystemTime,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<Arc<Caller>, Entry>,
    /// The same, by when they were seen last: the number of that sighting.
    order: BTreeMap<u64, Arc<Caller>>,
    sightings: u64,
    forgotten: u64,
}

/// Path and agent as [`printable`] leaves them.
#[derive(Debug, Eq, Hash, PartialEq)]
struct Caller {
    address: IpAddr,
    path: String,
    agent: String,
}

#[derive(Clone, Copy)]
struct Entry {
    count: u64,
    first: SystemTime,
    last: SystemTime,
    sighting: u64,
}

/// The answer to `GET /readonly-census`.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CensusReport {
    /// Since when callers are counted: the start of the gate.
    pub(crate) since: String,
    /// Callers that are no longer listed because too many came after them.
    pub(crate) forgotten: u64,
    /// The most frequent caller comes first.
    pub(crate) callers: Vec<CallerReport>,
}

/// One caller of the read-only port.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CallerReport {
    /// Where the connection came from.
    pub(crate) address: String,
    /// The path without its query, which may hold a secret.
    pub(crate) path: String,
    /// The `User-Agent`, empty if there was none.
    pub(crate) user_agent: String,
    /// Requests.
    pub(crate) count: u64,
    /// When the first of them came.
    pub(crate) first_seen: String,
    /// When the last of them came.
    pub(crate) last_seen: String,
}

impl Census {
    pub(crate) fn new() -> Self {
        Self {
            since: SystemTime::now(),
            book: Mutex::default(),
        }
    }

    /// Counts one request.
    pub(super) fn saw(&self, address: IpAddr, path: &str, agent: &[u8]) {
        let caller = Caller {
            address: address.to_canonical(),
            path: printable(path.as_bytes()),
            agent: printable(agent),
        };
        self.book().saw(caller, SystemTime::now());
    }

    /// Every caller that is remembered.
    pub(crate) fn report(&self) -> CensusReport {
        // The tombstone waits for the lock: under it the entries are only copied.
        let (mut entries, forgotten) = {
            let book = self.book();
            let entries = book
                .entries
                .iter()
                .map(|(caller, entry)| (caller.clone(), *entry));
            (entries.collect::<Vec<_>>(), book.forgotten)
        };
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.count, entry.sighting)));
        CensusReport {
            since: timestamp(self.since),
            forgotten,
            callers: entries
                .into_iter()
                .map(|(caller, entry)| CallerReport {
                    address: caller.address.to_string(),
                    path: caller.path.clone(),
                    user_agent: caller.agent.clone(),
                    count: entry.count,
                    first_seen: timestamp(entry.first),
                    last_seen: timestamp(entry.last),
                })
                .collect(),
        }
    }

    /// A panic while the lock was held leaves counts that are good enough.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn saw(&mut self, caller: Caller, now: SystemTime) {
        self.sightings += 1;
        let sighting = self.sightings;
        let caller = Arc::new(caller);
        if let Some(entry) = self.entries.get_mut(&caller) {
            entry.count += 1;
            entry.last = now;
            self.order.remove(&entry.sighting);
            entry.sighting = sighting;
        } else {
            if self.entries.len() >= ENTRIES
                && let Some((_, oldest)) = self.order.pop_first()
            {
                self.entries.remove(&oldest);
                self.forgotten += 1;
            }
            let entry = Entry {
                count: 1,
                first: now,
                last: now,
                sighting,
            };
            self.entries.insert(caller.clone(), entry);
        }
        self.order.insert(sighting, caller);
    }
}

impl CensusReport {
    /// The same report without control characters: the answer may come from another process than a gate.
    pub(crate) fn made_printable(mut self) -> Self {
        let clean = |text: &mut String| *text = printable(text.as_bytes());
        clean(&mut self.since);
        for caller in &mut self.callers {
            clean(&mut caller.address);
            clean(&mut caller.path);
            clean(&mut caller.user_agent);
            clean(&mut caller.first_seen);
            clean(&mut caller.last_seen);
        }
        self
    }
}

/// Text that cannot control a terminal: printable ASCII as it is, every other byte as
/// `\x1b`, cut to [`KEPT`] bytes.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        let shown = if byte.is_ascii_graphic() || byte == b' ' {
            char::from(byte).to_string()
        } else {
            format!("\\x{byte:02x}")
        };
        if text.len() + shown.len() > KEPT {
            break;
        }
        text.push_str(&shown);
    }
    text
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn paths(census: &Census) -> Vec<String> {
        let mut paths: Vec<_> = census
            .report()
            .callers
            .into_iter()
            .map(|caller| caller.path)
            .collect();
        paths.sort();
        paths
    }

    /// Seen red: with a caller's place left where it was first seen, /0 was gone.
    #[test]
    fn who_was_not_seen_for_longest_is_forgotten_and_that_is_counted() {
        let census = Census::new();
        for number in 0..ENTRIES {
            census.saw(CALLER, &format!("/{number}"), b"");
        }
        census.saw(CALLER, "/0", b"");
        assert_eq!(census.report().forgotten, 0);
        for new in ["/new", "/newer"] {
            census.saw(CALLER, new, b"");
        }
        let report = census.report();
        assert_eq!((report.callers.len(), report.forgotten), (ENTRIES, 2));
        assert_eq!(
            (report.callers[0].path.as_str(), report.callers[0].count),
            ("/0", 2)
        );
        let paths = paths(&census);
        for (path, known) in [
            ("/0", true),
            ("/1", false),
            ("/2", false),
            ("/3", true),
            ("/newer", true),
        ] {
            assert_eq!(paths.iter().any(|at| at == path), known, "{path}");
        }
        let book = census.book();
        assert_eq!(book.order.len(), ENTRIES);
    }

    /// Seen red: with mapped addresses left as they are.
    #[test]
    fn an_ipv4_caller_of_a_dual_stack_socket_is_the_same_caller() {
        let census = Census::new();
        census.saw(CALLER, "/pods", b"a");
        census.saw(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into(), "/pods", b"a");
        let report = census.report();
        assert_eq!(report.callers.len(), 1);
        assert_eq!(
            (report.callers[0].address.as_str(), report.callers[0].count),
            ("192.0.2.7", 2)
        );
    }

    proptest! {
        /// Seen red: with nothing cut off.
        #[test]
        fn whatever_is_kept_is_short_and_cannot_steer_a_terminal(bytes: Vec<u8>) {
            let text = printable(&bytes);
            prop_assert!(text.len() <= KEPT);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            // The admin port's answer is cleaned once more, which changes nothing.
            prop_assert_eq!(printable(text.as_bytes()), text);
        }
    }

    /// Seen red: with control characters left as they were, ESC and CSI came through.
    #[test]
    fn escape_sequences_are_spelled_out() {
        assert_eq!(
            printable(b"a\x1b[2Jb\x9bc\x7f\r\n\xc2\x9b"),
            "a\\x1b[2Jb\\x9bc\\x7f\\x0d\\x0a\\xc2\\x9b"
        );
        assert_eq!(printable(&[b'a'; 300]).len(), KEPT);
        assert_eq!(printable(&[0x1b; 300]), "\\x1b".repeat(64));
    }
}
