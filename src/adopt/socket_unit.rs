//! The gate's socket unit: which addresses it may have, and whether an installed one has those.
//!
//! systemd binds before the gate can look, and keeps a port that the gate lets go of. A kubelet that finds
//! its port taken exits, and the node is lost: so a port of the kubelet's has no place in a socket unit, also
//! where the kubelet does not bind it today.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::kubelet::{
    NextStart, PORT, READ_ONLY_PORT, Root, SocketLine, SocketUnit, UnitError, overlap, plain, socket_unit,
};
use crate::settings::{Settings, UpstreamUrl};

/// Its name.
pub(crate) const NAME: &str = "kubelet-gate.socket";
/// What makes a change of it take effect.
pub(crate) const TAKES_EFFECT: &str = "systemctl daemon-reload; systemctl stop kubelet-gate.service; \
                                       systemctl restart kubelet-gate.socket; systemctl start \
                                       kubelet-gate.service";
/// Settings by which a socket is not what the gate would bind, and the values that change nothing.
const FOREIGN: [(&str, &[&str]); 4] = [
    ("Accept", &["no", "false", "off", "0"]),
    ("BindIPv6Only", &["default"]),
    ("ReusePort", &["no", "false", "off", "0"]),
    ("SocketProtocol", &[]),
];

/// What is wrong with a socket unit: file and line first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Judgement {
    /// The gate does not start with it, or the kubelet would not.
    pub(crate) problems: Vec<String>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

/// What a line listens on.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Listens {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// Nothing that the gate serves.
    Other,
}

/// The socket unit that is installed below `root`.
///
/// # Errors
/// One of its files cannot be read.
pub(crate) fn installed(root: &Root) -> Result<Option<SocketUnit>, UnitError> {
    socket_unit(root, NAME)
}

/// The file and line on which a unit of this machine listens on an address.
pub(crate) fn place_of(unit: &str, address: SocketAddr) -> Option<String> {
    let unit = socket_unit(&Root::new("/"), unit).ok().flatten()?;
    let mut lines = unit.listens.iter();
    let line = lines.find(|line| listens(line) == Listens::Tcp(address))?;
    Some(line.place.clone())
}

/// The addresses that a socket unit for this configuration has: those whose port is not the kubelet's.
///
/// # Errors
/// It would have none of `listen`, or it is not known what the kubelet binds when it starts next.
pub(crate) fn addresses(settings: &Settings, starts: &[NextStart]) -> Result<Vec<SocketAddr>, String> {
    if let Some(why) = unknown(starts) {
        return Err(format!(
            "it is not known what the kubelet binds when it starts next ({why})"
        ));
    }
    let ports = kubelet_ports(Some(settings), starts);
    let free = |address: &&SocketAddr| !ports.contains(&address.port());
    if let Some(taken) = settings.listen.iter().find(|address| !free(address)) {
        return Err(format!(
            "listen has {taken}, and its port is the kubelet's: systemd would keep it from a kubelet that \
             comes to want it, while the gate lets go of it"
        ));
    }
    let all = configured(settings).into_iter().map(|(_, address)| address);
    Ok(all.filter(|address| free(&address)).collect())
}

/// Compares an installed unit with the configuration, if that is known, and with what the kubelet would bind.
pub(crate) fn judge(unit: &SocketUnit, settings: Option<&Settings>, starts: &[NextStart]) -> Judgement {
    let mut found = Judgement::default();
    let configured = settings.map(configured);
    let ports = kubelet_ports(settings, starts);
    let mut has = Vec::new();
    for line in &unit.listens {
        let (place, text) = (&line.place, plain(&format!("{}={}", line.key, line.value)));
        match listens(line) {
            Listens::Tcp(address) => {
                has.push(address);
                let configured = configured.iter().flatten();
                if settings.is_some() && !configured.clone().any(|(_, named)| *named == address) {
                    found.problems.push(format!(
                        "{place}: {text}: the configuration names {address} neither in listen nor in \
                         readOnlyPort.listen or admin.listen, and the gate does not start with it; remove \
                         the line, or name the address in the configuration, then: {TAKES_EFFECT}"
                    ));
                }
                found.danger(place, &text, address, &ports, starts);
            }
            Listens::Unix(path) => {
                let socket =
                    settings.map(|settings| settings.admin.socket.path(&settings.firewall.run_directory));
                if socket.is_some_and(|socket| socket.as_ref() != Some(&path)) {
                    found.problems.push(format!(
                        "{place}: {text}: the configuration does not name this path in admin.socket, and the \
                         gate does not start with it; remove the line, then: {TAKES_EFFECT}"
                    ));
                } else {
                    found.warnings.push(format!(
                        "{place}: {text}: the gate makes its admin socket itself, and its directory goes \
                         when the gate stops; remove the line, then: {TAKES_EFFECT}"
                    ));
                }
            }
            Listens::Other => found.problems.push(format!(
                "{place}: {text}: expected ListenStream= with an address and a port, such as \
                 192.0.2.10:19443; the gate does not start with it; remove the line, then: {TAKES_EFFECT}"
            )),
        }
    }
    for (key, harmless) in FOREIGN {
        if let Some(line) = unit.setting(key).filter(|line| !is_one_of(harmless, &line.value)) {
            found.problems.push(format!(
                "{}: {key}={}: the gate's own sockets are not so, and it does not start with these; remove \
                 the line, then: {TAKES_EFFECT}",
                line.place,
                plain(&line.value)
            ));
        }
    }
    for (key, address) in configured.iter().flatten() {
        if !has.contains(address) && !ports.contains(&address.port()) {
            found.warnings.push(format!(
                "{}: it does not have {key}: {address}: the gate binds that itself, and it is closed while \
                 the gate restarts; add ListenStream={address}, then: {TAKES_EFFECT}",
                unit.file
            ));
        }
    }
    found
}

// === impl Judgement ===

impl Judgement {
    /// Whether the kubelet would miss this address.
    fn danger(&mut self, place: &str, text: &str, address: SocketAddr, ports: &[u16], starts: &[NextStart]) {
        let way_out = format!(
            "remove the line, then: {TAKES_EFFECT}. The gate itself binds the address where no kubelet binds \
             it"
        );
        let because = "systemd binds before the gate can look, and a kubelet that finds its port taken exits";
        let taken = starts.iter().find_map(|start| {
            let (binds, said) = start.binds.as_ref().ok()?;
            let bound = binds.iter().find(|bound| overlap(**bound, address))?;
            Some(format!("{bound}, by {}: {said}", start.source))
        });
        if let Some(taken) = taken {
            self.problems.push(format!(
                "{place}: {text}: the kubelet binds {taken}. {because}: {way_out}"
            ));
        } else if ports.contains(&address.port()) {
            match unknown(starts) {
                Some(why) => self.problems.push(format!(
                    "{place}: {text}: the port is a kubelet's, and it is not known whether the kubelet binds \
                     this address when it starts next ({why}). {because}: {way_out}"
                )),
                None => self.warnings.push(format!(
                    "{place}: {text}: the port is a kubelet's. None binds this address today; if one comes \
                     to, the gate lets go of it, and systemd does not: {way_out}"
                )),
            }
        }
    }
}

/// The addresses that a configuration names, with their keys.
fn configured(settings: &Settings) -> Vec<(&'static str, SocketAddr)> {
    let named = |key, addresses: &[SocketAddr]| -> Vec<_> {
        addresses.iter().map(|address| (key, *address)).collect()
    };
    [
        named("listen", &settings.listen),
        named("readOnlyPort.listen", &settings.read_only_port.listen),
        named("admin.listen", settings.admin.listen.as_slice()),
    ]
    .concat()
}

/// The ports that a kubelet binds, or may come to bind.
fn kubelet_ports(settings: Option<&Settings>, starts: &[NextStart]) -> Vec<u16> {
    let mut ports = vec![PORT, READ_ONLY_PORT];
    if let Some(UpstreamUrl::Http(upstream) | UpstreamUrl::Https(upstream)) =
        settings.map(|settings| &settings.upstream.url)
    {
        ports.push(upstream.port());
    }
    let bound = starts.iter().flat_map(|start| &start.binds);
    ports.extend(bound.flat_map(|(binds, _)| binds).map(SocketAddr::port));
    ports
}

/// Why it is not known what the kubelet binds.
fn unknown(starts: &[NextStart]) -> Option<String> {
    if starts.is_empty() {
        return Some("no kubelet of this node was found".to_owned());
    }
    starts.iter().find_map(|start| {
        let why = start.binds.as_ref().err()?;
        Some(format!("{}: {why}", start.source))
    })
}

/// As systemd reads it. A port alone is for both families.
fn listens(line: &SocketLine) -> Listens {
    if line.key != "ListenStream" {
        return Listens::Other;
    }
    let text = line.value.as_str();
    if text.starts_with('/') {
        return Listens::Unix(text.into());
    }
    if let Ok(port) = text.parse() {
        return Listens::Tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    match text.parse() {
        Ok(address) => Listens::Tcp(address),
        Err(_) => Listens::Other,
    }
}

fn is_one_of(harmless: &[&str], value: &str) -> bool {
    value.is_empty() || harmless.iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::settings::KubeletFlags;

    fn settings(listen: &str) -> Settings {
        let text = format!(
            "apiVersion: kubelet-gate.dev/v1alpha1\nkind: KubeletGateConfiguration\nnodeName: worker-1\n\
             listen: [\"{listen}\"]\nkubeconfig: /k\nupstream: {{url: \"https://127.0.0.1:10250\", \
             certificateFile: /c}}\ntlsCertFile: /c\ntlsPrivateKeyFile: /k\n\
             readOnlyPort: {{listen: [\"[::]:19255\"]}}\n"
        );
        Settings::parse(&text, Path::new("test.yaml"), &KubeletFlags::default()).unwrap()
    }

    fn start(binds: &[&str]) -> NextStart {
        NextStart {
            source: "kubelet.service".to_owned(),
            binds: Ok((
                binds.iter().map(|address| address.parse().unwrap()).collect(),
                "address=… (default)".to_owned(),
            )),
        }
    }

    fn unknown_start() -> NextStart {
        NextStart {
            source: "kubelet.service".to_owned(),
            binds: Err("/k: not found".to_owned()),
        }
    }

    const HERE: &str = "/etc/systemd/system/kubelet-gate.socket";
    const DROP_IN: &str = "/etc/systemd/system/kubelet-gate.socket.d/more.conf";
    const FITS: &str =
        "[Socket]\nListenStream=[::]:19443\nListenStream=[::]:19255\nListenStream=127.0.0.1:19250\n";

    /// What is said of a unit with this text, and this drop-in.
    fn said(unit: &str, drop_in: &str, starts: &[NextStart]) -> Judgement {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [(HERE, unit), (DROP_IN, drop_in)] {
            let path = folder.path().join(&file[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let unit = installed(&Root::new(folder.path())).unwrap().unwrap();
        judge(&unit, Some(&settings("[::]:19443")), starts)
    }

    #[test]
    fn a_unit_that_fits_is_not_spoken_of() {
        let open = [start(&["0.0.0.0:10250", "0.0.0.0:10255"])];
        assert_eq!(said(FITS, "", &open), Judgement::default());
        assert_eq!(said(FITS, "", &[unknown_start()]), Judgement::default());
        let same = "[Socket]\nListenStream=\nListenStream=19443\nListenStream=[::]:19255\n\
                    ListenStream=127.0.0.1:19250\nAccept=no\nBindIPv6Only=default\n";
        assert_eq!(
            said("[Socket]\nListenStream=1\n", same, &open),
            Judgement::default()
        );
    }

    /// Seen red: with drop-ins left out, with an address of another family taken for the same, and with the
    /// kubelet's ports not looked at.
    #[test]
    fn what_does_not_fit_is_named_with_its_line_and_the_way_out() {
        let open = [start(&["0.0.0.0:10250", "127.0.0.1:10255"])];
        let loopback = [start(&["127.0.0.1:10250"])];
        for (drop_in, starts, expected) in [
            (
                "ListenStream=0.0.0.0:19443",
                &open,
                "names 0.0.0.0:19443 neither in listen",
            ),
            (
                "ListenStream=192.0.2.10:10250",
                &open,
                "the kubelet binds 0.0.0.0:10250, by kubelet.service",
            ),
            (
                "ListenStream=[::]:10255",
                &open,
                "the kubelet binds 127.0.0.1:10255",
            ),
            (
                "ListenStream=10250",
                &loopback,
                "the kubelet binds 127.0.0.1:10250",
            ),
            (
                "ListenStream=192.0.2.10:10250",
                &[unknown_start()],
                "it is not known whether the kubelet",
            ),
            (
                "ListenStream=192.0.2.10:10255",
                &[unknown_start()],
                "/k: not found",
            ),
            ("ListenDatagram=[::]:19443", &open, "expected ListenStream="),
            ("ListenStream=@gate", &open, "expected ListenStream="),
            ("ListenStream=%H:19443", &open, "expected ListenStream="),
            (
                "ListenStream=/run/other",
                &open,
                "does not name this path in admin.socket",
            ),
            ("Accept=yes", &open, "the gate's own sockets are not so"),
            ("ReusePort=on", &open, "the gate's own sockets are not so"),
            (
                "BindIPv6Only=ipv6-only",
                &open,
                "the gate's own sockets are not so",
            ),
            ("SocketProtocol=sctp", &open, "the gate's own sockets are not so"),
        ] {
            let found = said(FITS, &format!("[Socket]\n# why\n{drop_in}\n"), starts);
            let text = found.problems.join("\n");
            assert!(text.contains(expected), "{drop_in}: {text}");
            let place = format!("{DROP_IN}:3: {drop_in}: ");
            assert!(text.starts_with(&place), "{drop_in}: {text}");
            assert!(
                text.contains("remove the line") && text.contains("daemon-reload"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_may_surprise_is_a_warning() {
        let starts = [start(&["127.0.0.1:10250"])];
        let found = said("[Socket]\nListenStream=[::]:19443\n", "", &starts);
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(found.warnings.len(), 2, "{found:?}");
        assert!(
            found.warnings[0].contains("readOnlyPort.listen: [::]:19255"),
            "{found:?}"
        );
        // Free today: systemd would not let go of it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(&HERE[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "[Socket]\nListenStream=192.0.2.10:10250\n").unwrap();
        let unit = installed(&Root::new(folder.path())).unwrap().unwrap();
        let found = judge(&unit, Some(&settings("192.0.2.10:10250")), &starts);
        assert_eq!(found.problems, Vec::<String>::new());
        assert!(found.warnings[0].contains("systemd does not"), "{found:?}");
        let alone = judge(&unit, None, &[unknown_start()]);
        assert!(
            alone.problems[0].contains("not known"),
            "without a configuration: {alone:?}"
        );
    }

    #[test]
    fn a_port_of_the_kubelets_is_never_written() {
        let (open, loopback) = (start(&["0.0.0.0:10250"]), start(&["127.0.0.1:10250"]));
        let texts = |listen, starts: &[NextStart]| {
            addresses(&settings(listen), starts)
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let all = "[::]:19443 [::]:19255 127.0.0.1:19250";
        assert_eq!(texts("[::]:19443", std::slice::from_ref(&open)).unwrap(), all);
        assert!(
            texts("192.0.2.10:10250", &[loopback])
                .unwrap_err()
                .contains("lets go of it")
        );
        assert!(
            texts("[::]:19443", &[start(&["0.0.0.0:19443"])]).is_err(),
            "a kubelet's own choice"
        );
        let but_admin = texts("[::]:19443", &[start(&["127.0.0.1:19250"])]).unwrap();
        assert_eq!(but_admin, "[::]:19443 [::]:19255");
        let why = texts("[::]:19443", &[open, unknown_start()]).unwrap_err();
        assert!(
            why.contains("not known") && why.contains("/k: not found"),
            "{why}"
        );
        assert!(texts("[::]:19443", &[]).unwrap_err().contains("no kubelet"));
    }
}
