//! The options that are read: where they stand, what they hold, and both sets of defaults.

/// What an option holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Number,
    /// Text.
    Text,
    /// A path: one from the configuration file starts at the file's folder, others at the working directory.
    Path,
    /// A list of texts; one flag, with commas.
    Texts,
    /// A Go duration.
    Duration,
}

/// An option that matters to security, in its places.
#[derive(Debug)]
pub struct Field {
    /// The key of KubeletConfiguration, or the flag's name with its hyphens where there is no key.
    pub key: &'static str,
    /// The flag, without hyphens. Empty: there is none.
    pub flag: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it is where nobody sets it, as JSON.
    pub(super) default: &'static str,
    /// The same on a kubelet without `--config`, where that differs.
    pub(super) legacy: Option<&'static str>,
    /// A zero, or nothing, in the file means the default.
    pub(super) zero_is_unset: bool,
}

const fn field(key: &'static str, flag: &'static str, kind: Kind, default: &'static str) -> Field {
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

/// Every option that is read. What has no flag can only be in a file; what begins with hyphens only be a flag.
pub const FIELDS: &[Field] = &[
    field("enableServer", "enable-server", Kind::Bool, "true"),
    zero_is_unset(field("address", "address", Kind::Text, "\"0.0.0.0\"")),
    zero_is_unset(field("port", "port", Kind::Number, "10250")),
    legacy(
        field("readOnlyPort", "read-only-port", Kind::Number, "0"),
        "10255",
    ),
    legacy(
        field(
            "authentication.anonymous.enabled",
            "anonymous-auth",
            Kind::Bool,
            "false",
        ),
        "true",
    ),
    legacy(
        field(
            "authentication.webhook.enabled",
            "authentication-token-webhook",
            Kind::Bool,
            "true",
        ),
        "false",
    ),
    zero_is_unset(field(
        "authentication.webhook.cacheTTL",
        "authentication-token-webhook-cache-ttl",
        Kind::Duration,
        "\"2m0s\"",
    )),
    field(
        "authentication.x509.clientCAFile",
        "client-ca-file",
        Kind::Path,
        "\"\"",
    ),
    legacy(
        zero_is_unset(field(
            "authorization.mode",
            "authorization-mode",
            Kind::Text,
            "\"Webhook\"",
        )),
        "\"AlwaysAllow\"",
    ),
    zero_is_unset(field(
        "authorization.webhook.cacheAuthorizedTTL",
        "authorization-webhook-cache-authorized-ttl",
        Kind::Duration,
        "\"5m0s\"",
    )),
    zero_is_unset(field(
        "authorization.webhook.cacheUnauthorizedTTL",
        "authorization-webhook-cache-unauthorized-ttl",
        Kind::Duration,
        "\"30s\"",
    )),
    field("tlsCertFile", "tls-cert-file", Kind::Path, "\"\""),
    field("tlsPrivateKeyFile", "tls-private-key-file", Kind::Path, "\"\""),
    field("tlsCipherSuites", "tls-cipher-suites", Kind::Texts, "[]"),
    field("tlsMinVersion", "tls-min-version", Kind::Text, "\"\""),
    field("rotateCertificates", "rotate-certificates", Kind::Bool, "false"),
    field(
        "serverTLSBootstrap",
        "rotate-server-certificates",
        Kind::Bool,
        "false",
    ),
    field(
        "enableDebuggingHandlers",
        "enable-debugging-handlers",
        Kind::Bool,
        "true",
    ),
    field(
        "enableContentionProfiling",
        "contention-profiling",
        Kind::Bool,
        "false",
    ),
    field("enableProfilingHandler", "", Kind::Bool, "true"),
    field("enableDebugFlagsHandler", "", Kind::Bool, "true"),
    field("enableSystemLogHandler", "", Kind::Bool, "true"),
    field("enableSystemLogQuery", "", Kind::Bool, "false"),
    field("healthzPort", "healthz-port", Kind::Number, "10248"),
    zero_is_unset(field(
        "healthzBindAddress",
        "healthz-bind-address",
        Kind::Text,
        "\"127.0.0.1\"",
    )),
    zero_is_unset(field(
        "streamingConnectionIdleTimeout",
        "streaming-connection-idle-timeout",
        Kind::Duration,
        "\"4h0m0s\"",
    )),
    field(
        "protectKernelDefaults",
        "protect-kernel-defaults",
        Kind::Bool,
        "false",
    ),
    field(
        "makeIPTablesUtilChains",
        "make-iptables-util-chains",
        Kind::Bool,
        "true",
    ),
    field("eventRecordQPS", "event-qps", Kind::Number, "50"),
    field("podPidsLimit", "pod-max-pids", Kind::Number, "-1"),
    field("seccompDefault", "seccomp-default", Kind::Bool, "false"),
    field(
        "featureGates.RotateKubeletServerCertificate",
        "",
        Kind::Bool,
        "true",
    ),
    field("staticPodPath", "pod-manifest-path", Kind::Path, "\"\""),
    field("--config", "config", Kind::Path, "\"\""),
    field("--config-dir", "config-dir", Kind::Path, "\"\""),
    field("--kubeconfig", "kubeconfig", Kind::Path, "\"\""),
    field(
        "--bootstrap-kubeconfig",
        "bootstrap-kubeconfig",
        Kind::Path,
        "\"\"",
    ),
    field("--cert-dir", "cert-dir", Kind::Path, "\"/var/lib/kubelet/pki\""),
    field("--hostname-override", "hostname-override", Kind::Text, "\"\""),
    field("--node-ip", "node-ip", Kind::Text, "\"\""),
    // Gone since 1.20 and 1.12; a legacy kubelet may have them on.
    field(
        "--redirect-container-streaming",
        "redirect-container-streaming",
        Kind::Bool,
        "false",
    ),
    field("--cadvisor-port", "cadvisor-port", Kind::Number, "0"),
];
