//! The running kubelet: which addresses it binds, from its own flags and configuration file.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::NodeError;
use super::sockets::{self, Listener};
use crate::settings::{Settings, UpstreamUrl};

/// What a kubelet binds unless told otherwise. Started without `--config`, it opens the read-only port as well.
const PORT: u16 = 10250;
const READ_ONLY_PORT: u16 = 10255;

/// A kubelet process, as `/proc` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RunningKubelet {
    /// Its process id.
    pub pid: i32,
    /// `--hostname-override`.
    pub hostname_override: Option<String>,
    /// What it binds, or why that cannot be said: the path of its `--config` and the error.
    pub binds: Result<Vec<SocketAddr>, (String, String)>,
}

/// The keys of a KubeletConfiguration that say what is bound.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct KubeletConfiguration {
    address: Option<String>,
    port: Option<u16>,
    read_only_port: Option<u16>,
}

/// Every kubelet process under `proc`.
pub fn running_kubelets(proc: &Path) -> Vec<RunningKubelet> {
    let Ok(entries) = std::fs::read_dir(proc) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            if !of_the_node(&entry.path()) {
                return None;
            }
            let argv = std::fs::read(entry.path().join("cmdline")).ok()?;
            RunningKubelet::of(pid, &argv, &entry.path())
        })
        .collect()
}

/// Whether a process may be believed to be the node's kubelet, whatever it calls itself: it is root's, and in the process
/// namespace of this one. A pod's is in one of its own, unless it was given the node's (`hostPID`). A namespace that cannot be
/// seen (without `CAP_SYS_PTRACE`) is no reason to overlook a kubelet.
fn of_the_node(process: &Path) -> bool {
    let ours = rustix::process::getuid().as_raw();
    let owner = std::fs::metadata(process).map(|metadata| metadata.uid());
    let namespaces = (
        std::fs::read_link(process.join("ns/pid")),
        std::fs::read_link("/proc/self/ns/pid"),
    );
    let same = !matches!(namespaces, (Ok(theirs), Ok(ours)) if theirs != ours);
    same && owner.is_ok_and(|owner| owner == 0 || owner == ours)
}

/// Whether the gate may bind what `settings` says: never what a kubelet binds or may come to bind.
///
/// A port that is a kubelet's by custom, by the upstream's address or by what a running kubelet binds is taken only if
/// every running kubelet is known not to want that very address, and at least one is running to know it of.
///
/// # Errors
/// The address is the kubelet's, or nothing proves that it is not.
pub fn may_listen(settings: &Settings, kubelets: &[RunningKubelet]) -> Result<(), NodeError> {
    let mut kubelet_ports = vec![PORT, READ_ONLY_PORT];
    if let UpstreamUrl::Http(upstream) | UpstreamUrl::Https(upstream) = &settings.upstream.url {
        kubelet_ports.push(upstream.port());
    }
    kubelet_ports.extend(
        kubelets
            .iter()
            .flat_map(|kubelet| kubelet.binds.iter().flatten().map(SocketAddr::port)),
    );

    let listen = settings.listen.iter().map(|address| ("listen", *address));
    let tombstone = settings
        .read_only_port
        .listen
        .iter()
        .map(|address| ("readOnlyPort.listen", *address));
    for (key, address) in listen
        .chain(tombstone)
        .filter(|(_, address)| kubelet_ports.contains(&address.port()))
    {
        if kubelets.is_empty() {
            return Err(NodeError::NoKubelet { key, address });
        }
        for kubelet in kubelets {
            let pid = kubelet.pid;
            match &kubelet.binds {
                Err((path, why)) => {
                    return Err(NodeError::KubeletConfig {
                        pid,
                        path: path.clone(),
                        why: why.clone(),
                        address,
                    });
                }
                Ok(binds) => {
                    if let Some(kubelet) = binds.iter().find(|bound| overlap(**bound, address)) {
                        return Err(NodeError::KubeletsPort {
                            key,
                            address,
                            pid,
                            kubelet: *kubelet,
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

/// The ports on which these kubelets really listen: what a process says of itself in its arguments is no reason to close a
/// port that is another's.
pub fn listening_ports(kubelets: &[RunningKubelet]) -> Vec<u16> {
    let listens = |kubelet: &RunningKubelet, address: &SocketAddr| {
        let held =
            |listener: &Listener| matches!(listener, Listener::Process(owner) if owner.pid == kubelet.pid);
        sockets::listeners(*address).iter().any(held)
    };
    kubelets
        .iter()
        .flat_map(|kubelet| {
            kubelet
                .binds
                .iter()
                .flatten()
                .filter(move |address| listens(kubelet, address))
        })
        .map(SocketAddr::port)
        .collect()
}

/// Whether two sockets cannot both be bound.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (one == other || one.is_unspecified() || other.is_unspecified())
}

impl RunningKubelet {
    /// The kubelet behind an argument vector (NUL-separated), if it is one. `process` is its folder in `/proc`.
    fn of(pid: i32, argv: &[u8], process: &Path) -> Option<Self> {
        let arguments: Vec<String> = argv
            .split(|byte| *byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect();
        let program = Path::new(arguments.first()?).file_name()?.to_str()?;
        let is_kubelet = program == "kubelet"
            || program == "hyperkube" && arguments.get(1).is_some_and(|word| word == "kubelet");
        if !is_kubelet {
            return None;
        }
        let hostname_override = flag(&arguments, "hostname-override");
        Some(Self {
            pid,
            hostname_override,
            binds: binds(&arguments, process),
        })
    }
}

/// What a kubelet with these arguments binds: flags over the `--config` file over the defaults.
fn binds(arguments: &[String], process: &Path) -> Result<Vec<SocketAddr>, (String, String)> {
    let config = flag(arguments, "config").filter(|path| !path.is_empty());
    let unknown = |why: String| (config.clone().unwrap_or_else(|| "its flags".into()), why);
    if let Some(directory) = flag(arguments, "config-dir").filter(|path| !path.is_empty()) {
        return Err((directory, "drop-in directories are not read yet".into()));
    }
    let file = match &config {
        None => KubeletConfiguration {
            read_only_port: Some(READ_ONLY_PORT),
            ..KubeletConfiguration::default()
        },
        Some(path) => {
            let text = read(&seen_from_outside(process, path)).map_err(|error| unknown(error.to_string()))?;
            serde_saphyr::from_str(&text).map_err(|error| unknown(error.to_string()))?
        }
    };
    let number = |name, value: Option<u16>, default| match flag(arguments, name) {
        Some(flag) => flag
            .parse()
            .map_err(|_| unknown(format!("--{name}={flag} is no port"))),
        None => Ok(value.unwrap_or(default)),
    };
    let address = flag(arguments, "address").or(file.address).unwrap_or_default();
    let address: IpAddr = match address.as_str() {
        "" => Ipv4Addr::UNSPECIFIED.into(),
        text => text
            .parse()
            .map_err(|_| unknown(format!("address {text:?} is no IP address")))?,
    };
    // 0 is "not set" to the kubelet, which then takes 10250; only the read-only port can be switched off.
    let port = match number("port", file.port, PORT)? {
        0 => PORT,
        port => port,
    };
    let read_only_port = number("read-only-port", file.read_only_port, 0)?;
    let ports = [port, read_only_port];
    Ok(ports
        .into_iter()
        .filter(|port| *port != 0)
        .map(|port| SocketAddr::new(address, port))
        .collect())
}

/// A configuration file, if it is one: the path is another process' word.
fn read(path: &Path) -> io::Result<String> {
    const LARGEST: u64 = 1024 * 1024;
    // Opening a FIFO would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(LARGEST + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// The last `--name=value` or `--name value`; `_` may stand for `-` in a kubelet's flags.
fn flag(arguments: &[String], name: &str) -> Option<String> {
    let mut found = None;
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        let Some(word) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            continue;
        };
        match word.split_once('=') {
            Some((flag, value)) if flag.replace('_', "-") == name => found = Some(value.to_owned()),
            None if word.replace('_', "-") == name => found = rest.next().cloned(),
            _ => {}
        }
    }
    found
}

/// A path as the process sees it: below its own root, relative to its own working directory.
fn seen_from_outside(process: &Path, path: &str) -> PathBuf {
    match path.strip_prefix('/') {
        Some(absolute) => process.join("root").join(absolute),
        None => process.join("cwd").join(path),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::settings::KubeletFlags;

    fn settings(listen: &str, tombstone: &str) -> Settings {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nnodeName: worker-1\nlisten: [\"{listen}\"]\n\
             kubeconfig: /k\nupstream: {{url: \"https://127.0.0.1:10250\", certificateFile: /c}}\n\
             tlsCertFile: /c\ntlsPrivateKeyFile: /k\nreadOnlyPort: {{listen: [{tombstone}]}}\n"
        );
        Settings::parse(&text, Path::new("test.yaml"), &KubeletFlags::default()).unwrap()
    }

    /// A `/proc` with one kubelet in it, whose root is `root/`.
    fn proc(arguments: &[&str], config: Option<&str>) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let process = proc.path().join("4711");
        fs::create_dir_all(process.join("root/var/lib/kubelet")).unwrap();
        fs::write(process.join("cmdline"), arguments.join("\0")).unwrap();
        if let Some(config) = config {
            fs::write(process.join("root/var/lib/kubelet/config.yaml"), config).unwrap();
        }
        proc
    }

    fn bound(arguments: &[&str], config: Option<&str>) -> Vec<String> {
        let kubelets = running_kubelets(proc(arguments, config).path());
        kubelets[0]
            .binds
            .as_ref()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_a_kubelet_binds_follows_flags_file_and_both_sets_of_defaults() {
        let config = "/var/lib/kubelet/config.yaml";
        let file = Some("kind: KubeletConfiguration\naddress: 127.0.0.1\nunknown: {a: 1}\n");
        assert_eq!(
            bound(&["/usr/bin/kubelet"], None),
            ["0.0.0.0:10250", "0.0.0.0:10255"]
        );
        assert_eq!(
            bound(&["kubelet", "--read-only-port=0", "--address", "127.0.0.1"], None),
            ["127.0.0.1:10250"]
        );
        assert_eq!(bound(&["kubelet", "--config", config], file), ["127.0.0.1:10250"]);
        assert_eq!(
            bound(&["kubelet", "--config", config, "--address=::"], file),
            ["[::]:10250"]
        );
        assert_eq!(
            bound(&["hyperkube", "kubelet", "--read_only_port=1"], None),
            ["0.0.0.0:10250", "0.0.0.0:1"]
        );
        assert!(running_kubelets(proc(&["kubelet-gate", "serve"], None).path()).is_empty());
        assert_eq!(
            bound(
                &["kubelet", "--config", config],
                Some("address: 127.0.0.1\nport: 0\nreadOnlyPort: 0\n")
            ),
            ["127.0.0.1:10250"]
        );
    }

    /// Seen red: with the namespace not compared, and with the owner not looked at.
    #[test]
    fn a_pod_that_calls_itself_kubelet_is_not_believed() {
        let of_a_pod = proc(&["/tmp/kubelet", "--port=22", "--read-only-port=6443"], None);
        let process = of_a_pod.path().join("4711");
        assert_eq!(running_kubelets(of_a_pod.path()).len(), 1);
        fs::create_dir(process.join("ns")).unwrap();
        std::os::unix::fs::symlink("pid:[4026539999]", process.join("ns/pid")).unwrap();
        assert!(running_kubelets(of_a_pod.path()).is_empty());

        if rustix::process::geteuid().is_root() {
            let of_a_user = proc(&["kubelet"], None);
            std::os::unix::fs::chown(of_a_user.path().join("4711"), Some(1000), None).unwrap();
            assert!(running_kubelets(of_a_user.path()).is_empty());
        }
    }

    #[test]
    fn a_configuration_that_is_no_file_is_not_waited_for() {
        let odd = proc(&["kubelet", "--config=/fifo"], None);
        let path = odd.path().join("4711/root/fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let kubelets = running_kubelets(odd.path());
        assert!(
            kubelets[0]
                .binds
                .as_ref()
                .unwrap_err()
                .1
                .contains("not a regular file")
        );
        let endless = proc(&["kubelet", "--config=/zero"], None);
        std::os::unix::fs::symlink("/dev/zero", endless.path().join("4711/root/zero")).unwrap();
        assert!(running_kubelets(endless.path())[0].binds.is_err());
    }

    #[test]
    fn a_port_that_is_only_claimed_is_not_the_kubelets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kubelet = |pid: u32, binds: &[SocketAddr]| RunningKubelet {
            pid: pid.cast_signed(),
            hostname_override: None,
            binds: Ok(binds.to_vec()),
        };
        let claimed: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let here = kubelet(std::process::id(), &[address, claimed]);
        assert_eq!(listening_ports(&[here]), [address.port()]);
        assert!(listening_ports(&[kubelet(1, &[address])]).is_empty());
    }

    #[test]
    fn a_port_is_taken_only_if_the_kubelet_is_proven_not_to_want_it() {
        let open = running_kubelets(proc(&["kubelet"], None).path());
        let loopback =
            running_kubelets(proc(&["kubelet", "--address=127.0.0.1", "--read-only-port=0"], None).path());
        let unreadable = running_kubelets(proc(&["kubelet", "--config=/gone.yaml"], None).path());

        let gate = settings("192.0.2.10:10250", "");
        assert!(matches!(
            may_listen(&gate, &open),
            Err(NodeError::KubeletsPort { pid: 4711, .. })
        ));
        assert!(matches!(may_listen(&gate, &[]), Err(NodeError::NoKubelet { .. })));
        assert!(matches!(
            may_listen(&gate, &unreadable),
            Err(NodeError::KubeletConfig { .. })
        ));
        assert!(may_listen(&gate, &loopback).is_ok());
        let here = running_kubelets(proc(&["kubelet", "--address=192.0.2.10"], None).path());
        let mapped = settings("[::ffff:192.0.2.10]:10250", "");
        assert!(
            may_listen(&mapped, &here).is_err(),
            "an IPv4 address in IPv6 clothes is the same socket"
        );
        assert!(
            may_listen(&settings("192.0.2.10:10350", ""), &open).is_ok(),
            "its own port needs no proof"
        );
        assert!(may_listen(&settings("0.0.0.0:10350", "\"192.0.2.10:10255\""), &open).is_err());
        assert!(may_listen(&settings("0.0.0.0:10350", "\"192.0.2.10:10255\""), &loopback).is_ok());
        let both = [loopback, open].concat();
        assert!(may_listen(&gate, &both).is_err(), "every kubelet counts");
    }
}
