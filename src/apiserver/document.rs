//! A kubeconfig as it is written.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::exec::ExecSection;
use super::keys::{Keys, KubeconfigError};

#[derive(Default, Deserialize)]
pub(super) struct ContextSection {
    pub(super) cluster: Option<String>,
    pub(super) user: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ClusterSection {
    pub(super) server: Option<String>,
    pub(super) tls_server_name: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    pub(super) certificate_authority: Option<String>,
    pub(super) certificate_authority_data: Option<String>,
    proxy_url: Option<String>,
    pub(super) extensions: Option<Vec<ClusterExtension>>,
}

#[derive(Deserialize)]
pub(super) struct ClusterExtension {
    #[serde(default)]
    pub(super) name: String,
    pub(super) extension: Option<serde_json::Value>,
}

// === impl ClusterSection ===

impl ClusterSection {
    /// Refuses keys that would weaken the connection, or that the gate does not support.
    pub(super) fn refuse_unsupported(&self, keys: &Keys) -> Result<(), KubeconfigError> {
        if self.insecure_skip_tls_verify == Some(true) {
            let problem = "true lets any server pose as the API server and allow everything; \
                           remove it and give certificate-authority";
            return Err(keys.error("insecure-skip-tls-verify", problem));
        }
        if is_written(self.proxy_url.as_deref()) {
            let problem = "proxies are not supported; remove it and give a server in direct reach";
            return Err(keys.error("proxy-url", problem));
        }
        Ok(())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct UserSection {
    pub(super) client_certificate: Option<String>,
    pub(super) client_certificate_data: Option<String>,
    pub(super) client_key: Option<String>,
    pub(super) client_key_data: Option<String>,
    pub(super) token: Option<String>,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "as")]
    as_user: Option<String>,
    as_uid: Option<String>,
    as_groups: Option<IgnoredAny>,
    as_user_extra: Option<IgnoredAny>,
    auth_provider: Option<IgnoredAny>,
    pub(super) exec: Option<ExecSection>,
}

// === impl UserSection ===

impl UserSection {
    /// Refuses kinds of credentials that the gate does not support.
    pub(super) fn refuse_unsupported(&self, keys: &Keys) -> Result<(), KubeconfigError> {
        const OTHERS: &str = "client-certificate and client-key, tokenFile, token or exec";
        let basic = format!("API servers no longer accept basic authentication; use {OTHERS}");
        let impersonation = "impersonation is not supported; use a credential of the user's own";
        let removed = format!("removed from Kubernetes; use {OTHERS}");
        let unsupported = [
            ("username", is_written(self.username.as_deref()), basic.as_str()),
            ("password", is_written(self.password.as_deref()), &basic),
            ("as", is_written(self.as_user.as_deref()), impersonation),
            ("as-uid", is_written(self.as_uid.as_deref()), impersonation),
            ("as-groups", self.as_groups.is_some(), impersonation),
            ("as-user-extra", self.as_user_extra.is_some(), impersonation),
            ("auth-provider", self.auth_provider.is_some(), &removed),
        ];
        match unsupported.into_iter().find(|(_, present, _)| *present) {
            Some((key, _, problem)) => Err(keys.error(key, problem)),
            None => Ok(()),
        }
    }
}

fn is_written(value: Option<&str>) -> bool {
    value.is_some_and(|value| !value.is_empty())
}
