//! What no value shows by itself: keys that contradict each other, and combinations to be warned about.

use std::net::SocketAddr;

use super::authorization::AuthorizationMode;
use super::reading::Reading;
use super::settings::Settings;
use super::upstream::UpstreamUrl;
use crate::duration::format;
use crate::tls::ClientCertificates;

/// Notes every contradiction and warning. In a cluster the API server is found without a kubeconfig.
pub(super) fn find(reading: &mut Reading<'_>, settings: &Settings, in_cluster: bool) {
    let (authentication, tls) = (&settings.authentication, &settings.tls);
    let ca = "authentication.x509.clientCAFile";
    if tls.client_ca_file.is_none() {
        if tls.client_certificates == ClientCertificates::Require {
            reading.refuse(
                ca,
                "is missing, though authentication.x509.clientCertificates is Require; name the PEM bundle \
                 of the clients' CAs, or write Request",
            );
        } else if !authentication.webhook && !authentication.anonymous {
            reading.refuse(
                ca,
                "is missing, authentication.webhook.enabled and authentication.anonymous.enabled are false: \
                 no client could ever authenticate; name the PEM bundle of the clients' CAs, or set \
                 authentication.webhook.enabled: true",
            );
        }
    }
    if tls.client_ca_file.is_none() && !tls.crl_files.is_empty() {
        reading.refuse(
            "authentication.x509.crlFiles",
            "is given without authentication.x509.clientCAFile, so that no client is asked for a \
             certificate; name the PEM bundle of the clients' CAs, or write []",
        );
    }
    if tls.legacy_v1_certificates && tls.client_certificates == ClientCertificates::Require {
        reading.warn(
            "authentication.x509.legacyV1Certificates",
            "has no effect while authentication.x509.clientCertificates is Require: the handshake refuses \
             X.509 v1; write Request",
        );
    }
    match (settings.authorization.mode, authentication.anonymous) {
        (AuthorizationMode::AlwaysAllow, true) => reading.warn(
            "authorization.mode",
            "EVERY CLIENT THAT REACHES THE PORT MAY RUN COMMANDS IN EVERY POD OF THIS NODE: the mode is \
             AlwaysAllow and authentication.anonymous.enabled is true; write Webhook",
        ),
        (AuthorizationMode::AlwaysAllow, false) => reading.warn(
            "authorization.mode",
            "EVERY AUTHENTICATED USER MAY RUN COMMANDS IN EVERY POD OF THIS NODE: the mode is AlwaysAllow; \
             write Webhook",
        ),
        (AuthorizationMode::Webhook, true) => reading.warn(
            "authentication.anonymous.enabled",
            "requests without credentials are not refused but judged as system:anonymous",
        ),
        (AuthorizationMode::Webhook, false) => {}
    }
    if !settings.authorization.interactive.require_create {
        reading.warn(
            "authorization.interactive.requireCreate",
            "every user who may get nodes/proxy may run commands over a WebSocket; write true",
        );
    }
    scraping(reading, settings);
    let reviewed = authentication.webhook || settings.authorization.mode == AuthorizationMode::Webhook;
    if reviewed && settings.kubeconfig.is_none() && !in_cluster {
        reading.refuse(
            "kubeconfig",
            "is missing, KUBERNETES_SERVICE_HOST is not in the environment, and \
             authentication.webhook.enabled or authorization.mode: Webhook needs the API server; name a \
             kubeconfig such as /etc/kubernetes/kubelet.conf",
        );
    }
    let streams = &settings.streams;
    // Zero was refused before.
    if !streams.max_unverified.is_zero() && streams.max_unverified < 2 * streams.recheck_interval {
        reading.refuse(
            "streams.maxUnverified",
            format!(
                "{} is less than two of streams.recheckInterval, {}: one failed review would end every \
                 stream; write at least {}",
                format(streams.max_unverified),
                format(streams.recheck_interval),
                format(2 * streams.recheck_interval),
            ),
        );
    }
    overlaps(reading, settings);
}

/// What an operator may not expect of static rules and stale answers.
fn scraping(reading: &mut Reading<'_>, settings: &Settings) {
    let authorization = &settings.authorization;
    if !authorization.static_rules.is_empty() {
        reading.warn(
            "authorization.static",
            match authorization.mode {
                AuthorizationMode::Webhook => {
                    "what these rules allow is not reviewed: if an authorizer of the API server denies it, \
                     the gate does not see that"
                }
                AuthorizationMode::AlwaysAllow => {
                    "has no effect while authorization.mode is AlwaysAllow; write Webhook"
                }
            },
        );
    }
    let age = authorization.stale_allow.max_age;
    let remembered = settings
        .authentication
        .webhook_cache_ttl
        .min(authorization.cache_authorized_ttl);
    if !age.is_zero() && age <= remembered {
        reading.warn(
            "authorization.webhook.staleAllow.maxAge",
            "has no effect: authentication.webhook.cacheTTL and authorization.webhook.cacheAuthorizedTTL are \
             no shorter, and the age of an answer counts from when the API server gave it",
        );
    }
}

/// No two of our sockets, and none of them and the kubelet's, may be one.
fn overlaps(reading: &mut Reading<'_>, settings: &Settings) {
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    if let UpstreamUrl::Http(kubelet) | UpstreamUrl::Https(kubelet) = settings.upstream.url {
        taken.push(("upstream.url", kubelet));
    }
    let listen = settings.listen.iter().map(|address| ("listen", *address));
    let tombstone = settings
        .read_only_port
        .listen
        .iter()
        .map(|address| ("readOnlyPort.listen", *address));
    let admin = settings
        .admin
        .listen
        .iter()
        .map(|address| ("admin.listen", *address));
    for (key, address) in listen.chain(tombstone).chain(admin) {
        if let Some((other, theirs)) = taken
            .iter()
            .find(|(other, theirs)| *other != key && overlap(*theirs, address))
        {
            reading.refuse(
                key,
                format!("{address} is also {theirs} of {other}; write another address or port"),
            );
        }
        taken.push((key, address));
    }
}

/// Whether both cannot be had at once: same port, and the same address or one that stands for all.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same = one.ip().to_canonical() == other.ip().to_canonical();
    one.port() == other.port()
        && one.port() != 0
        && (same || one.ip().is_unspecified() || other.ip().is_unspecified())
}
