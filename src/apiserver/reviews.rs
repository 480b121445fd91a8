//! TokenReview and SubjectAccessReview v1 as JSON: the requests that the kubelet would send, and the answers.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::json;
use super::log_text::log_text;

/// A user: `UserInfo` of `authentication.k8s.io/v1`.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub(crate) struct UserInfo {
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
    /// Groups, in order. The order is part of a review, and of its cache key.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub groups: Vec<String>,
    /// Further information from the authenticator.
    #[serde(
        default,
        deserialize_with = "nullable_lists",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The question of a SubjectAccessReview: is this user allowed this verb on this subresource of this node?
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessSpec<'a> {
    /// The user.
    pub user: &'a UserInfo,
    /// The verb. An empty one is left out, and only a wildcard matches it.
    pub verb: &'a str,
    /// Subresource of `nodes`.
    pub subresource: &'a str,
    /// The node's name.
    pub name: &'a str,
}

/// The answer to a TokenReview.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum TokenAnswer {
    /// The token is valid.
    Authenticated {
        /// The token's user. The name is never empty.
        user: UserInfo,
        /// The requested audiences that it is valid for. Empty if none were requested, or if the API server
        /// does not support audiences. The caller must check that a requested one is among them.
        audiences: Vec<String>,
    },
    /// The token is not valid.
    Rejected {
        /// `status.error`, escaped and shortened. The kubelet does not cache a rejection that has one.
        error: Option<String>,
    },
}

/// The answer to a SubjectAccessReview.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AccessAnswer {
    /// It is allowed.
    pub allowed: bool,
    /// It is denied, whatever other authorizers say. Neither allowed nor denied is "no opinion", which does
    /// not allow it either.
    pub denied: bool,
    /// The authorizer's reason, escaped and shortened; may be empty.
    pub reason: String,
}

/// What the kubelet of a Node reports about its machine. Fields that it does not report are empty.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(crate) struct NodeInfo {
    /// `bootID` of the kernel; it changes with each boot.
    #[serde(rename = "bootID", deserialize_with = "null_is_default")]
    pub boot_id: String,
    /// `machineID`, from `/etc/machine-id`.
    #[serde(rename = "machineID", deserialize_with = "null_is_default")]
    pub machine_id: String,
    /// `systemUUID`, from the firmware.
    #[serde(rename = "systemUUID", deserialize_with = "null_is_default")]
    pub system_uuid: String,
    /// The addresses and names of the Node, of all kinds.
    #[serde(skip)]
    pub addresses: Vec<String>,
}

/// A kind of object, as the API server names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    kind: &'static str,
    version: &'static str,
}

const TOKEN_REVIEW: Kind = Kind {
    kind: "TokenReview",
    version: "authentication.k8s.io/v1",
};
const SUBJECT_ACCESS_REVIEW: Kind = Kind {
    kind: "SubjectAccessReview",
    version: "authorization.k8s.io/v1",
};
const NODE: Kind = Kind {
    kind: "Node",
    version: "v1",
};

/// An answer: `kind`, `apiVersion` and `status`.
#[derive(Deserialize)]
struct Answer<T> {
    #[serde(default)]
    kind: String,
    #[serde(default, rename = "apiVersion")]
    version: String,
    status: T,
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    /// It is not JSON, or not of this shape. The parser's text, escaped and shortened: it quotes the answer.
    #[error("{0}")]
    Json(String),
    /// It is another object.
    #[error("it is {found}, not {expected}")]
    Kind {
        /// The kind that was requested.
        expected: Kind,
        /// The kind and version that came, escaped and shortened.
        found: String,
    },
    /// It says both allowed and denied (contract §2.5: an error).
    #[error("it says both allowed and denied")]
    AllowedAndDenied,
    /// It says authenticated, and has an error.
    #[error("it says authenticated, and an error as well: {0}")]
    AuthenticatedWithError(String),
    /// It says authenticated, and names no user.
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

/// Go writes an empty `status`, because `status` and its `user` are not pointers.
#[derive(Default, Serialize)]
struct EmptyTokenStatus {
    user: Empty,
}

#[derive(Default, Serialize)]
struct Empty {}

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
        kind: TOKEN_REVIEW.kind,
        api_version: TOKEN_REVIEW.version,
        metadata: Empty {},
        spec: TokenSpec { token, audiences },
        status: EmptyTokenStatus::default(),
    })
}

/// Reads the answer to a TokenReview of `token`.
pub(super) fn token_answer(body: &[u8], token: &str) -> Result<TokenAnswer, AnswerError> {
    let status: TokenStatus = TOKEN_REVIEW.status(body, token)?;
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
struct AccessStatus {
    /// Go always writes it, so an answer without it is an error.
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
        kind: SUBJECT_ACCESS_REVIEW.kind,
        api_version: SUBJECT_ACCESS_REVIEW.version,
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

/// Reads the answer to a SubjectAccessReview. `evaluationError` is ignored, as in the kubelet: it reports
/// rules that could not be read, and the decision was made without them.
pub(super) fn access_answer(body: &[u8]) -> Result<AccessAnswer, AnswerError> {
    let status: AccessStatus = SUBJECT_ACCESS_REVIEW.status(body, "")?;
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
    struct NodeStatus {
        #[serde(default, rename = "nodeInfo", deserialize_with = "null_is_default")]
        node_info: NodeInfo,
        #[serde(default, deserialize_with = "null_is_default")]
        addresses: Vec<NodeAddress>,
    }
    #[derive(Deserialize)]
    struct NodeAddress {
        #[serde(default, deserialize_with = "null_is_default")]
        address: String,
    }
    let status: NodeStatus = NODE.status(body, "")?;
    let addresses = status.addresses.into_iter().map(|each| each.address);
    Ok(NodeInfo {
        addresses: addresses.filter(|address| !address.is_empty()).collect(),
        ..status.node_info
    })
}

// === impl Kind ===

impl Kind {
    /// Reads the `status` of an answer that must be of this kind. `secret` is left out of errors.
    fn status<T: DeserializeOwned>(self, body: &[u8], secret: &str) -> Result<T, AnswerError> {
        let shown = |text: String| log_text(&text, secret);
        let answer: Answer<T> =
            json::read(body).map_err(|error| AnswerError::Json(shown(error.to_string())))?;
        if (answer.kind.as_str(), answer.version.as_str()) == (self.kind, self.version) {
            Ok(answer.status)
        } else {
            Err(AnswerError::Kind {
                expected: self,
                found: shown(format!("a {:?} of {:?}", answer.kind, answer.version)),
            })
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} of {}", self.kind, self.version)
    }
}

/// `message` of a `Status` object, if the body is one.
pub(super) fn status_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct StatusObject {
        message: String,
    }
    json::read::<StatusObject>(body).ok().map(|status| status.message)
}

/// Reads null as the zero value, as Go does.
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
