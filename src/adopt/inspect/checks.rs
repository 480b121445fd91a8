//! What is looked for in a kubelet's options: the CIS benchmark's section 4.2 in both of its numberings, and what else a
//! gate in front of it meets.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};

use super::verified;
use crate::adopt::kubelet::invocation::Unit;
use crate::adopt::kubelet::options::{Effective, Origin, Setting};
use crate::adopt::prove::{Report, Verified};

/// How a kubelet does by itself.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Somebody should look.
    Warn,
    /// Open, or broken.
    Fail,
}

impl Verdict {
    /// As benchmarks write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What a gate makes up for, if it stands in front and the ways around it are sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gate {
    /// Nothing.
    No,
    /// Some of it.
    Partly(&'static str),
    /// It does this instead.
    Yes(&'static str),
}

/// One thing that was looked for.
#[derive(Clone, Debug)]
pub struct Check {
    /// Stable for ever.
    pub id: &'static str,
    /// Its number in the benchmark up to CIS 1.24.
    pub old: Option<&'static str>,
    /// Its number since CIS 1.7, the one that followed.
    pub new: Option<&'static str>,
    /// In a few words.
    pub title: &'static str,
    /// What was found.
    pub value: String,
    /// Where it comes from.
    pub origin: String,
    /// The file to change, if it is in one.
    pub file: Option<String>,
    /// How that is for the kubelet alone.
    pub verdict: Verdict,
    /// Why it is not good, and what follows. Empty for a pass.
    pub why: String,
    /// What the gate makes up for.
    pub gate: Gate,
}

impl Check {
    /// What the gate means for this check. "Compensated" is said only of what a probe has just seen closed, for the benchmark's
    /// own tools go on to read the kubelet's options.
    #[must_use]
    pub fn with_gate(&self, report: Option<&Report>) -> String {
        if self.verdict == Verdict::Pass {
            return String::new();
        }
        let time = report.map_or("", |report| report.finished.as_str());
        match (self.gate, verified(report, self.new)) {
            (Gate::No, _) => "no".to_owned(),
            (Gate::Partly(how), _) => format!("partly: {how}"),
            (Gate::Yes(_), Verified::Closed) => format!("compensated, verified by probe at {time}"),
            (Gate::Yes(_), Verified::Open) => format!("open: a probe got through at {time}"),
            (Gate::Yes(how), Verified::NoGate) => {
                format!("can: {how}; no probe got through at {time}, but it was no gate that answered")
            }
            (Gate::Yes(how), Verified::Untried) => format!("can: {how}; not probed"),
        }
    }

    /// Whether a probe has just seen it closed.
    #[must_use]
    pub fn is_compensated(&self, report: Option<&Report>) -> bool {
        matches!(self.gate, Gate::Yes(_)) && verified(report, self.new) == Verified::Closed
    }

    pub(super) fn to_json(&self, report: Option<&Report>) -> Value {
        let (gate, how) = match self.gate {
            Gate::No => ("no", None),
            Gate::Partly(how) => ("partly", Some(how)),
            Gate::Yes(how) => ("yes", Some(how)),
        };
        let probe = match verified(report, self.new) {
            Verified::Open => "open",
            Verified::Closed => "closed",
            Verified::NoGate => "noGate",
            Verified::Untried => "untried",
        };
        json!({
            "id": self.id,
            "cis": {"upTo1.24": self.old, "since1.7": self.new},
            "title": self.title,
            "value": self.value,
            "origin": self.origin,
            "verdict": self.verdict,
            "why": self.why,
            "gate": {"compensates": gate, "how": how, "probe": probe, "says": self.with_gate(report)},
        })
    }
}

/// A check about one option: found by its key, judged by the rest.
struct Row {
    id: &'static str,
    old: Option<&'static str>,
    new: Option<&'static str>,
    title: &'static str,
    key: &'static str,
    gate: Gate,
}

const fn row(
    id: &'static str,
    numbers: [&'static str; 2],
    title: &'static str,
    key: &'static str,
    gate: Gate,
) -> Row {
    const fn some(number: &'static str) -> Option<&'static str> {
        if number.is_empty() { None } else { Some(number) }
    }
    Row {
        id,
        old: some(numbers[0]),
        new: some(numbers[1]),
        title,
        key,
        gate,
    }
}

const OWN_TLS: Gate = Gate::Yes("clients see the gate's own TLS");
const SEAL: Gate = Gate::Yes("its seal brings callers to the gate and refuses the rest");
/// The one that the seal closes.
const HEALTHZ_PORT: i64 = 10248;
const ROWS: &[Row] = &[
    row(
        "anonymous-auth",
        ["4.2.1", "4.2.1"],
        "anonymous requests are off",
        "authentication.anonymous.enabled",
        Gate::Yes("it refuses who has no credentials"),
    ),
    row(
        "authorization-mode",
        ["4.2.2", "4.2.2"],
        "not everybody may do everything",
        "authorization.mode",
        Gate::Yes("it has every request authorised by the API server"),
    ),
    row(
        "client-ca-file",
        ["4.2.3", "4.2.3"],
        "client certificates are verified",
        "authentication.x509.clientCAFile",
        Gate::Yes("it verifies client certificates"),
    ),
    row(
        "read-only-port",
        ["4.2.4", "4.2.4"],
        "the read-only port is closed",
        "readOnlyPort",
        Gate::Yes("its seal closes the port"),
    ),
    row(
        "streaming-idle-timeout",
        ["4.2.5", "4.2.5"],
        "idle streams end",
        "streamingConnectionIdleTimeout",
        Gate::Partly("streams through the gate end by its own idle timeout, others do not"),
    ),
    row(
        "protect-kernel-defaults",
        ["4.2.6", ""],
        "kernel defaults are protected",
        "protectKernelDefaults",
        Gate::No,
    ),
    row(
        "iptables-util-chains",
        ["4.2.7", "4.2.6"],
        "the kubelet keeps its iptables chains",
        "makeIPTablesUtilChains",
        Gate::No,
    ),
    row(
        "hostname-override",
        ["4.2.8", "4.2.7"],
        "the host's name is not overridden",
        "--hostname-override",
        Gate::Partly("its certificate can have the right names"),
    ),
    row(
        "event-qps",
        ["4.2.9", "4.2.8"],
        "events are recorded",
        "eventRecordQPS",
        Gate::No,
    ),
    row(
        "serving-pair",
        ["4.2.10", "4.2.9"],
        "a serving certificate is configured",
        "tlsCertFile",
        OWN_TLS,
    ),
    row(
        "rotate-certificates",
        ["4.2.11", "4.2.10"],
        "the client certificate is rotated",
        "rotateCertificates",
        Gate::No,
    ),
    row(
        "rotate-server-certificate",
        ["4.2.12", "4.2.11"],
        "the serving certificate is rotated",
        "serverTLSBootstrap",
        Gate::Yes("it takes a renewed certificate without a restart"),
    ),
    row(
        "cipher-suites",
        ["4.2.13", "4.2.12"],
        "only strong ciphers",
        "tlsCipherSuites",
        Gate::Yes("it offers suites with forward secrecy only"),
    ),
    row(
        "pod-pids-limit",
        ["", "4.2.13"],
        "pods have a PID limit",
        "podPidsLimit",
        Gate::No,
    ),
    row(
        "seccomp-default",
        ["", "4.2.14"],
        "seccomp is on by default",
        "seccompDefault",
        Gate::No,
    ),
    row(
        "bind-address",
        ["", ""],
        "the kubelet is not reached directly",
        "address",
        SEAL,
    ),
    row(
        "token-webhook",
        ["", ""],
        "bearer tokens are verified",
        "authentication.webhook.enabled",
        Gate::Yes("it has tokens reviewed by the API server"),
    ),
    row(
        "tls-min-version",
        ["", ""],
        "TLS 1.2 or newer",
        "tlsMinVersion",
        OWN_TLS,
    ),
    row(
        "healthz-bind-address",
        ["", ""],
        "the health port is on loopback",
        "healthzBindAddress",
        Gate::Yes("its seal closes the port from outside"),
    ),
    row(
        "contention-profiling",
        ["", ""],
        "lock contention is not profiled",
        "enableContentionProfiling",
        Gate::Partly("authorization.paths.deny can refuse /debug/pprof to everybody"),
    ),
    row(
        "system-log-query",
        ["", ""],
        "the node's logs cannot be queried",
        "enableSystemLogQuery",
        Gate::Partly("it needs rights on nodes/log"),
    ),
    row(
        "redirect-container-streaming",
        ["", ""],
        "streams go through the kubelet",
        "--redirect-container-streaming",
        Gate::No,
    ),
    row(
        "cadvisor-port",
        ["", ""],
        "no port of cAdvisor's own",
        "--cadvisor-port",
        Gate::No,
    ),
];

/// Judges every row.
pub(super) fn of(options: &Effective) -> Vec<Check> {
    let check = |row: &Row| {
        let setting = options.get(row.key)?;
        let (verdict, why) = judged(row.id, setting, options);
        let file = match &setting.origin {
            Origin::File(path) | Origin::DropIn(path) => Some(path.clone()),
            Origin::Flag(place) => place.starts_with('/').then(|| place.clone()),
            Origin::Default | Origin::LegacyDefault => None,
        };
        Some(Check {
            id: row.id,
            old: row.old,
            new: row.new,
            title: row.title,
            value: format!("{}={}", row.key.trim_start_matches('-'), setting.shown()),
            origin: setting.origin.to_string(),
            file,
            verdict,
            why,
            gate: match row.id {
                "healthz-bind-address" if options.number("healthzPort") != HEALTHZ_PORT => Gate::No,
                _ => row.gate,
            },
        })
    };
    ROWS.iter().filter_map(check).collect()
}

/// Of all that passed, nothing is sure where something could not be read.
pub(super) fn doubt(checks: &mut [Check]) {
    for check in checks.iter_mut().filter(|check| check.verdict == Verdict::Pass) {
        check.verdict = Verdict::Warn;
        check.why = "not proven: something that may say otherwise could not be read".to_owned();
    }
}

/// Whether systemd keeps strangers away from whatever the kubelet listens on.
pub(super) fn address_deny(unit: Option<&Unit>) -> Check {
    const LOCAL: [&str; 5] = ["localhost", "127.0.0.0/8", "127.0.0.1", "::1/128", "::1"];
    let only = unit.and_then(|unit| unit.allows_only.as_ref());
    let (verdict, value, why) = match unit {
        Some(_) if only.is_some_and(|only| only.iter().all(|who| LOCAL.contains(&who.as_str()))) => {
            (Verdict::Pass, "any", String::new())
        }
        Some(_) if only.is_some() => (
            Verdict::Warn,
            "any",
            format!(
                "but for IPAddressAllow={}",
                only.map(|only| only.join(" ")).unwrap_or_default()
            ),
        ),
        Some(_) => (
            Verdict::Warn,
            "(not any)",
            "systemd lets everybody reach what the kubelet listens on".to_owned(),
        ),
        None => (
            Verdict::Warn,
            "(unknown)",
            "no systemd unit of this kubelet is seen".to_owned(),
        ),
    };
    let file = unit.map(|unit| unit.file.clone());
    Check {
        id: "ip-address-deny",
        old: None,
        new: Some("4.2.15"),
        title: "systemd lets nobody reach the kubelet",
        value: format!("IPAddressDeny={value}"),
        origin: file.clone().unwrap_or_else(|| "no unit".to_owned()),
        file,
        verdict,
        why,
        gate: SEAL,
    }
}

fn judged(id: &str, setting: &Setting, options: &Effective) -> (Verdict, String) {
    use Verdict::{Fail, Pass, Warn};
    let on = setting.value == Value::Bool(true);
    let number = setting.value.as_i64().unwrap_or(0);
    let text = setting.value.as_str().unwrap_or_default();
    let legacy = setting.origin == Origin::LegacyDefault;
    let unset = match legacy {
        true => "it is not set, and without --config the default is open: ",
        false => "",
    };
    let said = |verdict, why: String| (verdict, why);
    match id {
        "anonymous-auth" if on => said(
            Fail,
            format!("{unset}whoever reaches the port is somebody: system:anonymous"),
        ),
        "authorization-mode" if text != "Webhook" => said(
            Fail,
            format!("{unset}whoever is anybody may run commands in every container"),
        ),
        "authorization-mode" if options.text("--kubeconfig").is_empty() => {
            said(Warn, "without --kubeconfig there is no API server to ask".to_owned())
        }
        "client-ca-file" if text.is_empty() => said(Fail, "no client certificate means anything here".to_owned()),
        "read-only-port" if number != 0 && legacy => said(
            Fail,
            format!(
                "the flag is not set, and without --config that means port {number} is open: pods, with their environment, \
                 to whoever asks. kube-bench passes this check here, since it reads what is written and takes an absent flag \
                 for a closed port; what counts is what is in force"
            ),
        ),
        "read-only-port" if number != 0 => {
            said(Fail, format!("port {number} shows pods, with their environment, to whoever asks"))
        }
        "streaming-idle-timeout" if crate::duration::is_zero(text) => {
            said(Fail, "streams that nobody uses stay open for ever".to_owned())
        }
        "protect-kernel-defaults" if !on => {
            said(Warn, "the kubelet changes kernel settings that it finds different".to_owned())
        }
        "iptables-util-chains" if !on => said(Fail, "the chains that kube-proxy relies on may be missing".to_owned()),
        "hostname-override" if !text.is_empty() => said(
            Warn,
            "names in certificates may not fit; cloud providers and k3s set it on purpose".to_owned(),
        ),
        "event-qps" if number > 0 && number < 5 => said(Warn, "events beyond so few a second are lost".to_owned()),
        "serving-pair" if text.is_empty() != options.text("tlsPrivateKeyFile").is_empty() => {
            said(Fail, "certificate without key, or key without certificate: a kubelet does not start".to_owned())
        }
        "serving-pair" if text.is_empty() && !options.is_on("serverTLSBootstrap") => said(
            Warn,
            "the kubelet makes a certificate that nobody can verify".to_owned(),
        ),
        "rotate-certificates" if !on && setting.is_set() => {
            said(Fail, "when the client certificate expires the node is lost".to_owned())
        }
        "rotate-certificates" if !on => said(
            Warn,
            "not set: the client certificate is not rotated (kube-bench passes this)".to_owned(),
        ),
        "rotate-server-certificate" => {
            let gate = options.is_on("featureGates.RotateKubeletServerCertificate");
            match (on, gate) {
                (true, true) => said(Pass, String::new()),
                (true, false) => said(
                    Fail,
                    "the feature gate RotateKubeletServerCertificate is off: nothing is rotated".to_owned(),
                ),
                (false, _) => said(Warn, "the serving certificate is renewed by hand, if at all".to_owned()),
            }
        }
        "cipher-suites" => ciphers(setting),
        "pod-pids-limit" if number <= 0 => said(Warn, "one pod can use up the node's process ids".to_owned()),
        "seccomp-default" if !on => said(Warn, "containers that ask for nothing run unconfined".to_owned()),
        "bind-address" if !is_loopback(text) => said(
            Warn,
            "whoever reaches the node reaches the kubelet, past any gate that is not sealed".to_owned(),
        ),
        "token-webhook" if !on => said(Warn, format!("{unset}bearer tokens are not looked at")),
        "tls-min-version" if matches!(text, "VersionTLS10" | "VersionTLS11") => {
            said(Fail, format!("{text} is broken"))
        }
        "tls-min-version" if !matches!(text, "" | "VersionTLS12" | "VersionTLS13") => {
            said(Fail, format!("{text} is no version of TLS: a kubelet does not start"))
        }
        "healthz-bind-address" if options.number("healthzPort") != 0 && !is_loopback(text) => said(
            Warn,
            "the health port, which asks nobody who he is, is open to the network".to_owned(),
        ),
        "contention-profiling" if on => said(Warn, "/debug/pprof/block costs time and tells about the node".to_owned()),
        "system-log-query" if on => said(Warn, "the journals of the node can be read through the kubelet".to_owned()),
        "redirect-container-streaming" if on => said(
            Fail,
            "exec, attach and port-forward are answered by a redirect to the container runtime: through a gate that is a 502, \
             since no redirect is followed there"
                .to_owned(),
        ),
        "redirect-container-streaming" if unset_on_old(setting, options) => said(
            Warn,
            "not set: up to 1.10 streams may be redirected to the container runtime, which is a 502 through a gate".to_owned(),
        ),
        "cadvisor-port" if unset_on_old(setting, options) => said(
            Warn,
            "not set: up to 1.10 that means port 4194, which shows every container to whoever asks; the seal does not know it"
                .to_owned(),
        ),
        "cadvisor-port" if number != 0 => said(
            Fail,
            format!("port {number} shows every container to whoever asks; the seal does not know it"),
        ),
        _ => said(Pass, String::new()),
    }
}

/// Whether a default counts that changed with the versions. A kubelet of those days was mostly without `--config`.
fn unset_on_old(setting: &Setting, options: &Effective) -> bool {
    !setting.is_set() && options.text("--config").is_empty() && options.text("--config-dir").is_empty()
}

/// What the benchmark takes for strong. It still has suites without forward secrecy, which are good enough for it.
fn ciphers(setting: &Setting) -> (Verdict, String) {
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
        (
            Verdict::Warn,
            "none named: whatever this kubelet's Go offers".to_owned(),
        )
    } else if weak.is_empty() {
        (Verdict::Pass, String::new())
    } else {
        (Verdict::Fail, format!("weak: {}", weak.join(", ")))
    }
}

fn is_loopback(address: &str) -> bool {
    address
        .parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}
