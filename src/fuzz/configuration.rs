//! The gate's own configuration, as an operator might have written it.

use std::path::Path;

use crate::settings::{KubeletFlags, Settings, UpstreamUrl};

pub(super) fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match Settings::parse(text, Path::new("/nowhere/gate.yaml"), &KubeletFlags::default()) {
        Ok(settings) => {
            assert!(!settings.listen.is_empty());
            assert!(settings.workers > 0 && settings.limits.connections > 0);
            assert!(
                settings.tls.client_ca_file.is_some()
                    || settings.authentication.webhook
                    || settings.authentication.anonymous
            );
            if let UpstreamUrl::Https(_) = settings.upstream.url {
                assert!(
                    settings.upstream.trust.is_some(),
                    "an https kubelet that nothing proves"
                );
            }
            // What `check` prints is what is in force.
            let printed = settings.to_yaml().expect("YAML");
            let again = Settings::parse(
                &printed,
                Path::new("/elsewhere/gate.yaml"),
                &KubeletFlags::default(),
            );
            let again = again.unwrap_or_else(|error| panic!("{error}\n{printed}"));
            let unwarned = |settings: Settings| Settings {
                warnings: Vec::new(),
                ..settings
            };
            assert_eq!(unwarned(again), unwarned(settings), "{printed}");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("gate.yaml"), "it names the file: {said}");
        }
    }
}
