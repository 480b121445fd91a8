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
