//! From the file as written to [`Settings`]: every value judged by itself, then the values against each other.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use rustls::CipherSuite;
use serde_json::Value;

use super::Audit;
use super::AuditCommands;
use super::AuditMode;
use super::AuditSink;
use super::Authentication;
use super::Authorization;
use super::AuthorizationMode;
use super::Enforcement;
use super::Firewall;
use super::Interactive;
use super::KubeletFlags;
use super::Limits;
use super::ReadOnlyPort;
use super::Settings;
use super::SettingsError;
use super::contradictions;
use super::document::quoted;
use super::file;
use super::file::File;
use super::nearest::nearest;
use super::reading::Reading;
use super::reading::plain;
use super::schema;
use super::upstream;
use crate::duration;
use crate::settings::Backend;
use crate::tls::{self, ClientCertificates, ServingOptions, SuiteName, TlsVersion};

/// How long anything may be remembered, at most.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

/// The kubelet serves this folder to whoever may `get nodes/log`.
const SERVED_BY_KUBELET: &str = "/var/log";

/// Reads, overrides and judges; `path` names the file in messages and its folder is what relative paths start from.
pub(super) fn settings(text: &str, path: &Path, flags: &KubeletFlags) -> Result<Settings, SettingsError> {
    let folder = std::path::absolute(path)
        .map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let schema::Checked { mut file, lines } = schema::read(text, path).map_err(SettingsError::Invalid)?;
    let given = flags.apply(&mut file);
    zero_is_unset(&mut file, |key| given.contains_key(key));
    let mut reading = Reading {
        path,
        folder,
        lines,
        flags: given,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    header(&mut reading, &file);
    later(&mut reading, &file);
    let settings = build(&mut reading, file, flags);
    contradictions::find(&mut reading, &settings);
    if reading.problems.is_empty() {
        Ok(Settings {
            warnings: reading.warnings,
            ..settings
        })
    } else {
        Err(SettingsError::Invalid(reading.problems))
    }
}

/// A kubelet takes `0s` in its file for "not set", and kubeadm writes it for every duration: pasted blocks keep that
/// meaning. A flag's 0 is kept, as in the kubelet: nothing is remembered.
fn zero_is_unset(file: &mut File, by_flag: impl Fn(&str) -> bool) {
    let default = File::default();
    let (webhook, authorization) = (default.authentication.webhook, default.authorization);
    for (key, written, default) in [
        (
            "authentication.webhook.cacheTTL",
            &mut file.authentication.webhook.cache_ttl,
            webhook.cache_ttl,
        ),
        (
            "authorization.webhook.cacheAuthorizedTTL",
            &mut file.authorization.webhook.cache_authorized_ttl,
            authorization.webhook.cache_authorized_ttl,
        ),
        (
            "authorization.webhook.cacheUnauthorizedTTL",
            &mut file.authorization.webhook.cache_unauthorized_ttl,
            authorization.webhook.cache_unauthorized_ttl,
        ),
        (
            "authorization.interactive.cacheAuthorizedTTL",
            &mut file.authorization.interactive.cache_authorized_ttl,
            authorization.interactive.cache_authorized_ttl,
        ),
        (
            "streamingConnectionIdleTimeout",
            &mut file.streaming_connection_idle_timeout,
            default.streaming_connection_idle_timeout,
        ),
    ] {
        if !by_flag(key) && duration::parse(written) == Ok(Duration::ZERO) {
            *written = default;
        }
    }
}

fn header(reading: &mut Reading<'_>, file: &File) {
    for (key, value, expected) in [
        ("apiVersion", &file.api_version, file::API_VERSION),
        ("kind", &file.kind, file::KIND),
    ] {
        if !reading.lines.contains_key(key) {
            reading.refuse(key, format!("is missing; write {key}: {expected}"));
        } else if value == "KubeletConfiguration" {
            reading.refuse(
                key,
                format!(
                    "{} is the kubelet's own configuration; write {expected} into a file of the gate's own, into which \
                     the kubelet's authentication and authorization blocks may be pasted",
                    quoted(value)
                ),
            );
        } else if value != expected {
            reading.refuse(
                key,
                format!("{} is not known to this version; write {expected}", quoted(value)),
            );
        }
    }
}

/// Refuses every key whose feature is not there yet, unless it has its default.
fn later(reading: &mut Reading<'_>, file: &File) {
    let (Ok(written), Ok(defaults)) = (serde_json::to_value(file), schema::schema()) else {
        return reading.refuse("", "the file cannot be compared with the defaults");
    };
    for key in file::LATER {
        let (written, default) = (schema::at(&written, key), schema::at(&defaults, key));
        if let (Some(written), Some(default)) = (written, default)
            && !same(written, default)
        {
            reading.refuse(
                key,
                format!(
                    "{written}: not yet: so far this key takes only its default; write {default} or remove it"
                ),
            );
        }
    }
}

/// Whether two values mean the same; `5m` is `5m0s`.
fn same(written: &Value, default: &Value) -> bool {
    let duration = |value: &Value| value.as_str().and_then(|text| duration::parse(text).ok());
    written == default || duration(default).is_some_and(|default| duration(written) == Some(default))
}

fn build(reading: &mut Reading<'_>, file: File, flags: &KubeletFlags) -> Settings {
    let listen = flags.listen(reading.addresses("listen", &file.listen));
    if listen.is_empty() && file.listen.is_empty() {
        reading.refuse(
            "listen",
            "is missing; write the addresses of the TLS port, such as [\"192.0.2.10:10250\"]",
        );
    }
    let read_only = reading.addresses("readOnlyPort.listen", &file.read_only_port.listen);
    Settings {
        node_name: node_name(reading, &file.node_name),
        node_name_from_host: file.node_name_from_host,
        kubeconfig: reading.path("kubeconfig", &file.kubeconfig),
        upstream: upstream::upstream(reading, &file.upstream),
        tls: serving_tls(reading, &file),
        authentication: authentication(reading, file.authentication),
        authorization: authorization(reading, file.authorization),
        enforcement: Enforcement::Enforce,
        read_only_port: ReadOnlyPort {
            listen: flags.read_only_listen(&listen).unwrap_or(read_only),
            answer: reading.choice(
                "readOnlyPort.answer",
                &file.read_only_port.answer.to_string(),
                [("410", 410), ("404", 404), ("403", 403)],
            ),
            healthz: file.read_only_port.healthz,
        },
        listen,
        streaming_connection_idle_timeout: reading.duration(
            "streamingConnectionIdleTimeout",
            &file.streaming_connection_idle_timeout,
            Duration::ZERO..=30 * LONGEST_TTL,
        ),
        limits: limits(reading, &file.limits),
        firewall: firewall(reading, file.firewall),
        audit: audit(reading, &file.audit),
        admin_listen: admin(reading, &file.admin.listen),
        workers: reading.count("workers", file.workers, 1..=256),
        warnings: Vec::new(),
    }
}

fn firewall(reading: &mut Reading<'_>, file: file::Firewall) -> Firewall {
    const FEWEST_BITS: u32 = 4;
    let mark = match file.mark.as_str() {
        "auto" => None,
        text => match u32::from_str_radix(text.trim_start_matches("0x"), 16) {
            Ok(mask) if mask.count_ones() >= FEWEST_BITS => Some(mask),
            _ => {
                reading.refuse(
                    "firewall.mark",
                    format!(
                        "{} is neither auto nor a mask of at least {FEWEST_BITS} bits of the packet mark that nothing else \
                         on the node uses, such as 0x0000107f",
                        quoted(text)
                    ),
                );
                None
            }
        },
    };
    let backend = reading.choice(
        "firewall.backend",
        &file.backend,
        [
            ("auto", None),
            ("nftables", Some(Backend::Nftables)),
            ("iptables-nft", Some(Backend::IptablesNft)),
            ("iptables-legacy", Some(Backend::IptablesLegacy)),
        ],
    );
    Firewall {
        required: file.required,
        managed: file.managed,
        backend,
        mark,
        api_server_users: reading.names("firewall.apiServerUsers", file.api_server_users),
        state_directory: reading.required_path(
            "firewall.stateDirectory",
            &file.state_directory,
            "the directory of the confirmed plan",
        ),
        run_directory: reading.required_path(
            "firewall.runDirectory",
            &file.run_directory,
            "the directory of what lives until the next boot",
        ),
    }
}

/// The name as the kubelet makes it: trimmed and lower-cased, and one that a Node object can have.
fn node_name(reading: &mut Reading<'_>, text: &str) -> Option<String> {
    let name = text.trim().to_lowercase();
    let label = |label: &str| {
        let inner = label.trim_matches('-');
        !label.is_empty()
            && inner.len() == label.len()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.is_empty() {
        return None;
    }
    if name.len() > 253 || !name.split('.').all(label) {
        reading.refuse(
            "nodeName",
            format!(
                "{} cannot be the name of a Node; write what `kubectl get nodes` shows: letters, digits, - and ., at \
                 most 253",
                quoted(text)
            ),
        );
    }
    Some(name)
}

fn serving_tls(reading: &mut Reading<'_>, file: &File) -> ServingOptions {
    const OLD: &str = "TLS 1.0 and 1.1 are not offered here; the least version is VersionTLS12";
    let key = "tlsMinVersion";
    let min_version = match file.tls_min_version.as_str() {
        "" => TlsVersion::Tls12,
        "VersionTLS10" | "VersionTLS11" => {
            reading.warn(key, OLD);
            TlsVersion::Tls12
        }
        text => reading.choice(
            key,
            text,
            [
                ("VersionTLS12", TlsVersion::Tls12),
                ("VersionTLS13", TlsVersion::Tls13),
            ],
        ),
    };
    if min_version == TlsVersion::Tls13 && !file.tls_cipher_suites.is_empty() {
        reading.warn(
            "tlsCipherSuites",
            "the suites of TLS 1.3 cannot be chosen, and nothing older is offered",
        );
    }
    let x509 = &file.authentication.x509;
    ServingOptions {
        cert_file: reading.required_path(
            "tlsCertFile",
            &file.tls_cert_file,
            "the PEM file of the serving chain",
        ),
        private_key_file: reading.required_path(
            "tlsPrivateKeyFile",
            &file.tls_private_key_file,
            "the PEM file of the serving certificate's key",
        ),
        min_version,
        cipher_suites: cipher_suites(reading, &file.tls_cipher_suites),
        client_ca_file: reading.path("authentication.x509.clientCAFile", &x509.client_ca_file),
        client_certificates: reading.choice(
            "authentication.x509.clientCertificates",
            &x509.client_certificates,
            [
                ("Request", ClientCertificates::Request),
                ("Require", ClientCertificates::Require),
            ],
        ),
        crl_files: crl_files(reading, &x509.crl_files),
        legacy_v1_certificates: x509.legacy_v1_certificates,
    }
}

/// The suites that can be offered. Node images name others too, and must not fail on those.
fn cipher_suites(reading: &mut Reading<'_>, names: &[String]) -> Vec<CipherSuite> {
    let key = "tlsCipherSuites";
    let (mut offered, mut lacking, mut unknown) = (Vec::new(), Vec::new(), false);
    for (index, name) in names.iter().enumerate() {
        match tls::cipher_suite(name) {
            SuiteName::Offered(suite) => offered.push(suite),
            SuiteName::Lacking => lacking.push(name.as_str()),
            SuiteName::Unknown => {
                unknown = true;
                let meant = match nearest(name, tls::suite_names()) {
                    Some(suite) => format!("the nearest is {suite}"),
                    None => format!("write some of {}", tls::suite_names().collect::<Vec<_>>().join(", ")),
                };
                reading.refuse(
                    &format!("{key}[{index}]"),
                    format!("{} is not known; {meant}", quoted(name)),
                );
            }
        }
    }
    let lacking = lacking.join(", ");
    if offered.is_empty() && !lacking.is_empty() && !unknown {
        reading.refuse(
            key,
            format!(
                "none of {lacking} is implemented here; add an ECDHE suite with GCM or CHACHA20, or write []"
            ),
        );
    } else if !lacking.is_empty() {
        reading.warn(
            key,
            &format!("not implemented here and so not offered: {lacking}"),
        );
    }
    offered
}

fn authentication(reading: &mut Reading<'_>, file: file::Authentication) -> Authentication {
    Authentication {
        anonymous: file.anonymous.enabled,
        webhook: file.webhook.enabled,
        webhook_cache_ttl: reading.duration(
            "authentication.webhook.cacheTTL",
            &file.webhook.cache_ttl,
            Duration::ZERO..=LONGEST_TTL,
        ),
        audiences: reading.names("authentication.webhook.audiences", file.webhook.audiences),
    }
}

fn crl_files(reading: &mut Reading<'_>, files: &[String]) -> Vec<PathBuf> {
    let named = files.iter().enumerate().map(|(index, file)| {
        let key = format!("authentication.x509.crlFiles[{index}]");
        reading.required_path(&key, file, "a file with revocation lists, PEM or DER")
    });
    named.collect()
}

fn authorization(reading: &mut Reading<'_>, file: file::Authorization) -> Authorization {
    let ttl = Duration::ZERO..=LONGEST_TTL;
    Authorization {
        mode: reading.choice(
            "authorization.mode",
            &file.mode,
            [
                ("Webhook", AuthorizationMode::Webhook),
                ("AlwaysAllow", AuthorizationMode::AlwaysAllow),
            ],
        ),
        cache_authorized_ttl: reading.duration(
            "authorization.webhook.cacheAuthorizedTTL",
            &file.webhook.cache_authorized_ttl,
            ttl.clone(),
        ),
        cache_unauthorized_ttl: reading.duration(
            "authorization.webhook.cacheUnauthorizedTTL",
            &file.webhook.cache_unauthorized_ttl,
            ttl.clone(),
        ),
        interactive: Interactive {
            require_create: file.interactive.require_create,
            allowed_users: reading.names(
                "authorization.interactive.allowedUsers",
                file.interactive.allowed_users,
            ),
            cache_authorized_ttl: reading.duration(
                "authorization.interactive.cacheAuthorizedTTL",
                &file.interactive.cache_authorized_ttl,
                ttl,
            ),
        },
        deny_paths: deny_paths(reading, file.paths.deny),
    }
}

/// Prefixes are compared with the decoded path, whole segments at a time: one that never matches would be no refusal.
fn deny_paths(reading: &mut Reading<'_>, prefixes: Vec<String>) -> Vec<String> {
    for (index, prefix) in prefixes.iter().enumerate() {
        let inner = prefix
            .strip_prefix('/')
            .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let why = match inner {
            None => "does not begin with /",
            Some("") => "denies everything",
            Some(inner) if inner.split('/').any(|segment| matches!(segment, "" | "." | "..")) => {
                "has an empty segment, . or .., which no path that gets this far has"
            }
            Some(inner) if inner.contains(['?', '#', '*', '\\', '\0']) => "is more than a path",
            Some(inner) if inner.contains('%') => "is percent-encoded",
            Some(_) => continue,
        };
        reading.refuse(
            &format!("authorization.paths.deny[{index}]"),
            format!(
                "{} {why}; write the beginning of a decoded path, such as /debug/pprof",
                quoted(prefix)
            ),
        );
    }
    prefixes
}

fn limits(reading: &mut Reading<'_>, file: &file::Limits) -> Limits {
    let minutes = |minutes: u64| SHORTEST_TIMEOUT..=Duration::from_secs(60 * minutes);
    Limits {
        handshake_timeout: reading.duration("limits.handshakeTimeout", &file.handshake_timeout, minutes(5)),
        request_head_timeout: reading.duration(
            "limits.requestHeadTimeout",
            &file.request_head_timeout,
            minutes(5),
        ),
        idle_timeout: reading.duration("limits.idleTimeout", &file.idle_timeout, minutes(24 * 60)),
        write_stall_timeout: reading.duration(
            "limits.writeStallTimeout",
            &file.write_stall_timeout,
            minutes(60),
        ),
        upstream_connect_timeout: reading.duration(
            "limits.upstreamConnectTimeout",
            &file.upstream_connect_timeout,
            minutes(5),
        ),
        review_timeout: reading.duration("limits.reviewTimeout", &file.review_timeout, minutes(2)),
        shutdown_timeout: reading.duration("limits.shutdownTimeout", &file.shutdown_timeout, minutes(60)),
        request_head_bytes: reading.count(
            "limits.requestHeadBytes",
            file.request_head_bytes,
            8192..=1_048_576,
        ),
        http2_streams: reading.count("limits.http2Streams", file.http2_streams, 1..=10_000),
        connections: reading.count("limits.connections", file.connections, 1..=1_000_000),
        connections_per_address: reading.count(
            "limits.connectionsPerAddress",
            file.connections_per_address,
            1..=1_000_000,
        ),
        streams_per_identity: reading.count(
            "limits.streamsPerIdentity",
            file.streams_per_identity,
            1..=1_000_000,
        ),
        rejected_tokens_per_address: reading.count(
            "limits.rejectedTokensPerAddress",
            file.rejected_tokens_per_address,
            1..=1_000_000,
        ),
        refused_certificates_per_address: reading.count(
            "limits.refusedCertificatesPerAddress",
            file.refused_certificates_per_address,
            1..=1_000_000,
        ),
        cache_entries: reading.count("limits.cacheEntries", file.cache_entries, 1..=1_000_000),
        audit_queue: reading.count("limits.auditQueue", file.audit_queue, 1..=1_000_000),
        concurrent_reviews: reading.count("limits.concurrentReviews", file.concurrent_reviews, 1..=10_000),
        upstream_idle_connections: reading.count(
            "limits.upstreamIdleConnections",
            file.upstream_idle_connections,
            1..=10_000,
        ),
    }
}

fn audit(reading: &mut Reading<'_>, file: &file::Audit) -> Audit {
    let key = "audit.path";
    let sink = match file.path.as_str() {
        "" => {
            reading.warn(key, "nothing is written about any request");
            AuditSink::Off
        }
        "-" => AuditSink::Stdout,
        text => AuditSink::File(reading.path(key, text).unwrap_or_default()),
    };
    if let AuditSink::File(path) = &sink
        && plain(path).starts_with(SERVED_BY_KUBELET)
    {
        reading.refuse(
            key,
            format!(
                "{} is under {SERVED_BY_KUBELET}, which the kubelet serves to everybody who may get nodes/log; write a \
                 path elsewhere, such as /var/lib/kubelet-gate/audit/audit.log",
                quoted(&file.path)
            ),
        );
    }
    Audit {
        sink,
        mode: reading.choice(
            "audit.mode",
            &file.mode,
            [("batch", AuditMode::Batch), ("blocking", AuditMode::Blocking)],
        ),
        commands: reading.choice(
            "audit.commands",
            &file.commands,
            [
                ("hash", AuditCommands::Hash),
                ("omit", AuditCommands::Omit),
                ("show", AuditCommands::Show),
            ],
        ),
    }
}

fn admin(reading: &mut Reading<'_>, text: &str) -> Option<SocketAddr> {
    if text.is_empty() {
        return None;
    }
    let address = reading.address("admin.listen", text)?;
    if !is_loopback(address.ip()) {
        reading.refuse(
            "admin.listen",
            format!(
                "{} is not a loopback address, and this port asks nobody who they are; write 127.0.0.1:19250, or \"\" \
                 for none",
                quoted(text)
            ),
        );
    }
    Some(address)
}

/// Whether an address cannot be reached from another machine.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
