//! The validated settings of a gate: what `file` reads as YAML and `flags` overrides, checked and typed.
//!
//! No code behind this module sees a raw string from the configuration: an address is a `SocketAddr`, a
//! duration a `Duration`, a mode an enum. Keys that `KubeletConfiguration` has keep its name, place and
//! meaning.
//!
//! A section of the file is one file here: its type, how it is read, and how it is written back. `validate`
//! puts them together, and `contradictions` judges them against each other.

mod admin;
mod audit;
mod authentication;
mod authorization;
mod contradictions;
mod custody;
mod document;
mod effective;
mod error;
mod file;
mod firewall;
mod flags;
mod limits;
mod nearest;
mod places;
mod reading;
mod sandbox;
mod schema;
mod scraping;
mod serving;
#[expect(clippy::module_inception, reason = "the noun of this room")]
mod settings;
mod sources;
mod streams;
#[cfg(test)]
mod tests;
mod upgrade;
mod upstream;
mod validate;
mod without_effect;
mod writing;

pub use self::admin::{Admin, AdminSocket};
pub use self::audit::{Audit, AuditCommands, AuditMode, AuditRotation, AuditSink, AuditStrangers};
pub use self::authentication::Authentication;
pub use self::authorization::{Authorization, AuthorizationMode, Interactive};
pub use self::error::{Problem, SettingsError};
pub use self::firewall::{Backend, Firewall};
pub use self::flags::KubeletFlags;
pub use self::limits::Limits;
pub use self::places::Places;
pub use self::sandbox::Sandbox;
pub use self::scraping::{ScrapedSubresource, StaleAllow, StaticRule};
pub use self::settings::{ReadOnlyPort, Settings};
pub use self::sources::Sources;
pub use self::streams::Streams;
pub use self::upgrade::Upgrade;
pub use self::upstream::{Upstream, UpstreamCredentials, UpstreamTrust, UpstreamUrl};
