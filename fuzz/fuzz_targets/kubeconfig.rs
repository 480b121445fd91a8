//! A kubeconfig, as an operator might have written it.
#![no_main]

use std::path::Path;

use kubelet_gate::apiserver::Kubeconfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Kubeconfig::parse(Path::new("/nowhere/kubeconfig"), text) {
        Ok(kubeconfig) => {
            let _ = format!("{kubeconfig:?}");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("kubeconfig"), "it names the file: {said}");
        }
    }
});
