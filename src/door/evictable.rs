//! The connections that may have to go, in an order that finds the next one at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Source;

/// A connection of a source within its share stays at least this long: time for a handshake.
pub(super) const YOUNG: Duration = Duration::from_secs(2);
/// A network with more active sources than this counts as one holder.
const SOURCES_OF_ONE_HOLDER: usize = 8;

/// The unauthenticated connections without a kept place. The oldest has the least number.
///
/// A *holder* is what a share belongs to: a source, or a whole network once many of its sources are active.
#[derive(Debug, Default)]
pub(super) struct Evictable {
    /// All of them, the oldest first, with the time of their coming.
    connections: BTreeMap<u64, Instant>,
    networks: HashMap<Source, Network>,
    /// The networks by the holder in them that holds most.
    order: BTreeSet<Weight>,
    holders: usize,
}

/// How much is held, and then how old the oldest of it is. The greatest is the next to lose a connection.
type Weight = (usize, Reverse<u64>, Source);

/// The connections of one network.
#[derive(Debug, Default)]
struct Network {
    total: usize,
    sources: HashMap<Source, BTreeSet<u64>>,
    order: BTreeSet<Weight>,
}

// === impl Evictable ===

impl Evictable {
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn insert(&mut self, source: Source, number: u64, now: Instant) {
        self.connections.insert(number, now);
        self.change(source, |network| {
            network.change(source, |numbers| numbers.insert(number));
        });
    }

    pub(super) fn remove(&mut self, source: Source, number: u64) {
        self.connections.remove(&number);
        self.change(source, |network| {
            network.change(source, |numbers| numbers.remove(&number));
        });
    }

    /// The connection that goes, so that `newcomer` gets one of `places` if it needs one of them.
    ///
    /// The oldest of the holder that would hold most goes if that holder is above its share. If none is, the
    /// oldest of all goes, unless it is too young to have finished its handshake.
    pub(super) fn next(&self, newcomer: Option<Source>, places: usize, now: Instant) -> Option<u64> {
        let held = newcomer.map_or(0, |newcomer| self.held_by_holder_of(newcomer));
        let is_new = newcomer.is_some() && held == 0;
        let share = (places / (self.holders + usize::from(is_new)).max(1)).max(1);
        let (most, _, network) = *self.order.last()?;
        if let Some(newcomer) = newcomer
            && held + 1 > share.max(most)
        {
            return self.oldest_of_holder(newcomer);
        }
        if most > share {
            return self.networks.get(&network)?.next();
        }
        let (number, since) = self.connections.first_key_value()?;
        (now >= *since + YOUNG).then_some(*number)
    }

    /// The oldest connection of `source`.
    pub(super) fn oldest_of(&self, source: Source) -> Option<u64> {
        self.networks.get(&source.network())?.oldest_of(source)
    }

    fn oldest_of_holder(&self, source: Source) -> Option<u64> {
        let network = self.networks.get(&source.network())?;
        if network.is_one_holder() {
            network.next()
        } else {
            network.oldest_of(source)
        }
    }

    fn held_by_holder_of(&self, source: Source) -> usize {
        let Some(network) = self.networks.get(&source.network()) else {
            return 0;
        };
        if network.is_one_holder() {
            network.total
        } else {
            network.sources.get(&source).map_or(0, BTreeSet::len)
        }
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut Network)) {
        let name = source.network();
        let network = self.networks.entry(name).or_default();
        if let Some((most, oldest)) = network.weight() {
            self.order.remove(&(most, oldest, name));
        }
        self.holders -= network.holders();
        change(network);
        self.holders += network.holders();
        match network.weight() {
            Some((most, oldest)) => {
                self.order.insert((most, oldest, name));
            }
            None => {
                self.networks.remove(&name);
            }
        }
    }
}

// === impl Network ===

impl Network {
    fn is_one_holder(&self) -> bool {
        self.sources.len() > SOURCES_OF_ONE_HOLDER
    }

    fn holders(&self) -> usize {
        if self.is_one_holder() {
            1
        } else {
            self.sources.len()
        }
    }

    fn weight(&self) -> Option<(usize, Reverse<u64>)> {
        let (most, oldest, _) = *self.order.last()?;
        let held = if self.is_one_holder() { self.total } else { most };
        Some((held, oldest))
    }

    /// The oldest connection of the source that holds most.
    fn next(&self) -> Option<u64> {
        let (_, Reverse(oldest), _) = *self.order.last()?;
        Some(oldest)
    }

    fn oldest_of(&self, source: Source) -> Option<u64> {
        self.sources.get(&source)?.first().copied()
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let numbers = self.sources.entry(source).or_default();
        if let Some(oldest) = numbers.first() {
            self.order.remove(&(numbers.len(), Reverse(*oldest), source));
        }
        self.total -= numbers.len();
        change(numbers);
        self.total += numbers.len();
        match numbers.first() {
            Some(oldest) => {
                self.order.insert((numbers.len(), Reverse(*oldest), source));
            }
            None => {
                self.sources.remove(&source);
            }
        }
    }
}
