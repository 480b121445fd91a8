//! What a deny list is read as, and what is refused as no list.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Instant;

use fakes::pki::{CertificateSpec, Pki};
use proptest::prelude::*;

use super::super::identity::CredentialKind;
use super::*;
use crate::looks::SETTLE;

static PKI: LazyLock<Pki> = LazyLock::new(|| Pki::generate().unwrap());

fn read(text: &str) -> Result<DenyFile, String> {
    DenyFile::read(Path::new("deny"), text.as_bytes()).map_err(|error| error.to_string())
}

fn user(name: &str, groups: &[&str]) -> Identity {
    let user = UserInfo {
        username: name.to_owned(),
        groups: groups.iter().map(ToString::to_string).collect(),
        ..UserInfo::default()
    };
    Identity::new(user, CredentialKind::Token, None)
}

fn marks(der: &[u8]) -> Marks {
    crate::tls::read_marks(der).unwrap().0
}

/// An entry of each kind.
fn list() -> String {
    let (alice, bob, carol) = (&PKI.alice, &PKI.bob, &PKI.carol);
    let spki = |der: &[u8]| crate::hex::text(&marks(der).key);
    format!(
        "# lost on 1 May\n\nuser jane\n  user  Jane Döe \r\nuser \"tab\\tand # sign\"\ngroup contractors\n{}\
         spki-sha256 {}\nissuer CN = Kubernetes serial 0x0A:BC\nincludeApiServer: false\n{}# end\n",
        bob.certificate_pem(),
        spki(&alice.chain[0]),
        carol.certificate_pem().replace('\n', "\r\n"),
    )
}

#[test]
fn each_kind_of_entry_is_read() {
    let file = read(&list()).unwrap();
    assert_eq!(file.entries().count(), 10);
    for name in ["jane", "Jane Döe", "tab\tand # sign"] {
        let denial = file.find_identity(&user(name, &["staff"])).unwrap();
        assert_eq!(denial.reason(), "denied_user");
    }
    let denial = file
        .find_identity(&user("mallory", &["staff", "contractors"]))
        .unwrap();
    assert_eq!(
        (denial.reason(), denial.by.as_str()),
        ("denied_group", "deny:6 (group \"contractors\")")
    );
    for other in ["Jane", "jane doe", "contractors", "", "Jane  Döe"] {
        assert!(file.find_identity(&user(other, &["jane"])).is_none(), "{other}");
    }
    for pair in [&PKI.alice, &PKI.bob, &PKI.carol] {
        let denial = file.find_marks(&marks(&pair.chain[0])).unwrap();
        assert_eq!(denial.reason(), "denied_certificate");
        assert!(denial.by.starts_with("deny:"), "{}", denial.by);
    }
    assert!(file.find_marks(&marks(&PKI.apiserver_client.chain[0])).is_none());
    let name = crate::tls::IssuerName::parse("CN=kubernetes").unwrap();
    let issued = Entry::Issued(crate::tls::issued(&name, &[0x0a, 0xbc]));
    assert!(file.has(&issued));
    assert!(!file.parsed.includes_api_server);
}

/// Seen red: with `# end` taken without its line break, and with the line not asked for.
#[test]
fn no_list_that_was_cut_short_is_taken() {
    let text = list();
    let bytes = text.as_bytes();
    for length in 0..bytes.len() {
        let cut = DenyFile::read(Path::new("deny"), &bytes[..length]);
        assert!(cut.is_err(), "the first {length} bytes are taken");
    }
    read(&text).unwrap();
    // A comment that begins like the end is none.
    for text in ["# end", "# end of the list\n", "#end\n", "user jane\n# End\n", ""] {
        let error = read(text).unwrap_err();
        assert!(error.contains("`# end`"), "{text:?}: {error}");
    }
    assert!(
        read("# end\nuser jane\n")
            .unwrap_err()
            .contains("deny:2: there is text behind")
    );
    read("# end\n\n \n").unwrap();
}

#[test]
fn what_may_be_meant_otherwise_is_an_error_with_its_line_and_the_way_out() {
    let sha256 = "ab".repeat(32);
    let sha1 = "AB:".repeat(19) + "AB";
    for (line, says) in [
        ("jane", "this is no entry; write user NAME"),
        ("User jane", "this is no entry"),
        ("user: jane", "this is no entry"),
        ("user", "the name is missing"),
        ("user \"\"", "JSON string"),
        ("user \"jane\" # lost", "JSON string"),
        ("user jane # lost", "a comment stands on a line of its own"),
        ("user 'jane'", "a sign beside the name"),
        ("user = jane", "a sign beside the name"),
        ("user jane,", "a sign beside the name"),
        ("user jane\u{a0}doe", "cannot be seen"),
        ("# old\ruser eve", "look like a line break (U+000D)"),
        ("# old\u{b}user eve", "(U+000B)"),
        ("# old\u{c}user eve", "(U+000C)"),
        ("# old\u{85}user eve", "(U+0085)"),
        ("# old\u{2028}user eve", "(U+2028)"),
        ("# old\u{2029}user eve", "(U+2029)"),
        ("user \"jane\u{2028}doe\"", "in a quoted name, write \\u2028"),
        ("user \u{200b}jane", "cannot be seen"),
        ("group a\tb", "cannot be seen"),
        (&sha256, "fingerprint is not taken"),
        (&sha1, "give the certificate's PEM block"),
        (
            &format!("SHA256 Fingerprint={sha256}"),
            "fingerprint is not taken",
        ),
        (&format!("X509SHA256={sha256}"), "fingerprint is not taken"),
        (&format!("sha256:{sha256}"), "fingerprint is not taken"),
        ("spki-sha256", "64 hexadecimal digits or in base64"),
        (&format!("spki-sha256 {sha1}"), "64 hexadecimal digits"),
        (&format!("spki-sha256 {sha256}00"), "64 hexadecimal digits"),
        ("issuer CN=kubernetes", "write issuer NAME serial HEX"),
        ("issuer CN=kubernetes serial", "write issuer NAME serial HEX"),
        ("issuer CN=kubernetes serial 12g4", "hexadecimal digits"),
        ("issuer CN=kubernetes serial 1:234", "hexadecimal digits"),
        (&format!("issuer CN=kubernetes serial {sha256}"), "at most 40"),
        ("issuer kubernetes serial 12", "no list of KEY=VALUE"),
        ("issuer Name=kubernetes serial 12", "is not known; write CN"),
        ("includeApiServer: yes", "write includeApiServer: true"),
        ("-----BEGIN PUBLIC KEY-----", "by spki-sha256"),
        (
            concat!("-----BEGIN ", "PRIVATE KEY-----"),
            "only blocks with the line",
        ),
        ("----- BEGIN CERTIFICATE -----", "only blocks with the line"),
        ("-----END CERTIFICATE-----", "only blocks with the line"),
        (
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
            "cannot be read",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nMA!=\n-----END CERTIFICATE-----",
            "not base64",
        ),
        ("-----BEGIN CERTIFICATE-----\nMAA=", "has no end"),
        (
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE----------BEGIN CERTIFICATE-----",
            "has not ended",
        ),
    ] {
        let error = read(&format!("# a list\n{line}\n# end\n")).expect_err(line);
        let place = error
            .strip_prefix("authentication.denyFiles: deny:")
            .expect(&error);
        assert!(place.starts_with(['2', '3']), "{line}: {error}");
        assert!(error.contains(says), "{line}: {error}");
    }
    let error = DenyFile::read(Path::new("deny"), b"# a list\nuser j\xffne\n# end\n").unwrap_err();
    assert!(error.to_string().contains("deny:2: the file is not UTF-8"));
}

/// A path may name another file by mistake, and logs are read by many.
#[test]
fn no_message_shows_what_stands_in_the_file() {
    for line in [
        "s3cr3t",
        "s3cr3t s3cr3t",
        "user 's3cr3t'",
        "issuer s3cr3t=1 serial 2",
        "-----BEGIN s3cr3t-----",
    ] {
        let error = read(&format!("{line}\n# end\n")).unwrap_err();
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn a_list_has_a_bound() {
    let lines = |count: usize| {
        let users: String = (0..count).map(|number| format!("user {number}\n")).collect();
        users + "# end\n"
    };
    assert_eq!(read(&lines(20_000)).unwrap().entries().count(), 20_000);
    let error = read(&lines(20_001)).unwrap_err();
    assert!(
        error.contains("deny:20001: the list has more than 20000 entries"),
        "{error}"
    );
}

#[test]
fn a_pem_block_denies_by_serial_number_and_by_key_each_alone() {
    let bob = read(&format!("{}# end\n", PKI.bob.certificate_pem())).unwrap();
    let marks_of_bob = marks(&PKI.bob.chain[0]);
    let other = marks(&PKI.alice.chain[0]);
    let reissued = Marks {
        issued: other.issued,
        ..marks_of_bob
    };
    let rekeyed = Marks {
        key: other.key,
        ..marks_of_bob
    };
    assert!(bob.find_marks(&reissued).is_some() && bob.find_marks(&rekeyed).is_some());
    assert!(bob.find_marks(&other).is_none());
    // The same by text, with the issuer as openssl prints it.
    let (_, parsed) = x509_parser::parse_x509_certificate(&PKI.bob.chain[0]).unwrap();
    let line = format!(
        "issuer {} serial {}",
        parsed.issuer(),
        parsed.raw_serial_as_string()
    );
    let written = read(&format!("{line}\n# end\n")).unwrap();
    assert!(written.find_marks(&rekeyed).is_some(), "{line}");
    assert!(written.find_marks(&reissued).is_none(), "{line}");
}

#[test]
fn a_list_that_denies_the_api_server_says_so() {
    let seen = PKI
        .client(
            "seen",
            &CertificateSpec::client("kube-apiserver").group("masters"),
        )
        .unwrap();
    let identity = Identity::of_certificate(
        UserInfo {
            username: "kube-apiserver".into(),
            groups: vec!["masters".into(), "system:authenticated".into()],
            ..UserInfo::default()
        },
        std::time::SystemTime::now(),
        vec![marks(&seen.chain[0]), marks(PKI.ca.certificate())],
    );
    let users = ["front-proxy".to_owned()];
    let api_server = KnownApiServer {
        users: &users,
        seen: &[Arc::new(identity)],
    };
    let unknown = KnownApiServer {
        users: &[],
        seen: &[],
    };
    for (entry, is_known_unseen) in [
        ("user kube-apiserver\n", false),
        ("group masters\n", false),
        ("group system:authenticated\n", true),
        (&seen.certificate_pem()[..], false),
        (&PKI.ca.certificate_pem()[..], false),
        ("user front-proxy\n", false),
    ] {
        let file = read(&format!("user jane\n{entry}# end\n")).unwrap();
        let error = file.check(api_server).unwrap_err().to_string();
        assert!(
            error.contains("deny:2 (") && error.contains("includeApiServer: true"),
            "{error}"
        );
        assert_eq!(file.check(unknown).is_err(), is_known_unseen, "{entry}");
        let file = read(&format!("user jane\n{entry}includeApiServer: true\n# end\n")).unwrap();
        file.check(api_server).unwrap();
    }
    read("user jane\n# end\n").unwrap().check(api_server).unwrap();
}

/// Files in a folder, with the lists that are in force.
struct Files {
    folder: tempfile::TempDir,
    lists: ArcSwap<DenyList>,
}

impl Files {
    fn new(texts: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self {
            folder,
            lists: ArcSwap::default(),
        };
        for (name, text) in texts {
            files.write(name, text);
        }
        let paths: Vec<PathBuf> = texts.iter().map(|(name, _)| files.path(name)).collect();
        let unknown = KnownApiServer {
            users: &[],
            seen: &[],
        };
        files
            .lists
            .store(Arc::new(DenyList::load(&paths, unknown).unwrap()));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, entries: &str) {
        std::fs::write(self.path(name), format!("{entries}# end\n")).unwrap();
    }

    fn reload(&self, names: &[&str], trigger: Trigger) -> (bool, Option<String>) {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        let unknown = KnownApiServer {
            users: &[],
            seen: &[],
        };
        let mut looks = Looks::at_once();
        let start = Instant::now();
        if trigger == Trigger::Clock {
            looks.begin(trigger, start);
            let old = self.lists.load_full();
            let reloaded = DenyList::reload(&self.lists, &paths, unknown, &mut looks);
            assert!(
                !reloaded.changed && Arc::ptr_eq(&old, &self.lists.load()),
                "one look"
            );
        }
        looks.begin(trigger, start + SETTLE);
        let mut reloaded = DenyList::reload(&self.lists, &paths, unknown, &mut looks);
        (
            reloaded.changed,
            reloaded.problems.pop().map(|problem| problem.to_string()),
        )
    }

    fn denies(&self, name: &str) -> bool {
        self.lists.load().denies(&user(name, &[])).is_some()
    }
}

/// Seen red: with the entries of the file alone in force, and with a bad file that keeps the others.
#[test]
fn an_entry_that_is_gone_stays_until_the_operator_says_so_and_a_new_one_counts_at_once() {
    let files = Files::new(&[("a", "user jane\nuser joe\n"), ("b", "user bob\n")]);
    let both = ["a", "b"];
    assert_eq!(files.reload(&both, Trigger::Clock), (false, None));
    files.write("a", "user joe\nuser zoe\n");
    let old = files.lists.load_full();
    assert_eq!(files.reload(&both, Trigger::Clock), (true, None));
    assert!(files.denies("jane") && files.denies("joe") && files.denies("zoe") && files.denies("bob"));
    let held = files.lists.load().held();
    assert!(held.len() == 1 && held[0].contains("user \"jane\""), "{held:?}");
    assert_eq!(files.lists.load().removed_since(&old), [""; 0]);
    assert_eq!(files.reload(&both, Trigger::Clock), (false, None));

    // The file did not change again.
    assert_eq!(files.reload(&both, Trigger::Signal), (true, None));
    assert!(!files.denies("jane") && files.denies("joe") && files.denies("zoe"));
    assert_eq!(files.lists.load().removed_since(&old), held);
    assert_eq!(files.reload(&both, Trigger::Signal), (false, None));

    // A bad file leaves its last good entries, and the other one is taken up.
    std::fs::write(files.path("a"), "user eve\n").unwrap();
    files.write("b", "user bill\n");
    for trigger in [Trigger::Clock, Trigger::Signal] {
        let (_, error) = files.reload(&both, trigger);
        assert!(error.unwrap().contains("/a:1: the file does not end"));
        assert!(files.denies("joe") && files.denies("bill") && !files.denies("eve"));
    }
    assert!(!files.denies("bob"));
    std::fs::remove_file(files.path("a")).unwrap();
    assert!(
        files
            .reload(&both, Trigger::Signal)
            .1
            .unwrap()
            .contains("cannot read")
    );
    assert!(files.denies("joe"));

    // A file that is no longer named.
    files.reload(&["b"], Trigger::Clock);
    assert!(files.denies("joe"));
    assert_eq!(files.reload(&["b"], Trigger::Signal), (true, None));
    assert!(!files.denies("joe") && files.denies("bill"));
}

/// Seen red: with every problem fatal.
#[test]
fn a_new_file_is_taken_up_while_another_one_is_bad() {
    let files = Files::new(&[("a", "user jane\n")]);
    files.write("b", "user bob\n");
    std::fs::write(files.path("a"), "user eve\n").unwrap();
    let unknown = KnownApiServer {
        users: &[],
        seen: &[],
    };
    let paths = [files.path("a"), files.path("b")];
    for trigger in [Trigger::Clock, Trigger::Signal] {
        let with_files = || files.lists.load().with_files(&paths, unknown, trigger);
        let lists = with_files().unwrap().unwrap();
        for (name, denied) in [("jane", true), ("bob", true), ("eve", false)] {
            assert_eq!(lists.denies(&user(name, &[])).is_some(), denied, "{name}");
        }
        std::fs::write(files.path("b"), "user bob\n").unwrap();
        let error = with_files().unwrap_err().to_string();
        assert!(error.contains("/b:1: the file does not end"), "{error}");
        files.write("b", "user bob\n");
    }
}

/// Seen red: with `clear` noting no generation, and with any generation taken for the present one.
#[test]
fn an_identity_that_is_not_denied_is_looked_up_once_for_each_change() {
    let files = Files::new(&[("a", "user jane\n")]);
    let joe = user("joe", &["staff"]);
    assert!(files.lists.load().denies(&joe).is_none());
    assert!(joe.is_cleared_by(files.lists.load().generation()));
    files.write("a", "user jane\ngroup staff\n");
    files.reload(&["a"], Trigger::Clock);
    assert!(!joe.is_cleared_by(files.lists.load().generation()));
    assert_eq!(files.lists.load().denies(&joe).unwrap().reason(), "denied_group");
}

proptest! {
    #[test]
    fn any_name_can_be_written_and_denies_that_user_alone(name in "\\PC{1,20}", other in "\\PC{1,20}") {
        let quoted = serde_json::to_string(&name).unwrap();
        let quoted = quoted.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
        let text = format!("user {quoted}\n# end\n");
        let file = read(&text).unwrap();
        prop_assert!(file.find_identity(&user(&name, &[])).is_some());
        prop_assert_eq!(file.find_identity(&user(&other, &[&name])).is_some(), name == other);
    }

    /// What is taken without quotation marks is the name as it stands there.
    #[test]
    fn a_bare_name_is_itself_or_refused(name in ".{1,20}") {
        if let Ok(file) = read(&format!("user {name}\n# end\n")) {
            let trimmed = name.trim_matches([' ', '\t', '\r', '\n']);
            prop_assert!(
                file.parsed.entries.contains_key(&Entry::User(trimmed.to_owned())) || name.starts_with('"')
            );
        }
    }

    #[test]
    fn any_text_is_read_or_refused_and_no_part_of_a_list_is_taken(text in "(?s).{0,200}") {
        let whole = format!("{text}\n# end\n");
        if read(&text).is_ok() {
            prop_assert!(text.ends_with('\n'));
        } else if read(&whole).is_ok() {
            for (at, _) in whole.char_indices() {
                prop_assert!(read(&whole[..at]).is_err());
            }
        }
    }
}
