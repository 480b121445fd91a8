//! `kubelet-gate lab`.

use clap::Args;

#[derive(Args, Debug)]
pub(super) struct Lab {}

impl Lab {
    pub(super) fn run(&self) -> u8 {
        0
    }
}
