//! The settings in force, written as a file that would give them: what `kubelet-gate check --print` prints.

use std::collections::BTreeMap;

use serde_json::Value;

use super::file::{self, File};
use super::serving::{write_suites, write_x509};
use super::settings::Settings;
use super::writing::{addresses, lasting, optional, path, paths};
use crate::duration::format;
use crate::named::Named;

impl Settings {
    /// These settings as a configuration file, every key written out. Loading it gives equal settings, except
    /// that a time to live of zero, which only a flag can give, is written `1ns`: a file's `0s` would be the
    /// default.
    ///
    /// # Errors
    ///
    /// When the YAML serializer fails, which no value here makes it do.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(&self.to_file())
    }

    /// Each key of the configuration, with its value: `authorization.mode` →
    /// `"Webhook"`. A list is one value.
    ///
    /// # Errors
    ///
    /// When the JSON serializer fails, which no value here makes it do.
    pub(crate) fn keys(&self) -> Result<BTreeMap<String, Value>, serde_json::Error> {
        let mut keys = BTreeMap::new();
        flatten("", serde_json::to_value(self.to_file())?, &mut keys);
        Ok(keys)
    }

    fn to_file(&self) -> File {
        let authentication = &self.authentication;
        File {
            api_version: file::API_VERSION.to_owned(),
            kind: file::KIND.to_owned(),
            node_name: self.node_name.clone().unwrap_or_default(),
            node_name_from_host: self.node_name_from_host,
            listen: addresses(&self.listen),
            kubeconfig: optional(self.kubeconfig.as_ref()),
            upstream: self.upstream.write(),
            tls_cert_file: path(&self.tls.cert_file),
            tls_private_key_file: path(&self.tls.private_key_file),
            tls_min_version: self.tls.min_version.name().to_owned(),
            tls_cipher_suites: write_suites(&self.tls),
            authentication: file::Authentication {
                anonymous: file::Anonymous {
                    enabled: authentication.anonymous,
                },
                x509: write_x509(&self.tls),
                webhook: file::AuthenticationWebhook {
                    enabled: authentication.webhook,
                    cache_ttl: lasting(authentication.webhook_cache_ttl),
                    audiences: authentication.audiences.clone(),
                },
                deny_files: paths(&authentication.deny_files),
            },
            authorization: self.authorization.write(),
            sources: self.sources.write(),
            read_only_port: file::ReadOnlyPort {
                listen: addresses(&self.read_only_port.listen),
                answer: u64::from(self.read_only_port.answer),
                healthz: self.read_only_port.healthz,
            },
            streaming_connection_idle_timeout: format(self.streaming_connection_idle_timeout),
            streams: self.streams.write(),
            limits: self.limits.write(),
            firewall: self.firewall.write(),
            audit: self.audit.write(),
            admin: self.admin.write(),
            upgrade: self.upgrade.write(),
            workers: self.workers as u64,
            sandbox: self.sandbox.name().to_owned(),
        }
    }
}

fn flatten(at: &str, value: Value, keys: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(section) => {
            for (name, value) in section {
                let key = match at {
                    "" => name,
                    _ => format!("{at}.{name}"),
                };
                flatten(&key, value, keys);
            }
        }
        value => {
            keys.insert(at.to_owned(), value);
        }
    }
}
