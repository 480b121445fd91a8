//! The fake API server's tokens with their users, and its rules, which are modelled on RBAC.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::pki::NODE_NAME;

/// The audience of a token whose audiences are not given.
const DEFAULT_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// A token that may read metrics: `system:serviceaccount:monitoring:metrics`.
pub const METRICS_TOKEN: &str = "metrics-token";
/// A token that may `get nodes/proxy` and nothing else: `system:serviceaccount:monitoring:reader`.
pub const PROXY_GET_TOKEN: &str = "proxy-get-token";
/// A token of the group `admins`.
pub const ADMIN_TOKEN: &str = "admin-token";
/// A token for the gate: it may create reviews.
pub const GATE_TOKEN: &str = "gate-token";

/// The user of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `username`.
    pub name: String,
    /// `uid`; empty leaves it out.
    pub uid: String,
    /// `groups`, in order.
    pub groups: Vec<String>,
    /// `extra`.
    pub extra: BTreeMap<String, Vec<String>>,
    /// The audiences that the token is for.
    pub audiences: Vec<String>,
}

/// The users that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One user, by name; a service account by its full name.
    User(String),
    /// All users of a group.
    Group(String),
}

/// One rule on a node's subresources. A rule that denies precedes every rule that allows (RBAC has only the
/// latter; other authorizers have both).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The users it applies to.
    pub subject: Subject,
    /// Verbs; `*` means all, the empty one included.
    pub verbs: Vec<String>,
    /// Subresources of nodes; `*` means all.
    pub subresources: Vec<String>,
    /// Only this node; `None` means every node.
    pub node: Option<String>,
    /// The name of the ClusterRole and its binding in the reason.
    pub role: String,
    /// Denies instead of allowing.
    pub deny: bool,
}

/// Tokens and rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) tokens: BTreeMap<String, User>,
    pub(super) rules: Vec<Rule>,
    /// `status.nodeInfo` of each Node.
    pub(super) nodes: BTreeMap<String, Value>,
    /// `status.addresses` of every Node.
    pub(super) node_addresses: Vec<String>,
}

// === impl User ===

impl User {
    /// A user in these groups; `system:authenticated` is added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups
            .iter()
            .chain(&["system:authenticated"])
            .map(ToString::to_string)
            .collect();
        Self {
            name: name.to_owned(),
            uid: String::new(),
            groups,
            extra: BTreeMap::new(),
            audiences: vec![DEFAULT_AUDIENCE.to_owned()],
        }
    }

    /// A service account, as a token that is bound to a pod names it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = [
            "system:serviceaccounts",
            &format!("system:serviceaccounts:{namespace}"),
        ];
        let extra = [
            (
                "authentication.kubernetes.io/credential-id",
                format!("JTI=6d0c4f5e-{namespace}-{name}"),
            ),
            ("authentication.kubernetes.io/node-name", NODE_NAME.to_owned()),
            ("authentication.kubernetes.io/pod-name", format!("{name}-0")),
        ];
        Self {
            uid: format!("f3b8a7d2-{namespace}-{name}"),
            extra: extra
                .into_iter()
                .map(|(key, value)| (key.to_owned(), vec![value]))
                .collect(),
            ..Self::new(&format!("system:serviceaccount:{namespace}:{name}"), &groups)
        }
    }

    /// Sets the audiences of the token.
    #[must_use]
    pub fn audiences(mut self, audiences: &[&str]) -> Self {
        self.audiences = audiences.iter().map(ToString::to_string).collect();
        self
    }

    fn to_json(&self) -> Value {
        let mut user = Map::new();
        user.insert("username".to_owned(), json!(self.name));
        if !self.uid.is_empty() {
            user.insert("uid".to_owned(), json!(self.uid));
        }
        user.insert("groups".to_owned(), json!(self.groups));
        if !self.extra.is_empty() {
            user.insert("extra".to_owned(), json!(self.extra));
        }
        Value::Object(user)
    }
}

// === impl Rule ===

impl Rule {
    /// Allows these verbs on these subresources of every node.
    pub fn allow(subject: Subject, verbs: &[&str], subresources: &[&str]) -> Self {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Self {
            subject,
            verbs: strings(verbs),
            subresources: strings(subresources),
            node: None,
            role: "lab".to_owned(),
            deny: false,
        }
    }

    /// Denies these verbs on these subresources of every node.
    pub fn deny(subject: Subject, verbs: &[&str], subresources: &[&str]) -> Self {
        Self {
            deny: true,
            ..Self::allow(subject, verbs, subresources)
        }
    }

    /// Restricts the rule to this node.
    #[must_use]
    pub fn on_node(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Names the ClusterRole and its binding.
    #[must_use]
    pub fn role(mut self, role: &str) -> Self {
        self.role = role.to_owned();
        self
    }

    fn covers(&self, spec: &Value) -> bool {
        let attributes = &spec["resourceAttributes"];
        let attribute = |name: &str| attributes[name].as_str().unwrap_or_default();
        let listed = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);

        self.subject.matches(spec)
            && attribute("group").is_empty()
            && attribute("resource") == "nodes"
            && listed(&self.verbs, attribute("verb"))
            && listed(&self.subresources, attribute("subresource"))
            && self.node.as_deref().is_none_or(|node| node == attribute("name"))
    }

    fn reason(&self) -> String {
        let Self { role, subject, .. } = self;
        let subject = match subject {
            Subject::Group(group) => format!("Group {group:?}"),
            Subject::User(user) => match user
                .strip_prefix("system:serviceaccount:")
                .and_then(|sa| sa.split_once(':'))
            {
                Some((namespace, name)) => format!("ServiceAccount \"{name}/{namespace}\""),
                None => format!("User {user:?}"),
            },
        };
        match self.deny {
            false => {
                format!("RBAC: allowed by ClusterRoleBinding {role:?} of ClusterRole {role:?} to {subject}")
            }
            true => format!("denied by rule {role:?} to {subject}"),
        }
    }
}

impl Subject {
    /// A user by name.
    pub fn user(name: &str) -> Self {
        Self::User(name.to_owned())
    }

    /// A group by name.
    pub fn group(name: &str) -> Self {
        Self::Group(name.to_owned())
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::User(format!("system:serviceaccount:{namespace}:{name}"))
    }

    fn matches(&self, spec: &Value) -> bool {
        match self {
            Self::User(user) => spec["user"] == user.as_str(),
            Self::Group(group) => is_in_group(spec, group),
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// The tokens and rules of a new server.
    pub(super) fn new() -> Self {
        let users = [
            (METRICS_TOKEN, User::service_account("monitoring", "metrics")),
            (PROXY_GET_TOKEN, User::service_account("monitoring", "reader")),
            (ADMIN_TOKEN, User::new("admin", &["admins"])),
            (GATE_TOKEN, User::service_account("kube-system", "kubelet-gate")),
        ];
        let any = &["*"];
        let rules = vec![
            Rule::allow(Subject::group("kubeadm:cluster-admins"), any, any).role("cluster-admin"),
            Rule::allow(Subject::user("kube-apiserver-kubelet-client"), any, any)
                .role("system:kubelet-api-admin"),
            Rule::allow(Subject::group("admins"), any, any).role("node-admin"),
            Rule::allow(
                Subject::service_account("monitoring", "metrics"),
                &["get"],
                &["metrics", "stats"],
            )
            .role("node-metrics"),
            Rule::allow(
                Subject::service_account("monitoring", "reader"),
                &["get"],
                &["proxy"],
            )
            .role("node-proxy-reader"),
        ];
        let tokens = users.map(|(token, user)| (token.to_owned(), user));
        Self {
            tokens: tokens.into(),
            rules,
            nodes: BTreeMap::new(),
            node_addresses: Vec::new(),
        }
    }

    /// The `status` of a TokenReview.
    pub(super) fn authenticate(&self, spec: &Value) -> Value {
        let token = spec["token"].as_str().unwrap_or_default();
        let Some(user) = self.tokens.get(token) else {
            return json!({"user": {}, "error": "invalid bearer token"});
        };
        // A request without audiences is for the API server itself.
        let asked: Vec<&str> = match spec["audiences"].as_array() {
            Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).collect(),
            _ => vec![DEFAULT_AUDIENCE],
        };
        let both: Vec<&str> = asked
            .iter()
            .copied()
            .filter(|audience| user.audiences.iter().any(|own| own == audience))
            .collect();
        if both.is_empty() {
            let own = &user.audiences;
            let error = format!(
                "[invalid bearer token, token audiences {own:?} is invalid for the target audiences \
                 {asked:?}]"
            );
            return json!({"user": {}, "error": error});
        }
        json!({"authenticated": true, "user": user.to_json(), "audiences": both})
    }

    /// The `status` of a SubjectAccessReview.
    pub(super) fn authorize(&self, spec: &Value) -> Value {
        if is_in_group(spec, "system:masters") {
            return json!({"allowed": true});
        }
        let rule = |deny| {
            self.rules
                .iter()
                .find(|rule| rule.deny == deny && rule.covers(spec))
        };
        match (rule(true), rule(false)) {
            (Some(denies), _) => {
                json!({"allowed": false, "denied": true, "reason": denies.reason()})
            }
            (None, Some(allows)) => json!({"allowed": true, "reason": allows.reason()}),
            (None, None) => json!({"allowed": false}),
        }
    }

    /// The user of a bearer token that is sent to the API server itself.
    pub(super) fn user_of(&self, token: &str) -> Option<&User> {
        let user = self.tokens.get(token)?;
        let accepted = user.audiences.iter().any(|audience| audience == DEFAULT_AUDIENCE);
        accepted.then_some(user)
    }
}

/// Whether this caller may create reviews: nodes, administrators and users with `system:auth-delegator` may.
pub(super) fn may_review(caller: &User) -> bool {
    let groups = ["system:masters", "kubeadm:cluster-admins"];
    caller.name == "system:serviceaccount:kube-system:kubelet-gate"
        || (caller.name.starts_with("system:node:")
            && caller.groups.iter().any(|group| group == "system:nodes"))
        || caller.groups.iter().any(|group| groups.contains(&group.as_str()))
}

/// Whether this caller may read this Node: the node itself and administrators may. `system:auth-delegator` is
/// not enough.
pub(super) fn may_read_node(caller: &User, node: &str) -> bool {
    caller.name.strip_prefix("system:node:") == Some(node)
        || caller
            .groups
            .iter()
            .any(|group| group == "system:masters" || group == "kubeadm:cluster-admins")
}

fn is_in_group(spec: &Value, group: &str) -> bool {
    spec["groups"]
        .as_array()
        .is_some_and(|groups| groups.iter().any(|name| name == group))
}
