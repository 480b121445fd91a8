//! Published weaknesses that a node's kubelet ports are open to, and what shields each of them.
//!
//! ```text
//! weaknesses.yaml  the data: ranges, preconditions, shields, sources       weaknesses.yaml
//! catalogue        the data, read                                         catalogue.rs
//! version          versions of Kubernetes and of Go, and their order       version.rs
//! components       which versions this node has, and from where           components.rs
//! go_binary        what a Go program says of itself                        go_binary.rs
//! preconditions    what a weakness needs besides a version                 preconditions.rs
//! listing          all of these brought together                          listing.rs
//! ```

mod catalogue;
mod components;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod go_binary;
mod listing;
mod preconditions;
mod version;

pub use self::catalogue::{CatalogueError, Shield, ShieldedBy};
pub use self::components::Claims;
pub use self::listing::{KnownVersion, KnownWeakness, Standing, WeaknessListing};
pub use self::preconditions::{Met, Need};
