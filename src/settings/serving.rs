//! `tlsCertFile` to `tlsCipherSuites` and `authentication.x509`: the listener's TLS.

use rustls::CipherSuite;

use super::document::quoted;
use super::file::{self, File};
use super::nearest::nearest;
use super::reading::Reading;
use super::writing;
use crate::named::Named;
use crate::tls::{self, ServingOptions, SuiteName, TlsVersion};

/// The keys of the listener's TLS, in one value.
pub(super) fn read(reading: &mut Reading<'_>, file: &File) -> ServingOptions {
    const OLD: &str = "TLS 1.0 and 1.1 are not offered here; the least version is VersionTLS12";
    let key = "tlsMinVersion";
    let min_version = match file.tls_min_version.as_str() {
        "" => TlsVersion::Tls12,
        "VersionTLS10" | "VersionTLS11" => {
            reading.warn(key, OLD);
            TlsVersion::Tls12
        }
        text => reading.choice(key, text),
    };
    if min_version == TlsVersion::Tls13 && !file.tls_cipher_suites.is_empty() {
        reading.warn(
            "tlsCipherSuites",
            "the suites of TLS 1.3 cannot be chosen, and nothing older is offered",
        );
    }
    let x509 = &file.authentication.x509;
    ServingOptions {
        cert_file: reading.required_path(
            "tlsCertFile",
            &file.tls_cert_file,
            "the PEM file of the serving chain",
        ),
        private_key_file: reading.required_path(
            "tlsPrivateKeyFile",
            &file.tls_private_key_file,
            "the PEM file of the serving certificate's key",
        ),
        min_version,
        cipher_suites: cipher_suites(reading, &file.tls_cipher_suites),
        client_ca_file: reading.path("authentication.x509.clientCAFile", &x509.client_ca_file),
        client_certificates: reading.choice(
            "authentication.x509.clientCertificates",
            &x509.client_certificates,
        ),
        crl_files: reading.paths(
            "authentication.x509.crlFiles",
            &x509.crl_files,
            "a file with revocation lists, PEM or DER",
        ),
        legacy_v1_certificates: x509.legacy_v1_certificates,
    }
}

/// `authentication.x509`, of these options.
pub(super) fn write_x509(options: &ServingOptions) -> file::X509 {
    file::X509 {
        client_ca_file: writing::optional(options.client_ca_file.as_ref()),
        client_certificates: options.client_certificates.name().to_owned(),
        crl_files: writing::paths(&options.crl_files),
        legacy_v1_certificates: options.legacy_v1_certificates,
    }
}

/// `tlsCipherSuites`, of these options.
pub(super) fn write_suites(options: &ServingOptions) -> Vec<String> {
    let suites = options.cipher_suites.iter();
    suites.map(|suite| tls::suite_name(*suite).to_owned()).collect()
}

/// The suites that can be offered. Node images name others too, and must not fail on those.
fn cipher_suites(reading: &mut Reading<'_>, names: &[String]) -> Vec<CipherSuite> {
    let key = "tlsCipherSuites";
    let (mut offered, mut lacking, mut unknown) = (Vec::new(), Vec::new(), false);
    for (index, name) in names.iter().enumerate() {
        match tls::cipher_suite(name) {
            SuiteName::Offered(suite) => offered.push(suite),
            SuiteName::Lacking => lacking.push(name.as_str()),
            SuiteName::Unknown => {
                unknown = true;
                let meant = match nearest(name, tls::suite_names()) {
                    Some(suite) => format!("the nearest is {suite}"),
                    None => format!(
                        "write some of {}",
                        tls::suite_names().collect::<Vec<_>>().join(", ")
                    ),
                };
                reading.refuse(
                    &format!("{key}[{index}]"),
                    format!("{} is not known; {meant}", quoted(name)),
                );
            }
        }
    }
    let lacking = lacking.join(", ");
    if offered.is_empty() && !lacking.is_empty() && !unknown {
        reading.refuse(
            key,
            format!(
                "none of {lacking} is implemented here; add an ECDHE suite with GCM or CHACHA20, or write []"
            ),
        );
    } else if !lacking.is_empty() {
        reading.warn(
            key,
            &format!("not implemented here and so not offered: {lacking}"),
        );
    }
    offered
}
