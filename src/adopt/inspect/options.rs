//! The checks of a kubelet's options: section 4.2 of the CIS benchmark in both of its numberings, and what
//! else matters to a gate in front of the kubelet.

use super::check::{Check, CheckResult, Compensation, Verdict};
use super::{access, streams, tls, workload};
use crate::adopt::kubelet::options::{Effective, Setting, ValueOrigin};

use Compensation::{Full, Partial};

/// A check of one option.
struct OptionCheck {
    id: &'static str,
    old: Option<&'static str>,
    new: Option<&'static str>,
    title: &'static str,
    /// The option, as [`Effective::get`] takes it.
    key: &'static str,
    gate: Compensation,
    judge: fn(&Setting, &Effective) -> CheckResult,
}

/// `numbers`: up to CIS 1.24, and since 1.7; an empty one is none.
const fn check(
    id: &'static str,
    numbers: [&'static str; 2],
    title: &'static str,
    key: &'static str,
    gate: Compensation,
    judge: fn(&Setting, &Effective) -> CheckResult,
) -> OptionCheck {
    const fn number(number: &'static str) -> Option<&'static str> {
        if number.is_empty() { None } else { Some(number) }
    }
    OptionCheck {
        id,
        old: number(numbers[0]),
        new: number(numbers[1]),
        title,
        key,
        gate,
        judge,
    }
}

pub(super) const SEAL: Compensation = Full("its seal redirects callers to the gate and refuses the rest");
const OWN_TLS: Compensation = Full("clients see the gate's own TLS");
/// The health port that the seal closes.
const HEALTHZ_PORT: i64 = 10248;

#[rustfmt::skip]
const CHECKS: &[OptionCheck] = &[
    check("anonymous-auth", ["4.2.1", "4.2.1"], "anonymous requests should be off",
        "authentication.anonymous.enabled",
        Full("it refuses requests without credentials"), access::anonymous_auth),
    check("authorization-mode", ["4.2.2", "4.2.2"], "every request should be authorized",
        "authorization.mode",
        Full("it has the API server authorize every request"), access::authorization_mode),
    check("client-ca-file", ["4.2.3", "4.2.3"], "client certificates should be verified",
        "authentication.x509.clientCAFile",
        Full("it verifies client certificates"), access::client_ca_file),
    check("read-only-port", ["4.2.4", "4.2.4"], "the read-only port should be closed",
        "readOnlyPort",
        Full("its seal closes the port"), access::read_only_port),
    check("streaming-idle-timeout", ["4.2.5", "4.2.5"], "idle streams should end",
        "streamingConnectionIdleTimeout",
        Partial("streams through the gate end after its own idle timeout, others do \
                 not"), streams::idle_timeout),
    check("protect-kernel-defaults", ["4.2.6", ""], "kernel defaults should be protected",
        "protectKernelDefaults",
        Compensation::None, workload::protect_kernel_defaults),
    check("iptables-util-chains", ["4.2.7", "4.2.6"], "iptables chains should be maintained",
        "makeIPTablesUtilChains",
        Compensation::None, workload::iptables_util_chains),
    check("hostname-override", ["4.2.8", "4.2.7"], "the host name should not be overridden",
        "--hostname-override",
        Partial("its certificate can have the right names"), tls::hostname_override),
    check("event-qps", ["4.2.9", "4.2.8"], "events should be recorded",
        "eventRecordQPS",
        Compensation::None, workload::event_qps),
    check("serving-pair", ["4.2.10", "4.2.9"], "a serving certificate should be set",
        "tlsCertFile",
        OWN_TLS, tls::serving_pair),
    check("rotate-certificates", ["4.2.11", "4.2.10"], "the client certificate should rotate",
        "rotateCertificates",
        Compensation::None, tls::rotate_certificates),
    check("rotate-server-certificate", ["4.2.12", "4.2.11"], "the serving certificate should rotate",
        "serverTLSBootstrap",
        Full("it picks up a renewed certificate without a restart"), tls::rotate_server_certificate),
    check("cipher-suites", ["4.2.13", "4.2.12"], "only strong ciphers should be offered",
        "tlsCipherSuites",
        Full("it offers only suites with forward secrecy"), tls::cipher_suites),
    check("pod-pids-limit", ["", "4.2.13"], "pods should have a PID limit",
        "podPidsLimit",
        Compensation::None, workload::pod_pids_limit),
    check("seccomp-default", ["", "4.2.14"], "seccomp should be on by default",
        "seccompDefault",
        Compensation::None, workload::seccomp_default),
    check("bind-address", ["", ""], "the kubelet should bind to loopback",
        "address",
        SEAL, access::bind_address),
    check("token-webhook", ["", ""], "bearer tokens should be verified",
        "authentication.webhook.enabled",
        Full("it has the API server review tokens"), access::token_webhook),
    check("tls-min-version", ["", ""], "TLS should be 1.2 or newer",
        "tlsMinVersion",
        OWN_TLS, tls::min_version),
    check("healthz-bind-address", ["", ""], "the health port should be on loopback",
        "healthzBindAddress",
        Full("its seal closes the port to other machines"), access::healthz_bind_address),
    check("contention-profiling", ["", ""], "contention profiling should be off",
        "enableContentionProfiling",
        Partial("authorization.paths.deny can refuse /debug/pprof to every \
                 client"), access::contention_profiling),
    check("system-log-query", ["", ""], "queries of node logs should be off",
        "enableSystemLogQuery",
        Partial("it requires rights on nodes/log"), access::system_log_query),
    check("redirect-container-streaming", ["", ""], "streams should not be redirected",
        "--redirect-container-streaming",
        Compensation::None, streams::redirect),
    check("cadvisor-port", ["", ""], "cAdvisor should have no port",
        "--cadvisor-port",
        Compensation::None, access::cadvisor_port),
];

/// Judges every option.
pub(super) fn of(options: &Effective) -> Vec<Check> {
    let check = |check: &OptionCheck| {
        let setting = options.get(check.key)?;
        let CheckResult { verdict, why } = (check.judge)(setting, options);
        let file = match &setting.origin {
            ValueOrigin::File(path) | ValueOrigin::DropIn(path) => Some(path.clone()),
            ValueOrigin::Flag(place) => place.starts_with('/').then(|| place.clone()),
            ValueOrigin::Default | ValueOrigin::LegacyDefault => None,
        };
        Some(Check {
            id: check.id,
            old: check.old,
            new: check.new,
            title: check.title,
            key: check.key.trim_start_matches('-').to_owned(),
            value: format!("{}={}", check.key.trim_start_matches('-'), setting.shown()),
            origin: setting.origin.to_string(),
            file,
            verdict,
            why,
            gate: match check.id {
                "healthz-bind-address" if options.number("healthzPort") != HEALTHZ_PORT => Compensation::None,
                _ => check.gate,
            },
        })
    };
    CHECKS.iter().filter_map(check).collect()
}

/// Turns every pass into a warning, for a kubelet whose values are not certain.
pub(super) fn doubt(checks: &mut [Check], why: &str) {
    for check in checks.iter_mut().filter(|check| check.verdict == Verdict::Pass) {
        check.verdict = Verdict::Warn;
        check.why = format!("not certain: {why}");
    }
}
