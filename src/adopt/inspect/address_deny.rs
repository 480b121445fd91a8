//! Whether systemd keeps other machines away from the kubelet's ports.

use super::check::{Check, CheckResult};
use super::options::SEAL;
use crate::adopt::kubelet::invocation::KubeletUnit;

/// What `IPAddressAllow` may name while only this node itself gets through.
const LOCAL: [&str; 5] = ["localhost", "127.0.0.0/8", "127.0.0.1", "::1/128", "::1"];

pub(super) fn check(unit: Option<&KubeletUnit>) -> Check {
    let (value, judgement) = match unit.map(|unit| unit.allows_only.as_deref()) {
        Some(Some(allowed)) if allowed.iter().all(|address| LOCAL.contains(&address.as_str())) => {
            ("any", CheckResult::PASS)
        }
        Some(Some(allowed)) => {
            let why = format!("with the exception IPAddressAllow={}", allowed.join(" "));
            ("any", CheckResult::warn(why))
        }
        Some(None) => {
            let why = "systemd lets every address reach the kubelet's ports";
            ("(not any)", CheckResult::warn(why))
        }
        None => {
            let why = "no systemd unit of this kubelet was found";
            ("(unknown)", CheckResult::warn(why))
        }
    };
    let file = unit.map(|unit| unit.file.clone());
    Check {
        id: "ip-address-deny",
        old: None,
        new: Some("4.2.15"),
        title: "systemd should refuse other addresses",
        key: "IPAddressDeny".to_owned(),
        value: format!("IPAddressDeny={value}"),
        origin: file.clone().unwrap_or_else(|| "no unit".to_owned()),
        file,
        verdict: judgement.verdict,
        why: judgement.why,
        gate: SEAL,
    }
}
