//! A seed that made a target fail once must not make it fail again, and a target that nothing runs finds
//! nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::TARGETS;

/// A seed is small, so that a fuzzer gets far with it, and a reader sees what it is.
const LARGEST_SEED: u64 = 24 * 1024;
const LARGEST_FOLDER: u64 = 64 * 1024;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Seen red: with the folder of a target renamed, with one more folder, and with an assertion of `pem` turned
/// round.
#[test]
fn every_target_holds_for_each_of_its_seeds() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(
        names(&folder().join("seeds")),
        targets,
        "a folder of seeds for each target"
    );
    for (name, run) in TARGETS {
        let folder = folder().join("seeds").join(name);
        let mut total = 0;
        let seeds = names(&folder);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            let bytes = fs::read(folder.join(&seed)).unwrap();
            let length = bytes.len() as u64;
            assert!(length <= LARGEST_SEED, "{name}/{seed} has {length} bytes");
            total += length;
            // Shown if the target panics.
            println!("{name}/{seed}");
            run(&bytes);
            // What a fuzzer does first: a part of a seed is no seed, and must hold as well.
            run(&bytes[..bytes.len() / 2]);
        }
        assert!(total <= LARGEST_FOLDER, "the seeds of {name} have {total} bytes");
    }
}

/// Seen red: with the list of `fuzz/run` written by hand, and one name left out.
#[test]
fn the_long_run_plays_every_target() {
    let run = fs::read_to_string(folder().join("run")).unwrap();
    assert!(
        run.contains("set -- $(ls seeds)"),
        "fuzz/run takes its targets from the folders of seeds"
    );
    let justfile = fs::read_to_string(folder().join("../justfile")).unwrap();
    assert!(
        justfile.contains("fuzz seconds=\"600\":\n    bash fuzz/run {{ seconds }}"),
        "`just fuzz` plays each target for ten minutes"
    );
}
