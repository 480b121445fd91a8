//! The settings in force, written as a file that would give them: what `kubelet-gate check` prints.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::AuditCommands;
use super::AuditMode;
use super::AuditSink;
use super::AuthorizationMode;
use super::Enforcement;
use super::Limits;
use super::Settings;
use super::Upstream;
use super::UpstreamTrust;
use super::UpstreamUrl;
use super::file;
use super::file::File;
use super::validate::is_loopback;
use crate::duration::format;
use crate::named::Named;
use crate::tls::suite_name;

impl Settings {
    /// These settings as a configuration file, every key written out. Loading it gives equal settings,
    /// except that a time to live of zero, which only a flag can give, is written `1ns`: a file's `0s` would be the
    /// default.
    ///
    /// # Errors
    ///
    /// When the YAML serializer fails, which no value here makes it do.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(&self.to_file())
    }

    fn to_file(&self) -> File {
        let authentication = &self.authentication;
        let authorization = &self.authorization;
        let suites = self.tls.cipher_suites.iter().map(|suite| suite_name(*suite));
        File {
            node_name: self.node_name.clone().unwrap_or_default(),
            node_name_from_host: self.node_name_from_host,
            listen: addresses(&self.listen),
            kubeconfig: optional(self.kubeconfig.as_ref()),
            upstream: upstream(&self.upstream),
            tls_cert_file: path(&self.tls.cert_file),
            tls_private_key_file: path(&self.tls.private_key_file),
            tls_min_version: self.tls.min_version.name().to_owned(),
            tls_cipher_suites: suites.map(str::to_owned).collect(),
            authentication: file::Authentication {
                anonymous: file::Anonymous {
                    enabled: authentication.anonymous,
                },
                x509: file::X509 {
                    client_ca_file: optional(self.tls.client_ca_file.as_ref()),
                    client_certificates: self.tls.client_certificates.name().to_owned(),
                    crl_files: self.tls.crl_files.iter().map(|file| path(file)).collect(),
                    legacy_v1_certificates: self.tls.legacy_v1_certificates,
                },
                webhook: file::AuthenticationWebhook {
                    enabled: authentication.webhook,
                    cache_ttl: nonzero(authentication.webhook_cache_ttl),
                    audiences: authentication.audiences.clone(),
                },
            },
            authorization: file::Authorization {
                mode: match authorization.mode {
                    AuthorizationMode::AlwaysAllow => "AlwaysAllow".to_owned(),
                    AuthorizationMode::Webhook => "Webhook".to_owned(),
                },
                webhook: file::AuthorizationWebhook {
                    cache_authorized_ttl: nonzero(authorization.cache_authorized_ttl),
                    cache_unauthorized_ttl: nonzero(authorization.cache_unauthorized_ttl),
                    ..file::AuthorizationWebhook::default()
                },
                interactive: file::Interactive {
                    require_create: authorization.interactive.require_create,
                    allowed_users: authorization.interactive.allowed_users.clone(),
                    cache_authorized_ttl: nonzero(authorization.interactive.cache_authorized_ttl),
                },
                paths: file::Paths {
                    deny: authorization.deny_paths.clone(),
                },
            },
            enforcement: match self.enforcement {
                Enforcement::Enforce => "Enforce".to_owned(),
            },
            read_only_port: file::ReadOnlyPort {
                listen: addresses(&self.read_only_port.listen),
                answer: u64::from(self.read_only_port.answer),
                healthz: self.read_only_port.healthz,
            },
            streaming_connection_idle_timeout: format(self.streaming_connection_idle_timeout),
            limits: limits(&self.limits),
            firewall: file::Firewall {
                required: self.firewall.required,
                managed: self.firewall.managed,
                backend: match self.firewall.backend {
                    None => "auto".to_owned(),
                    Some(backend) => backend.name().to_owned(),
                },
                mark: self
                    .firewall
                    .mark
                    .map_or_else(|| "auto".to_owned(), |mask| format!("{mask:#010x}")),
                api_server_users: self.firewall.api_server_users.clone(),
                state_directory: path(&self.firewall.state_directory),
                run_directory: path(&self.firewall.run_directory),
            },
            audit: file::Audit {
                path: match &self.audit.sink {
                    AuditSink::Off => String::new(),
                    AuditSink::Stdout => "-".to_owned(),
                    AuditSink::File(file) => path(file),
                },
                mode: match self.audit.mode {
                    AuditMode::Batch => "batch".to_owned(),
                    AuditMode::Blocking => "blocking".to_owned(),
                },
                commands: match self.audit.commands {
                    AuditCommands::Hash => "hash".to_owned(),
                    AuditCommands::Omit => "omit".to_owned(),
                    AuditCommands::Show => "show".to_owned(),
                },
                ..file::Audit::default()
            },
            admin: file::Admin {
                listen: self
                    .admin_listen
                    .map(|address| address.to_string())
                    .unwrap_or_default(),
            },
            workers: self.workers as u64,
            // What is left has its default, or the file would have been refused.
            ..File::default()
        }
    }
}

fn upstream(upstream: &Upstream) -> file::Upstream {
    let (certificate_file, ca_file, server_name) = match &upstream.trust {
        Some(UpstreamTrust::Pinned(certificate)) => (path(certificate), String::new(), String::new()),
        Some(UpstreamTrust::Ca { ca_file, server_name }) => {
            (String::new(), path(ca_file), server_name.clone())
        }
        None => Default::default(),
    };
    let client = upstream.credentials.client_certificate.as_ref();
    file::Upstream {
        url: match &upstream.url {
            UpstreamUrl::Http(address) => format!("http://{address}"),
            UpstreamUrl::Https(address) => format!("https://{address}"),
            UpstreamUrl::Unix(socket) => format!("unix://{}", socket.display()),
        },
        allow_remote: matches!(upstream.url, UpstreamUrl::Https(address) if !is_loopback(address.ip())),
        certificate_file,
        ca_file,
        server_name,
        client_certificate_file: optional(client.map(|(certificate, _)| certificate)),
        client_key_file: optional(client.map(|(_, key)| key)),
        token_file: optional(upstream.credentials.token_file.as_ref()),
        allow_fleet_credential: upstream.credentials.allow_fleet,
    }
}

/// What remembers nothing must not become the default when it is read again.
fn nonzero(duration: Duration) -> String {
    format(duration.max(Duration::from_nanos(1)))
}

fn limits(limits: &Limits) -> file::Limits {
    file::Limits {
        handshake_timeout: format(limits.handshake_timeout),
        request_head_timeout: format(limits.request_head_timeout),
        idle_timeout: format(limits.idle_timeout),
        write_stall_timeout: format(limits.write_stall_timeout),
        upstream_connect_timeout: format(limits.upstream_connect_timeout),
        review_timeout: format(limits.review_timeout),
        shutdown_timeout: format(limits.shutdown_timeout),
        request_head_bytes: limits.request_head_bytes as u64,
        http2_streams: limits.http2_streams.into(),
        connections: limits.connections as u64,
        connections_per_address: limits.connections_per_address as u64,
        streams_per_identity: limits.streams_per_identity as u64,
        rejected_tokens_per_address: limits.rejected_tokens_per_address.into(),
        refused_certificates_per_address: limits.refused_certificates_per_address.into(),
        cache_entries: limits.cache_entries as u64,
        audit_queue: limits.audit_queue as u64,
        concurrent_reviews: limits.concurrent_reviews as u64,
        upstream_idle_connections: limits.upstream_idle_connections as u64,
    }
}

fn addresses(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn optional(file: Option<&PathBuf>) -> String {
    file.map(|file| path(file)).unwrap_or_default()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
