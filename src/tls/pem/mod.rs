//! PEM files: certificates, private keys and revocation lists.
//!
//! Go's `encoding/pem` skips what it cannot read, and so do most readers: a block whose BEGIN does not stand
//! alone on its line is lost without a word. A CA or a revocation list that is lost so admits or refuses
//! clients unnoticed. Here every text that looks like a block must be one, or the file is refused. What is
//! read, Go reads too: the boundaries are exact, and the base64 is canonical. Each block is decoded by
//! rustls-pemfile, which only this room uses.

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls_pemfile::Item;
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
        "{}:{line}: the private key is encrypted, and the gate cannot ask for its password: store it \
         decrypted (openssl pkey -in FILE -out FILE) with mode 0600",
        file.display()
    )]
    Encrypted {
        /// The file.
        file: PathBuf,
        /// The line on which its block begins.
        line: usize,
    },
    /// A text looks like a block, or like a part of one, and would not be read.
    #[error(
        "{}:{line}: {found}, so that a PEM block would not be read: write -----BEGIN and -----END with their \
         labels on lines of their own, with nothing beside them",
        file.display()
    )]
    Unread {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What stands there.
        found: &'static str,
    },
    /// A block has a label that readers skip, though it says that it holds what is wanted.
    #[error(
        "{}:{line}: the label of this PEM block is {label:?}, and {expected} is read here: convert it, or \
         remove it",
        file.display()
    )]
    Label {
        /// The file.
        file: PathBuf,
        /// The line on which the block begins.
        line: usize,
        /// Its label.
        label: String,
        /// The labels that are read.
        expected: &'static str,
    },
    /// A block cannot be decoded.
    #[error(
        "{}:{line}: broken PEM: the block that begins here is not plain base64: write the file anew, \
         complete",
        file.display()
    )]
    Broken {
        /// The file.
        file: PathBuf,
        /// The line on which the block begins.
        line: usize,
    },
}

/// A block, its content not decoded yet.
struct Block<'a> {
    label: &'a str,
    /// The line on which it begins, from 1.
    line: usize,
    body: &'a [u8],
}

/// A line that begins or ends a block, or looks as if it should.
enum Boundary<'a> {
    Begin(&'a str),
    End(&'a str),
    Malformed(&'static str),
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

/// Every certificate in `bytes`, at least one, in order. Other blocks are skipped, as the kubelet does.
///
/// # Errors
/// There is none, or a text that looks like a block would not be read.
pub fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    for block in blocks(file, bytes)? {
        match block.label {
            "CERTIFICATE" => match block.decode(file)? {
                Item::X509Certificate(certificate) => certificates.push(certificate),
                _ => return Err(block.broken(file)),
            },
            label if label.contains("CERTIFICATE") && !label.ends_with("REQUEST") => {
                return Err(block.mislabelled(file, "CERTIFICATE"));
            }
            _ => {}
        }
    }
    if certificates.is_empty() {
        return Err(PemError::NoCertificate {
            file: file.to_owned(),
        });
    }
    Ok(certificates)
}

/// Every revocation list in `bytes`, at least one, in order. `bytes` may also be one list in DER, in which
/// many CAs publish theirs.
///
/// # Errors
/// There is none, or a text that looks like a block would not be read.
pub fn revocation_lists(
    file: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    // The length behind the tag of a SEQUENCE is no character of a text.
    if matches!(bytes, [0x30, 0x00..0x20 | 0x80.., ..]) {
        return Ok(vec![bytes.to_vec().into()]);
    }
    let mut lists = Vec::new();
    for block in blocks(file, bytes)? {
        match block.label {
            "X509 CRL" => match block.decode(file)? {
                Item::Crl(list) => lists.push(list),
                _ => return Err(block.broken(file)),
            },
            label if label.contains("CRL") => return Err(block.mislabelled(file, "X509 CRL")),
            _ => {}
        }
    }
    if lists.is_empty() {
        return Err(PemError::NoRevocationList {
            file: file.to_owned(),
        });
    }
    Ok(lists)
}

/// The first private key in `bytes`, as in Go. Certificates beside it are skipped:
/// `kubelet-client-current.pem` holds both.
///
/// # Errors
/// There is none, it is encrypted, or a text that looks like a block would not be read.
pub fn private_key(file: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    const LABELS: &str = "PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY";
    let mut blocks = blocks(file, bytes)?.into_iter();
    let is_key = |block: &Block<'_>| block.label.ends_with("PRIVATE KEY");
    let Some(block) = blocks.find(is_key) else {
        return Err(PemError::NoKey {
            file: file.to_owned(),
        });
    };
    if block.label == "ENCRYPTED PRIVATE KEY" || block.body.starts_with(b"Proc-Type:") {
        return Err(PemError::Encrypted {
            file: file.to_owned(),
            line: block.line,
        });
    }
    if !matches!(block.label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY") {
        return Err(block.mislabelled(file, LABELS));
    }
    match block.decode(file)? {
        Item::Pkcs8Key(key) => Ok(key.into()),
        Item::Pkcs1Key(key) => Ok(key.into()),
        Item::Sec1Key(key) => Ok(key.into()),
        _ => Err(block.broken(file)),
    }
}

/// Every block of a text.
fn blocks<'a>(file: &Path, bytes: &'a [u8]) -> Result<Vec<Block<'a>>, PemError> {
    let unread = |line, found| {
        Err(PemError::Unread {
            file: file.to_owned(),
            line,
            found,
        })
    };
    let mut blocks = Vec::new();
    // Label, line, and where the body begins.
    let mut open: Option<(&str, usize, usize)> = None;
    let mut start = 0;
    for (line, text) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        let end = start + text.len();
        match (Boundary::of(without_end(text)), open) {
            (_, _) if text.contains(&0) => return unread(line, "a zero byte stands here, as in UTF-16"),
            (Some(Boundary::Malformed(found)), _) => return unread(line, found),
            (Some(Boundary::Begin(label)), None) => open = Some((label, line, end)),
            (Some(Boundary::Begin(_)), Some((_, begun, _))) => {
                return unread(begun, "the block that begins here has no end");
            }
            (Some(Boundary::End(label)), Some((begun, begin, from))) if label == begun => {
                blocks.push(Block {
                    label,
                    line: begin,
                    body: &bytes[from..start],
                });
                open = None;
            }
            (Some(Boundary::End(_)), Some(_)) => {
                return unread(line, "-----END has another label than its -----BEGIN");
            }
            (Some(Boundary::End(_)), None) => return unread(line, "-----END has no -----BEGIN"),
            (None, None) if is_body(text) => {
                return unread(
                    line,
                    "base64 stands outside a block, and its -----BEGIN is missing",
                );
            }
            (None, _) => {}
        }
        start = end;
    }
    match open {
        None => Ok(blocks),
        Some((_, line, _)) => unread(line, "the block that begins here has no end"),
    }
}

/// A line without its end, cut as Go cuts it.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let kept = line.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'));
    kept.map_or(&[], |last| &line[..=last])
}

/// Whether a line is the start of what a block holds: base64 of a DER SEQUENCE, too long for a word.
fn is_body(line: &[u8]) -> bool {
    const LONG: usize = 40;
    let line = line.trim_ascii();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    matches!(line, [b'M', b'A'..=b'P', ..]) && line.len() >= LONG && line.iter().all(is_base64)
}

// === impl Boundary ===

impl<'a> Boundary<'a> {
    fn of(line: &'a [u8]) -> Option<Self> {
        if let Some(label) = label(line, BEGIN) {
            return Some(Self::Begin(label));
        }
        if let Some(label) = label(line, END) {
            return Some(Self::End(label));
        }
        let upper = line.to_ascii_uppercase();
        let has = |word: &[u8]| upper.windows(word.len()).any(|part| part == word);
        let (begins, ends) = (has(b"---BEGIN"), has(b"---END"));
        if !begins && !ends {
            return None;
        }
        Some(Self::Malformed(match line {
            _ if line.contains(&b'\r') => "a carriage return without a line feed stands here",
            _ if begins && ends => "-----END and -----BEGIN stand on one line",
            [0xef, 0xbb, 0xbf, ..] => "a byte order mark stands before -----BEGIN",
            [b' ' | b'\t', ..] => "-----BEGIN or -----END is indented",
            _ => "this is not exactly -----BEGIN LABEL----- or -----END LABEL----- in capitals",
        }))
    }
}

/// The label of an exact boundary: words of capitals and digits, with one space between them.
fn label<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a str> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    let is_word = |word: &str| {
        let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'.';
        !word.is_empty() && word.bytes().all(is_plain)
    };
    let label = str::from_utf8(label).ok()?;
    label.split(' ').all(is_word).then_some(label)
}

// === impl Block ===

impl Block<'_> {
    /// What it holds. The text is written anew for rustls-pemfile, without the spaces that Go skips.
    fn decode(&self, file: &Path) -> Result<Item, PemError> {
        let mut text = format!("-----BEGIN {}-----\n", self.label).into_bytes();
        text.extend(
            self.body
                .iter()
                .filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r')),
        );
        text.extend(format!("-----END {}-----\n", self.label).bytes());
        match rustls_pemfile::read_one_from_slice(&text) {
            Ok(Some((item, _))) => Ok(item),
            Ok(None) | Err(_) => Err(self.broken(file)),
        }
    }

    fn broken(&self, file: &Path) -> PemError {
        PemError::Broken {
            file: file.to_owned(),
            line: self.line,
        }
    }

    fn mislabelled(&self, file: &Path, expected: &'static str) -> PemError {
        PemError::Label {
            file: file.to_owned(),
            line: self.line,
            label: self.label.to_owned(),
            expected,
        }
    }
}

#[cfg(test)]
mod tests;
