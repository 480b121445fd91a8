//! Checks of how the kubelet treats pods and the node.

use super::check::CheckResult;
use crate::adopt::kubelet::options::{Effective, Setting};

pub(super) fn protect_kernel_defaults(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::PASS;
    }
    CheckResult::warn("the kubelet changes kernel settings that differ from the ones it needs")
}

pub(super) fn iptables_util_chains(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::PASS;
    }
    CheckResult::fail("chains that kube-proxy relies on may be missing")
}

pub(super) fn event_qps(setting: &Setting, _: &Effective) -> CheckResult {
    match setting.number() {
        rate @ 1..5 => CheckResult::warn(format!("events beyond {rate} a second are lost")),
        _ => CheckResult::PASS,
    }
}

pub(super) fn pod_pids_limit(setting: &Setting, _: &Effective) -> CheckResult {
    match setting.number() {
        ..=0 => CheckResult::warn("one pod can use up the node's process IDs"),
        _ => CheckResult::PASS,
    }
}

pub(super) fn seccomp_default(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::PASS;
    }
    CheckResult::warn("containers without a seccomp profile of their own run unconfined")
}
