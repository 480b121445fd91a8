//! Which client an address counts as, and which of them were served lately.
//!
//! A host with IPv6 has a whole /64 of addresses, and a customer of a provider often a /56. A bound per
//! address would not bind them. So every bound counts by [`Source`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A source is forgotten this long after its last allowed request.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Most sources that are remembered. Only allowed requests add one.
const SOURCES: usize = 8192;

/// The client that an address counts as: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Source(IpAddr);

/// The sources from which a review allowed a request lately.
///
/// Authentication alone makes no source known: any pod has a token that authenticates.
#[derive(Debug, Default)]
pub(crate) struct Known {
    allowed: Mutex<HashMap<Source, Instant>>,
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

    fn note_at(&self, source: Source, now: Instant) {
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if allowed.len() >= SOURCES && !allowed.contains_key(&source) {
            allowed.retain(|_, last| now < *last + REMEMBERED);
            if allowed.len() >= SOURCES {
                return;
            }
        }
        allowed.insert(source, now);
    }

    fn has_at(&self, source: Source, now: Instant) -> bool {
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        allowed.get(&source).is_some_and(|last| now < *last + REMEMBERED)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

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
