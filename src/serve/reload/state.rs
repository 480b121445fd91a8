//! What is known of the files between two looks.

use std::collections::BTreeMap;

use super::configuration::ConfigurationFile;
use crate::looks::Looks;

/// What the looks at the files remember.
pub(in crate::serve) struct Reloading {
    pub(super) looks: Looks,
    /// The configuration file, if it is followed.
    pub(in crate::serve) configuration: Option<ConfigurationFile>,
    /// What was wrong with the files when they were last read, by what they are for.
    pub(super) complaints: BTreeMap<&'static str, String>,
    /// What the configuration file says and is not in force.
    pub(super) pending: Pending,
}

/// What the configuration file says and is not in force.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Pending {
    /// Keys that wait for a start.
    pub(super) start: Vec<String>,
    /// What would be loosened, and waits for SIGHUP.
    pub(super) signal: Vec<String>,
}

impl Default for Reloading {
    fn default() -> Self {
        Self {
            looks: Looks::at_once(),
            configuration: None,
            complaints: BTreeMap::new(),
            pending: Pending::default(),
        }
    }
}
