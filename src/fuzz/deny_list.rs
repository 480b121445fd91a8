//! A deny list, as an operator might have written it. No part of a list is taken for one.

use std::path::Path;

use crate::authn::DenyFile;

fn is_taken(bytes: &[u8]) -> bool {
    DenyFile::read(Path::new("deny"), bytes).is_ok()
}

pub(super) fn run(text: &[u8]) {
    match DenyFile::read(Path::new("deny"), text) {
        Ok(_) => {
            let end = text.trim_ascii_end().len();
            assert!(text[..end].ends_with(b"# end"), "it has an end");
            // Each length, of a long list some.
            let step = 1 + end / 64;
            for length in (0..=end).rev().step_by(step) {
                assert!(!is_taken(&text[..length]), "the first {length} bytes are taken");
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(
                said.contains("authentication.denyFiles: deny:"),
                "it names the line: {said}"
            );
        }
    }
}
