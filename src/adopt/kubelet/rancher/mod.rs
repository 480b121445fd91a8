//! k3s and RKE2: they make the kubelet's arguments from files and flags of their own.
//!
//! ```text
//! configuration  what their files, their environment and their flags say    configuration.rs
//! arguments      their arguments for the kubelet merged with the user's     arguments.rs
//! drop_ins       the user's kubelet configuration, copied before a start    drop_ins.rs
//! product        the two, and the commands that start them                  product.rs
//! release        which release it is, where that decides                    release.rs
//! ```

mod arguments;
mod configuration;
mod drop_ins;
mod product;
mod release;

pub(super) use self::product::{Product, Start};

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use self::configuration::RancherOptions;
use self::release::{READ_ONLY_PORT, ReadOnlyPort};
use super::invocation::{Invocation, Source, Word, placed};
use super::root::Root;
use super::systemd::UnitStart;
use crate::files::{self, BUNDLE};
use crate::host::sockets;

/// The kubelet inside this process. k3s hides its arguments: its title is one word, `/usr/local/bin/k3s
/// agent`, and only its unit has what it was started with.
pub(super) fn of_process(
    product: Product,
    words: &[Word],
    process: &Path,
    unit: Option<&UnitStart>,
    source: Source,
    root: Root,
) -> Option<Invocation> {
    let bytes = files::read(process.join("environ"), BUNDLE).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let environment = text
        .split('\0')
        .filter_map(|assignment| assignment.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let hidden = words.first().is_some_and(|word| word.text.contains(' '));
    let started = unit.filter(|unit| Product::of(&unit.words) == Some(product));
    let words = match started {
        Some(started) if hidden => &started.words,
        _ => words,
    };
    let mut invocation = invocation(product, words, &environment, source, root, Start::Last)?;
    match started {
        Some(started) if hidden => invocation.unread.extend(started.unread.clone()),
        None if hidden => invocation.unread.push(format!(
            "{} hides its arguments, and no unit has them",
            product.name()
        )),
        _ => {}
    }
    Some(invocation)
}

/// The kubelet that this command of k3s or RKE2 runs; none with `--disable-agent`.
pub(super) fn invocation(
    product: Product,
    words: &[Word],
    environment: &BTreeMap<String, String>,
    source: Source,
    root: Root,
    start: Start,
) -> Option<Invocation> {
    let mut invocation = Invocation::new(source, Vec::new(), root);
    let options = RancherOptions::read(
        product,
        words,
        environment,
        &invocation.root,
        &mut invocation.unread,
    );
    if options.no_agent {
        return None;
    }
    let name = product.name();
    let data = options
        .data
        .clone()
        .unwrap_or_else(|| format!("/var/lib/rancher/{name}"));
    let agent = format!("{}/agent", data.trim_end_matches('/'));
    let drop_ins = format!("{agent}/etc/kubelet.conf.d");
    let has_drop_ins = invocation.root.exists(&drop_ins).unwrap_or_else(|error| {
        invocation.unread.push(format!("{drop_ins}: {error}"));
        false
    });
    let mut own = vec![format!("--kubeconfig={agent}/kubelet.kubeconfig")];
    let given = if has_drop_ins {
        own.push(format!("--config-dir={drop_ins}"));
        let taken = drop_ins::TakenOut::of(name, &options.kubelet, &mut invocation.unread);
        match start {
            Start::Next => {
                let own = format!("{drop_ins}/00-{name}-defaults.conf");
                if !invocation.root.has(&own) {
                    invocation
                        .unread
                        .push(format!("{own} is not there; {name} writes it at its next start"));
                }
                let copies = taken.copies(name, &drop_ins, &invocation.root, &mut invocation.unread);
                invocation.copies = copies;
            }
            Start::Last => invocation
                .notes
                .extend(taken.changed_since(name, &drop_ins, &invocation.root)),
        }
        taken.rest
    } else {
        invocation.notes.push(format!(
            "{drop_ins} is not found: the flags are those that {name} passed before it had drop-ins (1.32)"
        ));
        own.extend(flags_before_drop_ins(&agent, &options));
        drop_ins::doubt_without_folder(name, &options.kubelet, &drop_ins, &mut invocation.unread);
        options.kubelet.clone()
    };
    if has_drop_ins {
        let port = read_only_port(product, words, &data, &given, &invocation);
        own.extend(port.argument(product, &mut invocation));
    } else {
        own.push("--read-only-port=0".to_owned());
    }
    let host = || {
        let name = invocation.root.read("/etc/hostname").ok();
        name.map(|name| name.trim().to_lowercase())
    };
    if let Some(node) = options.node_name.or_else(host).filter(|name| !name.is_empty()) {
        own.push(format!("--hostname-override={node}"));
    }
    if let Some(ip) = options.node_ip {
        own.push(format!("--node-ip={ip}"));
    }
    let own = placed(&own, &format!("as {name} passes it"));
    invocation.words = arguments::merged(&own, &given);
    Some(invocation)
}

/// What a release without drop-ins passes. It passes `--config` and `--config-dir` of the user's as well.
fn flags_before_drop_ins(agent: &str, options: &RancherOptions) -> Vec<String> {
    let mut flags: Vec<String> = [
        "--anonymous-auth=false",
        "--authentication-token-webhook=true",
        "--authorization-mode=Webhook",
        "--address=0.0.0.0",
        "--healthz-bind-address=127.0.0.1",
    ]
    .map(str::to_owned)
    .into();
    flags.push(format!("--client-ca-file={agent}/client-ca.crt"));
    flags.push(format!("--tls-cert-file={agent}/serving-kubelet.crt"));
    flags.push(format!("--tls-private-key-file={agent}/serving-kubelet.key"));
    if options.protects_kernel_defaults {
        flags.push("--protect-kernel-defaults=true".to_owned());
    }
    flags
}

/// What is known of the read-only port, unless the user sets it. What the process listens on says more than
/// its release.
fn read_only_port(
    product: Product,
    words: &[Word],
    data: &str,
    given: &[Word],
    invocation: &Invocation,
) -> ReadOnlyPort {
    let set = given
        .iter()
        .any(|word| arguments::name(&word.text) == "read-only-port");
    if set {
        return ReadOnlyPort::SetByUser;
    }
    let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, READ_ONLY_PORT));
    if invocation.pid().is_some_and(|pid| sockets::listens(pid, all)) {
        return ReadOnlyPort::Listens;
    }
    // The title of a k3s that hides its arguments is one word.
    let program = words.first().and_then(|word| word.text.split(' ').next());
    release::of(product, program.unwrap_or_default(), data, &invocation.root)
}
