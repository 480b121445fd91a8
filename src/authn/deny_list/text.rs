//! The text of a deny list: one entry per line, certificates as PEM blocks, and `# end` as the last line.
//!
//! An operator writes it by hand, and what is not understood denies nothing. So every word that is not known
//! is an error, and so is a name that may have been meant otherwise. No message shows the text itself: the
//! file named may be another one, such as that of a token.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::hex;
use crate::tls::{IssuerName, issued, read_marks};

/// The last line.
const END: &str = "# end";
/// Most entries of a file; a certificate's PEM block is two.
const ENTRIES: usize = 20_000;
const API_SERVER: &str = "includeApiServer:";
/// What some editors and tools show as a line break. The text behind it looks like a line of its own, and is
/// none: in a comment it would deny nothing.
const BREAKS: [char; 6] = ['\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'];
/// The most bytes of a serial number (RFC 5280, section 4.1.2.2).
const SERIAL: usize = 20;

/// What is denied.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Entry {
    /// The certificate with this mark of its issuer and serial number.
    Issued([u8; 32]),
    /// Every certificate with this public key.
    Key([u8; 32]),
    User(String),
    Group(String),
}

/// Where and how an entry is written.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) line: usize,
    /// As a message shows it.
    pub(super) text: Arc<str>,
}

/// What a list says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) entries: HashMap<Entry, Origin>,
    /// It may deny the API server.
    pub(super) includes_api_server: bool,
}

/// What is wrong with a list.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) text: String,
}

/// Reads a list.
///
/// # Errors
/// The first line that cannot be used, or that the list has no end.
pub(super) fn parse(text: &str) -> Result<Parsed, Fault> {
    let mut parsed = Parsed::default();
    let mut block: Option<Block> = None;
    let mut ended = false;
    let mut last = 1;
    for (at, raw) in text.split_inclusive('\n').enumerate() {
        let number = at + 1;
        let fault = |text: String| Fault { line: number, text };
        let line = raw.trim_matches([' ', '\t', '\r', '\n']);
        last = number;
        if let Some(sign) = raw
            .trim_end_matches(['\r', '\n'])
            .chars()
            .find(|sign| BREAKS.contains(sign))
        {
            return Err(fault(format!(
                "the line has a sign that may look like a line break (U+{:04X}); end each line with a line \
                 feed alone, or remove the sign (in a quoted name, write \\u{:04x})",
                u32::from(sign),
                u32::from(sign)
            )));
        }
        if ended {
            if line.is_empty() {
                continue;
            }
            return Err(fault(format!(
                "there is text behind the line `{END}`; move that line to the end"
            )));
        }
        if let Some(open) = &mut block {
            if !line.starts_with("-----") {
                open.base64.push_str(line);
                continue;
            }
            if line != "-----END CERTIFICATE-----" {
                return Err(fault(format!(
                    "the certificate that begins in line {} has not ended; complete its PEM block",
                    open.line
                )));
            }
            let begun = open.line;
            let (entries, text) = open.read().map_err(|text| Fault { line: begun, text })?;
            parsed.add(begun, entries, &text).map_err(fault)?;
            block = None;
        } else if line == END {
            if !raw.ends_with('\n') {
                return Err(fault(format!(
                    "the last line `{END}` has no line break, so that more may have followed; end it with one"
                )));
            }
            ended = true;
        } else if line.starts_with("-----") {
            block = Some(Block::begin(line, number).map_err(fault)?);
        } else if let Some(value) = line.strip_prefix(API_SERVER) {
            parsed.includes_api_server |= match value.trim() {
                "true" => true,
                "false" => false,
                _ => return Err(fault(format!("write {API_SERVER} true, or remove the line"))),
            };
        } else if !line.is_empty() && !line.starts_with('#') {
            let (entry, text) = entry(line).map_err(fault)?;
            parsed.add(number, [entry], &text).map_err(fault)?;
        }
    }
    if ended {
        return Ok(parsed);
    }
    if let Some(open) = block {
        return Err(Fault {
            line: open.line,
            text: "the certificate that begins here has no end; complete its PEM block".to_owned(),
        });
    }
    Err(Fault {
        line: last,
        text: format!(
            "the file does not end with the line `{END}`, so that it may be cut short; complete it, and end \
             it with that line"
        ),
    })
}

// === impl Parsed ===

impl Parsed {
    fn add(
        &mut self,
        line: usize,
        entries: impl IntoIterator<Item = Entry>,
        text: &str,
    ) -> Result<(), String> {
        let text: Arc<str> = text.into();
        for entry in entries {
            let text = text.clone();
            self.entries.entry(entry).or_insert(Origin { line, text });
        }
        if self.entries.len() > ENTRIES {
            return Err(format!(
                "the list has more than {ENTRIES} entries; remove expired certificates, or have the CA \
                 publish a revocation list for authentication.x509.crlFiles"
            ));
        }
        Ok(())
    }
}

/// A PEM block that has begun.
struct Block {
    line: usize,
    base64: String,
}

// === impl Block ===

impl Block {
    fn begin(head: &str, line: usize) -> Result<Self, String> {
        match head {
            "-----BEGIN CERTIFICATE-----" => Ok(Self {
                line,
                base64: String::new(),
            }),
            "-----BEGIN PUBLIC KEY-----" => Err(
                "a public key is denied by spki-sha256 and its SHA-256 (openssl pkey -pubin -in FILE \
                 -outform DER | openssl dgst -sha256)"
                    .to_owned(),
            ),
            _ => Err(
                "only blocks with the line -----BEGIN CERTIFICATE----- are read; give the certificate's \
                 (openssl x509 -in FILE), and remove this one"
                    .to_owned(),
            ),
        }
    }

    /// The certificate's two entries, and how a message names it.
    fn read(&self) -> Result<([Entry; 2], String), String> {
        let der = STANDARD.decode(&self.base64).map_err(|_| {
            "the certificate's PEM block is not base64; write it anew (openssl x509 -in FILE)".to_owned()
        })?;
        let (marks, subject) = read_marks(&der)
            .map_err(|reason| format!("the certificate cannot be read ({reason}); write it anew"))?;
        Ok((
            [Entry::Issued(marks.issued), Entry::Key(marks.key)],
            format!("certificate of {subject}"),
        ))
    }
}

/// The entry of a line.
fn entry(line: &str) -> Result<(Entry, String), String> {
    if is_fingerprint(line) {
        return Err(
            "a certificate's fingerprint is not taken, since its holder can change it (an ECDSA signature \
             has two forms); give the certificate's PEM block (openssl x509 -in FILE), or its issuer and \
             serial number"
                .to_owned(),
        );
    }
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let rest = rest.trim_matches([' ', '\t']);
    let (entry, shown) = match word {
        "user" => {
            let name = name(rest)?;
            (Entry::User(name.clone()), format!("{name:?}"))
        }
        "group" => {
            let name = name(rest)?;
            (Entry::Group(name.clone()), format!("{name:?}"))
        }
        "spki-sha256" => (Entry::Key(key(rest)?), rest.to_owned()),
        "issuer" => {
            let (issuer, number) = rest.rsplit_once(" serial ").ok_or(
                "write issuer NAME serial HEX, such as issuer CN=kubernetes serial 3A:0F, as openssl x509 \
                 -noout -issuer -serial -nameopt RFC2253 shows them",
            )?;
            let name = IssuerName::parse(issuer.trim())?;
            (
                Entry::Issued(issued(&name, &serial(number.trim())?)),
                rest.to_owned(),
            )
        }
        _ => {
            return Err(
                "this is no entry; write user NAME, group NAME, issuer NAME serial HEX, spki-sha256 HASH, \
                 the PEM block of a certificate, or # before a comment"
                    .to_owned(),
            );
        }
    };
    Ok((entry, format!("{word} {shown}")))
}

/// The name of a user or group: the rest of the line, or a JSON string.
fn name(text: &str) -> Result<String, String> {
    const QUOTE: &str = "if it belongs to the name, write the name as a JSON string, in quotation marks";
    if text.starts_with('"') {
        return serde_json::from_str::<String>(text)
            .ok()
            .filter(|name| !name.is_empty())
            .ok_or_else(|| "the name in quotation marks is not one JSON string with text in it".to_owned());
    }
    let Some(first) = text.chars().next() else {
        return Err("the name is missing; write it behind the word".to_owned());
    };
    if text.contains(" #") || text.contains("\t#") {
        return Err(format!(
            "a comment stands on a line of its own, and # in this one counts as part of the name; {QUOTE}"
        ));
    }
    if matches!(first, '\'' | '=' | ':' | ',' | '`' | '“' | '„' | '‘') || text.ends_with([',', ';']) {
        return Err(format!(
            "there is a sign beside the name; write one name, without signs around it; {QUOTE}"
        ));
    }
    if text.chars().any(is_invisible) {
        return Err(format!(
            "there is a character in the name that cannot be seen, such as a tab or a no-break space; remove \
             it; {QUOTE} (\\u00a0)"
        ));
    }
    Ok(text.to_owned())
}

fn is_invisible(char: char) -> bool {
    char.is_control()
        || (char.is_whitespace() && char != ' ')
        || matches!(char, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(char, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The SHA-256 of a SubjectPublicKeyInfo, in hexadecimal digits or base64.
fn key(text: &str) -> Result<[u8; 32], String> {
    let bytes = digits(text).or_else(|| STANDARD.decode(text).ok());
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        "write the SHA-256 of the SubjectPublicKeyInfo behind spki-sha256, in 64 hexadecimal digits or in \
         base64 (openssl x509 -in FILE -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst \
         -sha256)"
            .to_owned()
    })
}

/// A serial number in hexadecimal digits.
fn serial(text: &str) -> Result<Vec<u8>, String> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let padded = match text.len() % 2 {
        1 if !text.contains(':') => format!("0{text}"),
        _ => text.to_owned(),
    };
    digits(&padded)
        .filter(|bytes| bytes.len() <= SERIAL)
        .ok_or_else(|| {
            "the serial number is not one of at most 40 hexadecimal digits; write it as openssl x509 -noout \
         -serial shows it"
                .to_owned()
        })
}

/// The bytes that pairs of hexadecimal digits stand for, with or without colons between the pairs.
fn digits(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = match text.contains(':') {
        true if text.split(':').all(|pair| pair.len() == 2) => {
            text.bytes().filter(|byte| *byte != b':').collect()
        }
        true => return None,
        false => text.into(),
    };
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| hex::byte(*high, *low)).collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

/// Whether a line looks like the fingerprint of a certificate: of MD5, SHA-1, SHA-2, as openssl writes
/// them, or as audit events do.
fn is_fingerprint(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    let is_named = ["fingerprint", "x509sha256=", "sha1", "sha256", "sha-1", "sha-256"]
        .iter()
        .any(|word| lower.starts_with(word))
        || lower.contains("fingerprint=");
    let bare: String = lower.chars().filter(|char| !matches!(char, ':' | ' ')).collect();
    let is_digest =
        bare.bytes().all(|byte| byte.is_ascii_hexdigit()) && [32, 40, 64, 96, 128].contains(&bare.len());
    is_named || is_digest
}
