//! The event as text, the thread that writes it, and both under requests that leave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod event;
mod hand_over;
mod redaction;
mod requests;
mod rotation;
mod summaries;
mod writer;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;

use super::{AuditId, Event, EventRate, EventStage};
use crate::settings::{self, AuditCommands, AuditMode, AuditSink, AuditStrangers};

const PATIENCE: Duration = Duration::from_secs(10);

fn event() -> Event<'static> {
    Event {
        id: AuditId::random(),
        rate: EventRate::User,
        outcome: "allow",
        stage: EventStage::ResponseComplete,
        request_uri: b"/pods",
        verb: "get",
        user: None,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        user_agent: None,
        object: None,
        code: None,
        received: UNIX_EPOCH,
        stage_time: UNIX_EPOCH,
        decision: None,
        reason: None,
        stale: None,
        client_audit_id: None,
        error: None,
        station: None,
        stream: None,
    }
}

fn file_settings(path: &Path, mode: AuditMode) -> settings::Audit {
    settings::Audit {
        sink: AuditSink::File(path.to_owned()),
        mode,
        commands: AuditCommands::Hash,
        strangers: AuditStrangers::Summarised,
        rotation: None,
    }
}

fn verbs(path: &Path) -> Vec<String> {
    let lines = fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["verb"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not become true");
        #[expect(
            clippy::disallowed_methods,
            reason = "a plain thread polls a condition; no runtime is blocked"
        )]
        std::thread::sleep(Duration::from_millis(1));
    }
}
