//! How often the credentials of one source may fail, and those of all sources together.
//!
//! Refusing a certificate costs signature checks, and rejecting a token costs a review. A source has a budget
//! for such failures, which refills with time; a source without budget must wait. What a credential may cost
//! is reserved before it is checked, so that checks at the same time count as well, and is given back if the
//! credential was good. Answers from memory cost nothing.
//!
//! All sources together have a budget, too. Half of it is kept for known sources. Once half of the rest is
//! spent, sources take turns: each waits, after its failure, until every other source that failed meanwhile
//! could fail as often. The last quarter is for sources that have not had a turn. So a source that has not
//! failed before is served in spite of a flood from others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::quota::Exhausted;
use crate::source::{Known, Source};

/// A budget may be spent at once for this long a time.
const AT_ONCE: Duration = Duration::from_secs(10);
/// All sources together may fail this many times as often as one.
const TOGETHER: u32 = 5;
/// Most sources that are remembered. The /64s of one /56 are 256 sources: 3 % of them.
const SOURCES: usize = 8192;
/// No source waits longer for its turn.
const LONGEST_ROUND: Duration = Duration::from_secs(600);

/// What each source, and all sources together, may still spend on credentials that fail.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The time in which one source gets one unit back.
    price: Duration,
    known: Arc<Known>,
    spent: Mutex<Spent>,
}

/// A unit that is spent for now. It is given back when this is dropped, unless [`Self::spend`] was called.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    source: Source,
    part: Part,
    spent: bool,
}

/// When everything that was spent will have been refunded.
#[derive(Debug)]
struct Spent {
    /// By [`Part`].
    together: [Instant; 2],
    each: HashMap<Source, Instant>,
    /// When a network that spent from [`Part::Shared`] may do so again while little of it is left.
    turns: HashMap<Source, Instant>,
}

/// The halves of the budget of all sources.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// For known sources.
    Kept,
    /// For every source.
    Shared,
}

// === impl Budget ===

impl Budget {
    /// A budget of `per_second` units of one source.
    pub(crate) fn new(per_second: u32, known: Arc<Known>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            price: Duration::from_secs(1) / per_second.max(1),
            known,
            spent: Mutex::new(Spent {
                together: [now; 2],
                each: HashMap::new(),
                turns: HashMap::new(),
            }),
        })
    }

    /// Whether a credential of `source` could be checked now.
    pub(super) fn allows(&self, source: Source) -> Result<(), Exhausted> {
        let is_known = self.known.has(source);
        let now = Instant::now();
        self.lock().part_for(source, is_known, self.price, now).map(drop)
    }

    /// Reserves a unit for checking a credential of `source`.
    ///
    /// # Errors
    /// The source, or all sources together, have spent too much.
    pub(super) fn reserve(self: &Arc<Self>, source: Source) -> Result<Reservation, Exhausted> {
        self.reserve_at(source, self.known.has(source), Instant::now())
    }

    fn reserve_at(
        self: &Arc<Self>,
        source: Source,
        is_known: bool,
        now: Instant,
    ) -> Result<Reservation, Exhausted> {
        let mut spent = self.lock();
        let part = spent.part_for(source, is_known, self.price, now)?;
        spent.charge(source, part, 1, self.price, now);
        Ok(Reservation {
            budget: self.clone(),
            source,
            part,
            spent: false,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Spent> {
        // No code between two related changes can panic, so the state behind a poisoned lock is complete.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Reservation ===

impl Reservation {
    /// Spends `units`, at least the reserved one.
    pub(super) fn spend(self, units: u32) {
        self.spend_at(units, Instant::now());
    }

    fn spend_at(mut self, units: u32, now: Instant) {
        self.spent = true;
        let more = units.saturating_sub(1);
        if more > 0 {
            let price = self.budget.price;
            self.budget
                .lock()
                .charge(self.source, self.part, more, price, now);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.spent {
            self.budget
                .lock()
                .refund(self.source, self.part, self.budget.price);
        }
    }
}

// === impl Spent ===

impl Spent {
    /// The part of the common budget that pays for a credential of `source`.
    fn part_for(
        &mut self,
        source: Source,
        is_known: bool,
        price: Duration,
        now: Instant,
    ) -> Result<Part, Exhausted> {
        if self
            .each
            .get(&source)
            .is_some_and(|back| *back + price > now + AT_ONCE)
        {
            return Err(Exhausted::Each);
        }
        let has_room =
            |part: Part, most: Duration| self.together[part as usize] + part_price(price) <= now + most;
        if is_known && has_room(Part::Kept, AT_ONCE) {
            return Ok(Part::Kept);
        }
        if self.shared_is_ample(now) {
            self.turns.clear();
            return Ok(Part::Shared);
        }
        let may_spend = match self.turns.get(&source.network()) {
            None => has_room(Part::Shared, AT_ONCE),
            Some(turn) => *turn <= now && has_room(Part::Shared, AT_ONCE * 3 / 4),
        };
        may_spend.then_some(Part::Shared).ok_or(Exhausted::Total)
    }

    /// Whether at least half of the part for every source is left.
    fn shared_is_ample(&self, now: Instant) -> bool {
        self.together[Part::Shared as usize] <= now + AT_ONCE / 2
    }

    fn charge(&mut self, source: Source, part: Part, units: u32, price: Duration, now: Instant) {
        // However much is spent at once, a source waits no longer than a full refund takes.
        let most = now + AT_ONCE + price;
        let later = |back: Instant, price: Duration| (back.max(now) + price.saturating_mul(units)).min(most);
        let is_ample = self.shared_is_ample(now);
        let together = &mut self.together[part as usize];
        *together = later(*together, part_price(price));
        make_room(&mut self.each, now);
        // If there is still no room, the common budget bounds new sources.
        if self.each.len() < SOURCES || self.each.contains_key(&source) {
            let back = self.each.entry(source).or_insert(now);
            *back = later(*back, price);
        }
        if part == Part::Shared && !is_ample {
            make_room(&mut self.turns, now);
            let (network, taking_turns) = (source.network(), self.turns.len());
            let is_among = self.turns.contains_key(&network);
            if taking_turns < SOURCES || is_among {
                let taking_turns = taking_turns + usize::from(!is_among);
                let round = part_price(price)
                    .saturating_mul(units)
                    .saturating_mul(u32::try_from(taking_turns).unwrap_or(u32::MAX));
                self.turns.insert(network, now + round.min(LONGEST_ROUND));
            }
        }
    }

    fn refund(&mut self, source: Source, part: Part, price: Duration) {
        let earlier = |back: &mut Instant, price| *back = back.checked_sub(price).unwrap_or(*back);
        earlier(&mut self.together[part as usize], part_price(price));
        if let Some(back) = self.each.get_mut(&source) {
            earlier(back, price);
        }
        self.turns.remove(&source.network());
    }
}

/// The time in which one part of the common budget gets one unit back.
fn part_price(price: Duration) -> Duration {
    price * 2 / TOGETHER
}

/// Forgets what has been refunded, if the table is full.
fn make_room(table: &mut HashMap<Source, Instant>, now: Instant) {
    if table.len() >= SOURCES {
        table.retain(|_, until| *until > now);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const UNKNOWN: bool = false;
    const KNOWN: bool = true;

    fn budget(per_second: u32) -> (Arc<Budget>, Instant) {
        (Budget::new(per_second, Arc::default()), Instant::now())
    }

    fn source(number: u32) -> Source {
        Source::of(IpAddr::V4(number.into()))
    }

    /// Whether a credential of this source is checked; it fails and costs this much.
    fn fails(budget: &Arc<Budget>, number: u32, units: u32, is_known: bool, now: Instant) -> bool {
        let reserved = budget.reserve_at(source(number), is_known, now);
        reserved.map(|reserved| reserved.spend_at(units, now)).is_ok()
    }

    /// Seen red: with what one source has spent not looked at.
    #[test]
    fn a_source_that_failed_too_often_waits_and_another_does_not() {
        let (budget, now) = budget(2);
        for _ in 0..20 {
            assert!(fails(&budget, 1, 1, UNKNOWN, now));
        }
        let refused = budget.reserve_at(source(1), UNKNOWN, now).unwrap_err();
        assert_eq!(refused, Exhausted::Each);
        assert!(
            !fails(&budget, 1, 1, UNKNOWN, now + SECOND / 4),
            "nothing is refunded yet"
        );
        assert!(fails(&budget, 2, 1, UNKNOWN, now));
        assert!(fails(&budget, 1, 2, UNKNOWN, now + SECOND));
        assert!(!fails(&budget, 1, 1, UNKNOWN, now + SECOND));
    }

    /// Seen red: without the bound on what may be spent at once.
    #[test]
    fn no_source_waits_longer_than_a_full_refund_takes() {
        let (budget, now) = budget(1);
        for number in 0..10_000 {
            fails(&budget, number, 13_000, UNKNOWN, now);
        }
        assert!(!fails(&budget, 1, 1, UNKNOWN, now));
        let later = now + AT_ONCE + 2 * SECOND;
        assert!(fails(&budget, 1, 1, UNKNOWN, later) && fails(&budget, 20_000, 1, UNKNOWN, later));
    }

    /// Seen red: with sources that have spent nothing always allowed, as it was; with nothing charged before
    /// the check.
    #[test]
    fn all_sources_together_never_fail_more_often_than_the_total() {
        let (budget, start) = budget(10);
        let mut failed = 0;
        let mut under_way = Vec::new();
        for tenth in 0..600 {
            let now = start + SECOND / 10 * tenth;
            for number in 0..400 {
                // Checks take a while, and many run at once.
                if let Ok(reserved) = budget.reserve_at(source(number), UNKNOWN, now) {
                    under_way.push(reserved);
                }
            }
            if under_way.len() > 40 {
                failed += under_way.len();
                under_way.drain(..).for_each(|reserved| reserved.spend_at(1, now));
            }
        }
        // Half of 50 in a second, and of 500 at once: the other half is kept for known sources.
        assert!(failed <= 250 + 25 * 60, "{failed}");
        assert!(failed >= 250 + 15 * 60, "{failed}");
    }

    /// Seen red: with no part kept, and with no turns.
    #[test]
    fn a_flood_from_many_sources_spares_known_ones_and_those_that_have_not_failed() {
        let (budget, start) = budget(10);
        let (mut newcomers, mut known) = (0, 0);
        for tenth in 0..600 {
            let now = start + SECOND / 10 * tenth;
            for number in 0..400 {
                fails(&budget, number, 1, UNKNOWN, now);
            }
            // Half a minute after the flood began, each of its sources has had its turn.
            if tenth > 300 && tenth % 10 == 0 {
                newcomers += u32::from(fails(&budget, 1000 + tenth, 1, UNKNOWN, now));
            }
            known += u32::from(fails(&budget, 500, 1, KNOWN, now));
        }
        assert_eq!(newcomers, 29);
        assert_eq!(known, 600);
    }

    /// Seen red: with nothing given back.
    #[test]
    fn what_was_not_spent_is_given_back() {
        let (budget, now) = budget(1);
        for _ in 0..1000 {
            drop(budget.reserve_at(source(1), UNKNOWN, now).unwrap());
        }
        let held: Vec<_> = (0..10)
            .map(|_| budget.reserve_at(source(1), UNKNOWN, now).unwrap())
            .collect();
        budget.reserve_at(source(1), UNKNOWN, now).unwrap_err();
        drop(held);
        budget.reserve_at(source(1), UNKNOWN, now).unwrap();
    }

    /// Seen red: with a turn for each source.
    #[test]
    fn the_sources_of_one_ipv6_network_take_one_turn() {
        let (budget, now) = budget(1);
        let of = |text: &str| Source::of(text.parse().unwrap());
        let reserve = |text| {
            let reserved = budget.reserve_at(of(text), UNKNOWN, now);
            reserved.map(|reserved| reserved.spend_at(1, now))
        };
        for number in 0..13 {
            assert!(fails(&budget, number, 1, UNKNOWN, now));
        }
        reserve("2001:db8:0:1::1").unwrap();
        assert_eq!(reserve("2001:db8:0:2::1").unwrap_err(), Exhausted::Total);
        reserve("2001:db8:0:100::1").unwrap();
    }

    /// Seen red: without the bound on either table, and with refunded sources left in them.
    #[test]
    fn the_sources_are_bounded_and_refunded_ones_make_room() {
        let (budget, now) = budget(1_000_000);
        for number in 0..9000 {
            let mut spent = budget.lock();
            spent.charge(source(number), Part::Shared, 9_000_000, budget.price, now);
        }
        assert_eq!(budget.lock().each.len(), SOURCES);
        assert_eq!(budget.lock().turns.len(), SOURCES);
        let later = now + LONGEST_ROUND;
        assert!(fails(&budget, 30_000, 1, UNKNOWN, later));
        assert_eq!(budget.lock().each.len(), 1);
        assert_eq!(budget.lock().turns.len(), 0, "there is no shortage any more");
    }
}
