//! exec credential plugins (`client.authentication.k8s.io/v1` and `v1beta1`): a command, named in the
//! kubeconfig, that prints the credential.
//!
//! As in client-go, but never interactive: on a node there is no user to prompt. `credentials.rs` decides
//! when a plugin is run; this is one run.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::json;
use super::keys::{Keys, KubeconfigError};
use super::log_text::log_text;
use super::material::{ClientCertificate, Material, beside, given};
use super::plugin_run::{PluginCommand, PluginFailure, PluginRun};

const VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];
/// The name of the entry of a cluster's `extensions` that is meant for the plugin.
pub(super) const CLUSTER_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// A credential is renewed when a tenth of its life is left, but not earlier than this before its end.
const LONGEST_LEAD: Duration = Duration::from_secs(60);

/// `users[].user.exec` as written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExecSection {
    api_version: Option<String>,
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    install_hint: Option<String>,
    provide_cluster_info: Option<bool>,
    interactive_mode: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: Option<String>,
}

/// A plugin that may be run.
#[derive(Clone, PartialEq)]
pub(super) struct Plugin {
    /// File and key, for messages.
    origin: PathBuf,
    api_version: &'static str,
    command: PluginCommand,
    install_hint: String,
    cluster: Option<ClusterInfo>,
}

/// What the plugin learns about the cluster, if it asks for it.
#[derive(Clone, PartialEq)]
pub(super) struct ClusterInfo {
    pub(super) server: String,
    pub(super) tls_server_name: Option<String>,
    /// The entry of the cluster's `extensions` for the plugin.
    pub(super) config: Option<Value>,
}

/// A credential that a plugin issued.
pub(super) struct IssuedCredential {
    pub(super) token: Option<Material>,
    pub(super) client_certificate: Option<ClientCertificate>,
    /// `None` if it is valid until it is refused.
    pub(super) expires: Option<SystemTime>,
    /// When it should be renewed.
    pub(super) due: Option<SystemTime>,
}

/// Why an exec plugin gave no credential.
#[derive(Debug, thiserror::Error)]
#[error("{}: {command}: {problem}", origin.display())]
pub(crate) struct PluginError {
    origin: PathBuf,
    command: String,
    problem: String,
}

// === impl Plugin ===

impl Plugin {
    /// Judges `exec`, a section of the user whose keys are `keys`, as client-go does.
    pub(super) fn new(exec: ExecSection, keys: &Keys, cluster: ClusterInfo) -> Result<Self, KubeconfigError> {
        let version = given(exec.api_version);
        let Some(api_version) = VERSIONS
            .into_iter()
            .find(|known| Some(*known) == version.as_deref())
        else {
            let [v1, v1beta1] = VERSIONS;
            let written = version.map_or_else(|| "not set".to_owned(), |version| log_text(&version, ""));
            return Err(keys.error("exec.apiVersion", &format!("{written}; write {v1} or {v1beta1}")));
        };
        let Some(command) = given(exec.command) else {
            return Err(keys.error("exec.command", "not set; name the plugin"));
        };
        match given(exec.interactive_mode).as_deref() {
            Some("Never" | "IfAvailable") => {}
            // The default of the older version, as in client-go.
            None if api_version == VERSIONS[1] => {}
            None => {
                let problem = format!("not set, but {api_version} needs it; write Never or IfAvailable");
                return Err(keys.error("exec.interactiveMode", &problem));
            }
            Some("Always") => {
                let problem =
                    "Always: there is no terminal here; use a plugin that needs none, and write Never";
                return Err(keys.error("exec.interactiveMode", problem));
            }
            Some(other) => {
                let problem = format!("{}: unknown; write Never or IfAvailable", log_text(other, ""));
                return Err(keys.error("exec.interactiveMode", &problem));
            }
        }
        let env: Vec<_> = exec
            .env
            .unwrap_or_default()
            .into_iter()
            .map(|Variable { name, value }| (name, value.unwrap_or_default()))
            .collect();
        if env
            .iter()
            .any(|(name, _)| name.is_empty() || name.contains(['=', '\0']))
        {
            let problem = "has an entry without a usable name; give each a name and a value";
            return Err(keys.error("exec.env", problem));
        }
        Ok(Self {
            origin: keys.path("exec"),
            api_version,
            command: PluginCommand {
                program: match command.contains('/') {
                    true => beside(&keys.file, &command),
                    false => command.into(),
                },
                args: exec.args.unwrap_or_default(),
                env,
            },
            install_hint: given(exec.install_hint).unwrap_or_default(),
            cluster: exec.provide_cluster_info.unwrap_or_default().then_some(cluster),
        })
    }

    /// Runs the plugin once. `authorities` is the cluster's CA bundle.
    pub(super) async fn run(
        &self,
        authorities: &[u8],
        deadline: Duration,
    ) -> Result<IssuedCredential, PluginError> {
        let run = PluginRun {
            command: self.command.clone(),
            info: self.info(authorities),
            deadline,
        };
        let ended = run.run().await.map_err(|failure| match failure {
            PluginFailure::NotStarted(error) => self.not_started(&error),
            PluginFailure::Late => self.error(format!("no credential within {deadline:?}; it was killed")),
            PluginFailure::Lost(problem) => self.error(problem),
        })?;
        if !ended.success {
            return Err(self.error(format!("{}{}", ended.status, self.complaint(&ended.complaint))));
        }
        let output = Zeroizing::new(ended.output);
        self.read(&output)
    }

    /// What is run, which is fixed while the gate runs.
    pub(super) fn command(&self) -> &PluginCommand {
        &self.command
    }

    /// An error of this plugin.
    pub(super) fn error(&self, problem: String) -> PluginError {
        PluginError {
            origin: self.origin.clone(),
            command: self.command.program.display().to_string(),
            problem,
        }
    }

    fn not_started(&self, error: &str) -> PluginError {
        let hint = match self.install_hint.as_str() {
            "" => String::new(),
            hint => format!("; {}", log_text(hint.trim(), "")),
        };
        self.error(format!("cannot be run: {error}{hint}"))
    }

    /// The value of `KUBERNETES_EXEC_INFO`.
    fn info(&self, authorities: &[u8]) -> String {
        let mut spec = json!({"interactive": false});
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = json!({
                "server": cluster.server,
                "certificate-authority-data": BASE64_STANDARD.encode(authorities),
            });
            if let Some(name) = &cluster.tls_server_name {
                spec["cluster"]["tls-server-name"] = json!(name);
            }
            if let Some(config) = &cluster.config {
                spec["cluster"]["config"] = config.clone();
            }
        }
        let info = json!({"kind": "ExecCredential", "apiVersion": self.api_version, "spec": spec});
        info.to_string()
    }

    /// Its standard error in one line, without the values of its environment and without tokens.
    fn complaint(&self, stderr: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(stderr).into_owned();
        for (name, value) in self.command.env.iter().filter(|(_, value)| !value.is_empty()) {
            text = text.replace(value.as_str(), &format!("[{name}]"));
        }
        let words: Vec<_> = text
            .split_whitespace()
            .map(|word| if word.contains("eyJ") { "[token]" } else { word })
            .collect();
        if words.is_empty() {
            String::new()
        } else {
            format!(": {}", log_text(&words.join(" "), ""))
        }
    }

    /// Reads its output, with client-go's rules.
    pub(super) fn read(&self, output: &[u8]) -> Result<IssuedCredential, PluginError> {
        // The parser's message may quote the output, so only the place is given.
        let answer: ExecCredential = json::read(output).map_err(|error| {
            let place = match (error.line(), error.column()) {
                (0, _) => String::from("a value has another type"),
                (line, column) => format!("near line {line}, column {column}"),
            };
            self.error(format!("what it printed is not an ExecCredential, {place}"))
        })?;
        if answer.kind != "ExecCredential" || answer.api_version != self.api_version {
            return Err(self.error(format!(
                "it was asked for an ExecCredential of {} and printed {:?} of {:?}",
                self.api_version,
                log_text(&answer.kind, ""),
                log_text(&answer.api_version, "")
            )));
        }
        let Some(status) = answer.status else {
            return Err(self.error("it printed an ExecCredential without a status".to_owned()));
        };
        let inline = |name: &str, text: String| Material::Inline {
            origin: format!(
                "{}: {}: {name}",
                self.origin.display(),
                self.command.program.display()
            )
            .into(),
            bytes: Zeroizing::new(text.into_bytes()),
        };
        let token = given(status.token).map(|token| inline("token", token));
        let chain = given(status.client_certificate_data).map(|pem| inline("clientCertificateData", pem));
        let key = given(status.client_key_data).map(|pem| inline("clientKeyData", pem));
        let client_certificate = match (chain, key) {
            (Some(chain), Some(key)) => Some(ClientCertificate { chain, key }),
            (None, None) => None,
            _ => {
                let problem = "it gave only one of clientCertificateData and clientKeyData";
                return Err(self.error(problem.to_owned()));
            }
        };
        if token.is_none() && client_certificate.is_none() {
            return Err(self.error("it gave neither a token nor a certificate".to_owned()));
        }
        let now = SystemTime::now();
        let expires = match given(status.expiration_timestamp) {
            None => None,
            Some(text) => Some(
                OffsetDateTime::parse(&text, &Rfc3339)
                    .map(SystemTime::from)
                    .map_err(|_| {
                        self.error("its expirationTimestamp is not a time as RFC 3339 writes it".into())
                    })?,
            ),
        };
        let due = match expires.map(|expires| expires.duration_since(now)) {
            None => None,
            Some(Ok(life)) => Some(now + (life - (life / 10).min(LONGEST_LEAD))),
            Some(Err(_)) => return Err(self.error("the credential that it gave has expired already".into())),
        };
        Ok(IssuedCredential {
            token,
            client_certificate,
            expires,
            due,
        })
    }
}

/// Arguments and environment may be secret.
impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.command.program.display(), self.api_version)
    }
}

impl fmt::Debug for IssuedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCredential")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

// === impl IssuedCredential ===

impl IssuedCredential {
    pub(super) fn has_expired(&self) -> bool {
        self.expires.is_some_and(|at| at <= SystemTime::now())
    }

    #[cfg(test)]
    pub(super) fn due_now(&self) -> Self {
        Self {
            token: self.token.clone(),
            client_certificate: self.client_certificate.clone(),
            expires: self.expires,
            due: Some(SystemTime::now()),
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.due.is_some_and(|at| at <= SystemTime::now())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    status: Option<ExecCredentialStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredentialStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}
