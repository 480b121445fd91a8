//! Judgements on exec, attach and port-forward.

use super::check::Judgement;
use super::defaults::may_be_old;
use crate::adopt::kubelet::options::{Effective, Setting};
use crate::duration;

pub(super) fn idle_timeout(setting: &Setting, _: &Effective) -> Judgement {
    if duration::is_zero(setting.text()) {
        return Judgement::fail("unused streams stay open forever");
    }
    Judgement::PASS
}

pub(super) fn redirect(setting: &Setting, options: &Effective) -> Judgement {
    if setting.is_on() {
        return Judgement::fail(
            "exec, attach and port-forward are answered by a redirect to the container runtime; the gate follows no \
             redirect and answers 502",
        );
    }
    if may_be_old(setting, options) {
        return Judgement::warn(
            "not set: up to Kubernetes 1.10 streams may be redirected to the container runtime; the gate answers 502 \
             then",
        );
    }
    Judgement::PASS
}
