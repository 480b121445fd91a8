//! Sending every probe from every side to every address, one after the other.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::holders;
use super::ports::Ports;
use super::report::{API_VERSION, KIND, ProbeAnswer, ProbeOutcome, ProbeReport};
use super::request::Prober;
use super::sides::{Interrupted, ProbeSide, SideKind};
use super::table::{PROBES, Port, Probe, ProbeCredential};
use super::token::ProbeToken;
use crate::host;
use crate::host::Wire;
use crate::timestamp::timestamp;

/// At most five requests a second: probing must not be a load on the kubelet.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// With more addresses than this, the operator names those that matter.
const MOST_ADDRESSES: usize = 32;
/// After this many probes of one port without an answer, the rest are not sent.
const PATIENCE: u32 = 3;

/// What to probe, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ports.
    pub ports: Ports,
    /// The node's addresses to dial; empty: all of them.
    pub addresses: Vec<IpAddr>,
    /// Where to dial from; empty: everywhere.
    pub sides: Vec<SideKind>,
    /// A token with read-only rights: with it, commands are tried by GET and WebSocket.
    pub token: Option<ProbeToken>,
    /// From one request to the next.
    pub interval: Duration,
    /// How long to wait for an answer once there is a connection.
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

/// How far a run has come, said before each probe.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Probes that have their answer, or were left out.
    pub done: usize,
    /// All probes.
    pub total: usize,
    /// The side from which the next one is sent.
    pub side: SideKind,
    /// The address to which it is sent.
    pub address: IpAddr,
}

impl Progress {
    /// About how long the remaining probes take if all are answered at once, at the usual rate.
    #[must_use]
    pub(crate) fn remaining(&self) -> Duration {
        INTERVAL * u32::try_from(self.total - self.done).unwrap_or(u32::MAX)
    }
}

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// Not an address of this node.
    #[error(
        "{0} is not an address of this node, and prove probes only the node that it runs on: its addresses \
         are {1}"
    )]
    NotLocal(IpAddr, String),
    /// Something that every probe needs.
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
    #[error(
        "this node has {0} addresses, too many to probe all: name those that clients dial with --address"
    )]
    TooMany(usize),
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> ProveError {
    move |source| ProveError::System { doing, source }
}

/// Sends every probe from every side to every address, one after the other. Blocks.
///
/// # Errors
/// An address is not this node's, or the run was interrupted.
pub fn prove(
    options: &Options,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ProbeReport, ProveError> {
    Wire::sweep();
    let own = addresses(&options.addresses)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("starting"))?;
    let mut interrupted = runtime
        .block_on(async { Interrupted::new() })
        .map_err(system("waiting for signals"))?;
    let token = options.token.as_ref().map(ProbeToken::as_str);
    let prober = Prober::new(token, options.answer_within).map_err(system("making a certificate"))?;
    // Looked up here: another side has another network, or is another user.
    let untrusted = own
        .iter()
        .map(|address| SocketAddr::new(*address, options.ports.secure))
        .filter(|address| token.is_some() && !holders::are_trusted(*address))
        .collect();
    let probes: Vec<&Probe> = PROBES
        .iter()
        .filter(|probe| token.is_some() || probe.credential != ProbeCredential::Token)
        .collect();
    let sides: Vec<(SideKind, Vec<IpAddr>)> = SideKind::ALL
        .into_iter()
        .filter(|side| options.sides.is_empty() || options.sides.contains(side))
        .map(|side| (side, side.addresses(&own)))
        .collect();
    let addresses: usize = sides.iter().map(|(_, addresses)| addresses.len()).sum();
    let mut run = ProbeRun {
        options,
        total: addresses * probes.len(),
        probes,
        prober,
        untrusted,
        next: None,
        done: 0,
        results: Vec::new(),
        skipped: Vec::new(),
        untried: Vec::new(),
    };
    let started = timestamp(SystemTime::now());
    if token.is_none() {
        run.skipped.push(
            "commands by GET and WebSocket with a read-only token: there is no --token-file".to_owned(),
        );
    }
    for (side, addresses) in sides {
        run.from(side, &addresses, &runtime, &mut interrupted, progress)?;
    }
    Ok(ProbeReport {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host::host_name().unwrap_or_default(),
        started,
        finished: timestamp(SystemTime::now()),
        ports: options.ports,
        results: run.results,
        skipped: run.skipped,
        untried: run.untried,
        build: run.prober.build(),
    })
}

/// The node's addresses that are to be dialled: the named ones, or all.
fn addresses(named: &[IpAddr]) -> Result<Vec<IpAddr>, ProveError> {
    let own = host::addresses().map_err(system("reading the node's addresses"))?;
    if let Some(foreign) = named
        .iter()
        .find(|address| !own.contains(&address.to_canonical()))
    {
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        return Err(ProveError::NotLocal(*foreign, own.join(", ")));
    }
    if named.is_empty() && own.len() > MOST_ADDRESSES {
        return Err(ProveError::TooMany(own.len()));
    }
    let named: Vec<IpAddr> = named.iter().map(IpAddr::to_canonical).collect();
    let wanted = |address: &IpAddr| named.is_empty() || named.contains(address);
    Ok(own.into_iter().filter(wanted).collect())
}

struct ProbeRun<'a> {
    options: &'a Options,
    probes: Vec<&'static Probe>,
    prober: Arc<Prober>,
    /// Ports to which the token is not shown.
    untrusted: BTreeSet<SocketAddr>,
    /// When the next request may be sent.
    next: Option<Instant>,
    done: usize,
    total: usize,
    results: Vec<ProbeOutcome>,
    skipped: Vec<String>,
    untried: Vec<String>,
}

impl ProbeRun<'_> {
    /// Every probe from one side.
    fn from(
        &mut self,
        kind: SideKind,
        addresses: &[IpAddr],
        runtime: &Runtime,
        interrupted: &mut Interrupted,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), ProveError> {
        if addresses.is_empty() {
            self.skipped
                .push(format!("{}: there is no such address", kind.name()));
            return Ok(());
        }
        let done = self.done + addresses.len() * self.probes.len();
        let (side, remark) = match ProbeSide::new(kind, addresses) {
            Ok(side) => side,
            Err(error) => {
                self.untried.push(format!("{}: {error}", kind.name()));
                self.done = done;
                return Ok(());
            }
        };
        self.skipped.extend(remark.map(str::to_owned));
        let mut reached = Vec::new();
        for address in addresses {
            if runtime.block_on(interrupted.is_pending()) {
                return Err(ProveError::Interrupted);
            }
            match side.reaches(*address) {
                Ok(()) => reached.push(*address),
                Err(error) => self
                    .untried
                    .push(format!("{} to {address}: {error}", kind.name())),
            }
        }
        let probed = side.run(|| {
            runtime.block_on(async {
                tokio::select! {
                    () = self.each_address(kind, &reached, progress) => Ok(()),
                    () = interrupted.wait() => Err(ProveError::Interrupted),
                }
            })
        });
        self.done = done;
        match probed {
            Ok(probed) => probed,
            Err(why) => {
                self.untried.push(format!("{}: {why}", kind.name()));
                Ok(())
            }
        }
    }

    /// Every address. Then each port that took no connection is dialled once more: a port that changes in
    /// between shows nothing.
    async fn each_address(
        &mut self,
        side: SideKind,
        addresses: &[IpAddr],
        progress: &mut (dyn FnMut(Progress) + Send),
    ) {
        let first = self.results.len();
        for address in addresses {
            for port in [Port::Secure, Port::ReadOnly, Port::Healthz] {
                self.port(side, *address, port, progress).await;
            }
        }
        let closed: BTreeSet<SocketAddr> = self.results[first..]
            .iter()
            .filter(|outcome| matches!(outcome.answer, ProbeAnswer::Refused | ProbeAnswer::Silent))
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
                outcome.answer = ProbeAnswer::Unknown("no connection at first, and one later".to_owned());
            }
        }
    }

    /// Every probe of one port.
    async fn port(
        &mut self,
        side: SideKind,
        ip: IpAddr,
        port: Port,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) {
        let address = SocketAddr::new(ip, port.number(&self.options.ports));
        // A port that takes no connection is not dialled thirty times, nor one that keeps every client
        // waiting.
        let mut known = None;
        let (mut answered, mut waited) = (false, 0);
        let probes: Vec<&Probe> = self
            .probes
            .iter()
            .copied()
            .filter(|probe| probe.port == port)
            .collect();
        for probe in probes {
            progress(Progress {
                done: self.done,
                total: self.total,
                side,
                address: ip,
            });
            let mut answer = match &known {
                Some(answer) => ProbeAnswer::clone(answer),
                None if probe.credential == ProbeCredential::Token && self.untrusted.contains(&address) => {
                    let why = "another local user listens on this port: the token is not shown to it";
                    ProbeAnswer::Unknown(why.to_owned())
                }
                None => {
                    self.pace().await;
                    self.prober.send(probe, address).await
                }
            };
            match &answer {
                ProbeAnswer::Refused | ProbeAnswer::Silent if !answered => known = Some(answer.clone()),
                // A kubelet that is just being restarted is not a closed one.
                ProbeAnswer::Refused | ProbeAnswer::Silent => {
                    answer = ProbeAnswer::Unknown("no connection, where there was one before".to_owned());
                }
                ProbeAnswer::Unknown(_) => {
                    waited += 1;
                    if waited == PATIENCE {
                        let why = format!("not sent, after {PATIENCE} probes without an answer");
                        known = Some(ProbeAnswer::Unknown(why));
                    }
                }
                ProbeAnswer::Status(_) | ProbeAnswer::Failed(_) => answered = true,
            }
            let normal = side != SideKind::Namespace && probe.normal_on_node;
            let through = matches!(answer, ProbeAnswer::Status(status) if probe.reaches.contains(&status));
            self.done += 1;
            self.results.push(ProbeOutcome {
                probe: probe.id.to_owned(),
                side,
                address,
                answer,
                through: through && !normal,
            });
        }
    }

    /// Waits until the next request may be sent.
    async fn pace(&mut self) {
        let now = Instant::now();
        let at = self.next.unwrap_or(now).max(now);
        self.next = Some(at + self.options.interval);
        tokio::time::sleep_until(at).await;
    }
}
