//! Whether the files that a kubelet's options name are there and can be used. A check of an option passes
//! only if they are: a kubelet does not start without them.

use std::io::ErrorKind;
use std::path::Path;

use super::check::{Check, CheckResult, Verdict};
use crate::adopt::kubelet::Root;
use crate::adopt::kubelet::invocation::Invocation;
use crate::adopt::kubelet::kubeconfig::NodeKubeconfig;
use crate::adopt::kubelet::options::Effective;
use crate::tls::{certificate, certified_key, pem};

/// Judges again every check that passes and whose option names files.
pub(super) fn judge(checks: &mut [Check], options: &Effective, invocation: &Invocation) {
    let node = NamedFiles {
        root: &invocation.root,
        is_copy: invocation.pid().is_none() && !invocation.root.is_here(),
    };
    for check in checks.iter_mut().filter(|check| check.verdict == Verdict::Pass) {
        let judgement = match check.id {
            "client-ca-file" => node.bundle(options.text("authentication.x509.clientCAFile")),
            "authorization-mode" => node.kubeconfig(options),
            "serving-pair" if !options.is_on("serverTLSBootstrap") => {
                node.pair(options.text("tlsCertFile"), options.text("tlsPrivateKeyFile"))
            }
            _ => continue,
        };
        if let Err(CheckResult { verdict, why }) = judgement {
            (check.verdict, check.why) = (verdict, why);
        }
    }
}

/// The files of a node.
struct NamedFiles<'a> {
    root: &'a Root,
    /// It may lack files that the node has.
    is_copy: bool,
}

impl NamedFiles<'_> {
    fn read(&self, path: &str) -> Result<String, CheckResult> {
        self.root.read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound if self.is_copy => CheckResult::warn(format!(
                "{path} is not among these files: if the node does not have it either, its kubelet does not \
                 start"
            )),
            ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput => broken(format!("{path}: {error}")),
            _ => CheckResult::warn(format!("not certain: {path} cannot be read: {error}")),
        })
    }

    /// Certificates of CAs.
    fn bundle(&self, path: &str) -> Result<(), CheckResult> {
        let text = self.read(path)?;
        let cas =
            pem::certificates(Path::new(path), text.as_bytes()).map_err(|error| broken(error.to_string()))?;
        if cas.is_empty() {
            return Err(broken(format!("{path}: it holds no certificate")));
        }
        for ca in &cas {
            certificate::parse(ca).map_err(|why| broken(format!("{path}: {why}")))?;
        }
        Ok(())
    }

    /// A certificate and its key.
    fn pair(&self, certificate: &str, key: &str) -> Result<(), CheckResult> {
        self.bundle(certificate)?;
        let (chain, text) = (self.read(certificate)?, self.read(key)?);
        let chain = pem::certificates(Path::new(certificate), chain.as_bytes())
            .map_err(|error| broken(error.to_string()))?;
        let key =
            pem::private_key(Path::new(key), text.as_bytes()).map_err(|error| broken(error.to_string()))?;
        match certified_key(chain, key) {
            Ok(_) => Ok(()),
            Err(error) => Err(broken(format!("{certificate}: {error}"))),
        }
    }

    /// The kubeconfig by which the kubelet asks the API server. One that is not there may still be made, by
    /// --bootstrap-kubeconfig, and then nothing is allowed before it is.
    fn kubeconfig(&self, options: &Effective) -> Result<(), CheckResult> {
        let path = options.text("--kubeconfig");
        match NodeKubeconfig::read(self.root, path) {
            Ok(_) => Ok(()),
            Err(error) if error.is_missing() => {
                let bootstraps = !options.text("--bootstrap-kubeconfig").is_empty();
                match bootstraps || self.is_copy {
                    true => Ok(()),
                    false => Err(broken(error.to_string())),
                }
            }
            // client-go takes some that this program does not: one whose user is not there has no credential.
            Err(error) => Err(CheckResult::warn(format!(
                "not certain: the kubelet asks the API server by a kubeconfig that cannot be used: {error}"
            ))),
        }
    }
}

fn broken(what: String) -> CheckResult {
    CheckResult::fail(format!("{what}; a kubelet does not start with it"))
}
