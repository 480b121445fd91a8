//! The client for the two questions the gate asks the API server: *who is this token* (TokenReview) and *may
//! this user do that* (SubjectAccessReview).
//!
//! ```text
//! kubeconfig   where the API server is, which files hold the credentials     kubeconfig.rs
//! credentials  those files, read, validated, re-read when they change        credentials.rs
//! connection   TLS connections made with them, kept alive and reused         connection.rs
//! client       one deadline, retries, a bound on concurrent calls            client.rs
//! reviews      the two questions and their answers as JSON                   reviews.rs
//! ```
//!
//! Two POSTs do not justify a client framework, and the ready-made ones read a client certificate once, while
//! a node's kubeconfig points at `kubelet-client-current.pem`, which the kubelet rotates. Every way in which
//! a question can fail ends in a [`ReviewError`]; an answer is never guessed.

mod client;
mod connection;
mod credentials;
mod failure;
mod kubeconfig;
mod reviews;
#[cfg(all(test, feature = "lab"))]
mod tests;

pub use client::{ApiServer, ClientLimits};
pub use credentials::ApiServerError;
pub use failure::{Api, Cause, ReviewError};
pub use kubeconfig::{Kubeconfig, KubeconfigError, SERVICE_ACCOUNT_DIRECTORY};
#[cfg(test)]
pub(crate) use reviews::access_review;
pub use reviews::{AccessAnswer, AccessSpec, AnswerError, TokenAnswer, UserInfo};
