//! The configuration file as it is written: `kind: KubeletGateConfiguration`, text and numbers, nothing
//! judged yet.
//!
//! Each section names its keys once, with type and default. [`File::default`] is therefore also the schema:
//! the keys that it serializes to are the known keys, and their values show the type (see [`super::schema`]).
//! Text that is empty means "not set", as in a `KubeletConfiguration`.

use serde::{Deserialize, Serialize};

/// `apiVersion`.
pub(super) const API_VERSION: &str = "kubelet-gate.dev/v1alpha1";

/// `kind`.
pub(super) const KIND: &str = "KubeletGateConfiguration";

/// Declares sections of the file: `name { key: type = default, … }`.
macro_rules! sections {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$attribute:meta])* $key:ident: $type:ty = $default:expr,)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Deserialize, Serialize)]
        #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
        pub(super) struct $name {
            $($(#[$attribute])* pub(super) $key: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    )*};
}

sections! {
    /// The whole file.
    File {
        api_version: String = API_VERSION.to_owned(),
        kind: String = KIND.to_owned(),
        node_name: String = String::new(),
        node_name_from_host: bool = false,
        listen: Vec<String> = Vec::new(),
        kubeconfig: String = String::new(),
        upstream: Upstream = Upstream::default(),
        tls_cert_file: String = String::new(),
        tls_private_key_file: String = String::new(),
        tls_min_version: String = "VersionTLS12".to_owned(),
        tls_cipher_suites: Vec<String> = Vec::new(),
        authentication: Authentication = Authentication::default(),
        authorization: Authorization = Authorization::default(),
        sources: Sources = Sources::default(),
        read_only_port: ReadOnlyPort = ReadOnlyPort::default(),
        streaming_connection_idle_timeout: String = "4h0m0s".to_owned(),
        streams: Streams = Streams::default(),
        limits: Limits = Limits::default(),
        firewall: Firewall = Firewall::default(),
        audit: Audit = Audit::default(),
        admin: Admin = Admin::default(),
        upgrade: Upgrade = Upgrade::default(),
        workers: u64 = 1,
        sandbox: String = "BestEffort".to_owned(),
    }

    /// `upstream`
    Upstream {
        url: String = String::new(),
        allow_remote: bool = false,
        certificate_file: String = String::new(),
        ca_file: String = String::new(),
        server_name: String = String::new(),
        client_certificate_file: String = String::new(),
        client_key_file: String = String::new(),
        token_file: String = String::new(),
        allow_fleet_credential: bool = false,
    }

    /// `authentication`
    Authentication {
        anonymous: Anonymous = Anonymous::default(),
        x509: X509 = X509::default(),
        webhook: AuthenticationWebhook = AuthenticationWebhook::default(),
        deny_files: Vec<String> = Vec::new(),
    }

    /// `authentication.anonymous`
    Anonymous {
        enabled: bool = false,
    }

    /// `authentication.x509`
    X509 {
        #[serde(rename = "clientCAFile")]
        client_ca_file: String = String::new(),
        client_certificates: String = "Request".to_owned(),
        crl_files: Vec<String> = Vec::new(),
        legacy_v1_certificates: bool = false,
    }

    /// `authentication.webhook`
    AuthenticationWebhook {
        enabled: bool = true,
        #[serde(rename = "cacheTTL")]
        cache_ttl: String = "2m0s".to_owned(),
        audiences: Vec<String> = Vec::new(),
    }

    /// `authorization`
    Authorization {
        mode: String = "Webhook".to_owned(),
        #[serde(rename = "static")]
        static_rules: Vec<StaticRule> = Vec::new(),
        webhook: AuthorizationWebhook = AuthorizationWebhook::default(),
        interactive: Interactive = Interactive::default(),
        paths: Paths = Paths::default(),
    }

    /// `authorization.webhook`
    AuthorizationWebhook {
        #[serde(rename = "cacheAuthorizedTTL")]
        cache_authorized_ttl: String = "5m0s".to_owned(),
        #[serde(rename = "cacheUnauthorizedTTL")]
        cache_unauthorized_ttl: String = "30s".to_owned(),
        stale_allow: StaleAllow = StaleAllow::default(),
    }

    /// `authorization.webhook.staleAllow`
    StaleAllow {
        max_age: String = "0s".to_owned(),
        subresources: Vec<String> = ["metrics", "healthz", "stats"].map(str::to_owned).into(),
    }

    /// An item of `authorization.static`
    StaticRule {
        users: Vec<String> = Vec::new(),
        groups: Vec<String> = Vec::new(),
        verbs: Vec<String> = Vec::new(),
        subresources: Vec<String> = Vec::new(),
    }

    /// `authorization.interactive`
    Interactive {
        require_create: bool = true,
        allowed_users: Vec<String> = Vec::new(),
        #[serde(rename = "cacheAuthorizedTTL")]
        cache_authorized_ttl: String = "10s".to_owned(),
    }

    /// `authorization.paths`
    Paths {
        deny: Vec<String> = Vec::new(),
    }

    /// `sources`
    Sources {
        port: Vec<String> = Vec::new(),
        interactive: Vec<String> = Vec::new(),
        exclude_api_server: bool = false,
    }

    /// `readOnlyPort`
    ReadOnlyPort {
        listen: Vec<String> = Vec::new(),
        answer: u64 = 410,
        healthz: bool = false,
    }

    /// `streams`
    Streams {
        recheck_interval: String = "30s".to_owned(),
        max_unverified: String = "5m0s".to_owned(),
        max_lifetime: String = "0s".to_owned(),
    }

    /// `limits`
    Limits {
        handshake_timeout: String = "10s".to_owned(),
        request_head_timeout: String = "10s".to_owned(),
        idle_timeout: String = "2m0s".to_owned(),
        write_stall_timeout: String = "1m0s".to_owned(),
        follow_stall_timeout: String = "15m0s".to_owned(),
        upstream_connect_timeout: String = "5s".to_owned(),
        review_timeout: String = "10s".to_owned(),
        shutdown_timeout: String = "30s".to_owned(),
        request_head_bytes: u64 = 131_072,
        http2_streams: u64 = 100,
        connections: u64 = 4096,
        unauthenticated_connections: u64 = 2048,
        connections_per_address: u64 = 512,
        requests_per_identity: u64 = 256,
        streams: u64 = 1024,
        streams_per_identity: u64 = 256,
        rejected_tokens_per_address: u64 = 10,
        refused_certificates_per_address: u64 = 500,
        cache_entries: u64 = 8192,
        audit_queue: u64 = 8192,
        concurrent_reviews: u64 = 64,
        upstream_connections: u64 = 1024,
        upstream_idle_connections: u64 = 64,
    }

    /// `firewall`
    Firewall {
        required: bool = false,
        managed: bool = false,
        backend: String = "auto".to_owned(),
        mark: String = "auto".to_owned(),
        api_server_users: Vec<String> = Vec::new(),
        state_directory: String = "/var/lib/kubelet-gate/firewall".to_owned(),
        run_directory: String = "/run/kubelet-gate".to_owned(),
    }

    /// `audit`
    Audit {
        path: String = "/var/lib/kubelet-gate/audit/audit.log".to_owned(),
        mode: String = "batch".to_owned(),
        commands: String = "hash".to_owned(),
        strangers: String = "summarised".to_owned(),
        #[serde(rename = "maxSizeMB")]
        max_size_mb: u64 = 100,
        max_backups: u64 = 5,
    }

    /// `admin`
    Admin {
        listen: String = "127.0.0.1:19250".to_owned(),
        socket: String = "auto".to_owned(),
        group: String = String::new(),
        hosts: Vec<String> = Vec::new(),
    }

    /// `upgrade`
    Upgrade {
        drain_timeout: String = "1h0m0s".to_owned(),
    }
}
