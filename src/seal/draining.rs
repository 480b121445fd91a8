//! What is left of a seal that ended while connections were open that it had brought to the gate.
//!
//! The kernel translates the packets of such a connection as long as some chain of type nat exists, and some
//! rule looks at connections; an empty chain alone does not suffice. So a seal leaves a chain that decides
//! nothing, until the last of these connections has ended. The chain itself says for what it is kept: see
//! `docs/decisions/033-draining-of-translated-flows.md`.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::connections;
use super::error::FirewallError;
use super::firewall::Firewall;
use super::iptables::Builtins;
use super::plan::Plan;
use super::state::State;
use crate::host::{self, Translated};
use crate::settings::Backend;

/// The longest that the kernel goes on translating for a seal that has ended: after that a connection that
/// never ends, such as one that is kept for the next request, is cut.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// What a packet filter keeps for connections that a seal had brought to the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Draining {
    /// Seconds since 1970.
    until: u64,
    /// The gate's ports; none: they are not known.
    ports: Vec<u16>,
}

/// Connections that are still translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StillOpen {
    /// How many.
    pub connections: usize,
    /// When the kernel stops, at the latest.
    pub until: SystemTime,
}

/// Takes away what was kept for connections that have ended meanwhile, or for longer than [`LONGEST`],
/// and the empty tables that the seal had made; `None`: nothing is left. Needs the lock, and that
/// nothing of a seal is in force.
///
/// # Errors
/// The kernel cannot be asked, or refuses.
pub fn settle(state: &State) -> Result<Option<StillOpen>, FirewallError> {
    end(state, |draining, open| {
        let over = draining.until <= now();
        if over {
            // A client that only listens would never learn that nothing comes any more.
            connections::reset(open);
        }
        over || open.is_empty()
    })
}

/// Resets the connections that are still translated, and takes away what was kept for them; yields those that
/// could not be reset. Needs what [`settle`] needs.
///
/// # Errors
/// As [`settle`].
pub fn cut(state: &State) -> Result<Vec<Translated>, FirewallError> {
    let mut left = Vec::new();
    end(state, |_, open| {
        left = connections::reset(open);
        true
    })?;
    Ok(left)
}

/// How the comment of the chain that is kept begins.
const COMMENT: &str = "kubelet-gate-keeps-translating-until-";
const BACKENDS: [Backend; 3] = [Backend::Nftables, Backend::IptablesNft, Backend::IptablesLegacy];

fn end(
    state: &State,
    mut is_over: impl FnMut(&Draining, &[Translated]) -> bool,
) -> Result<Option<StillOpen>, FirewallError> {
    let (mut left, mut failed) = (None::<StillOpen>, None);
    for backend in BACKENDS {
        // A packet filter that this process may not use says nothing of the others.
        match end_one(Firewall::of(backend), &mut is_over) {
            Ok(None) => {}
            Ok(Some(open)) => {
                // One connection may be known to two packet filters, if both have had a seal.
                let left = left.get_or_insert(open);
                left.connections = left.connections.max(open.connections);
                left.until = left.until.max(open.until);
            }
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    match (left, failed) {
        (Some(left), _) => Ok(Some(left)),
        (None, Some(error)) => Err(error),
        (None, None) => remove_empty_tables(state).map(|()| None),
    }
}

fn end_one(
    firewall: Firewall,
    mut is_over: impl FnMut(&Draining, &[Translated]) -> bool,
) -> Result<Option<StillOpen>, FirewallError> {
    let Some(draining) = kept_by(firewall)? else {
        return Ok(None);
    };
    let open = draining.open()?;
    if is_over(&draining, &open) {
        firewall.end_draining()?;
        return Ok(None);
    }
    Ok(Some(StillOpen {
        connections: open.len(),
        until: UNIX_EPOCH + Duration::from_secs(draining.until),
    }))
}

/// A program that is not installed has left nothing.
fn kept_by(firewall: Firewall) -> Result<Option<Draining>, FirewallError> {
    match firewall.draining() {
        Err(FirewallError::Missing { .. }) => Ok(None),
        kept => Ok(kept?.map(|listed| Draining::parse(&listed))),
    }
}

fn remove_empty_tables(state: &State) -> Result<(), FirewallError> {
    // A note that cannot be read says of no table that it was not there before.
    let Ok(Some(before)) = state.builtins() else {
        return Ok(());
    };
    before
        .remove_others()
        .map_err(|error| kernel("removing empty tables", &error))?;
    // A gate may not delete it where the state is root's: then it is replaced at the next apply.
    let _ = state.keep_builtins(None);
    Ok(())
}

/// The tables of iptables-nft that are there before the seal makes its own; `None`: it makes none, or the
/// kernel does not tell, and then those that the seal makes will stay.
pub(super) fn tables_before(backend: Backend) -> Option<Builtins> {
    let made = backend == Backend::IptablesNft;
    made.then(|| Builtins::now().ok())?
}

fn kernel(doing: &'static str, error: &io::Error) -> FirewallError {
    FirewallError::Failed {
        tool: "the kernel".into(),
        doing,
        why: error.to_string(),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

// === impl Draining ===

impl Draining {
    /// For connections that these plans have brought to the gate, from now on.
    pub(super) fn of<'a>(plans: impl IntoIterator<Item = &'a Plan>) -> Self {
        let ports = plans.into_iter().flat_map(|plan| &plan.ports);
        let mut ports: Vec<u16> = ports
            .flat_map(|port| [port.redirect_ipv4, port.redirect_ipv6])
            .flatten()
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Self {
            until: now() + LONGEST.as_secs(),
            ports,
        }
    }

    /// As the comment of a rule: one word, which needs no quotes in any program's input.
    pub(super) fn comment(&self) -> String {
        let ports: String = self.ports.iter().map(|port| format!("-{port}")).collect();
        format!("{COMMENT}{}-to-ports{ports}", self.until)
    }

    /// Reads it from where it stands in a listing. A text that is not understood is kept for no time.
    pub(super) fn parse(listed: &str) -> Self {
        let rest = listed.split_once(COMMENT).map_or("", |(_, rest)| rest);
        let is_of_word = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let word: String = rest.chars().take_while(is_of_word).collect();
        let (until, ports) = word.split_once("-to-ports").unwrap_or((&word, ""));
        Self {
            until: until.parse().unwrap_or(0),
            ports: ports.split('-').filter_map(|port| port.parse().ok()).collect(),
        }
    }

    fn open(&self) -> Result<Vec<Translated>, FirewallError> {
        host::translated_to(&self.ports).map_err(|error| kernel("listing the connections", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_says_for_which_ports_and_until_when_it_is_kept() {
        let draining = Draining::of([&Plan::sample(Backend::Nftables)]);
        assert_eq!(draining.ports, [19443]);
        let left = draining.until - now();
        assert!((3590..=3600).contains(&left), "{left}");
        for listed in [
            format!(
                "-A KG-DRAINING -m comment --comment \"{}\" -m conntrack",
                draining.comment()
            ),
            draining.comment(),
        ] {
            assert_eq!(Draining::parse(&listed), draining, "{listed}");
        }
        let unknown = Draining {
            ports: Vec::new(),
            ..draining
        };
        assert_eq!(Draining::parse(&unknown.comment()), unknown);
        assert_eq!(Draining::parse("-m comment --comment \"something\"").until, 0);
    }
}
