//! The tables of the operations page name the test that holds each row. A name that is no test's any more is
//! a promise that nothing keeps.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/operations.md");

/// The rows of the section with this heading, without the heads of its table.
fn rows(heading: &str) -> Vec<&'static str> {
    let section = PAGE.split_once(heading).unwrap().1;
    let section = section
        .split_once("\n## ")
        .map_or(section, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.skip(1).collect()
}

/// The `module::test` that a text names between backticks.
fn named(text: &str) -> Vec<(&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|name| name.split_once("::"))
        .collect()
}

fn sources(module: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut sources = vec![folder.join(format!("{module}.rs"))];
    let files = fs::read_dir(folder.join(module)).into_iter().flatten().flatten();
    sources.extend(files.map(|file| file.path()));
    sources
}

/// Seen red: with a letter of a name changed, and with a row without a test.
#[test]
fn every_row_on_revocation_and_on_outages_names_a_test_that_is_there() {
    for heading in ["\n## What is revoked how\n", "\n## What works in an outage\n"] {
        let rows = rows(heading);
        assert!(rows.len() >= 8, "{heading} has {} rows", rows.len());
        for row in rows {
            let names = named(row);
            assert!(!names.is_empty() || row.ends_with("| the same |"), "{row}");
            for (module, test) in names {
                let is_there = sources(module).iter().any(|source| {
                    let text = fs::read_to_string(source).unwrap_or_default();
                    text.contains(&format!("fn {test}("))
                });
                assert!(is_there, "tests/it has no {module}::{test}: {row}");
            }
        }
    }
}

const CONFIGURATION: &str = include_str!("../../config/kubelet-gate.yaml");

/// The cells of the rows of the table of attacks: id, attack, what stops it, settings, tests.
fn attacks() -> Vec<[String; 5]> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/threat-model.md");
    let page = fs::read_to_string(page).unwrap();
    let table = page.split_once("\n| id | attack |").unwrap().1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    rows.map(|row| {
        let cells = row.trim_matches('|').split(" | ");
        let cells: Vec<String> = cells.map(|cell| cell.trim().to_owned()).collect();
        cells
            .try_into()
            .unwrap_or_else(|_| panic!("not five cells: {row}"))
    })
    .collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The texts of a module's files: `it/NAME` of the socket tests, else of `src/`.
fn texts(module: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = match module.strip_prefix("it/") {
        Some(module) => root.join("tests/it").join(module),
        None => root.join("src").join(module),
    };
    let mut texts = fs::read_to_string(place.with_extension("rs")).unwrap_or_default();
    let mut folders = vec![place];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => texts += &fs::read_to_string(path).unwrap_or_default(),
            }
        }
    }
    texts
}

/// Whether this is a test: `module::function`, or a module that has at least one. A fuzz target is replayed
/// by the tests of `src/fuzz`.
fn is_test(name: &str) -> bool {
    let (module, function) = match name.split_once("::") {
        Some((module, function)) => (module, Some(function)),
        None => (name, None),
    };
    let text = texts(module);
    let listed = || texts("fuzz/mod").contains(&format!("{}::fuzz::", module.trim_end_matches("/fuzz")));
    match function {
        Some(function) => {
            let before = text
                .split_once(&format!("fn {function}("))
                .map(|(before, _)| before);
            before.is_some_and(|before| {
                // The attributes and comments right before it; the first line is the function's own.
                let head = before.lines().rev().skip(usize::from(!before.ends_with('\n')));
                let mut head = head
                    .map(str::trim_start)
                    .take_while(|line| line.starts_with(['#', '/']));
                head.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
            })
        }
        None if module.ends_with("/fuzz") => !text.is_empty() && listed(),
        None => text.contains("#[test]\n") || text.contains("#[tokio::test"),
    }
}

/// Seen red: with a letter of a test's name changed, with the name of a function that is no test, with a row
/// without a test, and with `it/no_such_module`.
#[test]
fn every_attack_names_tests_that_are_there() {
    let ids: Vec<String> = attacks().into_iter().map(|[id, ..]| id).collect();
    let expected: Vec<String> = (1..=40).map(|number| format!("T{number}")).collect();
    assert_eq!(ids, expected, "a row for each attack, in their order");
    for [id, .., tests] in attacks() {
        let names = quoted(&tests);
        assert!(!names.is_empty(), "{id} names no test");
        for name in names {
            assert!(is_test(name), "{id}: {name} is no test");
        }
    }
}

/// Seen red: with a letter of a key changed, with an empty cell, and with a setting that names a section.
#[test]
fn every_attack_names_settings_that_are_there() {
    let configuration: serde_json::Value = serde_saphyr::from_str(CONFIGURATION).unwrap();
    for [id, _, _, settings, _] in attacks() {
        let keys = quoted(&settings);
        assert!(
            !keys.is_empty() || settings == "always",
            "{id} names no setting: {settings:?}"
        );
        for key in keys {
            let found = key
                .split('.')
                .try_fold(&configuration, |value, name| value.get(name));
            assert!(
                found.is_some_and(|value| !value.is_object()),
                "{id}: there is no key {key}"
            );
        }
    }
}

/// Seen red: with "later" in one row.
#[test]
fn no_attack_is_left_for_later() {
    for row in attacks() {
        let said = row.join(" ").to_lowercase();
        let words: Vec<&str> = said.split(|c: char| !c.is_alphanumeric()).collect();
        for word in ["later", "todo", "planned"] {
            assert!(!words.contains(&word), "{} says {word}: {said}", row[0]);
        }
    }
}
