//! A kubelet that authorizes its callers: what each request needs, and its sentence for a caller without it.

/// The user that every caller of the kubelet is, and what that user may do.
#[derive(Clone, Debug)]
pub struct Rights {
    /// The user's name.
    pub user: String,
    /// The verbs, of which HEAD needs the empty one.
    pub verbs: Vec<String>,
    /// The subresources of `nodes`.
    pub subresources: Vec<String>,
}

// === impl Rights ===

impl Rights {
    /// The kubelet's sentence if this request is not allowed.
    pub(super) fn refusal(&self, method: &str, path: &str) -> Option<String> {
        let verb = match method {
            "POST" => "create",
            "GET" => "get",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" => "delete",
            _ => "",
        };
        let needs: &[&str] = match path.split('/').nth(1).unwrap_or_default() {
            "metrics" => &["metrics"],
            "stats" => &["stats"],
            "logs" => &["log"],
            "checkpoint" => &["checkpoint"],
            "statusz" => &["statusz"],
            "flagz" => &["configz"],
            "configz" => &["configz", "proxy"],
            "healthz" => &["healthz", "proxy"],
            "pods" | "runningpods" => &["pods", "proxy"],
            _ => &["proxy"],
        };
        let has = |list: &[String], one: &str| list.iter().any(|listed| listed == one);
        if has(&self.verbs, verb) && needs.iter().any(|need| has(&self.subresources, need)) {
            return None;
        }
        let (user, needs) = (&self.user, needs.join(" "));
        Some(format!(
            "Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{needs}])\n"
        ))
    }
}
