//! Defaults that depend on how, and how long ago, a kubelet was started.

use crate::adopt::kubelet::options::{Effective, Setting, ValueOrigin};

/// The start of a reason, where the value is a default that only a kubelet without `--config` has.
pub(super) fn open_by_default(setting: &Setting) -> &'static str {
    match setting.origin {
        ValueOrigin::LegacyDefault => "it is not set, and without --config the default is open: ",
        _ => "",
    }
}

/// Whether the default of an old version may be in force: the option is not set, and old kubelets mostly ran
/// without
/// `--config`.
pub(super) fn may_be_old(setting: &Setting, options: &Effective) -> bool {
    !setting.is_set() && options.text("--config").is_empty() && options.text("--config-dir").is_empty()
}
