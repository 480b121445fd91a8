use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;

use super::evictable::YOUNG;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn address(number: u8) -> Source {
    Source::of(IpAddr::from([192, 0, 2, number]))
}

/// A /64 of a /56.
fn network(network: u8, number: u8) -> Source {
    let [high, low] = [network, number].map(u16::from);
    Source::of(Ipv6Addr::from([0x2001, 0xdb8, 0, high << 8 | low, 0, 0, 0, 1]).into())
}

fn door(total: usize, unauthenticated: usize, per_source: usize) -> Arc<Door> {
    let bounds = Bounds {
        total,
        unauthenticated,
        per_source,
    };
    let (known, metrics) = (Arc::default(), Arc::new(Metrics::new()));
    Door::new(bounds, known, metrics, Gauge::default())
}

impl Door {
    fn hold(self: &Arc<Self>, source: Source, now: Instant) -> Entry {
        self.enter_at(source, now).ok().unwrap()
    }

    fn evicted(&self, entry: &Entry) -> bool {
        self.lock().held[&entry.admission.number].phase == Phase::Ending
    }
}

/// Seen red: with the oldest of all evicted.
#[test]
fn the_oldest_of_the_source_that_holds_most_goes() {
    let (door, now) = (door(7, 7, 7), Instant::now());
    let quiet = door.hold(address(1), now);
    let many: Vec<_> = (0..6).map(|_| door.hold(address(2), now)).collect();
    let newcomer = door.hold(address(3), now);
    let evicted: Vec<_> = many.iter().map(|entry| door.evicted(entry)).collect();
    assert_eq!(evicted, [true, false, false, false, false, false]);
    assert!(!door.evicted(&quiet) && !door.evicted(&newcomer));
    drop((quiet, many, newcomer));
    let state = door.lock();
    let left = (state.held.len(), state.sources.len(), state.evictable.len());
    assert_eq!(left, (0, 0, 0));
    assert_eq!(
        (state.unauthenticated, state.authenticated, state.ending),
        (0, 0, 0)
    );
}

/// Seen red: without the test of [`YOUNG`], the newcomer took the place of a handshake.
#[test]
fn a_young_connection_of_a_source_within_its_share_stays() {
    let (door, now) = (door(4, 4, 4), Instant::now());
    let held: Vec<_> = (1..=4).map(|number| door.hold(address(number), now)).collect();
    let young = now + YOUNG - Duration::from_millis(1);
    assert_eq!(door.enter_at(address(5), young).err(), Some(Full::Total));
    // A source that has its share already takes its own place.
    let second = door.hold(address(4), young);
    assert!(door.evicted(&held[3]) && !door.evicted(&second));
    let late = door.hold(address(5), now + YOUNG);
    assert!(door.evicted(&held[0]) && !door.evicted(&late));
}

/// Seen red: with no network one holder, and with all.
#[test]
fn a_network_with_many_active_sources_is_one_holder() {
    let (door, now) = (door(36, 36, 36), Instant::now());
    // Each of its sources holds less than the others.
    let spread: Vec<_> = (0..20).map(|number| door.hold(network(1, number), now)).collect();
    let few: Vec<_> = (0..4)
        .flat_map(|number| [number; 3].map(|number| door.hold(network(2, number), now)))
        .collect();
    let newcomer = door.hold(address(1), now);
    assert!(door.evicted(&spread[0]));
    assert!(
        few.iter().all(|entry| !door.evicted(entry)),
        "not many of its sources are active"
    );
    drop(newcomer);
}

/// Seen red: with the newcomer refused.
#[test]
fn a_source_at_its_bound_gives_up_its_own_oldest_and_never_an_authenticated_one() {
    let (door, now) = (door(100, 100, 2), Instant::now());
    let (first, second) = (door.hold(address(1), now), door.hold(address(1), now));
    assert!(first.admission().admit(false));
    let third = door.hold(address(1), now);
    assert!(!door.evicted(&first) && door.evicted(&second));
    assert!(third.admission().admit(false));
    assert_eq!(door.enter_at(address(1), now).err(), Some(Full::Source));
}

/// Seen red: with `is_kept` left out of `State::make_room`, and with no number of connections noted.
#[test]
fn known_sources_have_places_when_all_others_are_taken() {
    let (door, now) = (door(100, 16, 100), Instant::now());
    door.known.note(address(200));
    let strangers: Vec<_> = (0..14).map(|number| door.hold(address(number), now)).collect();
    assert_eq!(door.enter_at(address(100), now).err(), Some(Full::Total));
    let known = [door.hold(address(200), now), door.hold(address(200), now)];
    assert!(known[0].is_known() && !strangers[0].is_known());
    assert_eq!(door.enter_at(address(200), now).err(), Some(Full::Total));
    // Strangers do not evict them, however old they are.
    let late = now + 3 * SECOND;
    let later: Vec<_> = (0..50)
        .filter_map(|number| door.enter_at(address(100 + number), late).ok())
        .collect();
    assert_eq!(later.len(), strangers.len());
    assert!(strangers.iter().all(|entry| door.evicted(entry)));
    assert!(known.iter().all(|entry| !door.evicted(entry)));
    drop((later, known));

    // At least four, and as many as it had.
    let mut held: Vec<_> = (0..4).map(|_| door.hold(address(200), now)).collect();
    held.push(door.hold(address(200), now));
    let kept = |held: &[Entry]| {
        let state = door.lock();
        held.iter()
            .filter(|entry| state.held[&entry.admission.number].is_kept)
            .count()
    };
    assert_eq!(kept(&held), 4);
    assert!(held.iter().all(|entry| entry.admission().admit(false)));
    drop(held);
    let held: Vec<_> = (0..6).map(|_| door.hold(address(200), now)).collect();
    assert_eq!(kept(&held), 5);
}

/// Seen red: with one bound for all of them.
#[test]
fn authenticated_strangers_leave_places_for_those_that_the_node_needs() {
    let (door, now) = (door(64, 64, 64), Instant::now());
    door.known.note(address(1));
    let admitted = |entry: &Entry, is_needed| entry.admission().admit(is_needed);
    let mut held: Vec<_> = (0..56).map(|_| door.hold(address(9), now)).collect();
    assert!(held.iter().all(|entry| admitted(entry, false)));
    let overflow = door.hold(address(9), now);
    assert!(!admitted(&overflow, false), "it goes on, but may be evicted");
    for _ in 0..4 {
        held.push(door.hold(address(1), now));
        assert!(admitted(held.last().unwrap(), false));
    }
    let unknown = door.hold(address(2), now);
    assert!(!admitted(&unknown, false));
    drop(unknown);
    for _ in 0..2 {
        held.push(door.hold(address(3), now));
        assert!(admitted(held.last().unwrap(), true));
    }
    let needed = door.hold(address(3), now);
    assert!(!admitted(&needed, true), "handshakes need places too");
    let newcomer = door.hold(address(4), now + YOUNG);
    assert!(door.evicted(&overflow) && !door.evicted(&newcomer));
}

/// Seen red: without the bound, 10,000 connections were ending at the same time; with the lower bound for a
/// known source beyond its kept places, its connections were refused.
#[test]
fn connections_that_have_not_ended_yet_are_bounded() {
    let (door, now) = (door(16, 16, 16), Instant::now());
    door.known.note(address(1));
    let mut held: Vec<_> = (0..10_000)
        .filter_map(|_| door.enter_at(address(9), now).ok())
        .collect();
    assert_eq!(held.len(), 14 + ENDING);
    held.push(door.hold(address(1), now));
    assert_eq!(door.lock().ending, ENDING);
    // A known source goes on, also beyond its kept places.
    for _ in 0..10_000 {
        held.extend(door.enter_at(address(1), now + YOUNG));
    }
    assert_eq!(door.lock().ending, MOST_ENDING);
    assert!(door.enter_at(address(9), now + YOUNG).is_err());
}

/// Seen red: with the task not aborted by the eviction, and not when it is named after it.
#[tokio::test]
async fn an_eviction_aborts_the_task_also_if_it_came_first() {
    let door = door(1, 1, 1);
    for is_late in [false, true] {
        let entry = door.enter(address(1)).ok().unwrap();
        let admission = entry.admission().clone();
        let task = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(entry);
        });
        let mut newcomer = None;
        if is_late {
            newcomer = door.enter(address(1)).ok();
        }
        admission.set_task(task.abort_handle());
        if !is_late {
            newcomer = door.enter(address(1)).ok();
        }
        assert!(newcomer.is_some());
        let ended = tokio::time::timeout(Duration::from_secs(20), task).await;
        assert!(ended.expect("it goes on").unwrap_err().is_cancelled());
        assert_eq!(door.lock().ending, 0);
    }
}

/// What a client, the clock or a review does.
#[derive(Clone, Debug)]
enum Event {
    Admit(usize, bool),
    End(usize),
    Pass(u64),
    Served(Source),
    Take(Source),
}

fn event() -> impl Strategy<Value = Event> {
    let source = prop_oneof![
        (0..6u8).prop_map(address),
        (0..2u8, 0..14u8).prop_map(|(of, number)| network(of, number)),
    ];
    prop_oneof![
        6 => source.clone().prop_map(Event::Take),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(index, needed)| Event::Admit(index, needed)),
        1 => any::<usize>().prop_map(Event::End),
        1 => (0..1500u64).prop_map(Event::Pass),
        1 => source.prop_map(Event::Served),
    ]
}

/// A connection as the model has it.
#[derive(Clone, Debug)]
struct Modelled {
    source: Source,
    since: Instant,
    phase: Phase,
    is_kept: bool,
}

/// The same rules, by looking at everything each time.
struct Model {
    bounds: Bounds,
    connections: BTreeMap<u64, Modelled>,
}

impl Model {
    fn evictable(&self) -> impl Iterator<Item = (&u64, &Modelled)> {
        self.connections
            .iter()
            .filter(|(_, one)| one.phase == Phase::Unauthenticated && !one.is_kept)
    }

    /// The holder that a source belongs to, as a test for its sources.
    fn holder(&self, source: Source) -> (Source, bool) {
        let mut sources: Vec<_> = self
            .evictable()
            .map(|(_, one)| one.source)
            .filter(|other| other.network() == source.network())
            .collect();
        sources.sort();
        sources.dedup();
        if sources.len() > 8 {
            (source.network(), true)
        } else {
            (source, false)
        }
    }

    fn victim(
        &self,
        source: Source,
        is_known: bool,
        is_kept: bool,
        now: Instant,
    ) -> Result<Option<u64>, Full> {
        let open = |phase| self.connections.values().filter(|one| one.phase == phase).count();
        if open(Phase::Ending) >= if is_known { MOST_ENDING } else { ENDING } {
            return Err(Full::Total);
        }
        let of_source = self.connections.values();
        let of_source = of_source.filter(|one| one.source == source && one.phase != Phase::Ending);
        let oldest_of = |source| {
            self.evictable()
                .find(|(_, one)| one.source == source)
                .map(|(number, _)| *number)
        };
        if of_source.count() >= self.bounds.per_source {
            return oldest_of(source).map(Some).ok_or(Full::Source);
        }
        let room = self
            .bounds
            .unauthenticated
            .min(self.bounds.total - open(Phase::Authenticated));
        let unkept = room - room / 8;
        let evictable = self.evictable().count();
        if open(Phase::Unauthenticated) < room && (is_kept || evictable < unkept) {
            return Ok(None);
        }
        // Everything that each holder has, oldest first.
        let mut holders: BTreeMap<(Source, bool), Vec<(u64, Source)>> = BTreeMap::new();
        for (number, one) in self.evictable() {
            holders
                .entry(self.holder(one.source))
                .or_default()
                .push((*number, one.source));
        }
        let own = self.holder(source);
        let newcomer = usize::from(!is_kept && !holders.contains_key(&own));
        let share = (unkept / (holders.len() + newcomer).max(1)).max(1);
        // Of a network, the source that holds most loses its oldest.
        let goes = |connections: &[(u64, Source)]| {
            let held = |source| connections.iter().filter(|(_, other)| *other == source).count();
            let most = connections.iter().map(|(_, source)| held(*source)).max()?;
            connections
                .iter()
                .find(|(_, source)| held(*source) == most)
                .map(|(number, _)| *number)
        };
        let own_held = holders.get(&own).map_or(0, Vec::len);
        let most = holders.values().map(Vec::len).max().unwrap_or(0);
        if !is_kept && own_held + 1 > share && own_held + 1 > most {
            return holders
                .get(&own)
                .and_then(|held| goes(held))
                .map(Some)
                .ok_or(Full::Total);
        }
        if most > share {
            let greatest = holders.values().filter(|held| held.len() == most);
            let oldest = greatest.filter_map(|held| goes(held)).min();
            return oldest.map(Some).ok_or(Full::Total);
        }
        let oldest = self
            .evictable()
            .next()
            .filter(|(_, one)| now >= one.since + YOUNG);
        oldest.map(|(number, _)| Some(*number)).ok_or(Full::Total)
    }
}

proptest! {
    /// Seen red: with the oldest of all evicted, and with no network one holder.
    #[test]
    fn the_places_are_as_a_look_at_everything_gives_them(
        events in prop::collection::vec(event(), 1..300),
        (total, unauthenticated, per_source) in (1..40usize, 1..40usize, 1..12usize),
    ) {
        let door = door(total, unauthenticated, per_source);
        let mut model = Model { bounds: door.bounds, connections: BTreeMap::new() };
        let mut held: Vec<Entry> = Vec::new();
        let mut now = Instant::now();
        for event in events {
            match event {
                Event::Take(source) => {
                    let kept = model.connections.values();
                    let kept = kept.filter(|one| {
                        one.source == source && one.is_kept && one.phase != Phase::Ending
                    });
                    let places = door.known.kept_places(source);
                    let is_kept = kept.count() < places;
                    let expected = model.victim(source, places > 0, is_kept, now);
                    let taken = door.enter_at(source, now);
                    prop_assert_eq!(taken.as_ref().err(), expected.as_ref().err());
                    let Ok(entry) = taken else { continue };
                    if let Ok(Some(victim)) = expected {
                        model.connections.get_mut(&victim).unwrap().phase = Phase::Ending;
                    }
                    let one = Modelled { source, since: now, phase: Phase::Unauthenticated, is_kept };
                    model.connections.insert(entry.admission.number, one);
                    held.push(entry);
                }
                Event::Admit(index, is_needed) if !held.is_empty() => {
                    let entry = &held[index % held.len()];
                    let number = entry.admission.number;
                    let before = model.connections[&number].phase;
                    let admitted = entry.admission().admit(is_needed);
                    let state = door.lock();
                    let one = model.connections.get_mut(&number).unwrap();
                    if before == Phase::Unauthenticated && admitted {
                        one.phase = Phase::Authenticated;
                        one.is_kept = state.held[&number].is_kept;
                    } else {
                        prop_assert!(before != Phase::Unauthenticated || state.authenticated + total / 8 >= total);
                    }
                }
                Event::End(index) if !held.is_empty() => {
                    let entry = held.swap_remove(index % held.len());
                    model.connections.remove(&entry.admission.number);
                }
                Event::Admit(..) | Event::End(_) => {}
                Event::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Event::Served(source) => door.known.note(source),
            }
            let state = door.lock();
            for (number, one) in &model.connections {
                prop_assert_eq!(state.held[number].phase, one.phase);
            }
            prop_assert_eq!(state.held.len(), model.connections.len());
            prop_assert!(state.unauthenticated + state.authenticated <= total);
            prop_assert!(state.unauthenticated <= unauthenticated);
        }
        held.clear();
        let state = door.lock();
        prop_assert!(state.held.is_empty() && state.sources.is_empty() && state.evictable.len() == 0);
        prop_assert_eq!((state.unauthenticated, state.authenticated, state.ending), (0, 0, 0));
    }
}
