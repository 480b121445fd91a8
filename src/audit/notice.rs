//! An event that stands for no single request: a summary, or a change of the gate itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use serde::Serialize;

use super::event::{AuditId, Clock};
use super::text::json;

/// Appends the event to `out`, as one line. What it says is in its annotations.
pub(super) fn write(
    user: Option<&str>,
    sources: &[IpAddr],
    first: SystemTime,
    now: SystemTime,
    annotations: BTreeMap<&'static str, String>,
    out: &mut Vec<u8>,
    clock: &mut Clock,
) {
    let event = Notice {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: "Metadata",
        audit_id: AuditId::random().to_string(),
        stage: "ResponseComplete",
        request_uri: "",
        verb: "",
        user: NoticeUser { username: user },
        source_ips: sources,
        request_received_timestamp: clock.text(first),
        stage_timestamp: clock.text(now),
        annotations,
    };
    json(out, &event);
    out.push(b'\n');
}

/// An `audit.k8s.io/v1` Event.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'static str,
    verb: &'static str,
    user: NoticeUser<'a>,
    #[serde(rename = "sourceIPs")]
    source_ips: &'a [IpAddr],
    request_received_timestamp: String,
    stage_timestamp: String,
    annotations: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct NoticeUser<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
}
