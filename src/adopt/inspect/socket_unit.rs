//! Whether the gate's socket unit, if there is one, takes a port that the kubelet wants.

use super::check::{Check, CheckResult, Compensation};
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::{next_starts_of, plain};
use crate::adopt::socket_unit::{installed, judge};
use crate::settings::{KubeletFlags, Settings};

/// Where a node's gate has its configuration.
const CONFIGURATION: &str = "/etc/kubelet-gate/kubelet-gate.yaml";

/// `None` if the node has no such unit.
pub(super) fn check(invocation: &Invocation) -> Option<Check> {
    let unit = match installed(&invocation.root) {
        Ok(unit) => unit?,
        Err(error) => {
            let judgement = CheckResult::warn(plain(&error.to_string()));
            return Some(row("(unreadable)".to_owned(), None, judgement));
        }
    };
    let file = invocation.root.resolve(CONFIGURATION.as_ref());
    // A node may have its configuration elsewhere: `check` compares the two.
    let settings = file
        .ok()
        .and_then(|file| Settings::load(&file, &KubeletFlags::default()).ok());
    let found = judge(&unit, settings.as_ref(), &next_starts_of(invocation));
    let why = [found.problems.clone(), found.warnings.clone()]
        .concat()
        .join("; ");
    let judgement = match (found.problems.is_empty(), found.warnings.is_empty()) {
        (true, true) => CheckResult::PASS,
        (true, false) => CheckResult::warn(why),
        (false, _) => CheckResult::fail(why),
    };
    let listens: Vec<String> = unit.listens.iter().map(|line| plain(&line.value)).collect();
    Some(row(listens.join(" "), Some(unit.file), judgement))
}

fn row(value: String, file: Option<String>, judgement: CheckResult) -> Check {
    Check {
        id: "gate-socket-unit",
        old: None,
        new: None,
        title: "the gate's socket unit should leave the kubelet its ports",
        key: "ListenStream".to_owned(),
        value: format!("ListenStream={value}"),
        origin: file.clone().unwrap_or_else(|| "kubelet-gate.socket".to_owned()),
        file,
        verdict: judgement.verdict,
        why: judgement.why,
        gate: Compensation::None,
    }
}
