//! PEM files: certificates, private keys and revocation lists. Only this file uses rustls-pemfile.

use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use thiserror::Error;

/// Why a PEM file cannot be used.
#[derive(Debug, Error)]
pub enum PemError {
    /// It has no certificate.
    #[error("{}: no PEM block CERTIFICATE in it: name a file with at least one certificate", file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// It has no revocation list.
    #[error(
        "{}: neither a PEM block X509 CRL in it nor a revocation list in DER: name a file with one",
        file.display()
    )]
    NoRevocationList {
        /// The file.
        file: PathBuf,
    },
    /// It has no private key.
    #[error(
        "{}: no PEM block PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY in it: name a PEM file with an \
         unencrypted private key",
        file.display()
    )]
    NoKey {
        /// The file.
        file: PathBuf,
    },
    /// The key is encrypted.
    #[error(
        "{}: the private key is encrypted, and the gate cannot ask for its password: store it decrypted \
         (openssl pkey -in FILE -out FILE) with mode 0600",
        file.display()
    )]
    Encrypted {
        /// The file.
        file: PathBuf,
    },
    /// A PEM block cannot be decoded.
    #[error("{}: broken PEM: write the file anew, complete and in base64", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What the decoder says.
        source: io::Error,
    },
}

/// Every certificate in `bytes`, at least one, in order. Other blocks are skipped, as the kubelet does.
pub fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates = rustls_pemfile::certs(&mut &*bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| PemError::Broken {
            file: file.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(PemError::NoCertificate {
            file: file.to_owned(),
        });
    }
    Ok(certificates)
}

/// Every revocation list in `bytes`, at least one, in order. `bytes` may also be one list in DER, in which
/// many CAs publish theirs.
pub fn revocation_lists(
    file: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let lists = rustls_pemfile::crls(&mut &*bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| PemError::Broken {
            file: file.to_owned(),
            source,
        })?;
    const SEQUENCE: u8 = 0x30;
    match (lists.is_empty(), bytes.first()) {
        (false, _) => Ok(lists),
        (true, Some(&SEQUENCE)) => Ok(vec![bytes.to_vec().into()]),
        (true, _) => Err(PemError::NoRevocationList {
            file: file.to_owned(),
        }),
    }
}

/// The first private key in `bytes`. Certificates beside it are skipped: `kubelet-client-current.pem` holds
/// both.
pub fn private_key(file: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let encrypted = || {
        let text = String::from_utf8_lossy(bytes);
        text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
    };
    match rustls_pemfile::private_key(&mut &*bytes) {
        Ok(Some(key)) => Ok(key),
        _ if encrypted() => Err(PemError::Encrypted {
            file: file.to_owned(),
        }),
        Ok(None) => Err(PemError::NoKey {
            file: file.to_owned(),
        }),
        Err(source) => Err(PemError::Broken {
            file: file.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FILE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

    fn block(kind: &str, base64: &str) -> String {
        format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
    }

    #[test]
    fn one_file_may_hold_certificates_and_key() {
        let pem =
            block("CERTIFICATE", "MAA=") + &block("PRIVATE KEY", "MAEB") + &block("CERTIFICATE", "MAEC");
        let file = Path::new(FILE);
        let certificates = certificates(file, pem.as_bytes()).unwrap();
        assert_eq!(
            certificates,
            [vec![0x30, 0x00].into(), vec![0x30, 0x01, 0x02].into()]
        );
        assert_eq!(
            private_key(file, pem.as_bytes()).unwrap().secret_der(),
            [0x30, 0x01, 0x01]
        );
    }

    #[test]
    fn errors_name_the_file() {
        let file = Path::new(FILE);
        let none = certificates(file, block("PRIVATE KEY", "MAA=").as_bytes()).unwrap_err();
        assert!(matches!(none, PemError::NoCertificate { .. }) && none.to_string().starts_with(FILE));
        let none = private_key(file, block("CERTIFICATE", "MAA=").as_bytes()).unwrap_err();
        assert!(matches!(none, PemError::NoKey { .. }) && none.to_string().starts_with(FILE));
        let broken = certificates(file, block("CERTIFICATE", "MA!=").as_bytes()).unwrap_err();
        assert!(matches!(broken, PemError::Broken { .. }) && broken.to_string().starts_with(FILE));
    }

    #[test]
    fn revocation_lists_are_pem_or_der() {
        let file = Path::new(FILE);
        let two = block("X509 CRL", "MAA=") + &block("X509 CRL", "MAEB");
        let lists = revocation_lists(file, two.as_bytes()).unwrap();
        assert_eq!(lists, [vec![0x30, 0x00].into(), vec![0x30, 0x01, 0x01].into()]);
        let der = revocation_lists(file, &[0x30, 0x00]).unwrap();
        assert_eq!(der, [vec![0x30, 0x00].into()]);
        for none in [String::new(), block("CERTIFICATE", "MAA=")] {
            let none = revocation_lists(file, none.as_bytes()).unwrap_err();
            assert!(matches!(none, PemError::NoRevocationList { .. }) && none.to_string().starts_with(FILE));
        }
    }

    #[test]
    fn an_encrypted_key_is_reported_as_encrypted() {
        let pkcs8 = block("ENCRYPTED PRIVATE KEY", "MAA=");
        let traditional = block(
            "RSA PRIVATE KEY",
            "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMAA=",
        );
        for pem in [pkcs8, traditional] {
            let error = private_key(Path::new(FILE), pem.as_bytes()).unwrap_err();
            assert!(matches!(error, PemError::Encrypted { .. }), "{error}");
        }
    }
}
