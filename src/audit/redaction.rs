//! Hides the secrets of a request's target: commands as configured, credentials always.
//!
//! A name decides. It is compared without its case, its percent-encoding (also a repeated one), and
//! everything that is neither letter nor digit. A parameter that is hidden without need costs a reader
//! little, and a secret that is shown is in every system that receives the log.

use std::borrow::Cow;

use aws_lc_rs::{hmac, rand::SystemRandom};

use crate::hex;
use crate::settings::AuditCommands;

/// How the secrets of a `requestURI` are hidden.
pub(super) struct Redaction {
    commands: AuditCommands,
    /// A key of this process: equal commands have equal hashes within one run, and a hash cannot be guessed
    /// without the key.
    key: hmac::Key,
}

/// A value that may have to be hidden.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sensitive {
    Command,
    Credential,
}

// === impl Redaction ===

impl Redaction {
    pub(super) fn new(commands: AuditCommands) -> Result<Self, aws_lc_rs::error::Unspecified> {
        Ok(Self {
            commands,
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
        })
    }

    /// The same with commands hidden in this way, and the same key.
    pub(super) fn with(&self, commands: AuditCommands) -> Self {
        Self {
            commands,
            key: self.key.clone(),
        }
    }

    /// The keyed hash of `text`, shortened: `hmac:` and 16 digits.
    pub(super) fn hash(&self, text: &[u8]) -> String {
        let tag = hmac::sign(&self.key, text);
        format!("hmac:{}", hex::text(&tag.as_ref()[..8]))
    }

    /// `uri` (path and query) as it may be shown. Allocates only if something is hidden.
    pub(super) fn uri<'a>(&self, uri: &'a [u8]) -> Cow<'a, [u8]> {
        let (path, query) = match uri.iter().position(|byte| *byte == b'?') {
            Some(mark) => (&uri[..mark], Some(&uri[mark + 1..])),
            None => (uri, None),
        };
        let shown_path = self.path(path);
        let query = query.filter(|query| {
            query
                .split(|byte| *byte == b'&')
                .any(|pair| self.hidden(pair).is_some())
        });
        if matches!(shown_path, Cow::Borrowed(_)) && query.is_none() {
            return Cow::Borrowed(uri);
        }
        let mut shown = Vec::with_capacity(uri.len() + 64);
        shown.extend_from_slice(&shown_path);
        match query {
            Some(query) => {
                let mut mark = b'?';
                for pair in query.split(|byte| *byte == b'&') {
                    shown.push(mark);
                    self.pair(pair, &mut shown);
                    mark = b'&';
                }
            }
            None => shown.extend_from_slice(&uri[path.len()..]),
        }
        Cow::Owned(shown)
    }

    /// The path. Old kubelets serve `/cri/exec/TOKEN`, where the token alone gives access; and a client may
    /// put parameters into a segment, or send its whole query encoded.
    fn path<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if let Some(token) = cri_token(path) {
            return Cow::Owned([&path[..token], REDACTED].concat());
        }
        let segments = || path.split(|byte| *byte == b'/');
        if !path.iter().any(|byte| matches!(byte, b'=' | b'%'))
            || !segments().any(|segment| self.hidden(segment).is_some())
        {
            return Cow::Borrowed(path);
        }
        let mut shown = Vec::with_capacity(path.len());
        for (index, segment) in segments().enumerate() {
            if index > 0 {
                shown.push(b'/');
            }
            self.pair(segment, &mut shown);
        }
        Cow::Owned(shown)
    }

    fn pair(&self, pair: &[u8], shown: &mut Vec<u8>) {
        let Some((value, kind)) = self.hidden(pair) else {
            return shown.extend_from_slice(pair);
        };
        shown.extend_from_slice(&pair[..value]);
        match (kind, self.commands) {
            (Sensitive::Credential, _) => shown.extend_from_slice(REDACTED),
            (Sensitive::Command, AuditCommands::Hash) => {
                let hash = self.hash(&decoded(&pair[value..]));
                shown.extend_from_slice(hash.as_bytes());
            }
            (Sensitive::Command, _) => {}
        }
    }

    /// Where the value that must be hidden begins in `pair`, a part of the query between two `&`.
    ///
    /// Go before 1.17, and so the kubelet before 1.23, also separates parameters at `;`. A secret after one
    /// is found too, and everything from it to the next `&` is hidden.
    fn hidden(&self, pair: &[u8]) -> Option<(usize, Sensitive)> {
        let mut start = 0;
        for part in pair.split(|byte| *byte == b';') {
            match secret_of(part) {
                Some((_, Sensitive::Command)) if self.commands == AuditCommands::Show => {}
                Some((value, kind)) => return Some((start + value, kind)),
                None => {}
            }
            start += part.len() + 1;
        }
        None
    }
}

/// Where the secret begins in `part`, which is `NAME=VALUE` or something else.
fn secret_of(part: &[u8]) -> Option<(usize, Sensitive)> {
    let equals = part.iter().position(|byte| *byte == b'=');
    let (name, value) = match equals {
        Some(equals) => (&part[..equals], equals + 1),
        None => (part, part.len()),
    };
    // The name may be name and value, encoded; and the value may be a URL with a query of its own.
    let of_all = |kind| (0, kind);
    let of_value = |kind| (value, kind);
    within(name)
        .map(of_all)
        .or_else(|| equals.and_then(|_| of_name(name)).map(of_value))
        .or_else(|| within(&part[value..]).map(of_value))
}

/// What a parameter of this name carries. A name carries a credential if it has one of certain parts, such as
/// those of `access_token`, `X-Amz-Signature`, `apiKey`, `client_secret`, `passphrase` and `code_verifier`.
fn of_name(name: &[u8]) -> Option<Sensitive> {
    let name = plain(name);
    // Nearly all names are short: no allocation.
    let mut short = [0; 48];
    let mut long = Vec::new();
    let letters = name.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let letters = letters.map(u8::to_ascii_lowercase);
    let name: &[u8] = if name.len() <= short.len() {
        let mut length = 0;
        for letter in letters {
            short[length] = letter;
            length += 1;
        }
        &short[..length]
    } else {
        long.extend(letters);
        &long
    };
    // `command[0]`, `args.1`
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let without_index = &name[..name.len() - digits];
    if COMMANDS.iter().any(|word| without_index.ends_with(word)) {
        Some(Sensitive::Command)
    } else if CREDENTIALS.contains(&name) || (0..name.len()).any(|at| is_part(&name[at..])) {
        Some(Sensitive::Credential)
    } else {
        None
    }
}

/// What a value carries that is no plain text: another query, a token of a known form.
fn within(value: &[u8]) -> Option<Sensitive> {
    if !value.iter().any(|byte| matches!(byte, b'=' | b'%' | b'+' | b' ')) && !value.starts_with(JSON_BASE64)
    {
        return None;
    }
    let value = plain(value);
    if value.starts_with(JSON_BASE64) && value.contains(&b'.') {
        return Some(Sensitive::Credential);
    }
    let scheme = |word: &[u8]| value.len() > word.len() && value[..word.len()].eq_ignore_ascii_case(word);
    if scheme(b"bearer ") || scheme(b"basic ") {
        return Some(Sensitive::Credential);
    }
    value
        .split(|byte| matches!(byte, b'?' | b'&' | b';' | b'#' | b'/'))
        .filter_map(|part| {
            let equals = part.iter().position(|byte| *byte == b'=')?;
            of_name(&part[..equals])
        })
        .max_by_key(|kind| *kind == Sensitive::Credential)
}

/// Whether `name` begins with a part that makes it a credential's. Names may be as long as a request's head,
/// so the first letter decides what is compared.
fn is_part(name: &[u8]) -> bool {
    let parts: &[&str] = match name.first() {
        Some(b'a') => &["auth", "assertion"],
        Some(b'b') => &["bearer"],
        Some(b'c') => &["cred", "code", "cookie"],
        Some(b'h') => &["hmac"],
        Some(b'j') => &["jwt"],
        Some(b'k') => &["key"],
        Some(b'o') => &["otp"],
        Some(b'p') => &["pass", "pwd", "private"],
        Some(b's') => &["secret", "session", "sig", "saml"],
        Some(b't') => &["token", "ticket"],
        _ => &[],
    };
    parts.iter().any(|part| name.starts_with(part.as_bytes()))
}

/// Where the one-time token begins in `/cri/exec/TOKEN`. Old kubelets serve streams there that are already
/// authorized: the token alone gives access.
fn cri_token(path: &[u8]) -> Option<usize> {
    let mut segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    let cri = segments.next().filter(|segment| *decoded(segment) == *b"cri")?;
    let token = "/".len() + cri.len() + "/".len() + segments.next()?.len() + "/".len();
    (token < path.len()).then_some(token)
}

/// `text` percent-decoded until nothing is left to decode, a few times at most.
fn plain(text: &[u8]) -> Cow<'_, [u8]> {
    let mut text = decoded(text);
    for _ in 0..MOST_DECODED {
        match decoded(&text) {
            Cow::Borrowed(_) => break,
            Cow::Owned(again) if again == *text => break,
            Cow::Owned(again) => text = Cow::Owned(again),
        }
    }
    text
}

/// `text` percent-decoded, with `+` as a space. Malformed escapes stay as they are.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escaped = match tail {
            [high, low, behind @ ..] if *byte == b'%' => hex::byte(*high, *low).map(|byte| (byte, behind)),
            _ => None,
        };
        match (byte, escaped) {
            (_, Some((byte, behind))) => {
                out.push(byte);
                rest = behind;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

const REDACTED: &[u8] = b"redacted";
/// How often a name may have been encoded.
const MOST_DECODED: usize = 3;
/// `{"` in Base64: how every JSON web token begins.
const JSON_BASE64: &[u8] = b"eyJ";

/// How the name of a parameter that carries a command ends, without an index.
const COMMANDS: [&[u8]; 7] = [
    b"command",
    b"commands",
    b"cmd",
    b"arg",
    b"args",
    b"argv",
    b"entrypoint",
];

/// Names of credentials that are parts of harmless names.
const CREDENTIALS: [&[u8]; 7] = [b"pw", b"pat", b"pin", b"psk", b"sid", b"mac", b"nonce"];
