//! What the current context of a kubeconfig names: one cluster and one user.
//!
//! As in client-go: the text is YAML, also where it looks like JSON; its first document counts; a key that is
//! there twice has its last value; unknown keys are ignored. A value of the wrong type, or a list that has a
//! name twice, makes the whole file unusable, also where the current context does not lead there.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize as _;
use serde::de::DeserializeOwned;

use super::document::{ClusterSection, ContextSection, UserSection};
use super::keys::{Keys, KubeconfigError};
use super::material::given;
use crate::go::{self, DecodeError, Node};

/// The cluster and the user of the current context. `C` and `U` are what is read of them: the keys that the
/// gate uses, or everything as it is written.
pub(crate) struct CurrentContext<C, U> {
    pub(crate) cluster: C,
    pub(crate) cluster_keys: Keys,
    pub(crate) user: U,
    pub(crate) user_keys: Keys,
    /// A key that is there twice, and where; client-go takes the last.
    pub(crate) repeated: Option<(String, String)>,
}

/// An entry of one of the three lists: its name, and what stands under the key that is named after it.
struct NamedEntry<'a> {
    name: String,
    content: &'a Node,
}

// === impl CurrentContext ===

impl<C: Default + DeserializeOwned, U: Default + DeserializeOwned> CurrentContext<C, U> {
    /// Reads `text`, of the kubeconfig at `path`.
    ///
    /// # Errors
    /// The text is not a kubeconfig, or its current context names nothing that is there.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, KubeconfigError> {
        let syntax = |place: String| KubeconfigError::Syntax {
            file: path.to_owned(),
            place,
        };
        let wrong_type = |error: DecodeError| syntax(error.place());
        let refuse = |key: &str, problem: &str| KubeconfigError::Key {
            file: path.to_owned(),
            key: key.to_owned(),
            problem: problem.to_owned(),
        };
        let document = go::yaml(text).map_err(|error| syntax(error.place()))?;
        let root = &document.root;
        // What is not said has its default, as in client-go.
        for (key, only) in [("apiVersion", "v1"), ("kind", "Config")] {
            let said: Option<String> = decoded(root.get(key)).map_err(wrong_type)?;
            if given(said).is_some_and(|said| said != only) {
                return Err(refuse(key, &format!("not {only}: this is not a kubeconfig")));
            }
        }
        let current: Option<String> = decoded(root.get("current-context")).map_err(wrong_type)?;
        let contexts = entries::<ContextSection>(root, "contexts", "context").map_err(wrong_type)?;
        let clusters = entries::<ClusterSection>(root, "clusters", "cluster").map_err(wrong_type)?;
        let users = entries::<UserSection>(root, "users", "user").map_err(wrong_type)?;
        for (list, entries) in [
            ("contexts", &contexts),
            ("clusters", &clusters),
            ("users", &users),
        ] {
            let mut names = BTreeSet::new();
            if let Some(twice) = entries.iter().find(|entry| !names.insert(&entry.name)) {
                return Err(refuse(list, &format!("has {:?} twice; remove one", twice.name)));
            }
        }
        let pick = |list: &str, entries: &[NamedEntry<'_>], name: &str| {
            let named = entries.iter().position(|entry| entry.name == name);
            named.ok_or_else(|| refuse(list, &format!("nothing in it is named {name:?}")))
        };
        let current =
            given(current).ok_or_else(|| refuse("current-context", "not set; name the context to use"))?;
        let context = contexts[pick("contexts", &contexts, &current)?].content;
        let context: ContextSection = decoded(Some(context)).map_err(wrong_type)?.unwrap_or_default();
        let context_key = format!("contexts[{current}].context");
        let cluster = given(context.cluster)
            .ok_or_else(|| refuse(&format!("{context_key}.cluster"), "not set; name one of clusters"))?;
        let user = given(context.user)
            .ok_or_else(|| refuse(&format!("{context_key}.user"), "not set; name one of users"))?;
        let cluster_content = clusters[pick("clusters", &clusters, &cluster)?].content;
        let user_content = users[pick("users", &users, &user)?].content;
        let keys = |prefix| Keys {
            file: path.to_owned(),
            prefix,
        };
        Ok(Self {
            cluster_keys: keys(format!("clusters[{cluster}].cluster")),
            cluster: decoded(Some(cluster_content))
                .map_err(wrong_type)?
                .unwrap_or_default(),
            user_keys: keys(format!("users[{user}].user")),
            user: decoded(Some(user_content))
                .map_err(wrong_type)?
                .unwrap_or_default(),
            repeated: document.repeated.into_iter().next().map(|(key, line)| {
                (
                    key,
                    line.map_or_else(String::new, |line| format!(" (line {line})")),
                )
            }),
        })
    }
}

/// The entries of a list, each of which must be of the type `T`.
fn entries<'a, T: DeserializeOwned>(
    root: &'a Node,
    list: &str,
    content: &str,
) -> Result<Vec<NamedEntry<'a>>, DecodeError> {
    let line = root
        .entries()
        .iter()
        .find(|entry| &*entry.key == list)
        .and_then(|entry| entry.line);
    let entries = match root.get(list) {
        None | Some(Node::Null) => return Ok(Vec::new()),
        Some(Node::List(entries)) => entries,
        Some(_) => return Err(DecodeError::at(line)),
    };
    let entry = |entry: &'a Node| {
        if !matches!(entry, Node::Null | Node::Object(_)) {
            return Err(DecodeError::at(line));
        }
        let content = entry.get(content).unwrap_or(&Node::Null);
        let _: Option<T> = decoded(Some(content)).map_err(|error| error.or_at(line))?;
        let name: Option<String> = decoded(entry.get("name")).map_err(|error| error.or_at(line))?;
        Ok(NamedEntry {
            name: name.unwrap_or_default(),
            content,
        })
    };
    entries.iter().map(entry).collect()
}

/// A value that is absent or null is `None`.
fn decoded<T: DeserializeOwned>(node: Option<&Node>) -> Result<Option<T>, DecodeError> {
    node.map_or(Ok(None), Option::deserialize)
}
