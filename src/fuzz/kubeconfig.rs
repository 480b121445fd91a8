//! A kubeconfig, as an operator might have written it.

use std::path::Path;

use serde_json::Value;

use crate::apiserver::{CurrentContext, Kubeconfig};

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let path = Path::new("/nowhere/kubeconfig");
    let is_context = |text: &str| CurrentContext::<Value, Value>::parse(path, text).is_ok();
    match Kubeconfig::parse(path, text) {
        Ok(kubeconfig) => {
            let shown = format!("{kubeconfig:?}");
            // What the gate reads, an inspection of a node reads too.
            assert!(is_context(text), "{text}");
            // The first document alone is read. A block of text would have the line break as well.
            if !text.contains(['|', '>']) {
                let more = format!("{text}\n---\ncurrent-context: [\n");
                let again = Kubeconfig::parse(path, &more).map(|kubeconfig| format!("{kubeconfig:?}"));
                assert!(again.is_ok_and(|again| again == shown), "{text}");
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("kubeconfig"), "it names the file: {said}");
        }
    }
}
