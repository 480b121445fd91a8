//! What the helper process does for a gate in its sandbox: a closed list.

use std::io;
use std::path::Path;
use std::sync::{Mutex, TryLockError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::containment::Begin;
use super::looker::{Kubelets, Looker};
use crate::apiserver::{PluginCommand, PluginRun};
use crate::host::helper::answer_questions;
use crate::host::sandbox::{harden, no_core_dumps};
use crate::host::sockets::Holder;
use crate::seal::tool::ToolRun;

/// Answers the gate's questions until the gate ends.
///
/// # Errors
/// Standard input is no socket.
pub(crate) fn run() -> io::Result<()> {
    no_core_dumps();
    let _signals = leave_signals_to_the_gate()?;
    let looker = Mutex::new(Looker::default());
    answer_questions(move |kind, about, connection| match kind {
        Begin::KIND => {
            let Begin { hardened, plugin } = read(about)?;
            PluginCommand::allow_only(plugin);
            let failed = if hardened { harden() } else { Vec::new() };
            write(&failed)
        }
        ToolRun::KIND => {
            let run: ToolRun = read(about)?;
            match run.is_of_a_running_gate() {
                true => write(&run.run_here()),
                false => {
                    Err("this program, with these arguments and this input, is not on its list".to_owned())
                }
            }
        }
        PluginRun::KIND => write(&read::<PluginRun>(about)?.run_for(connection)),
        Holder::KIND => write(&read::<Holder>(about)?.find_here()),
        Kubelets::KIND => {
            // A look may wait for a file system that does not answer: the next ones do not wait for it.
            let mut looker = match looker.try_lock() {
                Ok(looker) => looker,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Err("an earlier look has not ended".to_owned()),
            };
            write(&looker.look(Path::new("/proc"), &read(about)?))
        }
        _ => Err("it does not do this".to_owned()),
    })
}

/// What a service manager or an operator sends to every process of a unit is for the gate. A stop too: the
/// gate still needs the helper while it stops. A handler is not inherited by the programs that the helper
/// starts, as an ignored signal would be.
fn leave_signals_to_the_gate() -> io::Result<(Runtime, Vec<Signal>)> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let kinds = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    let signals = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
    drop(entered);
    Ok((runtime, signals))
}

fn read<T: DeserializeOwned>(about: Value) -> Result<T, String> {
    // The parser's message may quote a secret.
    serde_json::from_value(about).map_err(|_| "the question cannot be read".to_owned())
}

fn write(answer: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map_err(|error| error.to_string())
}
