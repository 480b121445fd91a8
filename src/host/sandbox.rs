//! The sandbox of a gate that runs: no new privileges, no core dumps, no other process that reads its memory,
//! and Landlock, by which the kernel refuses every file, port and process that the gate does not need.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, NetPort,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

use crate::files;

const NO_CORE_DUMPS: &str = "no core dumps";

static IN_FORCE: OnceLock<InForce> = OnceLock::new();

/// What the gate may do in the sandbox. Each is allowed as far as it exists when the sandbox is entered.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Folders, with everything below them, and files that may be read.
    pub(crate) readable: BTreeSet<PathBuf>,
    /// Folders in which files, folders and sockets may be made, changed and removed.
    pub(crate) writable: BTreeSet<PathBuf>,
    /// TCP ports to listen on.
    pub(crate) bind: BTreeSet<u16>,
    /// TCP ports to connect to.
    pub(crate) connect: BTreeSet<u16>,
    /// Abstract sockets of other processes may be used.
    pub(crate) abstract_sockets: bool,
    /// Names may be resolved.
    pub(crate) names: bool,
    /// What stays closed though the gate may need it, by the key that names it, and why.
    pub(crate) closed: Vec<String>,
}

/// The sandbox in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct InForce {
    /// The version of the kernel's Landlock; 0 without.
    abi: i32,
    /// What is not in force, and why.
    missing: Vec<String>,
    /// `None`: every port.
    connect: Option<BTreeSet<u16>>,
    /// Names may be resolved.
    names: bool,
    /// Abstract sockets of other processes are out of reach, where the kernel can do that.
    scoped_sockets: bool,
}

/// The versions of Landlock from which on it can do more than files.
const TRUNCATION: i32 = 3;
const TCP_PORTS: i32 = 4;
const SCOPES: i32 = 6;

/// Why `sandbox: Required` cannot be held.
#[derive(Debug, thiserror::Error)]
#[error(
    "sandbox is Required and cannot be held here: {0}; correct that, or write sandbox: BestEffort to run \
     with what is left, which is listed when the gate starts"
)]
pub struct SandboxError(String);

/// No core dumps: keys and tokens are in this process' memory.
pub(crate) fn no_core_dumps() {
    if let Err(error) = without_core_dumps() {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
}

fn without_core_dumps() -> rustix::io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)
}

/// Has no program that this process starts gain privileges, and keeps other processes of its user from its
/// memory. Yields what failed.
pub(crate) fn harden() -> Vec<String> {
    let steps = [
        (NO_CORE_DUMPS, without_core_dumps()),
        ("no new privileges", set_no_new_privs(true)),
        (
            "not dumpable",
            set_dumpable_behavior(DumpableBehavior::NotDumpable),
        ),
    ];
    let failed =
        |(what, done): (&str, rustix::io::Result<()>)| done.err().map(|error| format!("{what} ({error})"));
    steps.into_iter().filter_map(failed).collect()
}

/// Enters it for this thread and those that it starts; there must be no other one yet. Once in a process.
///
/// # Errors
/// Something is missing that does not depend on the kernel's age alone, and it is `required`.
pub(crate) fn enter(bounds: &Bounds, required: bool) -> Result<&'static InForce, SandboxError> {
    let mut missing = harden();
    missing.extend(other_threads());
    missing.extend(bounds.closed.iter().cloned());
    let mut state = InForce {
        names: true,
        ..InForce::default()
    };
    let abi = match restrict(bounds) {
        Ok(RestrictionStatus {
            landlock: LandlockStatus::Available { effective_abi, .. },
            ruleset: RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            ..
        }) => effective_abi as i32,
        Ok(RestrictionStatus {
            landlock: LandlockStatus::NotEnabled,
            ..
        }) => {
            missing.push("Landlock (the kernel has it, and it is not among lsm= of its command line)".into());
            0
        }
        Ok(_) => {
            missing.push(without_landlock());
            0
        }
        Err(error) => {
            missing.push(format!("Landlock ({error})"));
            0
        }
    };
    if required && !missing.is_empty() {
        return Err(SandboxError(missing.join("; ")));
    }
    state.missing = missing;
    state.abi = abi;
    if abi > 0 {
        files::note_sandbox();
        state.names = bounds.names;
        state.connect = (abi >= TCP_PORTS).then(|| bounds.connect.clone());
        state.scoped_sockets = !bounds.abstract_sockets;
    }
    Ok(IN_FORCE.get_or_init(|| state))
}

/// The sandbox of this process; `None` outside one.
pub(crate) fn in_force() -> Option<&'static InForce> {
    IN_FORCE.get()
}

/// Whether this process may connect to this port.
pub(crate) fn may_connect(port: u16) -> bool {
    let ports = in_force().and_then(|sandbox| sandbox.connect.as_ref());
    ports.is_none_or(|ports| ports.contains(&port))
}

/// Whether this process may read what names are resolved by.
pub(crate) fn may_resolve() -> bool {
    in_force().is_none_or(|sandbox| sandbox.names)
}

// === impl InForce ===

impl InForce {
    /// Whether nothing is missing that this kernel, or a newer one, can do.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.beyond_the_kernel().is_empty()
    }

    fn beyond_the_kernel(&self) -> Vec<String> {
        let abi = self.abi;
        let mut lacking = Vec::new();
        if abi == 0 {
            return lacking;
        }
        let parts = [
            (TRUNCATION, "truncating other files (Linux 6.2 can forbid it)"),
            (TCP_PORTS, "TCP ports (Linux 6.7 can restrict them)"),
            (
                SCOPES,
                "signals and abstract sockets (Linux 6.12 can restrict them)",
            ),
        ];
        let missing = parts.iter().filter(|(needed, _)| abi < *needed);
        lacking.extend(missing.map(|(_, what)| (*what).to_owned()));
        if abi >= SCOPES && !self.scoped_sockets {
            lacking.push("abstract sockets (NOTIFY_SOCKET is one)".to_owned());
        }
        lacking
    }
}

/// `in force: …; not in force: …`.
impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_missing = |what: &&str| !self.missing.iter().any(|missing| missing.starts_with(*what));
        let process = [NO_CORE_DUMPS, "no new privileges", "not dumpable"];
        let mut on: Vec<String> = Vec::new();
        on.extend(
            process
                .iter()
                .filter(|what| is_missing(what))
                .map(|what| (*what).to_owned()),
        );
        if self.abi > 0 {
            on.push(format!(
                "Landlock version {}: files, no programs, no other process",
                self.abi
            ));
        }
        if self.abi >= TCP_PORTS {
            on.push("TCP ports".to_owned());
        }
        if self.abi >= SCOPES {
            on.push(
                if self.scoped_sockets {
                    "signals and abstract sockets"
                } else {
                    "signals"
                }
                .to_owned(),
            );
        }
        write!(f, "in force: {}", on.join(", "))?;
        let off: Vec<String> = self
            .missing
            .iter()
            .cloned()
            .chain(self.beyond_the_kernel())
            .collect();
        match off.is_empty() {
            true => Ok(()),
            false => write!(f, "; not in force: {}", off.join(", ")),
        }
    }
}

/// Landlock binds a thread and those that it starts: one that runs already would stay outside.
fn other_threads() -> Option<String> {
    let threads = match std::fs::read_dir("/proc/self/task") {
        Ok(threads) => threads.count(),
        Err(error) => return Some(format!("every thread (/proc/self/task: {error})")),
    };
    (threads != 1).then(|| format!("every thread ({} others run already)", threads - 1))
}

/// Why there is no Landlock. A filter of system calls answers as a kernel that has none.
fn without_landlock() -> String {
    let status = files::read_text("/proc/self/status", files::DOCUMENT).unwrap_or_default();
    match status.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    }) {
        true => {
            "Landlock (the kernel has none, as before Linux 5.13, or a filter of system calls forbids it: a \
                 unit with SystemCallFilter= needs landlock_create_ruleset, landlock_add_rule and \
                 landlock_restrict_self in it)"
        }
        false => "Landlock (the kernel has none: Linux 5.13 has)",
    }
    .to_owned()
}

fn restrict(bounds: &Bounds) -> Result<RestrictionStatus, RulesetError> {
    // The version up to which it is known here what each right means; older kernels do less of it.
    let abi = ABI::V8;
    let mut scopes = BitFlags::from(Scope::Signal);
    if !bounds.abstract_sockets {
        scopes |= Scope::AbstractUnixSocket;
    }
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(scopes)?
        .create()?;
    let readable = bounds.readable.iter().map(|path| (path, read));
    for (path, access) in readable.chain(bounds.writable.iter().map(|path| (path, write))) {
        if let Some(rule) = beneath(path, access) {
            rules = rules.add_rule(rule)?;
        }
    }
    for port in &bounds.bind {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    for port in &bounds.connect {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    rules.restrict_self()
}

/// `None` for what does not exist, or may not be opened: it stays closed.
fn beneath(path: &Path, access: BitFlags<AccessFs>) -> Option<PathBeneath<PathFd>> {
    let access = match path.is_dir() {
        true => access,
        false => access & (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate),
    };
    Some(PathBeneath::new(PathFd::new(path).ok()?, access))
}
