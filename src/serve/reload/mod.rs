//! Everything the gate reads is read again, by the clock and on SIGHUP: the configuration file, and the files
//! that it names.
//!
//! Each unit of files stands for itself: one that cannot be used keeps no other from being taken up. The
//! configuration file is taken up as a whole, or not at all. What it loosens takes effect by SIGHUP alone.

mod changes;
mod clock;
mod configuration;
mod state;
mod take;
#[cfg(test)]
mod tests;

pub(crate) use self::clock::keep_reloading;
pub(super) use self::state::Reloading;
