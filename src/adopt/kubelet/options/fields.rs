//! The options that are read: key and flag, kind of value, and both sets of defaults.

use ValueKind::{Address, Bool, Duration, LongNumber, Number, Path, Text, Texts};

/// What an option holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ValueKind {
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Number,
    /// A whole number of 64 bits.
    LongNumber,
    /// Text.
    Text,
    /// An IP address. An empty flag leaves it as it is.
    Address,
    /// A path. In the configuration file it is relative to the file's folder, otherwise to the working
    /// directory.
    Path,
    /// A list of texts; one flag, with commas.
    Texts,
    /// A Go duration.
    Duration,
    /// Names and booleans.
    Switches,
    /// Names and texts.
    TextMap,
    /// Anything: what is in it is not looked at.
    Any,
}

/// An option that matters to security.
#[derive(Debug)]
pub struct Field {
    /// The key of KubeletConfiguration, or the flag's name with its hyphens where there is no key.
    pub key: &'static str,
    /// The flag, without hyphens. Empty: there is none.
    pub flag: &'static str,
    /// What it holds.
    pub(super) kind: ValueKind,
    /// Its default, as JSON.
    pub(in crate::adopt::kubelet) default: &'static str,
    /// Its default on a kubelet without `--config`, where that differs.
    pub(in crate::adopt::kubelet) legacy: Option<&'static str>,
    /// A zero or empty value in the file means the default.
    pub(super) zero_is_unset: bool,
}

const fn field(key: &'static str, flag: &'static str, kind: ValueKind, default: &'static str) -> Field {
    Field {
        key,
        flag,
        kind,
        default,
        legacy: None,
        zero_is_unset: false,
    }
}

const fn legacy(field: Field, legacy: &'static str) -> Field {
    Field {
        legacy: Some(legacy),
        ..field
    }
}

const fn zero_is_unset(field: Field) -> Field {
    Field {
        zero_is_unset: true,
        ..field
    }
}

/// Every option that is read. An option without a flag is read from files only; one whose key begins with
/// hyphens from flags only.
#[rustfmt::skip]
pub(crate) const FIELDS: &[Field] = &[
    field("enableServer", "enable-server", Bool, "true"),
    zero_is_unset(field("address", "address", Address, "\"0.0.0.0\"")),
    zero_is_unset(field("port", "port", Number, "10250")),
    legacy(field("readOnlyPort", "read-only-port", Number, "0"), "10255"),
    legacy(field("authentication.anonymous.enabled", "anonymous-auth", Bool, "false"), "true"),
    legacy(field("authentication.webhook.enabled", "authentication-token-webhook", Bool, "true"), "false"),
    zero_is_unset(field("authentication.webhook.cacheTTL",
        "authentication-token-webhook-cache-ttl", Duration, "\"2m0s\"")),
    field("authentication.x509.clientCAFile", "client-ca-file", Path, "\"\""),
    legacy(
        zero_is_unset(field("authorization.mode", "authorization-mode", Text, "\"Webhook\"")),
        "\"AlwaysAllow\"",
    ),
    zero_is_unset(field("authorization.webhook.cacheAuthorizedTTL",
        "authorization-webhook-cache-authorized-ttl", Duration, "\"5m0s\"")),
    zero_is_unset(field("authorization.webhook.cacheUnauthorizedTTL",
        "authorization-webhook-cache-unauthorized-ttl", Duration, "\"30s\"")),
    field("tlsCertFile", "tls-cert-file", Path, "\"\""),
    field("tlsPrivateKeyFile", "tls-private-key-file", Path, "\"\""),
    field("tlsCipherSuites", "tls-cipher-suites", Texts, "[]"),
    field("tlsMinVersion", "tls-min-version", Text, "\"\""),
    field("rotateCertificates", "rotate-certificates", Bool, "false"),
    field("serverTLSBootstrap", "rotate-server-certificates", Bool, "false"),
    field("enableDebuggingHandlers", "enable-debugging-handlers", Bool, "true"),
    field("enableContentionProfiling", "contention-profiling", Bool, "false"),
    field("enableProfilingHandler", "", Bool, "true"),
    field("enableDebugFlagsHandler", "", Bool, "true"),
    field("enableSystemLogHandler", "", Bool, "true"),
    field("enableSystemLogQuery", "", Bool, "false"),
    field("healthzPort", "healthz-port", Number, "10248"),
    zero_is_unset(field("healthzBindAddress", "healthz-bind-address", Address, "\"127.0.0.1\"")),
    zero_is_unset(field("streamingConnectionIdleTimeout", "streaming-connection-idle-timeout",
        Duration, "\"4h0m0s\"")),
    field("protectKernelDefaults", "protect-kernel-defaults", Bool, "false"),
    field("makeIPTablesUtilChains", "make-iptables-util-chains", Bool, "true"),
    field("eventRecordQPS", "event-qps", Number, "50"),
    field("podPidsLimit", "pod-max-pids", LongNumber, "-1"),
    field("seccompDefault", "seccomp-default", Bool, "false"),
    field("featureGates.RotateKubeletServerCertificate", "", Bool, "true"),
    field("featureGates.ContainerCheckpoint", "", Bool, "true"),
    field("featureGates.ReloadKubeletClientCAFile", "", Bool, "true"),
    field("staticPodPath", "pod-manifest-path", Path, "\"\""),
    field("--config", "config", Path, "\"\""),
    field("--config-dir", "config-dir", Path, "\"\""),
    field("--kubeconfig", "kubeconfig", Path, "\"\""),
    field("--bootstrap-kubeconfig", "bootstrap-kubeconfig", Path, "\"\""),
    field("--cert-dir", "cert-dir", Path, "\"/var/lib/kubelet/pki\""),
    field("--hostname-override", "hostname-override", Text, "\"\""),
    field("--node-ip", "node-ip", Text, "\"\""),
    // Removed in 1.20 and 1.12; on an old kubelet they may be on.
    field("--redirect-container-streaming", "redirect-container-streaming", Bool, "false"),
    field("--cadvisor-port", "cadvisor-port", Number, "0"),
];
