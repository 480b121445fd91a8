//! Running kubelets: which addresses they bind, from their flags and configuration files.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::invocation::Invocation;
use super::options::{self, Effective, OptionsError};
use super::processes::{is_of_a_pod, running};
use crate::host::sockets;

/// What a kubelet binds unless told otherwise. Started without `--config`, it opens the read-only port as
/// well.
pub(crate) const PORT: u16 = 10250;
pub(crate) const READ_ONLY_PORT: u16 = 10255;

/// A kubelet process, as `/proc` shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct RunningKubelet {
    /// Its process id.
    pub(crate) pid: i32,
    /// `--hostname-override`.
    pub(crate) hostname_override: Option<String>,
    /// What it binds, or why that is not known.
    pub(crate) binds: Result<Vec<SocketAddr>, OptionsError>,
}

/// Every kubelet process under `proc` that is no pod's.
pub(crate) fn running_kubelets(proc: &Path) -> Vec<RunningKubelet> {
    let of = |invocation: Invocation| {
        let pid = invocation.pid()?;
        (!is_of_a_pod(&proc.join(pid.to_string()))).then(|| RunningKubelet {
            pid,
            hostname_override: options::given(&invocation, "hostname-override"),
            binds: known_binds(&invocation),
        })
    };
    running(proc).into_iter().filter_map(of).collect()
}

/// What a kubelet binds, if every source of its options could be read.
fn known_binds(invocation: &Invocation) -> Result<Vec<SocketAddr>, OptionsError> {
    binds(&known_options(invocation)?)
}

/// A kubelet's options, if every source of them could be read.
pub(super) fn known_options(invocation: &Invocation) -> Result<Effective, OptionsError> {
    let options = Effective::of(invocation)?;
    let unknown = invocation
        .unread
        .iter()
        .chain(&options.unread)
        .chain(&options.refused);
    match unknown.into_iter().next() {
        None => Ok(options),
        Some(unread) => Err(OptionsError {
            place: invocation.source.to_string(),
            why: unread.clone(),
        }),
    }
}

/// The ports on which these kubelets really listen. A port that a process only names in its arguments may be
/// another program's, and must not be closed.
pub(crate) fn listening_ports(kubelets: &[RunningKubelet]) -> Vec<u16> {
    kubelets
        .iter()
        .flat_map(|kubelet| {
            kubelet
                .binds
                .iter()
                .flatten()
                .filter(|address| sockets::listens(kubelet.pid, **address))
        })
        .map(SocketAddr::port)
        .collect()
}

/// What a kubelet with these options binds: its own port and the read-only one.
///
/// # Errors
/// An address or a port is invalid.
pub(crate) fn binds(options: &Effective) -> Result<Vec<SocketAddr>, OptionsError> {
    let failed = |key: &str, why: String| OptionsError {
        place: options
            .get(key)
            .map_or_else(String::new, |setting| setting.origin.to_string()),
        why: format!("{key}: {why}"),
    };
    let address = options.text("address");
    let address: IpAddr = options::address(address)
        .ok_or_else(|| failed("address", format!("{address:?} is not an IP address")))?;
    let port = |key: &str| {
        let number = options.number(key);
        u16::try_from(number).map_err(|_| failed(key, format!("{number} is not a port")))
    };
    // 0 is "not set" to the kubelet, which then takes 10250; only the read-only port can be switched off.
    let secure = match port("port")? {
        0 => PORT,
        port => port,
    };
    // Without a server the kubelet still opens the read-only port, if it has one.
    let secure = if options.is_on("enableServer") { secure } else { 0 };
    let ports = [secure, port("readOnlyPort")?];
    Ok(ports
        .into_iter()
        .filter(|port| *port != 0)
        .map(|port| SocketAddr::new(address, port))
        .collect())
}

/// Whether two sockets cannot both be bound.
pub(crate) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (one == other || one.is_unspecified() || other.is_unspecified())
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

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
        let file = Some(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\naddress: 127.0.0.1\n\
             unknown: {a: 1}\n",
        );
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
                Some(
                    "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                     address: 127.0.0.1\nport: 0\nreadOnlyPort: 0\n"
                )
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
                .why
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

    /// A child that a kubelet has just forked holds its sockets too. Seen red: with the newest process that
    /// holds a socket taken for its only owner.
    #[test]
    fn a_port_is_still_the_kubelets_while_a_child_holds_it_too() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let here = RunningKubelet {
            pid: std::process::id().cast_signed(),
            hostname_override: None,
            binds: Ok(vec![address]),
        };
        let ports = listening_ports(&[here]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ports, [address.port()]);
    }

    /// Seen red: with the name taken from the options as a whole.
    #[test]
    fn the_name_is_found_also_where_the_configuration_is_not() {
        let proc = proc(
            &["kubelet", "--config=/gone.yaml", "--hostname-override=worker-1"],
            None,
        );
        let kubelets = running_kubelets(proc.path());
        assert_eq!(kubelets[0].hostname_override.as_deref(), Some("worker-1"));
        assert!(kubelets[0].binds.is_err());
    }

    /// Seen red: with a folder of drop-ins that is not there taken for one without any.
    #[test]
    fn nothing_is_known_of_a_kubelet_that_could_not_be_read_whole() {
        for flag in [
            "--config-dir=/gone",
            "--dynamic-config-dir=/var/lib/kubelet/dynamic",
        ] {
            let proc = proc(
                &["kubelet", "--address=127.0.0.1", "--read-only-port=0", flag],
                None,
            );
            let kubelets = running_kubelets(proc.path());
            assert!(kubelets[0].binds.is_err(), "{flag}");
        }
        let hidden = running_kubelets(proc(&["/usr/local/bin/k3s agent"], None).path());
        assert!(hidden[0].binds.is_err());
    }
}
