//! How often the credentials of one address may fail.
//!
//! A certificate that is refused costs signatures, a token that is rejected a question to the API server. What an
//! address may spend of that comes back with time. Whoever has spent it waits; those whose credentials are good spend
//! nothing, and answers that are remembered cost nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many seconds' worth may be spent at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// All addresses together may fail so many times as often as one.
const TOGETHER: u32 = 5;
/// Addresses that are remembered.
const ADDRESSES: usize = 8192;

/// What each address, and all together, may still spend on credentials that fail.
#[derive(Debug)]
pub(super) struct Budget {
    /// What one failure costs: the time until it is given back.
    price: Duration,
    spent: Mutex<Spent>,
}

/// When everything will have been given back.
#[derive(Debug)]
struct Spent {
    together: Instant,
    each: HashMap<IpAddr, Instant>,
}

impl Budget {
    /// A budget of `per_second` failures of one address.
    pub(super) fn new(per_second: u32) -> Arc<Self> {
        Arc::new(Self {
            price: Duration::from_secs(1) / per_second.max(1),
            spent: Mutex::new(Spent {
                together: Instant::now(),
                each: HashMap::new(),
            }),
        })
    }

    /// Whether a credential from `address` may be looked at. When all have spent too much together, it may be if the
    /// address itself has spent nothing: a flood from many places does not lock out those who did nothing.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allows_at(address, Instant::now())
    }

    /// Spends for `failures` of `address`.
    pub(super) fn charge(&self, address: IpAddr, failures: usize) {
        self.charge_at(address, failures, Instant::now());
    }

    fn allows_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.each.len() >= ADDRESSES {
            // Those who have waited long enough make room, also while nobody fails.
            spent.each.retain(|_, back| *back > now);
        }
        let all_may = spent.together + self.price / TOGETHER <= now + AT_ONCE;
        match spent.each.get(&source(address)).filter(|back| **back > now) {
            Some(back) => all_may && *back + self.price <= now + AT_ONCE,
            None => all_may || spent.each.len() < ADDRESSES,
        }
    }

    fn charge_at(&self, address: IpAddr, failures: usize, now: Instant) {
        let price = self.price * u32::try_from(failures).unwrap_or(u32::MAX);
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        // However many failures come at once, nobody waits for longer than it takes to get everything back.
        let most = now + AT_ONCE + self.price;
        spent.together = (spent.together.max(now) + price / TOGETHER).min(most);
        let address = source(address);
        if spent.each.len() >= ADDRESSES {
            spent.each.retain(|_, back| *back > now);
        }
        // Where even that leaves no room, what all spend together bounds the newcomers.
        if spent.each.len() < ADDRESSES || spent.each.contains_key(&address) {
            let back = spent.each.entry(address).or_insert(now);
            *back = ((*back).max(now) + price).min(most);
        }
    }
}

/// Whose an address is: one of IPv6 belongs to whoever has its /64.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn an_address_that_failed_too_often_waits_and_another_does_not() {
        let (budget, now) = (Budget::new(2), Instant::now());
        for _ in 0..20 {
            assert!(budget.allows_at(address(1), now));
            budget.charge_at(address(1), 1, now);
        }
        assert!(!budget.allows_at(address(1), now));
        assert!(budget.allows_at(address(2), now));
        assert!(
            !budget.allows_at(address(1), now + SECOND / 4),
            "none came back yet"
        );
        assert!(budget.allows_at(address(1), now + SECOND));
        budget.charge_at(address(1), 2, now + SECOND);
        assert!(!budget.allows_at(address(1), now + SECOND));
    }

    #[test]
    fn nobody_waits_for_longer_than_everything_takes_to_come_back() {
        let (budget, now) = (Budget::new(1), Instant::now());
        for number in 0..10_000 {
            budget.charge_at(address(number), 13_000, now);
        }
        assert!(!budget.allows_at(address(1), now));
        assert!(
            !budget.allows_at(address(20_000), now),
            "the table is full, and so is what all may spend"
        );
        let later = now + AT_ONCE + 2 * SECOND;
        assert!(budget.allows_at(address(1), later) && budget.allows_at(address(20_000), later));
    }

    #[test]
    fn a_flood_from_many_addresses_is_bounded_and_spares_those_who_did_nothing() {
        let (budget, now) = (Budget::new(1), Instant::now());
        let mut looked_at = 0;
        for round in 0..100 {
            for number in 0..100 {
                if budget.allows_at(address(number), now) {
                    budget.charge_at(address(number), 1, now);
                    looked_at += 1;
                }
            }
            assert!(budget.allows_at(address(1000 + round), now), "a newcomer");
        }
        // Each may fail once; beyond that all together get five times what one gets.
        assert!((100..=150).contains(&looked_at), "{looked_at}");
    }

    #[test]
    fn the_addresses_are_bounded_and_those_long_gone_make_room() {
        let (budget, now) = (Budget::new(1), Instant::now());
        for number in 0..20_000 {
            budget.charge_at(address(number), 1, now);
        }
        assert_eq!(budget.spent.lock().unwrap().each.len(), ADDRESSES);
        assert!(!budget.allows_at(address(30_000), now), "nor may newcomers then");
        let later = now + 4000 * SECOND;
        budget.charge_at(address(30_000), 1, later);
        assert_eq!(budget.spent.lock().unwrap().each.len(), 1);
        assert!(budget.allows_at(address(30_001), later));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_a_mapped_address_is_ipv4() {
        let same = ["2001:db8::1", "2001:db8::ffff:1"].map(|text| source(text.parse().unwrap()));
        assert_eq!(same[0], same[1]);
        assert_ne!(same[0], source("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(
            source("::ffff:192.0.2.1".parse().unwrap()),
            source("192.0.2.1".parse().unwrap())
        );
        assert_ne!(
            source("::ffff:192.0.2.1".parse().unwrap()),
            source("::ffff:192.0.2.2".parse().unwrap())
        );
    }
}
