//! `kubelet-gate certs`: the lab's PKI as files, for curl and a real kubelet.

use std::path::PathBuf;

use clap::Args;

use super::{FAILED, GOOD, complain};
use fakes::pki::Pki;

/// The arguments of `certs`.
#[derive(Args, Debug)]
pub(super) struct Certs {
    /// The directory to write into; files of an earlier run are replaced
    #[arg(long, value_name = "DIR", default_value = "certs-dev")]
    dir: PathBuf,
}

impl Certs {
    pub(super) fn run(&self) -> u8 {
        match Pki::generate().and_then(|pki| pki.write(&self.dir)) {
            Ok(files) => {
                for file in files {
                    println!("{}", file.display());
                }
                GOOD
            }
            Err(error) => {
                complain(&error);
                FAILED
            }
        }
    }
}
