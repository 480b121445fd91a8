//! kubelet-gate on real sockets: one binary, so that it links once; one module per behaviour.
//!
//! Every test starts a [`world::World`] of its own: a fake kubelet, a fake API server and a gate between
//! them, each on a free port of 127.0.0.1. What a module is about, and what would go wrong in production
//! without it, is its first sentence.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "tests read files that they made themselves"
)]

mod go_programs;
mod load;
mod node;
mod patience;
mod program;
mod schemas;
mod service_manager;
mod skipped;
mod trees;
mod world;

mod admin_port;
mod answers;
mod answers_failures;
mod api_server;
mod api_server_outage;
mod api_server_rotation;
mod api_server_seen;
mod api_server_traffic;
mod audit_events;
mod audit_floods;
mod authorization;
mod bad_answers;
mod bad_files_never_replace_good_ones;
mod bad_files_refused_at_start;
mod budgets;
mod census;
mod client_matrix;
mod command_line;
mod contained;
mod corpus;
mod crowded_door;
mod deadlines;
mod deny_lists;
mod documented_tests;
mod early_answers;
mod expectations;
mod floods;
mod floors;
mod followed_logs;
mod forwarding;
mod forwarding_heads;
mod forwarding_upstream;
mod framing;
mod from_where;
mod from_where_changed;
mod gates_own_credential;
mod half_ends;
mod handing_over;
mod handmade_certificates;
mod heavy_chains;
mod hostile_files;
mod http2_floods;
mod http2_frames;
mod http2_oddities;
mod identity;
mod inherited_sockets;
mod initialising;
mod initialising_files;
mod initialising_identity;
mod inspecting;
mod inspecting_distributions;
mod inspecting_documents;
mod inspecting_outputs;
mod inspecting_probed;
mod inspecting_starts;
mod inspecting_units;
mod inspecting_verdicts;
mod inspecting_weaknesses;
mod interactive;
mod kubelet_next_start;
mod lab;
mod leaving_clients;
mod leaving_gates;
mod limits;
mod live_streams;
mod live_streams_reviewed;
mod log_lines;
mod never_away;
mod next_steps;
mod node_confirmed;
mod node_name;
mod outside_clients;
mod places;
mod proving;
mod proving_command;
mod proving_nodes;
mod read_only_port;
mod reload;
mod remembered_verdicts;
mod replay;
mod seal_again;
mod seal_agreement;
mod seal_around;
mod seal_beside_firewalls;
mod seal_crash;
mod seal_draining;
mod seal_interrupted;
mod seal_kept_out;
mod seal_neighbours;
mod seal_refusals;
mod seal_reused_ports;
mod seal_sources;
mod seal_streams;
mod seal_trial;
mod seal_watch;
mod smuggling;
mod soak;
mod socket_units;
mod stale_answers;
mod state_shown;
mod static_rules;
mod terminal;
mod trust_changes;
mod trust_vectors;
mod upgrades;
