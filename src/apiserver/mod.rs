//! The client for the API server. The gate asks for two reviews: which user a token belongs to (TokenReview),
//! and whether a user is allowed something (SubjectAccessReview). At start it also reads which machine the
//! Node is.
//!
//! ```text
//! document     a kubeconfig as it is written                                 document.rs
//! keys         its keys in messages, and the bytes that they name            keys.rs
//! material     a credential's bytes, inline or in a file                     material.rs
//! context      the cluster and user of the current context                   context.rs
//! kubeconfig   the same, validated: server, CA bundle, credentials           kubeconfig.rs
//! access       the files that it names, read and validated as one value      access.rs
//! authorities  the CA bundle that verifies the API server                    authorities.rs
//! credentials  the access in use; read again, issued by a plugin             credentials.rs
//! exec         one run of an exec credential plugin                          exec.rs
//! connection   TLS connections made with them, kept alive and reused         connection.rs
//! client       one deadline, retries, a limit on concurrent calls            client.rs
//! reviews      the reviews and their answers as JSON                         reviews.rs
//! json         JSON from outside, in which an object is an object            json.rs
//! failure      why a review has no answer                                    failure.rs
//! reachability whether the reviews are answered, and since when not          reachability.rs
//! outage       whether it is unreachable, by a review and by a probe         outage.rs
//! log_text     text from outside, made fit for a log line                    log_text.rs
//! ```
//!
//! Two POSTs do not justify a client framework. The existing ones read a client certificate once, while a
//! node's kubeconfig points at `kubelet-client-current.pem`, which the kubelet rotates. Every failure of a
//! review ends in a [`ReviewError`]; an answer is never guessed.

mod access;
mod authorities;
mod client;
mod connection;
mod context;
mod credentials;
mod document;
mod exec;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod json;
mod keys;
mod kubeconfig;
mod log_text;
mod material;
mod outage;
mod plugin_run;
mod reachability;
mod reviews;
#[cfg(all(test, feature = "lab"))]
mod tests;

pub(crate) use access::ApiServerError;
pub(crate) use authorities::{Authorities, AuthoritiesError};
pub(crate) use client::{ApiServer, ClientLimits};
pub(crate) use context::CurrentContext;
pub(crate) use failure::ReviewError;
pub use keys::KubeconfigError;
pub use kubeconfig::Kubeconfig;
pub(crate) use kubeconfig::SERVICE_ACCOUNT_DIRECTORY;
pub(crate) use material::{Material, beside};
pub(crate) use outage::Outage;
pub(crate) use plugin_run::{PluginCommand, PluginRun};
pub(crate) use reachability::Reachability;
#[cfg(test)]
pub(crate) use reviews::access_review;
pub(crate) use reviews::{AccessAnswer, AccessSpec, NodeInfo, TokenAnswer, UserInfo};
