//! `kubelet-gate explain`: what a request would need.

use clap::{Args, ValueEnum};
use http::uri::PathAndQuery;
use http::{Method, Request};
use serde::Serialize;

use super::{FAILED, GOOD, Output};
use crate::attributes::Checks;
use crate::error::RequestError;

/// The arguments of `explain`.
#[derive(Args, Debug)]
pub(super) struct Explain {
    /// GET, HEAD, POST, PUT, PATCH or DELETE, in capitals as on the wire
    method: String,
    /// The path, with a query if it has one
    path: String,
    /// The protocol the request would upgrade to
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

/// What `-o json` prints of a request that can be judged.
#[derive(Serialize)]
struct Explained {
    verb: &'static str,
    checks: Vec<&'static str>,
    interactive: bool,
    path: String,
}

/// What `-o json` prints of one that is refused.
#[derive(Serialize)]
struct Refused<'a> {
    refused: u16,
    reason: &'a str,
    why: &'a str,
}

impl Explain {
    pub(super) fn run(&self) -> u8 {
        match self.checks() {
            Ok(checks) => {
                self.print(&checks);
                GOOD
            }
            Err(error) => {
                let (refused, why) = (error.status.as_u16(), error.inside_text());
                match self.output {
                    Output::Json => print_json(&Refused {
                        refused,
                        reason: error.reason,
                        why,
                    }),
                    Output::Table => println!("refused     {refused}: {why}"),
                }
                FAILED
            }
        }
    }

    /// Judged exactly as the gate judges a request on the wire.
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

    fn print(&self, checks: &Checks) {
        let names: Vec<&'static str> = checks
            .subresources()
            .iter()
            .map(|subresource| subresource.as_str())
            .collect();
        let verb = checks.verb().as_str();
        if self.output == Output::Json {
            let path = checks.path().to_owned();
            return print_json(&Explained {
                verb,
                checks: names,
                interactive: checks.interactive(),
                path,
            });
        }
        println!("path        {}", checks.path());
        println!(
            "verb        {verb}{}",
            if checks.interactive() {
                "  (interactive: always create)"
            } else {
                ""
            }
        );
        let reviews: Vec<String> = names.iter().map(|name| format!("{verb} nodes/{name}")).collect();
        println!("reviews     {}", reviews.join(", else "));
        if self.upgrade.is_some() {
            let kind = if checks.tunnel().is_some() {
                "may become a tunnel"
            } else {
                "no tunnel here: answered plainly"
            };
            println!("upgrade     {kind}");
        }
    }
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => println!("{text}"),
        Err(error) => super::complain(&error),
    }
}
