//! `kubelet-gate explain`: the rights that a request needs.

use clap::{Args, ValueEnum};
use http::uri::PathAndQuery;
use http::{Method, Request};
use serde::Serialize;

use super::exit::{CliError, Exit};
use super::output::Output;
use super::terminal::{BAD, Terminal};
use crate::attributes::Checks;
use crate::error::RequestError;

/// The arguments of `explain`.
#[derive(Args, Debug)]
#[command(after_help = "\
The answer is that of a gate with authorization.requireCreate: true, the default.

Exit codes: 0 the request is well formed, 1 the gate refuses it, 64 wrong command line")]
pub(super) struct Explain {
    /// GET, HEAD, POST, PUT, PATCH or DELETE, in capitals as in a request
    method: String,
    /// The path, and the query if there is one
    path: String,
    /// The protocol that the request asks to upgrade to
    #[arg(long, value_enum)]
    upgrade: Option<UpgradeTo>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum UpgradeTo {
    Spdy,
    Websocket,
}

/// What `-o json` prints for a request that is well formed.
#[derive(Serialize)]
struct Explained {
    verb: &'static str,
    checks: Vec<&'static str>,
    interactive: bool,
    path: String,
}

/// What `-o json` prints for a request that the gate refuses.
#[derive(Serialize)]
struct Refused<'a> {
    refused: u16,
    reason: &'a str,
    why: &'a str,
}

impl Explain {
    pub(super) fn run(&self, terminal: &mut Terminal) -> Result<Exit, CliError> {
        match self.checks() {
            Ok(checks) => {
                self.print(&checks, terminal);
                Ok(Exit::Good)
            }
            Err(error) => {
                let (refused, why) = (error.status.as_u16(), error.inside_text());
                match self.output {
                    Output::Json => terminal.out.json(&Refused {
                        refused,
                        reason: error.reason,
                        why,
                    }),
                    Output::Table => terminal
                        .out
                        .labelled(BAD, "refused", &format!("{refused}: {why}")),
                }
                Ok(Exit::Failed)
            }
        }
    }

    /// Read exactly as the gate reads a request that it receives.
    fn checks(&self) -> Result<Checks, RequestError> {
        let method =
            Method::from_bytes(self.method.as_bytes()).map_err(|_| RequestError::method_not_allowed())?;
        let target: PathAndQuery = self.path.parse().map_err(|_| {
            RequestError::bad_request("not_a_path", "the request target must be a path starting with /")
        })?;
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "node");
        if let Some(upgrade) = self.upgrade {
            let protocol = match upgrade {
                UpgradeTo::Spdy => "SPDY/3.1",
                UpgradeTo::Websocket => "websocket",
            };
            request = request
                .header("connection", "Upgrade")
                .header("upgrade", protocol);
        }
        let (parts, ()) = request
            .body(())
            .map_err(|error| RequestError::bad_request("not_a_request", error.to_string()))?
            .into_parts();
        Checks::of(&parts, true)
    }

    fn print(&self, checks: &Checks, terminal: &mut Terminal) {
        let names: Vec<&'static str> = checks
            .subresources()
            .iter()
            .map(|subresource| subresource.as_str())
            .collect();
        let verb = checks.verb().as_str();
        let out = &mut terminal.out;
        if self.output == Output::Json {
            return out.json(&Explained {
                verb,
                checks: names,
                interactive: checks.interactive(),
                path: checks.path().to_owned(),
            });
        }
        out.hanging("path        ", checks.path());
        let interactive = if checks.interactive() {
            " (interactive: always create)"
        } else {
            ""
        };
        out.hanging("verb        ", &format!("{verb}{interactive}"));
        let reviews: Vec<String> = names.iter().map(|name| format!("{verb} nodes/{name}")).collect();
        out.hanging("reviews     ", &reviews.join(", else "));
        if self.upgrade.is_some() {
            let kind = if checks.tunnel().is_some() {
                "possible: the connection may become a tunnel"
            } else {
                "ignored: this path has no upgrade, the request gets a plain answer"
            };
            out.hanging("upgrade     ", kind);
        }
    }
}
