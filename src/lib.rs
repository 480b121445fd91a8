//! kubelet-gate: a mutual-TLS authenticating reverse proxy for the Kubernetes kubelet.
//!
//! It stands in front of a kubelet that is bound to loopback and does at the door what a hardened kubelet
//! would do. A request passes seven stations, the folders below, in this order:
//!
//! ```text
//!  client ──▶ 1 listen      accept, limits, deadlines                   listen/
//!             2 tls         ask for a certificate, prove the key        tls/
//!             3 authn       certificate → bearer token → anonymous      authn/       → Identity
//!             4 attributes  method + path + upgrade → checks            attributes/  → Checks
//!             5 authz       cached SubjectAccessReview per check        authz/       → Permit
//!             6 forward     clean headers, pooled or upgraded, streamed forward/     ──▶ kubelet
//!             7 audit       one event per request, always               audit/
//! ```
//!
//! `gate` has the way itself, in one function. What a station yields is a type that the next one demands and
//! only that station can make: an `authn::Identity`, [`attributes::Checks`], an `authz::Permit`. A check
//! that is forgotten does not compile. (What is asked for is read before who asks, since a malformed request
//! must not cost a review.)

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests read files that they made themselves"
    )
)]

// What runs the gate, shows it, prepares nodes for it, and closes the ways around it.
pub mod adopt;
pub mod cli;
#[cfg(feature = "lab")]
pub mod lab;
pub mod seal;
pub mod serve;

// The way of a request.
pub mod attributes;
pub mod audit;
pub mod authn;
mod authz;
mod forward;
mod gate;
mod go;
mod listen;
pub mod tls;

// What is tried with invented input.
#[cfg(any(test, fuzzing))]
pub mod fuzz;

// What all of them stand on.
pub mod apiserver;
mod cache;
mod door;
mod duration;
mod error;
mod files;
mod hex;
pub mod host;
mod looks;
mod metrics;
mod named;
pub mod network;
mod quota;
mod repeats;
mod report;
pub mod settings;
mod source;
mod timestamp;
