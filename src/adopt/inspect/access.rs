//! Checks of which clients reach the kubelet, and what they may do there.

use std::net::IpAddr;

use super::check::CheckResult;
use super::defaults::{may_be_old, open_by_default};
use crate::adopt::kubelet::options::{Effective, Setting, ValueOrigin};

pub(super) fn anonymous_auth(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        let unset = open_by_default(setting);
        return CheckResult::fail(format!(
            "{unset}a request without credentials is accepted as the user system:anonymous"
        ));
    }
    CheckResult::PASS
}

pub(super) fn authorization_mode(setting: &Setting, options: &Effective) -> CheckResult {
    match setting.text() {
        "Webhook" => {}
        "AlwaysAllow" => {
            let unset = open_by_default(setting);
            return CheckResult::fail(format!(
                "{unset}every caller that the kubelet accepts may run commands in every container"
            ));
        }
        _ => {
            return CheckResult::fail(
                "the modes are Webhook and AlwaysAllow, written so: with another a kubelet does not start",
            );
        }
    }
    if options.text("--kubeconfig").is_empty() {
        return CheckResult::warn("without --kubeconfig there is no API server to ask");
    }
    CheckResult::PASS
}

pub(super) fn client_ca_file(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.text().is_empty() {
        return CheckResult::fail("without a CA the kubelet accepts no client certificate");
    }
    CheckResult::PASS
}

pub(super) fn read_only_port(setting: &Setting, _: &Effective) -> CheckResult {
    match setting.number() {
        0 => CheckResult::PASS,
        port if setting.origin == ValueOrigin::LegacyDefault => CheckResult::fail(format!(
            "the flag is not set, and without --config that means port {port} is open: it shows pods, with \
             their environment, to every client. kube-bench passes this check here, because it takes an \
             absent flag for a closed port; this verdict is about the value in force"
        )),
        port => CheckResult::fail(format!(
            "port {port} shows pods, with their environment, to every client"
        )),
    }
}

pub(super) fn bind_address(setting: &Setting, _: &Effective) -> CheckResult {
    if is_loopback(setting.text()) {
        return CheckResult::PASS;
    }
    CheckResult::warn(
        "every client that reaches the node reaches the kubelet, past any gate that is not sealed",
    )
}

pub(super) fn token_webhook(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::PASS;
    }
    CheckResult::warn(format!("{}bearer tokens are ignored", open_by_default(setting)))
}

pub(super) fn healthz_bind_address(setting: &Setting, options: &Effective) -> CheckResult {
    if options.number("healthzPort") == 0 || is_loopback(setting.text()) {
        return CheckResult::PASS;
    }
    CheckResult::warn("the health port, which authenticates no client, is open to the network")
}

pub(super) fn contention_profiling(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::warn("/debug/pprof/block costs time and shows how the kubelet works");
    }
    CheckResult::PASS
}

pub(super) fn system_log_query(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::warn("the node's journals can be read through the kubelet");
    }
    CheckResult::PASS
}

pub(super) fn cadvisor_port(setting: &Setting, options: &Effective) -> CheckResult {
    if may_be_old(setting, options) {
        return CheckResult::warn(
            "not set: up to Kubernetes 1.10 port 4194 is open then, and shows every container to every \
             client; the seal does not close it",
        );
    }
    match setting.number() {
        0 => CheckResult::PASS,
        port => CheckResult::fail(format!(
            "port {port} shows every container to every client; the seal does not close it"
        )),
    }
}

fn is_loopback(address: &str) -> bool {
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}
