//! Which client an address counts as, and which of them were served lately.
//!
//! A host with IPv6 has a whole /64 of addresses, and a customer of a provider often a /56. A bound per
//! address would not bind them. So every bound counts by [`Source`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A source is forgotten this long after its last allowed request.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Most sources that are remembered. Only allowed requests add one.
const SOURCES: usize = 8192;
/// Connections of a known source that have a kept place, even if it had fewer.
const KEPT_PLACES: usize = 4;

/// The client that an address counts as: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Source(IpAddr);

/// The sources from which a review allowed a request lately.
///
/// Authentication alone makes no source known: any pod has a token that authenticates.
#[derive(Debug, Default)]
pub(crate) struct Known {
    allowed: Mutex<HashMap<Source, Served>>,
}

/// What is remembered of a source.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// When the last allowed request was noted.
    last: Instant,
    /// Most authenticated connections that it had at the same time.
    connections: usize,
}

// === impl Source ===

impl Source {
    /// The source of `address`. An IPv4 address mapped into IPv6 counts as IPv4.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
        })
    }

    /// The network that one customer of a provider may hold: the /56 of an IPv6 source, the source itself
    /// otherwise.
    pub(crate) fn network(self) -> Self {
        match self.0 {
            IpAddr::V4(_) => self,
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() & (!0 << 72)).into()),
        }
    }

    /// Whether it is this machine, by a loopback address. All of 127.0.0.0/8 is.
    pub(crate) fn is_loopback(self) -> bool {
        // The /64 of ::1 is ::.
        self.0.is_loopback() || self.0 == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }
}

// === impl Known ===

impl Known {
    /// Notes that a review allowed a request of `source`.
    pub(crate) fn note(&self, source: Source) {
        self.note_at(source, Instant::now());
    }

    /// Whether a review allowed a request of `source` in the last ten minutes.
    pub(crate) fn has(&self, source: Source) -> bool {
        self.has_at(source, Instant::now())
    }

    /// How many connections of `source` have a kept place: as many as it had while it was known, at least 4;
    /// none if it is not known.
    pub(crate) fn kept_places(&self, source: Source) -> usize {
        self.served_at(source, Instant::now())
            .map_or(0, |served| served.connections.max(KEPT_PLACES))
    }

    /// Notes how many authenticated connections a known source has.
    pub(crate) fn note_connections(&self, source: Source, connections: usize) {
        if let Some(served) = self.lock().get_mut(&source) {
            served.connections = served.connections.max(connections);
        }
    }

    fn note_at(&self, source: Source, now: Instant) {
        let mut allowed = self.lock();
        if allowed.len() >= SOURCES && !allowed.contains_key(&source) {
            allowed.retain(|_, served| served.is_remembered(now));
            if allowed.len() >= SOURCES {
                return;
            }
        }
        let served = allowed.entry(source).or_insert(Served {
            last: now,
            connections: 0,
        });
        if !served.is_remembered(now) {
            served.connections = 0;
        }
        served.last = now;
    }

    fn has_at(&self, source: Source, now: Instant) -> bool {
        self.served_at(source, now).is_some()
    }

    fn served_at(&self, source: Source, now: Instant) -> Option<Served> {
        let served = *self.lock().get(&source)?;
        served.is_remembered(now).then_some(served)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Served>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Served ===

impl Served {
    fn is_remembered(&self, now: Instant) -> bool {
        now < self.last + REMEMBERED
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    proptest! {
        /// Every bound counts by sources: an address that a host may choose freely must not be another one.
        #[test]
        fn what_one_host_may_choose_is_one_source(address in any::<u128>(), other in any::<u128>()) {
            let of = |bits: u128| Source::of(Ipv6Addr::from_bits(bits).into());
            let host = u128::from(u64::MAX);
            prop_assert_eq!(of(address), of(address & !host | other & host));
            prop_assert_eq!(of(address) == of(other), address >> 64 == other >> 64);
            prop_assert_eq!(of(address).network() == of(other).network(), address >> 72 == other >> 72);
            let ipv4 = Ipv4Addr::from_bits(other as u32);
            prop_assert_eq!(Source::of(ipv4.to_ipv6_mapped().into()), Source::of(ipv4.into()));
        }
    }

    /// Seen red: with all bits of an address counted, with no network wider than a source, with mapped
    /// addresses left as they are, and with ::1 not taken for loopback.
    #[test]
    fn a_network_of_ipv6_is_one_source_and_a_mapped_address_is_ipv4() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(
            source("2001:db8::1").network(),
            source("2001:db8:0:ff::1").network()
        );
        assert_ne!(
            source("2001:db8::1").network(),
            source("2001:db8:0:100::1").network()
        );
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1").network(), source("192.0.2.2").network());
        assert!(source("127.9.9.9").is_loopback() && source("::1").is_loopback());
        assert!(!source("192.0.2.1").is_loopback() && !source("2001:db8::1").is_loopback());
    }

    /// Seen red: with the number of connections kept when a source is forgotten.
    #[test]
    fn a_known_source_keeps_as_many_places_as_it_used_and_at_least_four() {
        let (known, source) = (Known::default(), source("192.0.2.1"));
        known.note_connections(source, 9);
        assert_eq!(known.kept_places(source), 0, "it is not known");
        known.note(source);
        assert_eq!(known.kept_places(source), 4);
        known.note_connections(source, 9);
        known.note_connections(source, 2);
        assert_eq!(known.kept_places(source), 9);
        known.note_at(source, Instant::now() + REMEMBERED);
        assert_eq!(known.kept_places(source), 4, "it was forgotten meanwhile");
    }

    /// Seen red: with sources that are never forgotten, without the bound, and with forgotten ones
    /// left in the table.
    #[test]
    fn a_source_is_forgotten_and_the_memory_is_bounded() {
        let (known, now) = (Known::default(), Instant::now());
        let number = |number: u32| Source::of(IpAddr::V4(number.into()));
        assert!(!known.has_at(number(1), now));
        known.note_at(number(1), now);
        assert!(known.has_at(number(1), now + REMEMBERED / 2));
        assert!(!known.has_at(number(1), now + REMEMBERED));
        for other in 2..20_000 {
            known.note_at(number(other), now + REMEMBERED / 2);
        }
        assert_eq!(known.allowed.lock().unwrap().len(), SOURCES);
        known.note_at(number(30_000), now + 2 * REMEMBERED);
        assert_eq!(
            known.allowed.lock().unwrap().len(),
            1,
            "forgotten sources make room"
        );
    }
}
