//! The certificates of a kubelet: what it serves, what it shows the API server, and whom it believes.

use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;

use super::checks::{Check, Gate, Verdict};
use super::{Addresses, read};
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::kubeconfig::Kubeconfig;
use crate::adopt::kubelet::options::Effective;
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
    /// The first moment of its life.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: OffsetDateTime,
    /// The last.
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
    let rotated = format!("{}/kubelet-client-current.pem", options.text("--cert-dir"));
    // A kubelet that rotates its certificate leaves what its kubeconfig has, once it has one of its own.
    if options.is_on("rotateCertificates") && root.has(&rotated) {
        take(Role::Client, &rotated, read(root, &rotated), false);
    } else if !kubeconfig.is_empty() {
        let found =
            Kubeconfig::read(root, kubeconfig).and_then(|kubeconfig| kubeconfig.client_certificate(root));
        match found {
            Ok(Some((file, bytes))) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                take(Role::Client, &file, Ok(text), false);
            }
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
            not_before: parsed.validity().not_before.to_datetime(),
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
    /// Whether it lives.
    pub(super) fn life(&self, now: OffsetDateTime) -> Check {
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
        let rfc3339 = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
        let left = self.not_after - now;
        let (verdict, why) = if now < self.not_before {
            (
                Verdict::Fail,
                format!("{} is valid from {} only", self.subject, rfc3339(self.not_before)),
            )
        } else if left.is_negative() {
            (Verdict::Fail, format!("{} has expired", self.subject))
        } else if left < SOON {
            (
                Verdict::Warn,
                format!("{} expires in {} days", self.subject, left.whole_days()),
            )
        } else {
            (Verdict::Pass, String::new())
        };
        let value = format!("until {}", rfc3339(self.not_after));
        self.check(id, title, value, verdict, why, gate)
    }

    /// Whether a serving certificate is for the addresses under which the node is dialled.
    pub(super) fn named(&self, addresses: &Addresses) -> Check {
        let missing = |all: &[IpAddr]| -> Vec<String> {
            let texts = all.iter().map(ToString::to_string);
            texts.filter(|address| !self.names.contains(address)).collect()
        };
        const REFUSED: &str = "whoever dials one of these and verifies is refused, as metrics-server and an API server with \
                               --kubelet-certificate-authority do";
        let (verdict, why) = match addresses {
            Addresses::Announced(all) => match missing(all) {
                missing if missing.is_empty() => (Verdict::Pass, String::new()),
                missing => (
                    Verdict::Warn,
                    format!("it does not name the node's {}: {REFUSED}", missing.join(", ")),
                ),
            },
            Addresses::Interfaces(all) => match missing(all) {
                missing if missing.len() < all.len() => (Verdict::Pass, String::new()),
                missing => (
                    Verdict::Warn,
                    format!(
                        "it names none of this node's addresses ({}): {REFUSED}",
                        missing.join(", ")
                    ),
                ),
            },
            Addresses::Unknown => (
                Verdict::Warn,
                "not compared: nothing says which addresses the node has (--node-ip, or the running node)"
                    .to_owned(),
            ),
        };
        let value = if self.names.is_empty() {
            "none".to_owned()
        } else {
            self.names.join(", ")
        };
        self.check(
            "serving-certificate-names",
            "names in the serving certificate",
            value,
            verdict,
            why,
            Gate::Yes("clients see the gate's certificate"),
        )
    }

    fn check(
        &self,
        id: &'static str,
        title: &'static str,
        value: String,
        verdict: Verdict,
        why: String,
        gate: Gate,
    ) -> Check {
        Check {
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
        }
    }
}
