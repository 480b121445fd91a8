//! What the current context of a kubeconfig names: one cluster and one user.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::document::{Document, NamedEntry};
use super::keys::{Keys, KubeconfigError};
use super::material::given;

/// The cluster and the user of the current context. `C` and `U` are what is read of them: the keys that the
/// gate uses, or everything as it is written.
pub(crate) struct CurrentContext<C, U> {
    pub(crate) cluster: C,
    pub(crate) cluster_keys: Keys,
    pub(crate) user: U,
    pub(crate) user_keys: Keys,
}

// === impl CurrentContext ===

impl<C: Default + DeserializeOwned, U: Default + DeserializeOwned> CurrentContext<C, U> {
    /// Reads `text`, of the kubeconfig at `path`.
    ///
    /// # Errors
    /// The text is not a kubeconfig, or its current context names nothing that is there.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let document: Document<C, U> =
            serde_saphyr::from_str(text).map_err(|error| KubeconfigError::Syntax {
                file: path.to_owned(),
                place: error.location().map_or_else(
                    || "an unknown line".to_owned(),
                    |location| format!("line {}, column {}", location.line(), location.column()),
                ),
            })?;
        let refuse = |key: &str, problem: &str| KubeconfigError::Key {
            file: path.to_owned(),
            key: key.to_owned(),
            problem: problem.to_owned(),
        };
        let current = given(document.current_context)
            .ok_or_else(|| refuse("current-context", "not set; name the context to use"))?;
        let context = pick(path, "contexts", document.contexts, &current)?;
        let context_key = format!("contexts[{current}].context");
        let cluster = given(context.cluster)
            .ok_or_else(|| refuse(&format!("{context_key}.cluster"), "not set; name one of clusters"))?;
        let user = given(context.user)
            .ok_or_else(|| refuse(&format!("{context_key}.user"), "not set; name one of users"))?;
        let keys = |prefix| Keys {
            file: path.to_owned(),
            prefix,
        };
        Ok(Self {
            cluster_keys: keys(format!("clusters[{cluster}].cluster")),
            cluster: pick(path, "clusters", document.clusters, &cluster)?,
            user_keys: keys(format!("users[{user}].user")),
            user: pick(path, "users", document.users, &user)?,
        })
    }
}

/// The entry of a list that bears a name; client-go refuses a list that has it twice.
fn pick<T: Default>(
    file: &Path,
    list: &str,
    entries: Option<Vec<NamedEntry<T>>>,
    name: &str,
) -> Result<T, KubeconfigError> {
    let mut found = entries
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.name == name);
    let refuse = |problem: String| KubeconfigError::Key {
        file: file.to_owned(),
        key: list.to_owned(),
        problem,
    };
    let entry = found
        .next()
        .ok_or_else(|| refuse(format!("nothing in it is named {name:?}")))?;
    match found.next() {
        Some(_) => Err(refuse(format!("has {name:?} twice; remove one"))),
        None => Ok(entry.content.unwrap_or_default()),
    }
}
