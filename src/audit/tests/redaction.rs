//! No secret of a request's target is in an event, however its name is spelled.

use std::borrow::Cow;

use proptest::prelude::*;

use crate::audit::redaction::Redaction;
use crate::settings::AuditCommands;

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
        "/exec/a/b/c?container=c&input=1&output=1&error=1&tty=1",
        "/containerLogs/a/b/c?follow=true&tailLines=10&sinceSeconds=5&timestamps=true&limitBytes=9",
        "/logs/?query=kubelet&pattern=x%20y&tailLines=5&boot=-1&sinceTime=2026-01-02T03:04:05Z",
        "/pods?labelSelector=app%3Dweb,tier=x&pretty=true",
        "/portForward/a/b?ports=80,443",
        "/metrics/resource;a=b",
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
            ("/cri/exec/q1w2e3?x=1", "/cri/exec/redacted?x=1"),
            ("/%63ri/exec/q1w2e3/more", "/%63ri/exec/redacted"),
            // Encoded twice, or not where a client meant it to be.
            ("/pods?%2574oken=abc", "/pods?%2574oken=redacted"),
            ("/pods?x=1&token%3Dabc", "/pods?x=1&redacted"),
            ("/pods%3Ftoken=abc", "/pods%3Ftoken=redacted"),
            ("/pods?token%3Dabc=d", "/pods?redacted"),
            ("/pods%3Fx=1%26token%3Dabc/y", "/pods%3Fx=redacted/y"),
            ("/pods;jwt=abc/x?y=1", "/pods;jwt=redacted/x?y=1"),
            // A query within a value.
            ("/pods?x=?token=a", "/pods?x=redacted"),
            (
                "/x?next=https%3A%2F%2Fh%2F%3Fcode%3Dabc&a=b",
                "/x?next=redacted&a=b",
            ),
            // Tokens of a known form.
            ("/x?y=Bearer%20abc", "/x?y=redacted"),
            ("/x?y=basic+abc", "/x?y=redacted"),
            ("/x?y=eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "/x?y=redacted"),
        ] {
            assert_eq!(shown(commands, uri), expected);
        }
    }
}

/// The names on the page about operation.
#[test]
fn every_name_on_the_page_is_hidden_in_every_spelling() {
    let page = include_str!("../../../docs/operations.md");
    let listed = |start: &str| -> Vec<&str> {
        let line = page.lines().find_map(|line| line.strip_prefix(start));
        let line = line.unwrap_or_else(|| panic!("docs/operations.md has no line {start:?}"));
        line.split('`').skip(1).step_by(2).collect()
    };
    let (parts, whole) = (listed("- part of a name: "), listed("- a whole name: "));
    let commands = listed("- the end of a name, an index left out: ");
    assert!(
        parts.len() == 19 && whole.len() == 7 && commands.len() == 7,
        "{parts:?}"
    );
    for name in parts.iter().chain(&whole).chain(&commands) {
        let upper = name.to_ascii_uppercase();
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let spaced: Vec<String> = name.chars().map(String::from).collect();
        for name in [name, &*upper, &*encoded, &*spaced.join("_"), &*spaced.join(".")] {
            for name in [name.to_owned(), format!("{name}%5B%5D"), format!("{name}[]")] {
                let uri = format!("/x?a=b&{name}=HIDDEN&c=d");
                assert!(!shown(AuditCommands::Hash, &uri).contains("HIDDEN"), "{uri}");
            }
        }
    }
    for part in parts {
        for name in [format!("x-{part}"), format!("{part}Id"), format!("amz{part}2")] {
            let uri = format!("/x?{name}=HIDDEN");
            assert!(!shown(AuditCommands::Show, &uri).contains("HIDDEN"), "{uri}");
        }
    }
    for command in commands {
        for name in [
            format!("{command}[0]"),
            format!("{command}.12"),
            format!("exec_{command}"),
        ] {
            let uri = format!("/x?{name}=HIDDEN");
            assert!(!shown(AuditCommands::Omit, &uri).contains("HIDDEN"), "{uri}");
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

/// A name, with some of its characters percent-encoded (once or twice) or in the other case, and others put
/// between them.
fn spelled(name: &'static str) -> impl Strategy<Value = String> {
    let ways = prop::collection::vec((0..5, "[-_.\\[\\]]{0,2}"), name.len());
    ways.prop_map(move |ways| {
        let spell = |(char, (way, between)): (char, (i32, String))| match way {
            0 => format!("{char}{between}"),
            1 => format!("%{:02x}{between}", u32::from(char)),
            2 => format!("%{:02X}{between}", u32::from(char)),
            3 => format!("%25{:02x}{between}", u32::from(char)),
            _ => format!("{}{between}", char.to_ascii_uppercase()),
        };
        name.chars().zip(ways).map(spell).collect()
    })
}

const NAMES: [&str; 24] = [
    "command",
    "cmd",
    "args",
    "token",
    "access_token",
    "sig",
    "key",
    "pwd",
    "pass",
    "password",
    "passwd",
    "jwt",
    "auth",
    "code",
    "session",
    "private_key",
    "secret",
    "api_key",
    "signature",
    "credential",
    "bearer",
    "refresh_token",
    "client_secret",
    "x-amz-signature",
];

proptest! {
    /// Seen red: with names decoded once.
    #[test]
    fn no_secret_survives(
        before in "[a-z=&;%+?]{0,20}",
        name in prop::sample::select(&NAMES[..]).prop_flat_map(spelled),
        mark in "[&;]",
        equals in "(=|%3d|%3D)",
        secret in "SECRET[A-Z0-9;=%?+]{0,20}",
        after in "[a-z=;%+?]{0,20}",
    ) {
        let uri = format!("/exec/a/b/c?{before}{mark}{name}{equals}{secret}&{after}");
        prop_assert!(!shown(AuditCommands::Hash, &uri).contains("SECRET"), "{}", uri);
        prop_assert!(!shown(AuditCommands::Omit, &uri).contains("SECRET"), "{}", uri);
    }

    #[test]
    fn any_bytes_are_taken(uri in prop::collection::vec(any::<u8>(), 0..200)) {
        Redaction::new(AuditCommands::Hash).unwrap().uri(&uri);
    }
}
