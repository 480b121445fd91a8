//! Station 2: TLS, towards clients and towards the kubelet. Every type of rustls stays in here or is passed
//! on unopened.
//!
//! The listener asks for a client certificate, sends the names of the CAs, and has the client prove that it
//! holds the key ([`PossessionVerifier`]). Whether the certificate is any good is judged afterwards
//! ([`Trust::judge`]), against the CA bundle and revocation lists of that moment, once per connection and again whenever the
//! bundle changes or `valid_until` passes.

mod bounds;
pub(crate) mod certificate;
mod config;
mod direct;
mod encoding;
pub mod pem;
mod pin;
mod possession;
mod refusal;
mod revocation;
mod serving;
mod signature;
mod subject;
mod suites;
#[cfg(all(test, feature = "lab"))]
mod tests;
mod trust;

pub(crate) use bounds::MAX_CERTIFICATES;
pub use config::{TlsError, certified_key, certified_key_from_pem, server_config};
pub use pem::PemError;
pub use pin::{UpstreamVerification, is_pin_mismatch, upstream_config};
pub use possession::PossessionVerifier;
pub use refusal::{Judged, Malformed, Refusal};
pub use revocation::RevocationError;
pub use serving::{Serving, ServingError};
pub(crate) use subject::Subject;
pub use suites::{group_name, parse_cipher_suites, suite_name, version_name};
pub use trust::{Trust, TrustError};
