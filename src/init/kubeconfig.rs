//! A node's kubeconfig for a gate that sees the node's files under other paths.

use std::path::Path;

use serde_json::Value;

use super::paths::Paths;

/// What the copy is called.
pub(super) const NAME: &str = "kubeconfig";

/// The kubeconfig with the paths by which its files are found from here.
///
/// # Errors
/// It cannot be read, or names a file that is not there.
pub(super) fn copied(paths: &Paths, kubeconfig: &str) -> Result<String, String> {
    let text = paths
        .root()
        .read(kubeconfig)
        .map_err(|error| format!("{kubeconfig}: {error}"))?;
    let mut document: Value =
        serde_saphyr::from_str(&text).map_err(|error| format!("{kubeconfig}: {error}"))?;
    let folder = Path::new(kubeconfig).parent().unwrap_or_else(|| Path::new("/"));
    for (list, part, keys) in [
        ("clusters", "cluster", &["certificate-authority"][..]),
        (
            "users",
            "user",
            &["client-certificate", "client-key", "tokenFile"],
        ),
    ] {
        let entries = document.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            for key in keys {
                let Some(value) = entry.get_mut(part).and_then(|part| part.get_mut(*key)) else {
                    continue;
                };
                let Some(path) = value.as_str().filter(|path| !path.is_empty()) else {
                    continue;
                };
                *value = paths.named(&folder.join(path).display().to_string())?.into();
            }
        }
    }
    serde_saphyr::to_string(&document).map_err(|error| format!("{kubeconfig}: {error}"))
}
