//! The client for the two questions the gate asks the API server: *who is this token* (TokenReview) and *may
//! this user do that* (SubjectAccessReview); and at start a third one, *which machine is this Node*.
//!
//! ```text
//! context      what the current context of a kubeconfig names               context.rs
//! kubeconfig   where the API server is, which files hold the credentials     kubeconfig.rs
//! access       those files, read and validated as one value                  access.rs
//! authorities  the CA bundle, and whom it vouches for                        authorities.rs
//! credentials  the access in use; read again, issued by a plugin             credentials.rs
//! exec         one run of an exec credential plugin                          exec.rs
//! connection   TLS connections made with them, kept alive and reused         connection.rs
//! client       one deadline, retries, a bound on concurrent calls            client.rs
//! reviews      the two questions and their answers as JSON                   reviews.rs
//! ```
//!
//! Two POSTs do not justify a client framework, and the ready-made ones read a client certificate once, while
//! a node's kubeconfig points at `kubelet-client-current.pem`, which the kubelet rotates. Every way in which
//! a question can fail ends in a [`ReviewError`]; an answer is never guessed.

mod access;
mod authorities;
mod client;
mod connection;
mod context;
mod credentials;
mod document;
mod exec;
mod failure;
mod keys;
mod kubeconfig;
mod log_text;
mod material;
mod reviews;
#[cfg(all(test, feature = "lab"))]
mod tests;

pub use access::ApiServerError;
pub(crate) use authorities::Authorities;
pub use authorities::AuthoritiesError;
pub use client::{ApiServer, ClientLimits};
pub(crate) use context::CurrentContext;
pub use exec::PluginError;
pub use failure::{Api, Cause, ReviewError};
pub use keys::KubeconfigError;
pub use kubeconfig::{Kubeconfig, SERVICE_ACCOUNT_DIRECTORY};
pub(crate) use material::{Material, beside};
#[cfg(test)]
pub(crate) use reviews::access_review;
pub use reviews::{AccessAnswer, AccessSpec, AnswerError, NodeInfo, TokenAnswer, UserInfo};
