//! Judgements on certificates and TLS.

use serde_json::Value;

use super::check::Judgement;
use crate::adopt::kubelet::options::{Effective, Setting};

pub(super) fn hostname_override(setting: &Setting, _: &Effective) -> Judgement {
    if setting.text().is_empty() {
        return Judgement::PASS;
    }
    Judgement::warn("names in certificates may not match; cloud providers and k3s set it on purpose")
}

pub(super) fn serving_pair(setting: &Setting, options: &Effective) -> Judgement {
    let no_certificate = setting.text().is_empty();
    if no_certificate != options.text("tlsPrivateKeyFile").is_empty() {
        return Judgement::fail(
            "certificate without key, or key without certificate: the kubelet does not start",
        );
    }
    if no_certificate && !options.is_on("serverTLSBootstrap") {
        return Judgement::warn("the kubelet makes a self-signed certificate, which no client can verify");
    }
    Judgement::PASS
}

pub(super) fn rotate_certificates(setting: &Setting, _: &Effective) -> Judgement {
    if setting.is_on() {
        return Judgement::PASS;
    }
    if setting.is_set() {
        return Judgement::fail("when the client certificate expires, the cluster loses the node");
    }
    Judgement::warn("not set: the client certificate is not rotated (kube-bench passes this)")
}

pub(super) fn rotate_server_certificate(setting: &Setting, options: &Effective) -> Judgement {
    if !setting.is_on() {
        return Judgement::warn("the serving certificate is renewed by hand, if at all");
    }
    if !options.is_on("featureGates.RotateKubeletServerCertificate") {
        return Judgement::fail("the feature gate RotateKubeletServerCertificate is off: nothing is rotated");
    }
    Judgement::PASS
}

/// Strong is what the benchmark calls strong. It accepts some suites without forward secrecy.
pub(super) fn cipher_suites(setting: &Setting, _: &Effective) -> Judgement {
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
    if named.is_empty() {
        Judgement::warn("none named: the kubelet offers what its version of Go offers")
    } else if weak.is_empty() {
        Judgement::PASS
    } else {
        Judgement::fail(format!("weak: {}", weak.join(", ")))
    }
}

pub(super) fn min_version(setting: &Setting, _: &Effective) -> Judgement {
    match setting.text() {
        "" | "VersionTLS12" | "VersionTLS13" => Judgement::PASS,
        version @ ("VersionTLS10" | "VersionTLS11") => Judgement::fail(format!("{version} is insecure")),
        other => Judgement::fail(format!(
            "{other} is not a version of TLS: the kubelet does not start"
        )),
    }
}
