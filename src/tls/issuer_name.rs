//! Names of issuers as an operator writes them, and as certificates have them, in a form in which the two can
//! be compared.
//!
//! A name that is compared too loosely denies a certificate too many, and one that is compared too strictly
//! lets a revoked one in. So the order of the attributes, upper and lower case, and runs of spaces make no
//! difference.

use x509_parser::asn1_rs::Oid;
use x509_parser::x509::X509Name;

use super::subject::SubjectAttribute;
use crate::hex;

/// The name of an issuer, in its comparable form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct IssuerName(Vec<u8>);

/// The attributes that have a name, with the content of their DER OBJECT IDENTIFIER.
const NAMED: [(&str, &[u8]); 17] = [
    ("cn", &[0x55, 0x04, 0x03]),
    ("sn", &[0x55, 0x04, 0x04]),
    ("serialnumber", &[0x55, 0x04, 0x05]),
    ("c", &[0x55, 0x04, 0x06]),
    ("l", &[0x55, 0x04, 0x07]),
    ("st", &[0x55, 0x04, 0x08]),
    ("s", &[0x55, 0x04, 0x08]),
    ("street", &[0x55, 0x04, 0x09]),
    ("o", &[0x55, 0x04, 0x0a]),
    ("ou", &[0x55, 0x04, 0x0b]),
    ("title", &[0x55, 0x04, 0x0c]),
    ("gn", &[0x55, 0x04, 0x2a]),
    ("dnqualifier", &[0x55, 0x04, 0x2e]),
    ("emailaddress", EMAIL_ADDRESS),
    ("e", EMAIL_ADDRESS),
    (
        "dc",
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19],
    ),
    (
        "uid",
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01],
    ),
];
const EMAIL_ADDRESS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];

// === impl IssuerName ===

impl IssuerName {
    pub(super) fn of(name: &X509Name<'_>) -> Self {
        let attributes = name.iter_attributes().map(|attribute| {
            let SubjectAttribute { oid, text } = SubjectAttribute::of(attribute);
            // A value that is no text cannot be written, and is compared byte for byte.
            let text = text.map_or_else(
                || format!("#{}", hex::text(attribute.as_slice())),
                |text| comparable(&text),
            );
            (oid, text)
        });
        Self::new(attributes.collect())
    }

    /// Reads a name as RFC 4514 writes it, which is `openssl x509 -issuer -nameopt RFC2253`. Spaces around
    /// the signs and values in quotation marks, as openssl writes them otherwise, are read as well.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut attributes = Vec::new();
        let mut rest = text;
        loop {
            let Some((kind, value)) = rest.split_once('=') else {
                return Err(
                    "the issuer's name is no list of KEY=VALUE, such as CN=kubernetes,O=Example".to_owned(),
                );
            };
            let oid = oid(kind.trim())?;
            let (value, left) = value_of(value.trim_start())?;
            if value.is_empty() {
                return Err(format!("the issuer's name has no value for {}", kind.trim()));
            }
            attributes.push((oid, comparable(&value)));
            match left {
                Some(left) => rest = left,
                None => return Ok(Self::new(attributes)),
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn new(mut attributes: Vec<(Vec<u8>, String)>) -> Self {
        attributes.sort();
        let mut bytes = Vec::new();
        for (oid, value) in attributes {
            for part in [&oid, value.as_bytes()] {
                bytes.extend(part.len().to_be_bytes());
                bytes.extend(part);
            }
        }
        Self(bytes)
    }
}

fn comparable(value: &str) -> String {
    let words: Vec<&str> = value.split_whitespace().collect();
    words.join(" ").to_lowercase()
}

fn oid(kind: &str) -> Result<Vec<u8>, String> {
    let lower = kind.to_ascii_lowercase();
    let named = NAMED.iter().find(|(name, _)| *name == lower);
    match (named, lower.trim_start_matches("oid.").parse::<Oid<'_>>()) {
        (Some((_, oid)), _) => Ok(oid.to_vec()),
        (None, Ok(oid)) => Ok(oid.as_bytes().to_vec()),
        (None, Err(_)) => Err(
            "an attribute of the issuer's name is not known; write CN, O, OU, C, ST, L, STREET, DC, UID, \
             emailAddress or serialNumber, or its object identifier in numbers, separated by commas, as \
             openssl x509 -noout -issuer -nameopt RFC2253 does; or give the certificate's PEM block"
                .to_owned(),
        ),
    }
}

/// The value that `text` begins with, and what follows the sign that ends it.
fn value_of(text: &str) -> Result<(String, Option<&str>), String> {
    let unreadable =
        || "a value of the issuer's name cannot be read; give the certificate's PEM block".to_owned();
    if text.starts_with('#') {
        return Err(unreadable());
    }
    let (mut value, mut quoted) = (Vec::new(), false);
    // Spaces at the end count only if they are escaped or in quotation marks; comparing drops them anyway.
    let mut bytes = text.bytes().enumerate();
    let mut left = None;
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b',' | b'+' if !quoted => {
                left = Some(&text[at + 1..]);
                break;
            }
            b'\\' => {
                let (_, escaped) = bytes.next().ok_or_else(unreadable)?;
                if escaped.is_ascii_hexdigit() {
                    let (_, low) = bytes.next().ok_or_else(unreadable)?;
                    value.push(hex::byte(escaped, low).ok_or_else(unreadable)?);
                } else {
                    value.push(escaped);
                }
            }
            byte => value.push(byte),
        }
    }
    if quoted {
        return Err("a quotation mark in the issuer's name is not closed".to_owned());
    }
    let value = String::from_utf8(value).map_err(|_| unreadable())?;
    Ok((value.trim().to_owned(), left))
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Seen red: with the case kept, and with the attributes in their order.
    #[test]
    fn spellings_of_one_name_are_equal() {
        let name =
            IssuerName::parse("CN=Kubernetes CA,OU=Nodes,O=Example\\, Inc.,DC=example,DC=org").unwrap();
        for same in [
            "cn=kubernetes ca,ou=nodes,o=example\\, inc.,dc=example,dc=org",
            "DC = org, DC = example, O = \"Example, Inc.\", OU = Nodes, CN = Kubernetes   CA",
            "DC=org+DC=example,O=Example\\2C Inc.,OU=Nodes,2.5.4.3=Kubernetes CA",
            "OID.2.5.4.3=Kubernetes CA ,OU=Nodes,O=Example\\, Inc.,DC=example,DC=org",
        ] {
            assert_eq!(IssuerName::parse(same).unwrap(), name, "{same}");
        }
        for other in [
            "CN=Kubernetes CA",
            "CN=KubernetesCA,OU=Nodes,O=Example\\, Inc.,DC=example,DC=org",
            "OU=Kubernetes CA,CN=Nodes,O=Example\\, Inc.,DC=example,DC=org",
        ] {
            assert_ne!(IssuerName::parse(other).unwrap(), name, "{other}");
        }
        let utf8 = IssuerName::parse("CN=Stra\\C3\\9Fe").unwrap();
        assert_eq!(utf8, IssuerName::parse("CN=straße").unwrap());
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for text in [
            "",
            "kubernetes",
            "/CN=kubernetes/O=Example",
            "CN=",
            "CN=a,",
            "CN=\"a",
            "CN=a\\",
            "CN=a\\4",
            "CN=\\ff",
            "CN=#0c0161",
            "Common Name=a",
            "2.5.x=a",
        ] {
            IssuerName::parse(text).expect_err(text);
        }
    }
}
