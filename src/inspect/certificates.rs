//! The certificates of a kubelet: what it serves, what it shows the API server, and whom it believes.

use std::net::IpAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;

use super::checks::{Check, Gate, Verdict};
use super::read;
use crate::node::Root;
use crate::node::options::Effective;
use crate::tls::{certificate, pem};

/// A certificate that ends sooner needs somebody.
const SOON: time::Duration = time::Duration::days(30);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The kubelet shows it to those who call it.
    Serving,
    /// The kubelet shows it to the API server.
    Client,
    /// A CA of client certificates.
    ClientCa,
}

/// A certificate, as far as it matters here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// What it is for.
    pub role: Role,
    /// The file it is in.
    pub file: String,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// The names and addresses it is for.
    pub names: Vec<String>,
    /// The last moment of its life.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: OffsetDateTime,
}

fn rfc3339<S: serde::Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.format(&Rfc3339).unwrap_or_default())
}

/// Those that can be read; what cannot is noted.
pub(super) fn of(options: &Effective, root: &Root, notes: &mut Vec<String>) -> Vec<Certificate> {
    let mut found = Vec::new();
    let mut take = |role, file: &str, text: Result<String, String>, all: bool| {
        let parsed = text.and_then(|text| parsed(role, file, text.as_bytes()));
        match parsed {
            Ok(certificates) => found.extend(certificates.into_iter().take(if all { usize::MAX } else { 1 })),
            Err(why) => notes.push(why),
        }
    };
    let (serving, _) = options.serving_pair();
    take(Role::Serving, &serving, read(root, &serving), false);
    let kubeconfig = options.text("--kubeconfig");
    if !kubeconfig.is_empty() {
        match client_certificate(root, kubeconfig) {
            Ok(Some((file, text))) => take(Role::Client, &file, Ok(text), false),
            Ok(None) => {}
            Err(why) => take(Role::Client, kubeconfig, Err(why), false),
        }
    }
    let ca = options.text("authentication.x509.clientCAFile");
    if !ca.is_empty() {
        take(Role::ClientCa, ca, read(root, ca), true);
    }
    found
}

/// The certificate of a kubeconfig's current user, and the file that it is in. `None`: it uses something else.
pub(crate) fn client_certificate(root: &Root, kubeconfig: &str) -> Result<Option<(String, String)>, String> {
    let text = read(root, kubeconfig)?;
    let document: Value = serde_saphyr::from_str(&text).map_err(|error| format!("{kubeconfig}: {error}"))?;
    let named = |list: &str, name: &Value| {
        let entries = document[list].as_array()?;
        entries.iter().find(|entry| entry["name"] == *name).cloned()
    };
    let user = named("contexts", &document["current-context"])
        .and_then(|context| named("users", &context["context"]["user"]))
        .ok_or_else(|| format!("{kubeconfig}: its current-context names no user that it has"))?;
    let user = &user["user"];
    if let Some(data) = user["client-certificate-data"].as_str() {
        let bytes = STANDARD
            .decode(data)
            .map_err(|_| format!("{kubeconfig}: client-certificate-data is no base64"))?;
        return Ok(Some((
            kubeconfig.to_owned(),
            String::from_utf8_lossy(&bytes).into_owned(),
        )));
    }
    let Some(path) = user["client-certificate"].as_str() else {
        return Ok(None);
    };
    let folder = Path::new(kubeconfig).parent().unwrap_or_else(|| Path::new("/"));
    let path = folder.join(path).display().to_string();
    let text = read(root, &path)?;
    Ok(Some((path, text)))
}

fn parsed(role: Role, file: &str, bytes: &[u8]) -> Result<Vec<Certificate>, String> {
    let ders = pem::certificates(Path::new(file), bytes).map_err(|error| error.to_string())?;
    let one = |der| {
        let parsed = certificate::parse(der).map_err(|why| format!("{file}: {why}"))?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map_or_else(Vec::new, |names| {
            names.value.general_names.iter().filter_map(name).collect()
        });
        Ok(Certificate {
            role,
            file: file.to_owned(),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names,
            not_after: parsed.validity().not_after.to_datetime(),
        })
    };
    ders.iter().map(one).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = four
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()?;
            Some(address.to_string())
        }
        _ => None,
    }
}

impl Certificate {
    /// Whether it still lives, and for a serving one whether it names the node's addresses.
    pub(super) fn checks(&self, now: OffsetDateTime, addresses: &[IpAddr]) -> Vec<Check> {
        let ends = self.not_after.format(&Rfc3339).unwrap_or_default();
        let (id, title, gate) = match self.role {
            Role::Serving => (
                "serving-certificate-expiry",
                "serving certificate",
                Gate::Yes("clients see the gate's certificate; the kubelet's is pinned by its key"),
            ),
            Role::Client => (
                "client-certificate-expiry",
                "certificate towards the API server",
                Gate::No,
            ),
            Role::ClientCa => ("client-ca-expiry", "CA of client certificates", Gate::No),
        };
        let left = self.not_after - now;
        let (verdict, why) = if left.is_negative() {
            (Verdict::Fail, format!("{} has expired", self.subject))
        } else if left < SOON {
            (
                Verdict::Warn,
                format!("{} expires in {} days", self.subject, left.whole_days()),
            )
        } else {
            (Verdict::Pass, String::new())
        };
        let check = |id, title, value, verdict, why, gate| Check {
            id,
            old: None,
            new: None,
            title,
            value,
            origin: self.file.clone(),
            file: Some(self.file.clone()),
            verdict,
            why,
            gate,
        };
        let mut checks = vec![check(id, title, format!("until {ends}"), verdict, why, gate)];
        let missing: Vec<String> = addresses
            .iter()
            .map(ToString::to_string)
            .filter(|address| !self.names.contains(address))
            .collect();
        if self.role == Role::Serving && !addresses.is_empty() {
            let verdict = if missing.len() == addresses.len() {
                Verdict::Warn
            } else {
                Verdict::Pass
            };
            let why = match verdict {
                Verdict::Pass => String::new(),
                _ => format!(
                    "it names none of this node's addresses ({}): whoever dials one and verifies is refused, as metrics-server \
                     and an API server with --kubelet-certificate-authority do",
                    missing.join(", ")
                ),
            };
            checks.push(check(
                "serving-certificate-names",
                "names in the serving certificate",
                if self.names.is_empty() {
                    "none".to_owned()
                } else {
                    self.names.join(", ")
                },
                verdict,
                why,
                Gate::Yes("clients see the gate's certificate"),
            ));
        }
        checks
    }
}
