//! kubelet-gate on real sockets: one binary, so that it links once; one module per behaviour.
//!
//! Every test starts a [`world::World`] of its own: a fake kubelet, a fake API server and a gate between them, each on
//! a free port of 127.0.0.1. What a module is about, and what would go wrong in production without it, is its first
//! sentence.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod world;

mod admin_port;
mod answers;
mod api_server;
mod attributes_table;
mod audit_events;
mod authorization;
mod command_line;
mod deadlines;
mod forwarding;
mod identity;
mod interactive;
mod limits;
mod node_name;
mod outside_clients;
mod read_only_port;
mod smuggling;
mod trust_changes;
mod upgrades;
