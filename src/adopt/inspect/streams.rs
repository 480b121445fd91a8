//! Checks of exec, attach and port-forward.

use super::check::CheckResult;
use super::defaults::may_be_old;
use crate::adopt::kubelet::options::{Effective, Setting};
use crate::duration;

pub(super) fn idle_timeout(setting: &Setting, _: &Effective) -> CheckResult {
    if duration::is_zero(setting.text()) {
        return CheckResult::fail("unused streams stay open forever");
    }
    CheckResult::PASS
}

pub(super) fn redirect(setting: &Setting, options: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::fail(
            "exec, attach and port-forward are answered by a redirect to the container runtime; the gate \
             follows no redirect and answers 502",
        );
    }
    if may_be_old(setting, options) {
        return CheckResult::warn(
            "not set: up to Kubernetes 1.10 streams may be redirected to the container runtime; the gate \
             answers 502 then",
        );
    }
    CheckResult::PASS
}
