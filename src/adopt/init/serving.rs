//! Who accepts the certificate that clients of the gate will see: the kubelet's own.

use std::path::Path;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};

use crate::adopt::inspect::{Certificate, Inspection};
use crate::adopt::kubelet::kubeconfig::Kubeconfig;
use crate::apiserver::Authorities;
use crate::tls::pem;

/// One line each.
pub(super) fn presented(
    serving: &Certificate,
    inspection: &Inspection,
    kubeconfig: Option<&Kubeconfig>,
) -> Vec<String> {
    let names = match serving.names.as_slice() {
        [] => "no name at all".to_owned(),
        names => names.join(", "),
    };
    vec![
        format!("It is for {names}, until {}.", serving.not_after.date()),
        trust(serving, inspection, kubeconfig),
    ]
}

/// Which of the CAs that the node knows would have a client accept it.
fn trust(serving: &Certificate, inspection: &Inspection, kubeconfig: Option<&Kubeconfig>) -> String {
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
            "It was issued by {issuer}, the cluster's CA by which the kubeconfig knows the API server as well: who verifies by that \
             CA accepts it."
        ),
        (cluster, Some(Ok(()))) => format!(
            "It was issued by {issuer}, a CA of client certificates (clientCAFile): who verifies by that CA accepts it.{}",
            match cluster {
                None => "",
                Some(_) =>
                    " The CA by which the kubeconfig knows the API server is another, and who verifies by it refuses it.",
            }
        ),
        (None, None) => {
            format!(
                "It was issued by {issuer}; whether that is a CA of the cluster's cannot be told from here."
            )
        }
        (cluster, clients) => {
            let why = cluster.or(clients).and_then(Result::err).unwrap_or_default();
            format!(
                "It was issued by {issuer}, and no CA of the cluster's that this node knows vouches for it ({why}): who verifies by \
                 the cluster's CA refuses it, as metrics-server without --kubelet-insecure-tls and an API server with \
                 --kubelet-certificate-authority do."
            )
        }
    }
}

fn vouch(file: &str, bundle: &[u8], chain: &[CertificateDer<'_>]) -> Result<(), String> {
    let authorities = Authorities::new(Path::new(file), bundle).map_err(|error| error.to_string())?;
    let (leaf, intermediates) = chain.split_first().ok_or("it has no certificate")?;
    let verdict = ParsedCertificate::try_from(leaf)
        .and_then(|leaf| authorities.vouch_for(&leaf, intermediates, UnixTime::now()));
    verdict.map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => "none of them issued it".to_owned(),
        Error::InvalidCertificate(
            CertificateError::BadSignature | CertificateError::UnsupportedSignatureAlgorithmContext { .. },
        ) => "the signature on it is not of their keys".to_owned(),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "it has expired".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "it is not valid yet".to_owned(),
        error => error.to_string(),
    })
}
