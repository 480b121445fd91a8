//! Hides the secrets of a request's target: commands as configured, credentials always.

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

/// A query parameter whose value may have to be hidden.
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

    /// `uri` (path and query) as it may be shown. Allocates only if something is hidden.
    pub(super) fn uri<'a>(&self, uri: &'a [u8]) -> Cow<'a, [u8]> {
        let (path, query) = match uri.iter().position(|byte| *byte == b'?') {
            Some(mark) => (&uri[..mark], Some(&uri[mark + 1..])),
            None => (uri, None),
        };
        let cri = cri_token(path);
        let query = query.filter(|query| {
            query
                .split(|byte| *byte == b'&')
                .any(|pair| self.hidden(pair).is_some())
        });
        if cri.is_none() && query.is_none() {
            return Cow::Borrowed(uri);
        }
        let mut shown = Vec::with_capacity(uri.len() + 64);
        match cri {
            Some(token) => {
                shown.extend_from_slice(&path[..token]);
                shown.extend_from_slice(REDACTED);
            }
            None => shown.extend_from_slice(path),
        }
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

    fn pair(&self, pair: &[u8], shown: &mut Vec<u8>) {
        let Some((value, kind)) = self.hidden(pair) else {
            return shown.extend_from_slice(pair);
        };
        shown.extend_from_slice(&pair[..value]);
        match (kind, self.commands) {
            (Sensitive::Credential, _) => shown.extend_from_slice(REDACTED),
            (Sensitive::Command, AuditCommands::Hash) => {
                let tag = hmac::sign(&self.key, &decoded(&pair[value..]));
                shown.extend_from_slice(b"hmac:");
                shown.extend_from_slice(hex::text(&tag.as_ref()[..8]).as_bytes());
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
            if let Some(equals) = part.iter().position(|byte| *byte == b'=') {
                match sensitive(&part[..equals]) {
                    Some(Sensitive::Command) if self.commands == AuditCommands::Show => {}
                    Some(kind) => return Some((start + equals + 1, kind)),
                    None => {}
                }
            }
            start += part.len() + 1;
        }
        None
    }
}

fn sensitive(name: &[u8]) -> Option<Sensitive> {
    let name = decoded(name);
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    let has = |word: &[u8]| {
        name.windows(word.len())
            .any(|window| window.eq_ignore_ascii_case(word))
    };
    if is(b"command") || is(b"cmd") {
        Some(Sensitive::Command)
    } else if CREDENTIALS.iter().any(|word| has(word)) {
        Some(Sensitive::Credential)
    } else {
        None
    }
}

/// Where the one-time token begins in `/cri/exec/TOKEN`. Old kubelets serve streams there that are already
/// authorized: the token alone gives access.
fn cri_token(path: &[u8]) -> Option<usize> {
    let mut segments = path.strip_prefix(b"/")?.split(|byte| *byte == b'/');
    let cri = segments.next().filter(|segment| *decoded(segment) == *b"cri")?;
    let token = "/".len() + cri.len() + "/".len() + segments.next()?.len() + "/".len();
    (token < path.len()).then_some(token)
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

/// Words in the name of a parameter that carries a credential (`access_token`, `id_token`, `client_secret`
/// …).
const CREDENTIALS: [&[u8]; 8] = [
    b"token",
    b"secret",
    b"passw",
    b"authorization",
    b"api_key",
    b"apikey",
    b"credential",
    b"signature",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn shown(commands: AuditCommands, uri: &str) -> String {
        String::from_utf8(Redaction::new(commands).unwrap().uri(uri.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn what_is_not_secret_is_not_touched() {
        let redaction = Redaction::new(AuditCommands::Hash).unwrap();
        for uri in [
            "/pods",
            "/",
            "",
            "/exec/a/b/c?",
            "/containerLogs/a/b/c?follow=true&tailLines=10",
            "/cri/exec/",
            "/cri",
            "/run/a/b/c?command",
            "/x?commander=1&&=&;",
        ] {
            assert!(
                matches!(redaction.uri(uri.as_bytes()), Cow::Borrowed(same) if same == uri.as_bytes()),
                "{uri}"
            );
        }
    }

    #[test]
    fn credentials_are_never_shown() {
        for commands in [AuditCommands::Hash, AuditCommands::Omit, AuditCommands::Show] {
            for (uri, expected) in [
                ("/pods?access_token=abc", "/pods?access_token=redacted"),
                ("/pods?a=b&token=abc&c=d", "/pods?a=b&token=redacted&c=d"),
                ("/pods?t%6fken=abc", "/pods?t%6fken=redacted"),
                ("/pods?Token=a=b", "/pods?Token=redacted"),
                ("/pods?x=1;token=a;y=2&z=3", "/pods?x=1;token=redacted&z=3"),
                ("/pods?x=?token=a", "/pods?x=?token=a"),
                ("/cri/exec/q1w2e3?x=1", "/cri/exec/redacted?x=1"),
                ("/%63ri/exec/q1w2e3/more", "/%63ri/exec/redacted"),
            ] {
                assert_eq!(shown(commands, uri), expected);
            }
        }
    }

    #[test]
    fn commands_are_hashed_left_out_or_shown() {
        let uri = "/exec/ns/pod/c?command=cat&command=%2Fetc%2Fpasswd&stdout=true";
        assert_eq!(shown(AuditCommands::Show, uri), uri);
        assert_eq!(
            shown(AuditCommands::Omit, uri),
            "/exec/ns/pod/c?command=&command=&stdout=true"
        );
        let redaction = Redaction::new(AuditCommands::Hash).unwrap();
        let hash = |uri: &str| {
            let shown = String::from_utf8(redaction.uri(uri.as_bytes()).into_owned()).unwrap();
            let hash = shown.strip_prefix("/run/a/b/c?cmd=hmac:").unwrap().to_owned();
            assert!(
                hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "{shown}"
            );
            hash
        };
        assert_eq!(hash("/run/a/b/c?cmd=cat+x"), hash("/run/a/b/c?cmd=%63at%20x"));
        assert_ne!(hash("/run/a/b/c?cmd=cat+x"), hash("/run/a/b/c?cmd=cat+y"));
        assert_ne!(
            shown(AuditCommands::Hash, "/run?cmd=a"),
            shown(AuditCommands::Hash, "/run?cmd=a"),
            "each redaction has a key of its own"
        );
    }

    proptest! {
        #[test]
        fn no_secret_survives(
            before in "[a-z=&;%+?]{0,20}",
            name in "(command|cmd|c%6Dd|CMD|token|access_token|id%5Ftoken)",
            mark in "[&;]",
            secret in "SECRET[A-Z0-9;=%?+]{0,20}",
            after in "[a-z=;%+?]{0,20}",
        ) {
            let uri = format!("/exec/a/b/c?{before}{mark}{name}={secret}&{after}");
            prop_assert!(!shown(AuditCommands::Hash, &uri).contains("SECRET"));
            prop_assert!(!shown(AuditCommands::Omit, &uri).contains("SECRET"));
        }

        #[test]
        fn any_bytes_are_taken(uri in prop::collection::vec(any::<u8>(), 0..200)) {
            Redaction::new(AuditCommands::Hash).unwrap().uri(&uri);
        }
    }
}
