//! Which clients accept the certificate that the gate will present: the kubelet's own.

use std::path::Path;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};

use crate::adopt::inspect::{Certificate, Inspection};
use crate::adopt::kubelet::kubeconfig::NodeKubeconfig;
use crate::apiserver::{Authorities, AuthoritiesError};
use crate::tls::pem;

/// Why a bundle of CAs does not vouch for a certificate.
#[derive(Debug, thiserror::Error)]
enum VouchError {
    #[error(transparent)]
    Bundle(#[from] AuthoritiesError),
    #[error("its file has no certificate")]
    NoCertificate,
    #[error("none of its CAs issued it")]
    UnknownIssuer,
    #[error("its signature does not match the keys of these CAs")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYet,
    #[error(transparent)]
    Other(Error),
}

/// Two sentences on the certificate: its names and its issuer.
pub(super) fn presented(
    serving: &Certificate,
    inspection: &Inspection,
    kubeconfig: Option<&NodeKubeconfig>,
) -> Vec<String> {
    let names = match serving.names.as_slice() {
        [] => "no name".to_owned(),
        names => names.join(", "),
    };
    vec![
        format!("It is for {names}, until {}.", serving.not_after.date()),
        trust(serving, inspection, kubeconfig),
    ]
}

/// Which of the CAs that the node knows make a client accept it.
fn trust(serving: &Certificate, inspection: &Inspection, kubeconfig: Option<&NodeKubeconfig>) -> String {
    let root = &inspection.invocation.root;
    let read = |path: &str| root.read(path).ok().map(String::into_bytes);
    let issuer = &serving.issuer;
    let chain =
        read(&serving.file).and_then(|bytes| pem::certificates(Path::new(&serving.file), &bytes).ok());
    let cluster = kubeconfig.and_then(|kubeconfig| kubeconfig.authority(root).ok()?);
    let clients = inspection.options.text("authentication.x509.clientCAFile");
    let clients = read(clients).map(|bytes| (clients.to_owned(), bytes));
    let vouches = |ca: Option<&(String, Vec<u8>)>| {
        let (file, bytes) = ca?;
        Some(vouch(file, bytes, chain.as_deref()?))
    };
    match (vouches(cluster.as_ref()), vouches(clients.as_ref())) {
        (Some(Ok(())), _) => format!(
            "It was issued by {issuer}, the cluster's CA, which the kubeconfig names for the API server too: \
             a client that verifies by this CA accepts it."
        ),
        (cluster, Some(Ok(()))) => format!(
            "It was issued by {issuer}, a CA of client certificates (clientCAFile): a client that verifies \
             by this CA accepts it.{}",
            match cluster {
                None => "",
                Some(_) =>
                    " The kubeconfig names another CA for the API server, and a client that verifies by that \
                     one refuses it.",
            }
        ),
        (None, None) => format!(
            "It was issued by {issuer}; whether that is a CA of the cluster is not known, since no CA of the \
             cluster could be read."
        ),
        (Some(Err(why)), _) | (None, Some(Err(why))) => format!(
            "It was issued by {issuer}, and no CA of the cluster that this node knows vouches for it \
             ({why}): a client that verifies by the cluster's CA refuses it, as do metrics-server without \
             --kubelet-insecure-tls and an API server with --kubelet-certificate-authority."
        ),
    }
}

fn vouch(file: &str, bundle: &[u8], chain: &[CertificateDer<'_>]) -> Result<(), VouchError> {
    let authorities = Authorities::new(Path::new(file), bundle)?;
    let (leaf, intermediates) = chain.split_first().ok_or(VouchError::NoCertificate)?;
    let verdict = ParsedCertificate::try_from(leaf)
        .and_then(|leaf| authorities.vouch_for(&leaf, intermediates, UnixTime::now()));
    verdict.map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => VouchError::UnknownIssuer,
        Error::InvalidCertificate(
            CertificateError::BadSignature | CertificateError::UnsupportedSignatureAlgorithmContext { .. },
        ) => VouchError::Signature,
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            VouchError::Expired
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => VouchError::NotYet,
        error => VouchError::Other(error),
    })
}
