//! How often the credentials of one address may fail.
//!
//! Refusing a certificate costs signature checks, and rejecting a token costs a review. Each address has a
//! budget for such failures, which refills with time; an address without budget must wait. Valid credentials
//! and cached answers cost nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Source;

/// An address may spend the budget of this many seconds at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// All addresses together may fail this many times as often as one.
const TOGETHER: u32 = 5;
/// Most addresses that are remembered.
const ADDRESSES: usize = 8192;

/// What each address, and all addresses together, may still spend on credentials that fail.
#[derive(Debug)]
pub(super) struct Budget {
    /// The cost of one failure: the time until it is refunded.
    price: Duration,
    spent: Mutex<Spent>,
}

/// When everything that was spent will have been refunded.
#[derive(Debug)]
struct Spent {
    together: Instant,
    each: HashMap<Source, Instant>,
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

    /// Whether a credential from `address` may be checked. When all addresses together have spent too much,
    /// only an address that has spent nothing may: a flood from many addresses does not lock out the others.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.allows_at(address, Instant::now())
    }

    /// Charges `failures` to `address`.
    pub(super) fn charge(&self, address: IpAddr, failures: usize) {
        self.charge_at(address, failures, Instant::now());
    }

    fn allows_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.each.len() >= ADDRESSES {
            // Addresses whose spending is refunded make room, even while no credential fails.
            spent.each.retain(|_, back| *back > now);
        }
        let all_may = spent.together + self.price / TOGETHER <= now + AT_ONCE;
        match spent.each.get(&Source::of(address)).filter(|back| **back > now) {
            Some(back) => all_may && *back + self.price <= now + AT_ONCE,
            None => all_may || spent.each.len() < ADDRESSES,
        }
    }

    fn charge_at(&self, address: IpAddr, failures: usize, now: Instant) {
        let price = self.price * u32::try_from(failures).unwrap_or(u32::MAX);
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        // However many failures come at once, an address waits no longer than a full refund takes.
        let most = now + AT_ONCE + self.price;
        spent.together = (spent.together.max(now) + price / TOGETHER).min(most);
        let address = Source::of(address);
        if spent.each.len() >= ADDRESSES {
            spent.each.retain(|_, back| *back > now);
        }
        // If there is still no room, the common budget bounds new addresses.
        if spent.each.len() < ADDRESSES || spent.each.contains_key(&address) {
            let back = spent.each.entry(address).or_insert(now);
            *back = ((*back).max(now) + price).min(most);
        }
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
            "nothing is refunded yet"
        );
        assert!(budget.allows_at(address(1), now + SECOND));
        budget.charge_at(address(1), 2, now + SECOND);
        assert!(!budget.allows_at(address(1), now + SECOND));
    }

    #[test]
    fn no_address_waits_longer_than_a_full_refund_takes() {
        let (budget, now) = (Budget::new(1), Instant::now());
        for number in 0..10_000 {
            budget.charge_at(address(number), 13_000, now);
        }
        assert!(!budget.allows_at(address(1), now));
        assert!(
            !budget.allows_at(address(20_000), now),
            "the table is full, and the common budget is spent"
        );
        let later = now + AT_ONCE + 2 * SECOND;
        assert!(budget.allows_at(address(1), later) && budget.allows_at(address(20_000), later));
    }

    #[test]
    fn a_flood_from_many_addresses_is_bounded_and_spares_other_addresses() {
        let (budget, now) = (Budget::new(1), Instant::now());
        let mut looked_at = 0;
        for round in 0..100 {
            for number in 0..100 {
                if budget.allows_at(address(number), now) {
                    budget.charge_at(address(number), 1, now);
                    looked_at += 1;
                }
            }
            assert!(budget.allows_at(address(1000 + round), now), "a new address");
        }
        // Each may fail once. Beyond that, all together have five times the budget of one.
        assert!((100..=150).contains(&looked_at), "{looked_at}");
    }

    #[test]
    fn the_addresses_are_bounded_and_refunded_ones_make_room() {
        let (budget, now) = (Budget::new(1), Instant::now());
        for number in 0..20_000 {
            budget.charge_at(address(number), 1, now);
        }
        assert_eq!(budget.spent.lock().unwrap().each.len(), ADDRESSES);
        assert!(
            !budget.allows_at(address(30_000), now),
            "a new address is refused then"
        );
        let later = now + 4000 * SECOND;
        budget.charge_at(address(30_000), 1, later);
        assert_eq!(budget.spent.lock().unwrap().each.len(), 1);
        assert!(budget.allows_at(address(30_001), later));
    }
}
