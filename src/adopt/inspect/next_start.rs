//! Whether a running kubelet's unit starts it the same way next time. The command line of a process is of the
//! day it was started; a changed unit counts from the next start on.

use super::check::{Check, CheckResult, Compensation};
use crate::adopt::kubelet::invocation::{Invocation, NextInvocation, Source};
use crate::adopt::kubelet::{options, plain};

/// The next start, if it is known and differs from what runs.
pub(super) fn differs(invocation: &Invocation) -> Option<&Invocation> {
    let texts = |invocation: &Invocation| -> Vec<String> {
        invocation.words.iter().map(|word| word.text.clone()).collect()
    };
    match invocation.next.as_ref()? {
        NextInvocation::Known(next) => (texts(invocation) != texts(next)).then_some(&**next),
        NextInvocation::Unknown(_) => None,
    }
}

/// `None` for a kubelet that is no process of a unit.
pub(super) fn check(invocation: &Invocation) -> Option<Check> {
    let (value, file, judgement) = match invocation.next.as_ref()? {
        NextInvocation::Unknown(why) => {
            let why = format!("it is not known what starts it next: {}", plain(why));
            ("(unknown)", None, CheckResult::warn(why))
        }
        NextInvocation::Known(next) => {
            let file = match &next.source {
                Source::NextStart { file, .. } => Some(file.clone()),
                _ => None,
            };
            match (differs(invocation), next.unread.as_slice()) {
                (Some(next), _) => ("(another)", file, CheckResult::warn(difference(invocation, next))),
                (None, []) => ("(the same)", file, CheckResult::PASS),
                (None, unread) => {
                    let why = format!("not certain: {}", plain(&unread.join("; ")));
                    ("(the same)", file, CheckResult::warn(why))
                }
            }
        }
    };
    Some(Check {
        id: "next-start",
        old: None,
        new: None,
        title: "the unit should start the kubelet that runs",
        key: "ExecStart".to_owned(),
        value: format!("arguments={value}"),
        origin: file.clone().unwrap_or_else(|| "its unit".to_owned()),
        file,
        verdict: judgement.verdict,
        why: judgement.why,
        gate: Compensation::None,
    })
}

/// What only one of the two has, as far as it is shown.
fn difference(running: &Invocation, next: &Invocation) -> String {
    let (running, next) = (options::arguments(running), options::arguments(next));
    let only = |these: &[String], those: &[String]| {
        let only: Vec<&str> = these
            .iter()
            .filter(|text| !those.contains(text))
            .map(String::as_str)
            .collect();
        match only.as_slice() {
            [] => "nothing".to_owned(),
            only => plain(&only.join(" ")),
        }
    };
    format!(
        "the process runs with other arguments than its unit starts it with: only the process has {}; only \
         the unit has {}; if the unit was changed on purpose, restart the kubelet, else repair the unit",
        only(&running, &next),
        only(&next, &running)
    )
}
