//! The seal in the language of iptables, for nodes whose nft or kernel cannot carry it: chains of our own,
//! entered by the first rule of each built-in chain, in both families.
//!
//! Each table of each family is replaced at once, one after the other. Until a trial's ports are in the set
//! its chains match nothing, and a table that could not be loaded leaves what was confirmed: at no moment is
//! the node more open than before. A trial is confirmed by ports that no longer time out; only then are its
//! rules written as confirmed ones. See `docs/decisions/004-seal-primitives.md`.

mod builtins;
mod document;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod hooks;
mod programs;
mod saved;
mod tables;

pub(super) use self::builtins::Builtins;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::iptables_listing;
pub(super) use self::programs::Iptables;
pub(super) use self::tables::Tables;
