//! What becomes of each key of the configuration when it changes, and what loosens.
//!
//! A change loosens if, by it, a request may pass that did not before, or less of it is told. Which user may
//! do what is then decided by an operator who is there: such a change takes effect on SIGHUP, and by the
//! clock it is named and waits.

use std::collections::BTreeMap;
use std::time::Duration;

use rustls::CipherSuite;
use serde_json::Value;

use crate::attributes::is_subpath;
use crate::named::Named as _;
use crate::network::Networks;
use crate::settings::{
    Audit, AuditCommands, AuditMode, AuditStrangers, AuthorizationMode, Settings, StaticRule,
};
use crate::tls::ClientCertificates;

/// When a key that has changed takes effect.
pub(super) enum Effect {
    /// When the gate is started again.
    AtStart,
    /// While the gate runs. The function says what the change loosens; it is asked if the key has changed.
    Live(fn(&Settings, &Settings) -> Option<String>),
}

use Effect::{AtStart, Live};

/// Every key of the configuration. [`in_force`] agrees with it.
pub(super) const KEYS: &[(&str, Effect)] = &[
    ("admin.group", AtStart),
    ("admin.hosts", AtStart),
    ("admin.listen", AtStart),
    ("admin.socket", AtStart),
    ("apiVersion", AtStart),
    (
        "audit.commands",
        Live(|_, new| (new.audit.commands == AuditCommands::Show).then(|| "shows commands".to_owned())),
    ),
    ("audit.maxBackups", Live(never)),
    ("audit.maxSizeMB", Live(never)),
    (
        "audit.mode",
        Live(|_, new| (new.audit.mode == AuditMode::Batch).then(|| "may drop events".to_owned())),
    ),
    ("audit.path", AtStart),
    (
        "audit.strangers",
        Live(|_, new| {
            let summarised = new.audit.strangers == AuditStrangers::Summarised;
            summarised.then(|| "writes fewer events".to_owned())
        }),
    ),
    (
        "authentication.anonymous.enabled",
        Live(|_, new| on(new.authentication.anonymous)),
    ),
    (
        "authentication.denyFiles",
        Live(|old, new| {
            let named = &new.authentication.deny_files;
            let files = old.authentication.deny_files.iter();
            let gone = files.filter(|file| !named.contains(file));
            listed("has no more", gone.map(|file| file.display().to_string()))
        }),
    ),
    (
        "authentication.webhook.audiences",
        Live(|old, new| {
            let (old, new) = (&old.authentication.audiences, &new.authentication.audiences);
            match new.is_empty() {
                true => Some("every audience of the API server is accepted".to_owned()),
                false => added(old, new),
            }
        }),
    ),
    (
        "authentication.webhook.cacheTTL",
        Live(|old, new| {
            longer(
                old.authentication.webhook_cache_ttl,
                new.authentication.webhook_cache_ttl,
            )
        }),
    ),
    (
        "authentication.webhook.enabled",
        Live(|_, new| on(new.authentication.webhook)),
    ),
    (
        "authentication.x509.clientCAFile",
        Live(|_, new| {
            let file = new.tls.client_ca_file.as_ref()?;
            Some(format!("names {}", file.display()))
        }),
    ),
    (
        "authentication.x509.clientCertificates",
        Live(|_, new| {
            let request = new.tls.client_certificates == ClientCertificates::Request;
            request.then(|| "no certificate is required any more".to_owned())
        }),
    ),
    (
        "authentication.x509.crlFiles",
        Live(|old, new| {
            let files = old.tls.crl_files.iter();
            let gone = files.filter(|file| !new.tls.crl_files.contains(file));
            listed("has no more", gone.map(|file| file.display().to_string()))
        }),
    ),
    (
        "authentication.x509.legacyV1Certificates",
        Live(|_, new| on(new.tls.legacy_v1_certificates)),
    ),
    (
        "authorization.interactive.allowedUsers",
        Live(|old, new| {
            let old = &old.authorization.interactive.allowed_users;
            let new = &new.authorization.interactive.allowed_users;
            match (old.is_empty(), new.is_empty()) {
                // An empty list allows every user who is authorized.
                (_, true) => Some("names no user any more, so that all are allowed".to_owned()),
                (true, false) => None,
                (false, false) => added(old, new),
            }
        }),
    ),
    (
        "authorization.interactive.cacheAuthorizedTTL",
        Live(|old, new| {
            longer(
                old.authorization.interactive.cache_authorized_ttl,
                new.authorization.interactive.cache_authorized_ttl,
            )
        }),
    ),
    (
        "authorization.interactive.requireCreate",
        Live(|_, new| {
            let off = !new.authorization.interactive.require_create;
            off.then(|| "is switched off".to_owned())
        }),
    ),
    (
        "authorization.mode",
        Live(|_, new| {
            let allows = new.authorization.mode == AuthorizationMode::AlwaysAllow;
            allows.then(|| "becomes AlwaysAllow".to_owned())
        }),
    ),
    (
        "authorization.paths.deny",
        Live(|old, new| {
            let denied = |path: &&String| {
                let mut prefixes = new.authorization.deny_paths.iter();
                prefixes.any(|prefix| is_subpath(path.strip_suffix('/').unwrap_or(path), prefix))
            };
            let paths = old.authorization.deny_paths.iter();
            listed("has no more", paths.filter(|path| !denied(path)).cloned())
        }),
    ),
    (
        "authorization.static",
        Live(|old, new| {
            let (old, new) = (&old.authorization.static_rules, &new.authorization.static_rules);
            let wider = |rule: &StaticRule| !old.iter().any(|other| other.covers(rule));
            let numbered = (1..).zip(new).filter(|(_, rule)| wider(rule));
            listed(
                "allows more by",
                numbered.map(|(number, _)| format!("rule {number}")),
            )
        }),
    ),
    (
        "authorization.webhook.cacheAuthorizedTTL",
        Live(|old, new| {
            longer(
                old.authorization.cache_authorized_ttl,
                new.authorization.cache_authorized_ttl,
            )
        }),
    ),
    ("authorization.webhook.cacheUnauthorizedTTL", Live(never)),
    (
        "authorization.webhook.staleAllow.maxAge",
        Live(|old, new| {
            longer(
                old.authorization.stale_allow.max_age,
                new.authorization.stale_allow.max_age,
            )
        }),
    ),
    (
        "authorization.webhook.staleAllow.subresources",
        Live(|old, new| {
            let (old, new) = (&old.authorization.stale_allow, &new.authorization.stale_allow);
            let added = new
                .subresources
                .iter()
                .filter(|name| !old.subresources.contains(name));
            listed("has", added.map(|name| name.name().to_owned()))
        }),
    ),
    ("firewall.apiServerUsers", AtStart),
    ("firewall.backend", AtStart),
    ("firewall.managed", AtStart),
    ("firewall.mark", AtStart),
    ("firewall.required", AtStart),
    ("firewall.runDirectory", AtStart),
    ("firewall.stateDirectory", AtStart),
    ("kind", AtStart),
    ("kubeconfig", AtStart),
    ("limits.auditQueue", AtStart),
    ("limits.cacheEntries", AtStart),
    ("limits.concurrentReviews", AtStart),
    ("limits.connections", AtStart),
    ("limits.connectionsPerAddress", AtStart),
    ("limits.followStallTimeout", AtStart),
    ("limits.handshakeTimeout", AtStart),
    ("limits.http2Streams", AtStart),
    ("limits.idleTimeout", AtStart),
    ("limits.refusedCertificatesPerAddress", AtStart),
    ("limits.rejectedTokensPerAddress", AtStart),
    ("limits.requestHeadBytes", AtStart),
    ("limits.requestHeadTimeout", AtStart),
    ("limits.requestsPerIdentity", AtStart),
    ("limits.reviewTimeout", AtStart),
    ("limits.shutdownTimeout", AtStart),
    ("limits.streams", AtStart),
    ("limits.streamsPerIdentity", AtStart),
    ("limits.unauthenticatedConnections", AtStart),
    ("limits.upstreamConnectTimeout", AtStart),
    ("limits.upstreamConnections", AtStart),
    ("limits.upstreamIdleConnections", AtStart),
    ("limits.writeStallTimeout", AtStart),
    ("listen", AtStart),
    ("nodeName", AtStart),
    ("nodeNameFromHost", AtStart),
    ("readOnlyPort.answer", AtStart),
    ("readOnlyPort.healthz", AtStart),
    ("readOnlyPort.listen", AtStart),
    ("sandbox", AtStart),
    ("sources.excludeApiServer", Live(never)),
    (
        "sources.interactive",
        Live(|old, new| wider(&old.sources.interactive, &new.sources.interactive)),
    ),
    (
        "sources.port",
        Live(|old, new| wider(&old.sources.port, &new.sources.port)),
    ),
    ("streamingConnectionIdleTimeout", Live(never)),
    (
        "streams.maxLifetime",
        Live(
            |old, new| match (old.streams.max_lifetime, new.streams.max_lifetime) {
                (_, None) => Some("is no limit any more".to_owned()),
                (None, Some(_)) => None,
                (Some(old), Some(new)) => longer(old, new),
            },
        ),
    ),
    (
        "streams.maxUnverified",
        Live(|old, new| longer(old.streams.max_unverified, new.streams.max_unverified)),
    ),
    (
        "streams.recheckInterval",
        Live(|old, new| longer(old.streams.recheck_interval, new.streams.recheck_interval)),
    ),
    ("tlsCertFile", Live(never)),
    (
        "tlsCipherSuites",
        Live(|old, new| {
            let (old, new) = (&old.tls.cipher_suites, &new.tls.cipher_suites);
            let offered = |suite: &CipherSuite| old.is_empty() || old.contains(suite);
            let more = new.is_empty() || !new.iter().all(offered);
            more.then(|| "offers suites that were not offered".to_owned())
        }),
    ),
    (
        "tlsMinVersion",
        Live(|old, new| {
            let lower = new.tls.min_version < old.tls.min_version;
            lower.then(|| "is lower".to_owned())
        }),
    ),
    ("tlsPrivateKeyFile", Live(never)),
    ("upgrade.drainTimeout", AtStart),
    ("upstream.allowFleetCredential", AtStart),
    ("upstream.allowRemote", AtStart),
    ("upstream.caFile", AtStart),
    ("upstream.certificateFile", AtStart),
    ("upstream.clientCertificateFile", AtStart),
    ("upstream.clientKeyFile", AtStart),
    ("upstream.serverName", AtStart),
    ("upstream.tokenFile", AtStart),
    ("upstream.url", AtStart),
    ("workers", AtStart),
];

/// How two configurations differ.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Changes {
    /// What the new one loosens, each with its key.
    pub(super) loosened: Vec<String>,
    /// The keys that take effect only when the gate is started again.
    pub(super) at_start: Vec<String>,
}

impl Changes {
    /// What changes if `new` takes the place of `old`.
    ///
    /// # Errors
    /// The settings cannot be written as JSON.
    pub(super) fn between(old: &Settings, new: &Settings) -> Result<Self, serde_json::Error> {
        let (before, after) = (old.keys()?, new.keys()?);
        let mut changes = Self::default();
        for key in differing(&before, &after) {
            let row = KEYS.iter().find(|(known, _)| *known == key);
            match row {
                Some((_, Live(loosens))) => {
                    let loosened = loosens(old, new);
                    let named = loosened.map(|loosened| format!("{key} {loosened}"));
                    changes.loosened.extend(named);
                }
                Some((_, AtStart)) | None => changes.at_start.push(key.to_owned()),
            }
        }
        Ok(changes)
    }
}

fn differing<'a>(before: &BTreeMap<String, Value>, after: &'a BTreeMap<String, Value>) -> Vec<&'a str> {
    let differs = |(key, value): &(&String, &Value)| before.get(*key) != Some(*value);
    let keys = after.iter().filter(differs);
    keys.map(|(key, _)| key.as_str()).collect()
}

/// `new`, but with the keys that only a start can change as they are in `old`.
pub(super) fn in_force(old: &Settings, new: Settings) -> Settings {
    // Every key is named here: the compiler asks for a new one.
    let Settings {
        node_name: _,
        node_name_from_host: _,
        listen: _,
        kubeconfig: _,
        upstream: _,
        tls,
        authentication,
        authorization,
        sources,
        read_only_port: _,
        streaming_connection_idle_timeout,
        streams,
        limits: _,
        firewall: _,
        audit:
            Audit {
                sink: _,
                mode,
                commands,
                strangers,
                rotation,
            },
        admin: _,
        upgrade: _,
        workers: _,
        sandbox: _,
        warnings,
    } = new;
    Settings {
        tls,
        authentication,
        authorization,
        sources,
        streaming_connection_idle_timeout,
        streams,
        audit: Audit {
            sink: old.audit.sink.clone(),
            mode,
            commands,
            strangers,
            rotation,
        },
        warnings,
        ..old.clone()
    }
}

fn never(_: &Settings, _: &Settings) -> Option<String> {
    None
}

fn on(is_on: bool) -> Option<String> {
    is_on.then(|| "is switched on".to_owned())
}

fn longer(old: Duration, new: Duration) -> Option<String> {
    (new > old).then(|| "is longer".to_owned())
}

/// What the new list lets through and the old one did not.
fn wider(old: &Networks, new: &Networks) -> Option<String> {
    if new.is_empty() && !old.is_empty() {
        return Some("names no network any more, so that every address is let in".to_owned());
    }
    let added = new.iter().filter(|network| !old.cover(network));
    listed("has", added.map(ToString::to_string))
}

fn added(old: &[String], new: &[String]) -> Option<String> {
    let added = new.iter().filter(|name| !old.contains(name));
    listed("has", added.cloned())
}

/// `has a, b`; `None` of nothing.
fn listed(what: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")))
}
