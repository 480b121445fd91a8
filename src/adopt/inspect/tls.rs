//! Checks of certificates and TLS.

use serde_json::Value;

use super::check::CheckResult;
use crate::adopt::kubelet::options::{Effective, Setting};
use crate::tls::{SuiteName, cipher_suite};

pub(super) fn hostname_override(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.text().is_empty() {
        return CheckResult::PASS;
    }
    CheckResult::warn("names in certificates may not match; cloud providers and k3s set it on purpose")
}

pub(super) fn serving_pair(setting: &Setting, options: &Effective) -> CheckResult {
    let no_certificate = setting.text().is_empty();
    if no_certificate != options.text("tlsPrivateKeyFile").is_empty() {
        return CheckResult::fail(
            "certificate without key, or key without certificate: the kubelet does not start",
        );
    }
    if no_certificate && !options.is_on("serverTLSBootstrap") {
        return CheckResult::warn("the kubelet makes a self-signed certificate, which no client can verify");
    }
    CheckResult::PASS
}

pub(super) fn rotate_certificates(setting: &Setting, _: &Effective) -> CheckResult {
    if setting.is_on() {
        return CheckResult::PASS;
    }
    if setting.is_set() {
        return CheckResult::fail("when the client certificate expires, the cluster loses the node");
    }
    CheckResult::warn("not set: the client certificate is not rotated (kube-bench passes this)")
}

pub(super) fn rotate_server_certificate(setting: &Setting, options: &Effective) -> CheckResult {
    if !setting.is_on() {
        return CheckResult::warn("the serving certificate is renewed by hand, if at all");
    }
    if !options.is_on("featureGates.RotateKubeletServerCertificate") {
        return CheckResult::fail(
            "the feature gate RotateKubeletServerCertificate is off: nothing is rotated",
        );
    }
    CheckResult::PASS
}

/// Strong is what the benchmark calls strong. It accepts some suites without forward secrecy.
pub(super) fn cipher_suites(setting: &Setting, _: &Effective) -> CheckResult {
    let strong = |name: &str| {
        let sealed = name.contains("_GCM_") || name.contains("_CHACHA20_POLY1305");
        sealed || name.starts_with("TLS_AES_")
    };
    let named: Vec<&str> = setting
        .value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let weak: Vec<&str> = named.iter().copied().filter(|name| !strong(name)).collect();
    let unknown = |name: &&str| cipher_suite(name) == SuiteName::Unknown;
    let unknown: Vec<&str> = named.iter().copied().filter(unknown).collect();
    if !unknown.is_empty() {
        CheckResult::fail(format!(
            "{}: no suite of Go has this name: a kubelet does not start with it",
            unknown.join(", ")
        ))
    } else if named.is_empty() {
        CheckResult::warn("none named: the kubelet offers what its version of Go offers")
    } else if weak.is_empty() {
        CheckResult::PASS
    } else {
        CheckResult::fail(format!("weak: {}", weak.join(", ")))
    }
}

pub(super) fn min_version(setting: &Setting, _: &Effective) -> CheckResult {
    match setting.text() {
        "" | "VersionTLS12" | "VersionTLS13" => CheckResult::PASS,
        version @ ("VersionTLS10" | "VersionTLS11") => CheckResult::fail(format!("{version} is insecure")),
        other => CheckResult::fail(format!(
            "{other} is not a version of TLS: the kubelet does not start"
        )),
    }
}
