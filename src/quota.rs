//! Bounds in total and per key: connections of an address, streams of a user.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what is held under each key, up to a bound in total and one per key.
#[derive(Debug)]
pub(crate) struct Quota<K> {
    total: usize,
    each: usize,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    total: usize,
    each: HashMap<K, usize>,
}

/// One unit of a [`Quota`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Eq + Hash> {
    quota: Arc<Quota<K>>,
    key: K,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exhausted {
    /// That of one key.
    Each,
    /// That of all.
    Total,
}

impl<K: Clone + Eq + Hash> Quota<K> {
    /// At most `total` shares, at most `each` under one key.
    pub(crate) fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self {
            total,
            each,
            held: Mutex::new(Held {
                total: 0,
                each: HashMap::new(),
            }),
        })
    }

    /// One share under `key`.
    ///
    /// # Errors
    /// A bound is reached.
    pub(crate) fn take(self: &Arc<Self>, key: K) -> Result<Share<K>, Exhausted> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.total >= self.total {
            return Err(Exhausted::Total);
        }
        let each = held.each.entry(key.clone()).or_insert(0);
        if *each >= self.each {
            return Err(Exhausted::Each);
        }
        *each += 1;
        held.total += 1;
        Ok(Share {
            quota: self.clone(),
            key,
        })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.quota.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= 1;
        if let Some(each) = held.each.get_mut(&self.key) {
            *each -= 1;
            if *each == 0 {
                held.each.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Seen red: without either bound, and with a dropped share, or its key, still counted.
    #[test]
    fn a_share_is_refused_at_either_bound_and_comes_back_when_dropped() {
        let quota = Quota::new(3, 2);
        let first = quota.take("a").unwrap();
        let second = quota.take("a").unwrap();
        assert_eq!(quota.take("a").unwrap_err(), Exhausted::Each);
        let third = quota.take("b").unwrap();
        assert_eq!(quota.take("c").unwrap_err(), Exhausted::Total);
        drop(first);
        let fourth = quota.take("a").unwrap();
        drop((second, third, fourth));
        let held = quota.held.lock().unwrap();
        assert_eq!(
            (held.total, held.each.len()),
            (0, 0),
            "no key stays once its shares are dropped"
        );
    }
}
