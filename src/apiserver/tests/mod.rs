//! The client against a real HTTPS server on loopback, and its parts by themselves.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod credentials;
mod exec;
mod kubeconfig;
mod reviews;
mod server;
mod shapes;
