//! The summary of a soak.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::FULL;
use super::events::{Event, Events};
use super::generations::{Generations, Holdings};
use crate::load::{STREAMS, Tally};

/// Prints it, and in the full form writes it to the target directory.
pub(super) fn note(took: Duration, tally: &Tally, events: &Events, generations: &Generations) {
    let text = text(took, tally, events, generations);
    print!("{text}{}", tally.failures());
    if FULL.is_some() {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("soak.md");
        fs::write(file, text).unwrap();
    }
}

fn text(took: Duration, tally: &Tally, events: &Events, generations: &Generations) -> String {
    let is_stream = |kind: &str| STREAMS.contains(&kind);
    let kinds = tally.kinds();
    let kinds = kinds.iter().map(|(kind, counts)| {
        let worst = counts.worst.as_millis();
        format!(
            "| {kind} | {} | {} | {} | {} | {worst} |\n",
            counts.asked,
            counts.right,
            counts.excused,
            counts.failures.values().sum::<u64>()
        )
    });
    let kinds: String = kinds.collect();
    let holdings = |what: &str, holdings: &Holdings| {
        format!(
            "| {what} | {:.1} | {} | {} | {} |\n",
            holdings.memory as f64 / 1024.0,
            holdings.connections,
            holdings.descriptors,
            holdings.threads
        )
    };
    let mut held = holdings("first process, before any client", &generations.before);
    for (each, number) in generations.each.iter().zip(1..) {
        if let Some(warm) = &each.warm {
            held += &holdings(&format!("process {number}, warm"), warm);
        }
        if let Some(end) = &each.end {
            held += &holdings(&format!("process {number}, at its end"), end);
        }
    }
    held += &holdings("last process, after all clients", &generations.after);
    format!(
        "\
| what | count |
|---|---|
| seconds | {} |
| requests | {} |
| streams | {} |
| bytes of streams | {} |
| reloads (certificates, configuration, deny list) | {} |
| upgrades by hand-over | {} |
| outages of the kubelet, of the API server | {}, {} |
| refused or cut in an outage, as expected | {} |
| lost | {} |

| kind | asked | right | excused | lost | worst ms |
|---|---|---|---|---|---|
{kinds}
| when | RSS MB | connections | descriptors | threads |
|---|---|---|---|---|
{held}",
        took.as_secs(),
        tally.sum(|kind| !is_stream(kind), |counts| counts.asked),
        tally.sum(is_stream, |counts| counts.asked),
        tally.sum(is_stream, |counts| counts.bytes),
        events.count(&[Event::Certificates, Event::Configuration, Event::DenyList]),
        events.count(&[Event::Upgrade]),
        events.count(&[Event::Kubelet]),
        events.count(&[Event::ApiServer]),
        tally.sum(|_| true, |counts| counts.excused),
        tally.lost(),
    )
}
