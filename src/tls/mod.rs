//! Station 2: TLS with clients and with the kubelet.
//!
//! The listener asks for a client certificate, sends the names of the CAs, and has the client prove that it
//! holds the key ([`possession::PossessionVerifier`]). The certificate itself is judged afterwards
//! ([`Trust::judge`]) against the current CA bundle and revocation lists: once per connection, and again when
//! the bundle changes or `valid_until` passes.

mod anchor;
mod bounds;
pub(crate) mod certificate;
mod config;
mod denials;
mod direct;
mod encoding;
mod frame;
mod issuer_name;
pub(crate) mod judgement;
mod marks;
mod options;
mod paths;
pub mod pem;
mod pin;
mod possession;
mod refusal;
mod revocation;
mod search;
mod serving;
mod signature;
mod subject;
mod suites;
#[cfg(all(test, feature = "lab"))]
mod tests;
mod trust;
mod work;

pub(crate) use config::{TlsError, certified_key};
pub(crate) use denials::read_marks;
pub(crate) use issuer_name::IssuerName;
pub use judgement::Unfit;
pub(crate) use marks::{Marks, issued};
pub use options::{ClientCertificates, ServingOptions, TlsVersion};
pub(crate) use pem::PemError;
pub(crate) use pin::{UpstreamVerification, is_pin_mismatch, is_refused_certificate, upstream_config};
pub use refusal::{Judged, Malformed, Refusal, Refused};
pub use revocation::RevocationError;
pub(crate) use serving::{Serving, ServingError};
pub(crate) use subject::Subject;
pub(crate) use suites::suite_names;
pub(crate) use suites::{SuiteName, cipher_suite, group_name, suite_name, version_name};
pub use trust::{Trust, TrustError};
pub use work::Work;
