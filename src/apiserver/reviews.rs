//! TokenReview and SubjectAccessReview v1 on the wire: what the kubelet would ask, and what may be made of
//! the answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::log_text::log_text;

/// A user as the API server knows him: `UserInfo` of `authentication.k8s.io/v1`.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct UserInfo {
    /// Name.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub username: String,
    /// Unique id; empty if there is none.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub uid: String,
    /// Groups, in order: the order is part of the question, and of its cache key.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub groups: Vec<String>,
    /// Whatever else the authenticator said.
    #[serde(
        default,
        deserialize_with = "nullable_lists",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// One question to the authorizer: may this user use this verb on this subresource of this node?
#[derive(Clone, Copy, Debug)]
pub struct AccessSpec<'a> {
    /// Who.
    pub user: &'a UserInfo,
    /// The verb; empty is left out of the question, and only a wildcard matches it.
    pub verb: &'a str,
    /// Subresource of `nodes`.
    pub subresource: &'a str,
    /// The node's name.
    pub name: &'a str,
}

/// What became of a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenAnswer {
    /// The API server vouches for it.
    Authenticated {
        /// Whose it is; the name is never empty.
        user: UserInfo,
        /// For which of the audiences asked for it is good (empty if none were asked for, or if the API
        /// server does not know about audiences). That one of them is among those asked for is for the caller
        /// to see.
        audiences: Vec<String>,
    },
    /// It is nobody's.
    Rejected {
        /// `status.error`, escaped and shortened. The kubelet does not cache a rejection that has one.
        error: Option<String>,
    },
}

/// What the authorizer said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AccessAnswer {
    /// Yes.
    pub allowed: bool,
    /// No, and nobody else may say yes. Neither is "no opinion", which is a no too.
    pub denied: bool,
    /// The authorizer's reason, escaped and shortened; may be empty.
    pub reason: String,
}

/// What the kubelet of a Node says of the machine it runs on; empty where it says nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NodeInfo {
    /// `bootID`: the kernel's, another one after each boot.
    #[serde(rename = "bootID", deserialize_with = "null_is_default")]
    pub boot_id: String,
    /// `machineID`: `/etc/machine-id`.
    #[serde(rename = "machineID", deserialize_with = "null_is_default")]
    pub machine_id: String,
    /// `systemUUID`: the firmware's.
    #[serde(rename = "systemUUID", deserialize_with = "null_is_default")]
    pub system_uuid: String,
}

/// An answer that cannot be acted on.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON, or not of this shape.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Another object.
    #[error("its kind is {found:?}, not {expected}")]
    Kind {
        /// What was asked for.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// Allowed and denied at once (contract §2.5: an error).
    #[error("it says both allowed and denied")]
    AllowedAndDenied,
    /// A token that is good and has an error at once.
    #[error("it says authenticated, and an error as well: {0}")]
    AuthenticatedWithError(String),
    /// A token that is good, but nobody's.
    #[error("it says authenticated, but names no user")]
    NoUser,
}

// === TokenReview ===

#[derive(Serialize)]
struct TokenReview<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    spec: TokenSpec<'a>,
    status: EmptyTokenStatus,
}

#[derive(Serialize)]
struct TokenSpec<'a> {
    token: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    audiences: &'a [String],
}

/// Go writes it, since `status` and its `user` are not pointers.
#[derive(Default, Serialize)]
struct EmptyTokenStatus {
    user: Empty,
}

#[derive(Default, Serialize)]
struct Empty {}

#[derive(Deserialize)]
struct TokenReviewAnswer {
    #[serde(default)]
    kind: String,
    status: TokenStatus,
}

#[derive(Deserialize)]
struct TokenStatus {
    /// Go leaves it out if it is false.
    #[serde(default, deserialize_with = "null_is_default")]
    authenticated: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    user: UserInfo,
    #[serde(default, deserialize_with = "null_is_default")]
    audiences: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    error: String,
}

/// The body of a TokenReview.
pub(super) fn token_review(token: &str, audiences: &[String]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&TokenReview {
        kind: "TokenReview",
        api_version: "authentication.k8s.io/v1",
        metadata: Empty {},
        spec: TokenSpec { token, audiences },
        status: EmptyTokenStatus::default(),
    })
}

/// Reads the answer to a TokenReview of `token`.
pub(super) fn token_answer(body: &[u8], token: &str) -> Result<TokenAnswer, AnswerError> {
    let TokenReviewAnswer { kind, status } = serde_json::from_slice(body)?;
    expect_kind("TokenReview", kind)?;
    let error = log_text(&status.error, token);
    match (status.authenticated, error.is_empty()) {
        (true, false) => Err(AnswerError::AuthenticatedWithError(error)),
        (true, true) if status.user.username.is_empty() => Err(AnswerError::NoUser),
        (true, true) => Ok(TokenAnswer::Authenticated {
            user: status.user,
            audiences: status.audiences,
        }),
        (false, empty) => Ok(TokenAnswer::Rejected {
            error: (!empty).then_some(error),
        }),
    }
}

// === SubjectAccessReview ===

#[derive(Serialize)]
struct SubjectAccessReview<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    spec: SubjectAccessSpec<'a>,
}

#[derive(Serialize)]
struct SubjectAccessSpec<'a> {
    #[serde(rename = "resourceAttributes")]
    resource_attributes: ResourceAttributes<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

#[derive(Serialize)]
struct ResourceAttributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    verb: &'a str,
    version: &'static str,
    resource: &'static str,
    subresource: &'a str,
    name: &'a str,
}

#[derive(Deserialize)]
struct SubjectAccessReviewAnswer {
    #[serde(default)]
    kind: String,
    status: AccessStatus,
}

#[derive(Deserialize)]
struct AccessStatus {
    /// Go always writes it: an answer without it is not an answer.
    allowed: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    denied: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    reason: String,
}

/// The body of a SubjectAccessReview.
pub(crate) fn access_review(spec: AccessSpec<'_>) -> serde_json::Result<Vec<u8>> {
    let UserInfo {
        username,
        uid,
        groups,
        extra,
    } = spec.user;
    serde_json::to_vec(&SubjectAccessReview {
        kind: "SubjectAccessReview",
        api_version: "authorization.k8s.io/v1",
        metadata: Empty {},
        spec: SubjectAccessSpec {
            resource_attributes: ResourceAttributes {
                verb: spec.verb,
                version: "v1",
                resource: "nodes",
                subresource: spec.subresource,
                name: spec.name,
            },
            user: username,
            groups,
            uid,
            extra,
        },
    })
}

/// Reads the answer to a SubjectAccessReview. `evaluationError` is ignored, as the kubelet does: it comes
/// with rules that could not be read, and the decision holds without them.
pub(super) fn access_answer(body: &[u8]) -> Result<AccessAnswer, AnswerError> {
    let SubjectAccessReviewAnswer { kind, status } = serde_json::from_slice(body)?;
    expect_kind("SubjectAccessReview", kind)?;
    if status.allowed && status.denied {
        return Err(AnswerError::AllowedAndDenied);
    }
    Ok(AccessAnswer {
        allowed: status.allowed,
        denied: status.denied,
        reason: log_text(&status.reason, ""),
    })
}

// === Node ===

/// Reads `status.nodeInfo` of a Node.
pub(super) fn node_info(body: &[u8]) -> Result<NodeInfo, AnswerError> {
    #[derive(Deserialize)]
    struct NodeObject {
        #[serde(default)]
        kind: String,
        #[serde(default, deserialize_with = "null_is_default")]
        status: NodeStatus,
    }
    #[derive(Default, Deserialize)]
    struct NodeStatus {
        #[serde(default, rename = "nodeInfo", deserialize_with = "null_is_default")]
        node_info: NodeInfo,
    }
    let NodeObject { kind, status } = serde_json::from_slice(body)?;
    expect_kind("Node", kind)?;
    Ok(status.node_info)
}

fn expect_kind(expected: &'static str, found: String) -> Result<(), AnswerError> {
    if found == expected {
        Ok(())
    } else {
        Err(AnswerError::Kind {
            expected,
            found: log_text(&found, ""),
        })
    }
}

/// `message` of a `Status` object, if the body is one.
pub(super) fn status_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct StatusObject {
        message: String,
    }
    serde_json::from_slice::<StatusObject>(body)
        .ok()
        .map(|status| status.message)
}

/// Go reads JSON's null as the zero value.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    input: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

fn nullable_lists<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let lists: Option<BTreeMap<String, Option<Vec<String>>>> = Option::deserialize(input)?;
    Ok(lists
        .unwrap_or_default()
        .into_iter()
        .map(|(key, list)| (key, list.unwrap_or_default()))
        .collect())
}
