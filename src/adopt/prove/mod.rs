//! Going about the node's own kubelet as attackers' tools do, to see what gets through: before a gate stands there, and after.
//!
//! The probes are a fixed [table](PROBES). None of them changes anything, no body is sent or read, and nothing but this
//! node's own addresses is ever dialled.

mod holders;
mod report;
mod request;
mod sides;
mod stranger;
mod table;

pub use self::report::{API_VERSION, Answer, Changes, KIND, Outcome, Report, Verified};
pub use self::sides::SideKind;
pub use self::table::{Credential, PROBES, Port, Probe, Severity};

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::request::Prober;
use self::sides::{Interrupted, Side};
use crate::host;
use crate::host::Wire;

/// As fast as anybody may go: five requests a second.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// A node with more addresses is asked which of them matter.
const MOST_ADDRESSES: usize = 32;
/// How many probes of one port may wait in vain before the rest are given up.
const PATIENCE: u32 = 3;

/// The kubelet's ports.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Its own, with TLS.
    pub secure: u16,
    /// The read-only one.
    pub read_only: u16,
    /// The one for health checks.
    pub healthz: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            secure: 10250,
            read_only: 10255,
            healthz: 10248,
        }
    }
}

/// What to probe, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ports.
    pub ports: Ports,
    /// The node's addresses to dial; empty: all of them.
    pub addresses: Vec<IpAddr>,
    /// Where to dial from; empty: everywhere.
    pub sides: Vec<SideKind>,
    /// A token that may only read: with it, commands are tried by GET and WebSocket.
    pub token: Option<String>,
    /// From one request to the next.
    pub interval: Duration,
    /// For an answer, from the moment that there is a connection.
    pub answer_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: Ports::default(),
            addresses: Vec::new(),
            sides: Vec::new(),
            token: None,
            interval: INTERVAL,
            // A gate that waits for its API server gives up after ten seconds.
            answer_within: Duration::from_secs(12),
        }
    }
}

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// Not one of this node's.
    #[error(
        "{0} is no address of this node: prove probes the node that it runs on, and no other; its addresses are {1}"
    )]
    NotLocal(IpAddr, String),
    /// Something that everything else needs.
    #[error("{doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// SIGINT, SIGTERM, SIGHUP or SIGQUIT.
    #[error("interrupted; nothing was left behind")]
    Interrupted,
    /// It would take hours.
    #[error("this node has {0} addresses: name those by which it is dialled with --address")]
    TooMany(usize),
}

/// Sends every probe from every side to every address, one after the other. Blocks; `progress` hears of every address.
///
/// # Errors
/// An address is not this node's, or it was interrupted.
pub fn prove(options: &Options, progress: &mut (dyn FnMut(&str) + Send)) -> Result<Report, ProveError> {
    let system = |doing| move |source| ProveError::System { doing, source };
    Wire::sweep();
    let own = host::addresses().map_err(system("reading the node's addresses"))?;
    if let Some(foreign) = options
        .addresses
        .iter()
        .find(|address| !own.contains(&address.to_canonical()))
    {
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        return Err(ProveError::NotLocal(*foreign, own.join(", ")));
    }
    let named: Vec<IpAddr> = options.addresses.iter().map(IpAddr::to_canonical).collect();
    let wanted = |address: &IpAddr| named.is_empty() || named.contains(address);
    let own: Vec<IpAddr> = own.into_iter().filter(wanted).collect();
    if own.len() > MOST_ADDRESSES && named.is_empty() {
        return Err(ProveError::TooMany(own.len()));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting"))?;
    let mut interrupted = runtime
        .block_on(async { Interrupted::new() })
        .map_err(system("waiting for signals"))?;
    let prober = Prober::new(options.token.as_deref(), options.answer_within)
        .map_err(system("making a certificate"))?;
    // Looked at from here: another side has another network, or is another user.
    let strangers = own
        .iter()
        .map(|address| SocketAddr::new(*address, options.ports.secure))
        .filter(|address| options.token.is_some() && !holders::are_trusted(*address))
        .collect();
    let mut run = Run {
        options,
        prober,
        strangers,
        next: None,
        results: Vec::new(),
    };
    let started = now();
    let (mut skipped, mut untried) = (Vec::new(), Vec::new());
    if options.token.is_none() {
        skipped.push(
            "commands by GET and WebSocket with a token that may only read: no --token-file".to_owned(),
        );
    }
    for kind in SideKind::ALL {
        if !options.sides.is_empty() && !options.sides.contains(&kind) {
            continue;
        }
        let addresses = kind.addresses(&own);
        if addresses.is_empty() {
            skipped.push(format!("{}: there is no such address", kind.name()));
            continue;
        }
        let (side, remark) = match Side::new(kind, &addresses) {
            Ok(side) => side,
            Err(why) => {
                untried.push(format!("{}: {why}", kind.name()));
                continue;
            }
        };
        skipped.extend(remark);
        let mut reached = Vec::new();
        for address in addresses {
            if runtime.block_on(interrupted.is_pending()) {
                return Err(ProveError::Interrupted);
            }
            match side.reaches(address) {
                Ok(()) => reached.push(address),
                Err(why) => untried.push(format!("{} to {address}: {why}", kind.name())),
            }
        }
        let probed = side.run(|| {
            runtime.block_on(async {
                tokio::select! {
                    () = run.side(kind, &reached, progress) => Ok(()),
                    () = interrupted.wait() => Err(ProveError::Interrupted),
                }
            })
        });
        match probed {
            Ok(probed) => probed?,
            Err(why) => untried.push(format!("{}: {why}", kind.name())),
        }
    }
    Ok(Report {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host::host_name().unwrap_or_default(),
        started,
        finished: now(),
        ports: options.ports,
        results: run.results,
        skipped,
        untried,
    })
}

/// About how long [`prove`] takes on so many addresses that answer.
#[must_use]
pub fn about(addresses: usize) -> Duration {
    let probes = u32::try_from(PROBES.len() * addresses).unwrap_or(u32::MAX);
    INTERVAL * probes
}

fn now() -> String {
    let now = OffsetDateTime::now_utc();
    now.truncate_to_second().format(&Rfc3339).unwrap_or_default()
}

struct Run<'a> {
    options: &'a Options,
    prober: Arc<Prober>,
    /// Ports to which the token is not shown.
    strangers: BTreeSet<SocketAddr>,
    /// Not before then.
    next: Option<Instant>,
    results: Vec<Outcome>,
}

impl Run<'_> {
    /// Every address, and then once more each port that took no connection: what does not look the same twice shows nothing.
    async fn side(&mut self, side: SideKind, addresses: &[IpAddr], progress: &mut (dyn FnMut(&str) + Send)) {
        let first = self.results.len();
        for address in addresses {
            progress(&format!("{}: {address}", side.name()));
            self.address(side, *address).await;
        }
        let closed: BTreeSet<SocketAddr> = self.results[first..]
            .iter()
            .filter(|outcome| matches!(outcome.answer, Answer::Refused | Answer::Silent))
            .map(|outcome| outcome.address)
            .collect();
        let mut dialled = JoinSet::new();
        for address in closed {
            self.pace().await;
            let prober = Arc::clone(&self.prober);
            dialled.spawn(async move { prober.dial(address).await.is_ok().then_some(address) });
        }
        while let Some(open) = dialled.join_next().await {
            let Ok(Some(open)) = open else { continue };
            let of_it = self.results[first..]
                .iter_mut()
                .filter(|outcome| outcome.address == open);
            for outcome in of_it {
                outcome.answer = Answer::Unknown("no connection at first, and one later".to_owned());
            }
        }
    }

    async fn address(&mut self, side: SideKind, address: IpAddr) {
        for port in [Port::Secure, Port::ReadOnly, Port::Healthz] {
            let address = SocketAddr::new(address, port.number(&self.options.ports));
            // Who takes no connection is not asked thirty times, nor who lets everybody wait.
            let mut known = None;
            let (mut answered, mut waited) = (false, 0);
            for probe in PROBES.iter().filter(|probe| probe.port == port) {
                if probe.credential == Credential::Token && self.options.token.is_none() {
                    continue;
                }
                let mut answer = match &known {
                    Some(answer) => Answer::clone(answer),
                    None if probe.credential == Credential::Token && self.strangers.contains(&address) => {
                        Answer::Unknown(
                            "the port is held by a user to whom the token is not shown".to_owned(),
                        )
                    }
                    None => {
                        self.pace().await;
                        self.prober.send(probe, address).await
                    }
                };
                match &answer {
                    Answer::Refused | Answer::Silent if !answered => known = Some(answer.clone()),
                    // A kubelet that is just being started again is not a closed one.
                    Answer::Refused | Answer::Silent => {
                        answer = Answer::Unknown("no connection, where there was one before".to_owned());
                    }
                    Answer::Unknown(_) => {
                        waited += 1;
                        if waited == PATIENCE {
                            let why = format!("not asked, after {PATIENCE} without an answer");
                            known = Some(Answer::Unknown(why));
                        }
                    }
                    Answer::Status(_) | Answer::Failed(_) => answered = true,
                }
                let normal = side != SideKind::Namespace && probe.normal_on_node;
                let through = matches!(answer, Answer::Status(status) if probe.reaches.contains(&status));
                self.results.push(Outcome {
                    probe: probe.id.to_owned(),
                    side,
                    address,
                    answer,
                    through: through && !normal,
                });
            }
        }
    }

    async fn pace(&mut self) {
        let now = Instant::now();
        let at = self.next.unwrap_or(now).max(now);
        self.next = Some(at + self.options.interval);
        tokio::time::sleep_until(at).await;
    }
}
