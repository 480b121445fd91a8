#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::tls::{TlsVersion, suite_name};

mod agreement;
mod flags;
mod keys;
mod scraping;
mod texts;
mod upstream;
mod values;
mod yaml;

const EXAMPLE: &str = include_str!("../../config/kubelet-gate.yaml");
const DOCS: &str = include_str!("../../docs/configuration.md");

/// The least that is a configuration.
const LEAST: &str = r#"apiVersion: kubelet-gate.dev/v1alpha1
kind: KubeletGateConfiguration
listen: ["192.0.2.10:10250"]
upstream: {url: "https://127.0.0.1:10250", certificateFile: kubelet.crt}
tlsCertFile: gate.crt
tlsPrivateKeyFile: gate.key
"#;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: KubeletFlags,
}

fn flags_of(arguments: &[&str]) -> KubeletFlags {
    Line::try_parse_from(std::iter::once(&"kubelet-gate").chain(arguments))
        .expect("these flags are good")
        .flags
}

fn parse(text: &str) -> Result<Settings, SettingsError> {
    Settings::parse(text, Path::new("/etc/gate/gate.yaml"), &KubeletFlags::default())
}

fn good(text: &str) -> Settings {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn without_warnings(settings: Settings) -> Settings {
    Settings {
        warnings: Vec::new(),
        ..settings
    }
}

fn error(text: &str) -> String {
    parse(text)
        .err()
        .unwrap_or_else(|| panic!("accepted:\n{text}"))
        .to_string()
}

fn suites(settings: &Settings) -> Vec<&'static str> {
    let suites = settings.tls.cipher_suites.iter();
    suites.map(|suite| suite_name(*suite)).collect()
}

/// `LEAST` and more.
fn least_and(more: &str) -> String {
    format!("{LEAST}{more}\n")
}

/// `LEAST` with another `upstream`.
fn upstream(section: &str) -> String {
    LEAST.replace(
        r#"{url: "https://127.0.0.1:10250", certificateFile: kubelet.crt}"#,
        section,
    )
}

/// The keys of the example that carry a value, as paths, and their values.
fn leaves(value: &Value, parent: &str, found: &mut Vec<(String, Value)>) {
    for (key, value) in value.as_object().expect("a mapping") {
        let path = if parent.is_empty() {
            key.clone()
        } else {
            format!("{parent}.{key}")
        };
        if value.is_object() {
            leaves(value, &path, found)
        } else {
            found.push((path, value.clone()))
        }
    }
}

fn known_leaves() -> Vec<(String, Value)> {
    let mut known = Vec::new();
    leaves(&schema::schema().unwrap(), "", &mut known);
    known
}

fn example() -> Value {
    serde_saphyr::from_str(EXAMPLE).unwrap()
}

/// `value` without the key at `path`.
fn without(value: &Value, path: &str) -> Value {
    let mut value = value.clone();
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parent.split('.').filter(|segment| !segment.is_empty());
    let section = parent.fold(&mut value, |value, segment| &mut value[segment]);
    section
        .as_object_mut()
        .unwrap()
        .remove(key)
        .expect("the key is in the example");
    value
}
