//! A gate that strangers can jam takes logs, metrics and exec from the whole node. Each module here plays one
//! attack on the gate as a process, while a legitimate client asks beside it.
//!
//! The short form, which every `cargo test` runs, is small and decides by counts alone: each request of the
//! legitimate client is answered, work and bytes are bounded, and nothing is left at the end. The full form
//! (`just floods`, or `KUBELET_GATE_FLOODS=full` with a release build) plays the attacks at their stated rate
//! with the gate's own limits, measures latencies too, and writes a row for each attack to
//! `target/floods.md`.

mod attackers;
mod chains;
mod figures;
mod ground;
mod legitimate;
mod play;
mod scene;

mod admin_port;
mod anonymous_requests;
mod api_server_streams;
mod client_hellos;
mod closed_windows;
mod expensive_chains;
mod http2;
mod junk_beside;
mod memory;
mod random_tokens;
mod read_only_port;
mod silent_connections;

use std::sync::LazyLock;

/// Whether the attacks are played in full.
static FULL: LazyLock<bool> = LazyLock::new(|| match std::env::var("KUBELET_GATE_FLOODS") {
    Err(_) => false,
    Ok(text) if text == "full" => true,
    Ok(text) => panic!("KUBELET_GATE_FLOODS is {text:?}: expected `full`, or no such variable"),
});

/// The first value in the short form, the second in the full form.
fn scaled<T>(short: T, full: T) -> T {
    if *FULL { full } else { short }
}
