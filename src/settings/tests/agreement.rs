//! The example, the schema and the page agree.

use super::*;
use crate::named::Named;
use crate::tls::ClientCertificates;

#[test]
fn the_example_has_every_key_and_no_other() {
    let mut written = Vec::new();
    leaves(&example(), "", &mut written);
    let names = |leaves: Vec<(String, Value)>| leaves.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(names(written), names(known_leaves()));
}

#[test]
fn every_value_of_the_example_is_the_default_except_the_nodes_own() {
    let nodes_own = [
        "apiVersion",
        "kind",
        "listen",
        "kubeconfig",
        "upstream.url",
        "upstream.certificateFile",
        "tlsCertFile",
        "tlsPrivateKeyFile",
        "authentication.x509.clientCAFile",
    ];
    let example = example();
    let all = good(EXAMPLE);
    assert_eq!(all.warnings, Vec::<String>::new());
    for (key, default) in known_leaves() {
        let settings = parse(&without(&example, &key).to_string());
        if nodes_own.contains(&key.as_str()) {
            assert!(
                !settings.is_ok_and(|settings| settings == all),
                "{key} has a default after all"
            );
        } else {
            assert_eq!(settings.unwrap(), all, "{key}");
            assert_eq!(schema::at(&example, &key), Some(&default), "{key}");
        }
    }
}

#[test]
fn the_page_names_every_key_its_default_and_every_flag() {
    for (key, default) in known_leaves() {
        let row = DOCS
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for {key}"));
        let default = match default {
            Value::String(text) if text.is_empty() => continue,
            Value::String(text) => text,
            other => other.to_string().replace(',', ", ").replace('"', ""),
        };
        if default != "[]" {
            assert!(
                row.contains(&format!("`{default}`")),
                "the default {default} is not in: {row}"
            );
        }
    }
    for flag in <Line as clap::CommandFactory>::command().get_arguments() {
        let flag = format!("`--{}", flag.get_long().unwrap_or("help"));
        assert!(
            flag == "`--help" || DOCS.contains(&flag),
            "docs/configuration.md does not name {flag}"
        );
    }
}

/// The words of a key that takes one of a few.
fn words<T: Named>(key: &str) -> (&str, Vec<&'static str>) {
    (key, T::NAMES.iter().map(|(name, _)| *name).collect())
}

#[test]
fn the_page_names_every_word_that_a_key_takes() {
    for (key, words) in [
        words::<AuditCommands>("audit.commands"),
        words::<AuditMode>("audit.mode"),
        words::<AuditStrangers>("audit.strangers"),
        words::<AuthorizationMode>("authorization.mode"),
        words::<Backend>("firewall.backend"),
        words::<ClientCertificates>("authentication.x509.clientCertificates"),
        words::<TlsVersion>("tlsMinVersion"),
    ] {
        let row = DOCS
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")))
            .unwrap();
        for word in words {
            assert!(row.contains(&format!("`{word}`")), "{word} is not in: {row}");
        }
    }
}

/// An operator must not believe in what is not there.
#[test]
fn a_key_without_effect_is_in_neither_the_example_nor_the_page_nor_what_is_printed() {
    let mut keys = Vec::new();
    leaves(&without_effect::keys(), "", &mut keys);
    assert_eq!(keys.len(), 1);
    let printed = good(EXAMPLE).to_yaml().unwrap();
    for (key, _) in keys {
        let name = key.rsplit('.').next().unwrap();
        for text in [EXAMPLE, &printed] {
            assert!(!text.contains(&format!("{name}:")), "{key}");
        }
        assert!(!DOCS.contains(&format!("`{key}` |")), "{key}");
    }
}

#[test]
fn the_errors_on_the_page_are_real() {
    let page = DOCS.split("## Errors").nth(1).unwrap();
    let mut examples = 0;
    for example in page.split("```yaml\n").skip(1) {
        let (yaml, rest) = example.split_once("```").unwrap();
        let expected = rest
            .split("```text\n")
            .nth(1)
            .unwrap()
            .split_once("\n```")
            .unwrap()
            .0;
        let said = Settings::parse(yaml, Path::new("gate.yaml"), &KubeletFlags::default())
            .unwrap_err()
            .to_string();
        assert!(
            said.lines().any(|line| line == expected),
            "the page says\n{expected}\nthe gate says\n{said}"
        );
        examples += 1;
    }
    assert!(examples >= 5);
}
