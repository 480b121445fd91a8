//! The configuration file, as it was taken up last.

use std::path::PathBuf;

use super::super::error::StartError;
use super::changes::{Changes, in_force};
use crate::looks::{Looks, Next, Trigger, Unit};
use crate::settings::{KubeletFlags, Settings, SettingsError};

/// The configuration file, with the flags of the command line on top.
pub(in crate::serve) struct ConfigurationFile {
    pub(super) path: PathBuf,
    flags: KubeletFlags,
    /// What the file says; no contents before the first look.
    file: Unit<()>,
    /// What is in force: what the file says, but for the keys that only a start can change.
    pub(super) in_force: Settings,
}

/// A configuration that can be taken up.
pub(super) struct NextConfiguration {
    file: Unit<()>,
    pub(super) settings: Settings,
    pub(super) changes: Changes,
}

/// What a look at the configuration file says.
pub(super) enum FoundConfiguration {
    /// It is the file that was taken up last.
    Same,
    /// It may still be being written.
    Unsettled,
    /// It loosens these keys, which waits for SIGHUP.
    Waits(Vec<String>),
    New(Box<NextConfiguration>),
}

/// Why a configuration is not taken up.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigurationError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What it names cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The gate was started without a client for the API server.
    #[error(
        "authentication.webhook.enabled or authorization.mode needs the API server, and the gate was started \
         without a client for it: restart the gate"
    )]
    NeedsClient,
    /// A bug.
    #[error("the settings cannot be compared: {0}")]
    Compare(#[from] serde_json::Error),
}

impl ConfigurationFile {
    /// The file at `path`, from which `settings` were read, under `flags`.
    pub(in crate::serve) fn new(path: PathBuf, flags: KubeletFlags, settings: Settings) -> Self {
        Self {
            path,
            flags,
            file: Unit::unread(()),
            in_force: settings,
        }
    }

    /// Reads the file again.
    pub(super) fn look(&self, looks: &mut Looks) -> Result<FoundConfiguration, ConfigurationError> {
        let found = Settings::contents(&self.path).map(|bytes| vec![bytes]);
        let mut read = None;
        let next = self.file.next("configuration", found, looks, |files| {
            let bytes = files.first().map_or(&[][..], Vec::as_slice);
            let (settings, _) = Settings::of_contents(bytes, &self.path, &self.flags)?;
            read = Some(settings);
            Ok::<_, SettingsError>(())
        })?;
        let (file, settings) = match (next, read) {
            (Next::New(file), Some(settings)) => (file, settings),
            (Next::Unsettled, _) => return Ok(FoundConfiguration::Unsettled),
            _ => return Ok(FoundConfiguration::Same),
        };
        let changes = Changes::between(&self.in_force, &settings)?;
        if looks.trigger() == Trigger::Clock && !changes.loosened.is_empty() {
            return Ok(FoundConfiguration::Waits(changes.loosened));
        }
        Ok(FoundConfiguration::New(Box::new(NextConfiguration {
            file,
            settings: in_force(&self.in_force, settings),
            changes,
        })))
    }

    /// Notes that `next` is in force.
    pub(super) fn take_up(&mut self, next: NextConfiguration) {
        self.file = next.file;
        self.in_force = next.settings;
    }
}
