//! Certificates that an operator denies: how the judgement asks about them, and how one that is
//! given as a whole is read.

use rustls::pki_types::CertificateDer;

use super::certificate;
use super::marks::Marks;
use super::refusal::{Malformed, escaped};

/// Says where an operator denies the certificate that has these marks, if that is so.
pub(crate) type DeniedBy<'a> = dyn Fn(&Marks) -> Option<String> + 'a;

/// The marks of a certificate that an operator gives, with its subject as text.
///
/// # Errors
/// It is not a certificate that the gate could accept.
pub(crate) fn read_marks(der: &[u8]) -> Result<(Marks, String), Malformed> {
    let der = CertificateDer::from(der);
    let parsed = certificate::parse(&der)?;
    Ok((Marks::of(&parsed), escaped(parsed.subject())))
}
