//! The certificates of a kubelet: the one it serves, the one it presents to the API server, and the CAs of
//! its clients.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::Serialize;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use super::addresses::DialledAddresses;
use super::check::{Check, CheckResult, Compensation};
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::kubeconfig::{NodeKubeconfig, NodeKubeconfigError};
use crate::adopt::kubelet::options::Effective;
use crate::authn::user_of_certificate;
use crate::timestamp::timestamp;
use crate::tls::Malformed;
use crate::tls::pem::PemError;
use crate::tls::{certificate, pem};

/// A certificate that expires sooner is a warning.
const SOON: time::Duration = time::Duration::days(30);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateRole {
    /// The kubelet presents it to its clients.
    Serving,
    /// The kubelet presents it to the API server.
    Client,
    /// The kubelet accepts client certificates that this CA issued.
    ClientCa,
}

/// A certificate of a kubelet.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// What it is for.
    pub role: CertificateRole,
    /// The file it is in.
    pub file: String,
    /// Its subject.
    pub subject: String,
    /// Its issuer.
    pub issuer: String,
    /// The Node whose kubelet is its user.
    #[serde(skip)]
    pub node: Option<String>,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// When it begins to be valid.
    #[serde(serialize_with = "rfc3339")]
    pub not_before: OffsetDateTime,
    /// When it expires.
    #[serde(serialize_with = "rfc3339")]
    pub not_after: OffsetDateTime,
}

fn rfc3339<S: serde::Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp((*time).into()))
}

/// Why a certificate is not known.
#[derive(Debug, thiserror::Error)]
enum UnreadCertificate {
    #[error("{file}: {source}")]
    Read { file: String, source: io::Error },
    #[error(transparent)]
    Kubeconfig(#[from] NodeKubeconfigError),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{file}: {why}")]
    Malformed { file: String, why: Malformed },
}

/// The certificates that can be read. Each of the others is noted.
pub(super) fn of(options: &Effective, root: &Root, notes: &mut Vec<String>) -> Vec<Certificate> {
    let mut found = Vec::new();
    let mut notes_of_bootstrap = None;
    let mut take = |certificates: Result<Vec<Certificate>, UnreadCertificate>, most: usize| match certificates
    {
        Ok(certificates) => found.extend(certificates.into_iter().take(most)),
        Err(error) => notes.push(error.to_string()),
    };
    let (serving, _) = options.serving_pair();
    take(read(CertificateRole::Serving, root, &serving), 1);
    let kubeconfig = options.text("--kubeconfig");
    let rotated = format!("{}/kubelet-client-current.pem", options.text("--cert-dir"));
    // A kubelet that rotates its certificate no longer uses its kubeconfig's once it has one of its own.
    if options.is_on("rotateCertificates") && root.has(&rotated) {
        take(read(CertificateRole::Client, root, &rotated), 1);
    } else if !kubeconfig.is_empty() {
        let found = of_kubeconfig(root, kubeconfig);
        let bootstrap = options.text("--bootstrap-kubeconfig");
        match found {
            Err(UnreadCertificate::Kubeconfig(error)) if error.is_missing() && !bootstrap.is_empty() => {
                notes_of_bootstrap = Some(format!(
                    "{kubeconfig} is not there: the kubelet makes it by the --bootstrap-kubeconfig \
                     {bootstrap} when it joins"
                ));
            }
            found => take(found, 1),
        }
    }
    let ca = options.text("authentication.x509.clientCAFile");
    if !ca.is_empty() {
        take(read(CertificateRole::ClientCa, root, ca), usize::MAX);
    }
    notes.extend(notes_of_bootstrap);
    found
}

fn read(role: CertificateRole, root: &Root, file: &str) -> Result<Vec<Certificate>, UnreadCertificate> {
    let text = root.read(file).map_err(|source| UnreadCertificate::Read {
        file: file.to_owned(),
        source,
    })?;
    parsed(role, file, text.as_bytes())
}

fn of_kubeconfig(root: &Root, path: &str) -> Result<Vec<Certificate>, UnreadCertificate> {
    match NodeKubeconfig::read(root, path)?.client_certificate(root)? {
        Some((file, bytes)) => parsed(CertificateRole::Client, &file, &bytes),
        None => Ok(Vec::new()),
    }
}

fn parsed(role: CertificateRole, file: &str, bytes: &[u8]) -> Result<Vec<Certificate>, UnreadCertificate> {
    let ders = pem::certificates(Path::new(file), bytes)?;
    let one = |der| {
        let parsed = certificate::parse(der).map_err(|why| UnreadCertificate::Malformed {
            file: file.to_owned(),
            why,
        })?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map_or_else(Vec::new, |names| {
            names.value.general_names.iter().filter_map(name).collect()
        });
        Ok(Certificate {
            node: node(der),
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

/// The Node whose kubelet has this certificate, by its user.
fn node(der: &[u8]) -> Option<String> {
    let user = user_of_certificate(der).ok()??;
    Some(user.username.strip_prefix("system:node:")?.to_owned())
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
    /// Whether it is valid, and for how long.
    pub(super) fn validity(&self, now: OffsetDateTime) -> Check {
        let (id, title, gate) = match self.role {
            CertificateRole::Serving => (
                "serving-certificate-expiry",
                "serving certificate should be valid",
                Compensation::Full("clients see the gate's certificate; the kubelet's is pinned by its key"),
            ),
            CertificateRole::Client => (
                "client-certificate-expiry",
                "client certificate should be valid",
                Compensation::None,
            ),
            CertificateRole::ClientCa => (
                "client-ca-expiry",
                "CA of clients should be valid",
                Compensation::None,
            ),
        };
        let left = self.not_after - now;
        let judgement = if now < self.not_before {
            let from = timestamp(self.not_before.into());
            CheckResult::fail(format!("{} is not valid before {from}", self.subject))
        } else if left.is_negative() {
            CheckResult::fail(format!("{} has expired", self.subject))
        } else if left < SOON {
            CheckResult::warn(format!("{} expires in {} days", self.subject, left.whole_days()))
        } else {
            CheckResult::PASS
        };
        let value = format!("until {}", timestamp(self.not_after.into()));
        self.check(id, title, value, judgement, gate)
    }

    /// Whether a serving certificate is for the addresses that clients dial.
    pub(super) fn names(&self, addresses: &DialledAddresses) -> Check {
        let missing = |all: &[IpAddr]| -> Vec<String> {
            let texts = all.iter().map(ToString::to_string);
            texts.filter(|address| !self.names.contains(address)).collect()
        };
        const REFUSED: &str = "clients that dial such an address and verify the certificate refuse it, as do \
                               metrics-server and an API server with --kubelet-certificate-authority";
        let judgement = match addresses {
            DialledAddresses::Announced(all) => match missing(all) {
                missing if missing.is_empty() => CheckResult::PASS,
                missing => {
                    let missing = missing.join(", ");
                    CheckResult::warn(format!("it does not name the node's {missing}: {REFUSED}"))
                }
            },
            DialledAddresses::Interfaces(all) => match missing(all) {
                missing if missing.len() < all.len() => CheckResult::PASS,
                missing => {
                    let missing = missing.join(", ");
                    CheckResult::warn(format!(
                        "it names none of this node's addresses ({missing}): {REFUSED}"
                    ))
                }
            },
            DialledAddresses::Unknown => CheckResult::warn(
                "not compared: the node's addresses are not known, since there is no --node-ip and the node \
                 does not run here",
            ),
        };
        let value = if self.names.is_empty() {
            "none".to_owned()
        } else {
            self.names.join(", ")
        };
        self.check(
            "serving-certificate-names",
            "certificate should name the node",
            value,
            judgement,
            Compensation::Full("clients see the gate's certificate"),
        )
    }

    fn check(
        &self,
        id: &'static str,
        title: &'static str,
        value: String,
        judgement: CheckResult,
        gate: Compensation,
    ) -> Check {
        Check {
            id,
            old: None,
            new: None,
            title,
            // A file of CAs has several.
            key: match self.role {
                CertificateRole::ClientCa => format!("{} {}", self.file, self.subject),
                CertificateRole::Serving | CertificateRole::Client => self.file.clone(),
            },
            value,
            origin: self.file.clone(),
            file: Some(self.file.clone()),
            verdict: judgement.verdict,
            why: judgement.why,
            gate,
        }
    }
}
