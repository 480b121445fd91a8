//! What the helper process does for a gate in its sandbox: a closed list.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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
pub(crate) fn run() -> std::io::Result<()> {
    no_core_dumps();
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
            let mut looker = looker.lock().unwrap_or_else(PoisonError::into_inner);
            write(&looker.look(Path::new("/proc"), &read(about)?))
        }
        _ => Err("it does not do this".to_owned()),
    })
}

fn read<T: DeserializeOwned>(about: Value) -> Result<T, String> {
    // The parser's message may quote a secret.
    serde_json::from_value(about).map_err(|_| "the question cannot be read".to_owned())
}

fn write(answer: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map_err(|error| error.to_string())
}
