//! What a running kubelet's next start will bind, as the node's files say now: the unit that it belongs to,
//! the files that the unit names, and the kubelet's own configuration.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::files::{FindError, in_files, in_unit};
use super::invocation::Invocation;
use super::listening::{binds, known_options};
use super::processes::{is_of_a_pod, of_process, running, unit_of};
use super::root::{Root, plain};

/// A kubelet, and where its next start is read from. Its file system stays open, so that this can be read
/// after the process' end as well.
pub(crate) struct WatchedKubelet {
    invocation: Invocation,
    /// The name of its unit.
    unit: Option<String>,
    /// Its `/`.
    _root: Option<OwnedFd>,
}

/// One way in which the kubelet may be started next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NextStart {
    /// What starts it.
    pub(crate) source: String,
    /// What it binds then, and what says so; or why that is not known.
    pub(crate) binds: Result<(Vec<SocketAddr>, String), String>,
}

/// The processes under `proc` that are this node's kubelets. A pod's process, whatever its name and its
/// process namespace, is none.
pub(crate) fn kubelets_of_the_node(proc: &Path) -> Vec<i32> {
    let pids = running(proc)
        .into_iter()
        .filter_map(|invocation| invocation.pid());
    pids.filter(|pid| !is_of_a_pod(&proc.join(pid.to_string())))
        .collect()
}

/// Every way in which the kubelets of this node may be started next: those that run, or where none does,
/// those that the node's files start.
pub(crate) fn next_starts_of_the_node(proc: &Path, root: &Root) -> Vec<NextStart> {
    let running = kubelets_of_the_node(proc).into_iter();
    let starts: Vec<NextStart> = running
        .filter_map(|pid| WatchedKubelet::of(proc, pid))
        .flat_map(|kubelet| kubelet.next_starts())
        .collect();
    if !starts.is_empty() {
        return starts;
    }
    let (found, _) = in_files(root);
    found
        .iter()
        .map(|invocation| next_start(&invocation.source.to_string(), invocation))
        .collect()
}

/// Every way in which the kubelet of this invocation may be started next.
pub(crate) fn next_starts_of(invocation: &Invocation) -> Vec<NextStart> {
    let running = invocation
        .pid()
        .and_then(|pid| WatchedKubelet::of(Path::new("/proc"), pid));
    match running {
        Some(kubelet) => kubelet.next_starts(),
        None => vec![next_start(&invocation.source.to_string(), invocation)],
    }
}

impl WatchedKubelet {
    /// The kubelet of this process; `None` if there is no such process, or it is no kubelet.
    pub(crate) fn of(proc: &Path, pid: i32) -> Option<Self> {
        let process = proc.join(pid.to_string());
        let mut invocation = of_process(pid, &process)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(process.join("root"), flags, Mode::empty()).ok();
        // Without the right to open it, its files could not be read by its own path either.
        if let Some(root) = &root {
            invocation.root = Root::new(format!("/proc/self/fd/{}", root.as_raw_fd()));
        }
        Some(Self {
            invocation,
            unit: unit_of(&process),
            _root: root,
        })
    }

    /// What it binds with the flags of its process and the files as they are now. Of a kubelet that has just
    /// started this is what it does bind.
    pub(crate) fn as_started(&self) -> NextStart {
        next_start("the flags of the running process", &self.invocation)
    }

    /// Every way in which it may be started next. A unit that was changed counts only once systemd
    /// has read it again, which cannot be seen here: so the flags of the running process count
    /// beside those of the unit.
    pub(crate) fn next_starts(&self) -> Vec<NextStart> {
        let root = &self.invocation.root;
        let mut starts = vec![self.as_started()];
        let of_unit = match &self.unit {
            None => None,
            Some(name) => match in_unit(root, name) {
                Ok(found) => found,
                Err(error) => {
                    starts.push(unknown(name, &error));
                    return starts;
                }
            },
        };
        // Without a unit of its own that starts a kubelet: those by which distributions start one.
        let (found, errors) = of_unit.map_or_else(|| in_files(root), |found| (found, Vec::new()));
        let found = found.iter();
        starts.extend(found.map(|invocation| next_start(&invocation.source.to_string(), invocation)));
        starts.extend(errors.iter().map(|error| unknown("its unit", error)));
        starts
    }
}

fn next_start(source: &str, invocation: &Invocation) -> NextStart {
    let known = known_options(invocation).and_then(|options| {
        let bound = binds(&options)?;
        let settings = ["address", "port", "readOnlyPort"]
            .iter()
            .filter_map(|key| options.get(key));
        let mut said: Vec<String> = settings
            .map(|setting| format!("{}={} ({})", setting.field.key, setting.shown(), setting.origin))
            .collect();
        // A value that is missing is missing in these.
        said.extend((!options.files.is_empty()).then(|| format!("read from {}", options.files.join(", "))));
        Ok((bound, plain(&said.join(", "))))
    });
    NextStart {
        source: plain(source),
        binds: known.map_err(|error| plain(&error.to_string())),
    }
}

fn unknown(source: &str, why: &FindError) -> NextStart {
    NextStart {
        source: plain(source),
        binds: Err(plain(&why.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A `/proc` with one kubelet in it, whose root is `root/`.
    struct Node {
        proc: tempfile::TempDir,
    }

    impl Node {
        fn with(arguments: &[&str], cgroup: &str) -> Self {
            let node = Self {
                proc: tempfile::tempdir().unwrap(),
            };
            fs::create_dir_all(node.process().join("root")).unwrap();
            fs::write(node.process().join("cmdline"), arguments.join("\0")).unwrap();
            fs::write(node.process().join("cgroup"), format!("0::{cgroup}\n")).unwrap();
            node
        }

        fn process(&self) -> PathBuf {
            self.proc.path().join("4711")
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.process().join("root").join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn kubelet(&self) -> WatchedKubelet {
            WatchedKubelet::of(self.proc.path(), 4711).unwrap()
        }
    }

    /// What each next start binds, or why that is not known.
    fn bound(kubelet: &WatchedKubelet) -> Vec<String> {
        let starts = kubelet.next_starts().into_iter();
        starts
            .map(|start| match start.binds {
                Ok((binds, _)) => {
                    let binds: Vec<String> = binds.iter().map(ToString::to_string).collect();
                    binds.join(" ")
                }
                Err(why) => why,
            })
            .collect()
    }

    const CONFIG: &str = "/var/lib/kubelet/config.yaml";
    const SAFE: &str =
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\naddress: 127.0.0.1\n";
    const OPEN: &str =
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nreadOnlyPort: 10255\n";
    const SERVICE: &str = "/system.slice/kubelet.service";
    const UNIT: &str = "/usr/lib/systemd/system/kubelet.service";

    fn kubeadm() -> Node {
        let node = Node::with(
            &["/usr/bin/kubelet", "--config=/var/lib/kubelet/config.yaml"],
            SERVICE,
        );
        node.write(CONFIG, SAFE);
        node.write(UNIT, "[Service]\nExecStart=/usr/bin/kubelet\n");
        node.write(
            "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "[Service]\nEnvironment=CONFIG=--config=/var/lib/kubelet/config.yaml\n\
             EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nEnvironmentFile=-/etc/default/kubelet\n\
             ExecStart=\nExecStart=/usr/bin/kubelet $CONFIG $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n",
        );
        node
    }

    /// Seen red: with the running process' flags alone looked at, the environment file and the
    /// drop-in changed nothing.
    #[test]
    fn whatever_decides_the_next_start_is_looked_at() {
        let node = kubeadm();
        let kubelet = node.kubelet();
        assert_eq!(bound(&kubelet), ["127.0.0.1:10250", "127.0.0.1:10250"]);

        node.write(
            "/var/lib/kubelet/kubeadm-flags.env",
            "KUBELET_KUBEADM_ARGS=\"--address=::\"\n",
        );
        assert_eq!(bound(&kubelet), ["127.0.0.1:10250", "[::]:10250"]);
        node.write("/var/lib/kubelet/kubeadm-flags.env", "");

        node.write(
            "/etc/systemd/system/kubelet.service.d/99-local.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --read-only-port=10255\n",
        );
        assert_eq!(
            bound(&kubelet),
            ["127.0.0.1:10250", "0.0.0.0:10250 0.0.0.0:10255"]
        );
        node.write("/etc/systemd/system/kubelet.service.d/99-local.conf", "");

        node.write(CONFIG, OPEN);
        assert_eq!(bound(&kubelet), ["0.0.0.0:10250 0.0.0.0:10255"; 2]);

        node.write(CONFIG, "");
        let broken = "not a KubeletConfiguration: the file is empty";
        assert!(bound(&kubelet).iter().all(|why| why.contains(broken)));
        node.write(CONFIG, SAFE);
        node.write(
            "/etc/systemd/system/kubelet.service.d/99-local.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml \
             --config-dir=/etc/k\n",
        );
        assert!(bound(&kubelet)[1].contains("--config-dir /etc/k: not found"));
        node.write("/etc/k/20-address.conf", &SAFE.replace("127.0.0.1", "192.0.2.10"));
        assert_eq!(bound(&kubelet), ["127.0.0.1:10250", "192.0.2.10:10250"]);
    }

    /// Seen red: with the files looked for below `/proc/PID/root`, which ends with the process.
    #[test]
    fn the_next_start_is_read_after_the_process_has_ended() {
        let node = kubeadm();
        let kubelet = node.kubelet();
        let elsewhere = node.proc.path().join("the-nodes-root");
        fs::rename(node.process().join("root"), &elsewhere).unwrap();
        fs::remove_dir_all(node.process()).unwrap();
        assert_eq!(bound(&kubelet), ["127.0.0.1:10250", "127.0.0.1:10250"]);
        fs::write(elsewhere.join(&CONFIG[1..]), SAFE.replace("127.0.0.1", "0.0.0.0")).unwrap();
        assert_eq!(bound(&kubelet), ["0.0.0.0:10250", "0.0.0.0:10250"]);
        assert!(WatchedKubelet::of(node.proc.path(), 4711).is_none());
    }

    #[test]
    fn a_kubelet_that_no_unit_starts_is_said_to_be_so() {
        let by_hand = Node::with(&["kubelet", "--address=127.0.0.1"], "/user.slice/shell.service");
        let said = bound(&by_hand.kubelet());
        assert_eq!(said[0], "127.0.0.1:10250 127.0.0.1:10255");
        assert!(said[1].contains("no kubelet is started here"), "{said:?}");
        // Started by hand, on a node that has a unit for it.
        by_hand.write(UNIT, "[Service]\nExecStart=/usr/bin/kubelet\n");
        assert_eq!(bound(&by_hand.kubelet())[1], "0.0.0.0:10250 0.0.0.0:10255");
        by_hand.write(UNIT, "[Service]\nExecStart=/opt/kubelet-wrapper\n");
        assert!(bound(&by_hand.kubelet())[1].contains("not known to start a kubelet"));

        let own = Node::with(&["kubelet", "--address=127.0.0.1", "--read-only-port=0"], SERVICE);
        own.write(UNIT, "[Service]\n");
        assert!(bound(&own.kubelet())[1].contains("there is no ExecStart"));
    }

    #[test]
    fn k3s_and_microk8s_are_read_from_their_own_files() {
        let k3s = Node::with(&["/usr/local/bin/k3s agent"], "/system.slice/k3s-agent.service");
        k3s.write(
            "/etc/systemd/system/k3s-agent.service",
            "[Service]\nExecStart=/usr/local/bin/k3s agent\n",
        );
        let config = "/etc/rancher/k3s/config.yaml";
        k3s.write(config, "kubelet-arg: [address=127.0.0.1]\n");
        assert_eq!(bound(&k3s.kubelet()), ["127.0.0.1:10250", "127.0.0.1:10250"]);
        k3s.write(config, "kubelet-arg: []\n");
        assert_eq!(bound(&k3s.kubelet()), ["0.0.0.0:10250", "0.0.0.0:10250"]);

        let unit = "snap.microk8s.daemon-kubelite.service";
        let microk8s = Node::with(&["/snap/microk8s/1/kubelite"], &format!("/system.slice/{unit}"));
        let arguments = "/var/snap/microk8s/current/args/kubelet";
        microk8s.write(
            &format!("/etc/systemd/system/{unit}"),
            "[Service]\nExecStart=/usr/bin/snap run x\n",
        );
        microk8s.write(arguments, "--address=127.0.0.1\n--read-only-port=0\n");
        let kubelet = microk8s.kubelet();
        assert_eq!(bound(&kubelet), ["127.0.0.1:10250", "127.0.0.1:10250"]);
        microk8s.write(arguments, "--read-only-port=0\n");
        assert_eq!(bound(&kubelet)[1], "0.0.0.0:10250");
    }

    /// Seen red: with the control group not looked at, a pod with `hostPID` counted.
    #[test]
    fn a_pods_process_is_not_the_nodes_kubelet() {
        let pod = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-1.scope";
        for (cgroup, counts) in [
            (SERVICE, true),
            ("/", true),
            ("/../../system.slice/kubelet.service", true),
            (pod, false),
            ("/kubepods/burstable/pod1/2", false),
            ("/kubepods/burstable/pod1/2/kubelet.slice/kubelet.service", true),
        ] {
            let node = Node::with(&["kubelet"], cgroup);
            assert_eq!(
                kubelets_of_the_node(node.proc.path()).len(),
                usize::from(counts),
                "{cgroup}"
            );
        }
    }

    /// Seen red: with a program counted that has the setuid bit, and with names that
    /// begin with `kubepods` alone.
    #[test]
    fn what_a_user_or_a_pod_can_start_is_no_kubelet() {
        use std::os::unix::fs::PermissionsExt as _;
        let of_the_node = |node: &Node| kubelets_of_the_node(node.proc.path());
        let node = kubeadm();
        let program = node.process().join("exe");
        for (mode, expected) in [(0o755, vec![4711]), (0o4755, vec![]), (0o2755, vec![])] {
            fs::write(&program, "").unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(of_the_node(&node), expected, "{mode:o}");
            fs::remove_file(&program).unwrap();
        }
        for pod in [
            "/kubepods.slice/kubepods-pod1.slice",
            "/kubelet.slice/kubelet-kubepods-pod1.slice",
        ] {
            let pod = Node::with(&["kubelet"], pod);
            assert!(of_the_node(&pod).is_empty());
            assert!(super::super::running_kubelets(pod.proc.path()).is_empty());
        }
    }
}
