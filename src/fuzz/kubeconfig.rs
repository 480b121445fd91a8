//! A kubeconfig, as an operator might have written it.

use std::path::Path;

use crate::apiserver::Kubeconfig;

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Kubeconfig::parse(Path::new("/nowhere/kubeconfig"), text) {
        Ok(kubeconfig) => {
            let _ = format!("{kubeconfig:?}");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("kubeconfig"), "it names the file: {said}");
        }
    }
}
