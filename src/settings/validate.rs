//! From the file as written to [`Settings`]: every value judged by itself, then the values against each
//! other.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::admin::Admin;
use super::audit::Audit;
use super::authentication::Authentication;
use super::authorization::Authorization;
use super::contradictions;
use super::custody;
use super::document::quoted;
use super::error::{Problem, SettingsError};
use super::file::{self, File};
use super::firewall::Firewall;
use super::flags::KubeletFlags;
use super::limits::Limits;
use super::places::Places;
use super::reading::{LONGEST_TTL, Reading};
use super::schema::{self, Checked};
use super::serving;
use super::settings::{ReadOnlyPort, Settings};
use super::sources::Sources;
use super::streams::Streams;
use super::upgrade::Upgrade;
use super::upstream::Upstream;
use crate::duration;
use crate::files::DOCUMENT;

// === impl Settings ===

impl Settings {
    /// Reads the configuration file at `path`; `flags` win over it. The files that it names are not opened.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Read`] when the file cannot be read, [`SettingsError::Invalid`] with everything that
    /// is wrong with what it says.
    pub fn load(path: &Path, flags: &KubeletFlags) -> Result<Self, SettingsError> {
        Self::load_with_places(path, flags).map(|(settings, _)| settings)
    }

    /// As [`Self::load`], with the line of each key, for errors about what the keys name.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_places(path: &Path, flags: &KubeletFlags) -> Result<(Self, Places), SettingsError> {
        Self::of_contents(&Self::contents(path)?, path, flags)
    }

    /// The bytes of the configuration file at `path`, which only root and the gate's user may change.
    pub(crate) fn contents(path: &Path) -> Result<Vec<u8>, SettingsError> {
        custody::read(path, DOCUMENT).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => SettingsError::Invalid(vec![Problem::new(
                path.display().to_string(),
                "the file is larger than 1 MiB, which no configuration needs",
            )]),
            _ => SettingsError::Read {
                path: path.to_owned(),
                error,
            },
        })
    }

    /// As [`Self::load_with_places`], of what [`Self::contents`] has read from `path`.
    pub(crate) fn of_contents(
        bytes: &[u8],
        path: &Path,
        flags: &KubeletFlags,
    ) -> Result<(Self, Places), SettingsError> {
        let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        settings(text(bytes, path)?, path, flags, in_cluster)
    }

    /// As [`Self::load`], for a text already read from `path`, and without a look at the environment.
    ///
    /// # Errors
    ///
    /// [`SettingsError::Invalid`] with everything that is wrong.
    pub fn parse(text: &str, path: &Path, flags: &KubeletFlags) -> Result<Self, SettingsError> {
        settings(text, path, flags, true).map(|(settings, _)| settings)
    }
}

fn text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, SettingsError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        SettingsError::Invalid(vec![Problem::new(
            format!("{}:{line}", path.display()),
            "the file is not UTF-8 from this line on; save it as UTF-8",
        )])
    })
}

/// Reads, overrides and judges; `path` names the file in messages and its folder is what relative paths start
/// from.
pub(super) fn settings(
    text: &str,
    path: &Path,
    flags: &KubeletFlags,
    in_cluster: bool,
) -> Result<(Settings, Places), SettingsError> {
    let folder = std::path::absolute(path)
        .map_err(|error| SettingsError::Read {
            path: path.to_owned(),
            error,
        })?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let checked = schema::read(text, path).map_err(|problem| SettingsError::Invalid(vec![problem]))?;
    let Checked {
        mut file,
        lines,
        problems,
        warnings,
        noted,
    } = checked;
    let given = flags.apply(&mut file);
    zero_is_unset(&mut file, &given);
    let places = Places {
        file: path.to_owned(),
        lines,
        flags: given,
    };
    let mut reading = Reading {
        places: &places,
        folder,
        noted,
        problems,
        warnings,
    };
    header(&mut reading, &file);
    let settings = build(&mut reading, file, flags);
    contradictions::find(&mut reading, &settings, in_cluster);
    if reading.problems.is_empty() {
        let warnings = reading.warnings;
        Ok((Settings { warnings, ..settings }, places))
    } else {
        Err(SettingsError::Invalid(reading.problems))
    }
}

/// A kubelet takes `0s` in its file for "not set", and kubeadm writes it for every duration: pasted blocks
/// keep that meaning. A flag's 0 is kept, as in the kubelet: nothing is remembered.
fn zero_is_unset(file: &mut File, by_flag: &BTreeMap<&str, &str>) {
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
        if !by_flag.contains_key(key) && duration::parse(written) == Ok(Duration::ZERO) {
            *written = default;
        }
    }
}

fn header(reading: &mut Reading<'_>, file: &File) {
    for (key, value, expected) in [
        ("apiVersion", &file.api_version, file::API_VERSION),
        ("kind", &file.kind, file::KIND),
    ] {
        if !reading.places.lines.contains_key(key) {
            reading.refuse(key, format!("is missing; write {key}: {expected}"));
        } else if value == "KubeletConfiguration" {
            reading.refuse(
                key,
                format!(
                    "{} is the kubelet's own configuration; write {expected} into a file of the gate's own, \
                     into which the kubelet's authentication and authorization blocks may be pasted",
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
        upstream: Upstream::read(reading, &file.upstream),
        tls: serving::read(reading, &file),
        authentication: Authentication::read(reading, file.authentication),
        authorization: Authorization::read(reading, file.authorization),
        sources: Sources::read(reading, &file.sources),
        read_only_port: ReadOnlyPort {
            listen: flags.read_only_listen(&listen).unwrap_or(read_only),
            answer: answer(reading, file.read_only_port.answer),
            healthz: file.read_only_port.healthz,
        },
        listen,
        streaming_connection_idle_timeout: reading.duration(
            "streamingConnectionIdleTimeout",
            &file.streaming_connection_idle_timeout,
            Duration::ZERO..=30 * LONGEST_TTL,
        ),
        streams: Streams::read(reading, &file.streams),
        limits: Limits::read(reading, &file.limits),
        firewall: Firewall::read(reading, file.firewall),
        audit: Audit::read(reading, &file.audit),
        admin: Admin::read(reading, file.admin),
        upgrade: Upgrade::read(reading, &file.upgrade),
        workers: reading.count("workers", file.workers, 1..=256),
        sandbox: reading.choice("sandbox", &file.sandbox),
        warnings: Vec::new(),
    }
}

fn answer(reading: &mut Reading<'_>, status: u64) -> u16 {
    let known = [410, 404, 403]
        .into_iter()
        .find(|known| u64::from(*known) == status);
    known.unwrap_or_else(|| {
        reading.refuse(
            "readOnlyPort.answer",
            format!("{status} is not known; write one of 410, 404, 403"),
        );
        410
    })
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
                "{} cannot be the name of a Node; write what `kubectl get nodes` shows: letters, digits, - \
                 and ., at most 253",
                quoted(text)
            ),
        );
    }
    Some(name)
}
