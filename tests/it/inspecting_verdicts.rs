//! The verdicts of `inspect`. A pass for an option that opens the node would be believed.

use std::fs;

use kubelet_gate::adopt::inspect::Inspection;
use kubelet_gate::adopt::inspect::Verdict::{Fail, Pass, Warn};
use kubelet_gate::adopt::kubelet::Root;
use kubelet_gate::adopt::kubelet::invocation::Invocation;
use time::OffsetDateTime;

use crate::corpus::{rows, text};
use crate::inspecting::{check, judged, only};
use crate::program::assert_says;
use crate::trees::{files, tree};

const UNIT: &str = "etc/systemd/system/kubelet.service";

/// A kubelet that is started with these words.
fn given(words: &[&str], root: Root, now: OffsetDateTime) -> Inspection {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    Inspection::of(Invocation::given(&words, root), now).unwrap()
}

#[test]
fn every_option_is_judged() {
    for row in rows(include_str!("data/option_verdicts.tsv")) {
        let [file, flags, id, verdict] = row[..] else {
            panic!("{row:?}");
        };
        let config = if file == "none" { "" } else { "--config=/k" };
        let flags = text(flags);
        let unit = format!("[Service]\nExecStart=/usr/bin/kubelet {config} {flags}\n");
        let file = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{}\n",
            text(file)
        );
        let folder = files(&[(UNIT, &unit), ("k", &file)]);
        for (name, of_aks) in [
            ("ca", "ca.crt"),
            ("c", "kubeletserver.crt"),
            ("key", "kubeletserver.key"),
        ] {
            let from = tree("aks").join("etc/kubernetes/certs").join(of_aks);
            fs::copy(from, folder.path().join(name)).unwrap();
        }
        let found = only(folder.path());
        let check = check(&found, id);
        assert_eq!(format!("{:?}", check.verdict), verdict, "{row:?}: {}", check.why);
        assert_eq!(
            check.why.is_empty(),
            check.verdict == Pass,
            "{row:?}: {}",
            check.why
        );
    }
    // The seal knows one health port.
    for (port, can) in [("10248", true), ("20248", false)] {
        let flags = [
            format!("--healthz-port={port}"),
            "--healthz-bind-address=::".to_owned(),
        ];
        let found = judged(Invocation::given(&flags, Root::new("/nowhere")));
        let said = check(&found, "healthz-bind-address").with_gate(None);
        assert_eq!(said.starts_with("can compensate: "), can, "{said}");
    }
}

/// Seen red: with dates before the first left out; with one named address enough for all.
#[test]
fn a_serving_certificate_is_judged_by_its_dates_and_names() {
    let aks = |more: &[&str], year: i64| {
        let pair = [
            "--tls-cert-file=/etc/kubernetes/certs/kubeletserver.crt",
            "--tls-private-key-file=/etc/kubernetes/certs/kubeletserver.key",
        ];
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * (year - 1970));
        given(&[&pair, more].concat(), Root::new(tree("aks")), now)
    };
    for (year, verdict) in [(2000, Fail), (2030, Pass), (2200, Fail)] {
        let found = aks(&[], year);
        let expiry = check(&found, "serving-certificate-expiry");
        assert_eq!(expiry.verdict, verdict, "{year}");
    }
    for (node_ip, verdict, words) in [
        ("--node-ip=192.0.2.16", Pass, ""),
        ("--node-ip=192.0.2.16,2001:db8::16", Warn, "2001:db8::16"),
        ("--node-ip=192.0.2.17", Warn, "192.0.2.17"),
        ("--node-ip=", Warn, "not compared"),
    ] {
        let found = aks(&[node_ip], 2030);
        let names = check(&found, "serving-certificate-names");
        assert_eq!(names.verdict, verdict, "{node_ip}");
        assert_says(&names.why, &[words]);
    }
}

/// The kubeconfig has a certificate that ended in 2020; beside it lies a rotated one. Seen red: with the
/// kubeconfig's certificate where the kubelet has a rotated one.
#[test]
fn the_client_certificate_that_the_kubelet_uses_is_judged() {
    let of = |name: &str, path: &str| fs::read_to_string(tree(name).join(path)).unwrap();
    let kubeconfig = of("flags-only", "var/lib/kubelet/kubeconfig");
    let ended = "var/lib/kubelet/worker-0-client.pem";
    let key = "var/lib/kubelet/worker-0-client-key.pem";
    let (old, old_key) = (of("flags-only", ended), of("flags-only", key));
    let current = "var/lib/kubelet/pki/kubelet-client-current.pem";
    let new = of("kubeadm", crate::initialising::CLIENT);
    for (flags, rotated, verdict, file) in [
        ("--rotate-certificates", true, Pass, current),
        ("--rotate-certificates", false, Fail, ended),
        ("--rotate-certificates=false", true, Fail, ended),
    ] {
        let unit = format!(
            "[Service]\nExecStart=/usr/bin/kubelet --kubeconfig=/var/lib/kubelet/kubeconfig {flags}\n"
        );
        let folder = files(&[
            (UNIT, &unit),
            ("var/lib/kubelet/kubeconfig", &kubeconfig),
            (ended, &old),
            (key, &old_key),
            if rotated { (current, &new) } else { ("x", "") },
        ]);
        let found = only(folder.path());
        let client = check(&found, "client-certificate-expiry");
        assert_eq!(client.verdict, verdict, "{flags}");
        assert_eq!(client.origin, format!("/{file}"), "{flags}");
    }
}

/// systemd takes the last file by name, whichever folder it is in; kube-proxy may set what no file sets.
#[test]
fn a_file_that_routes_loopback_is_found() {
    let unit = (UNIT, "[Service]\nIPAddressDeny=any\nExecStart=/usr/bin/kubelet\n");
    let on = "net.ipv4.conf.all.route_localnet = 1\n";
    let off = "net/ipv4/conf/all/route_localnet=0\n";
    let usr = |text| ("usr/lib/sysctl.d/50-z.conf", text);
    for (more, value) in [
        (
            vec![
                ("usr/lib/sysctl.d/99-z.conf", on),
                ("etc/sysctl.d/10-a.conf", off),
            ],
            "route_localnet=1",
        ),
        (vec![usr(on), ("etc/sysctl.d/50-z.conf", "")], "(not set)"),
        (
            vec![("etc/sysctl.d/10-a.conf", on), ("etc/sysctl.conf", off)],
            "(not set)",
        ),
        (vec![], "(not set)"),
    ] {
        let folder = files(&[&[unit][..], &more].concat());
        let found = only(folder.path());
        let localnet = check(&found, "route-localnet");
        assert_eq!(localnet.verdict, Warn, "only a running node shows it");
        assert!(localnet.value.ends_with(value), "{more:?}: {}", localnet.value);
        assert_eq!(check(&found, "ip-address-deny").verdict, Pass);
    }
}

/// Seen red: with `IPAddressAllow` left out.
#[test]
fn addresses_that_systemd_allows_are_not_denied() {
    for (lines, expected) in [
        ("IPAddressDeny=any", Pass),
        ("IPAddressDeny=any\nIPAddressAllow=localhost 127.0.0.0/8", Pass),
        (
            "IPAddressDeny=any\nIPAddressAllow=localhost\nIPAddressAllow=any",
            Warn,
        ),
        ("IPAddressDeny=192.0.2.0/24", Warn),
    ] {
        let unit = format!("[Service]\n{lines}\nExecStart=/usr/bin/kubelet\n");
        let found = only(files(&[(UNIT, &unit)]).path());
        assert_eq!(check(&found, "ip-address-deny").verdict, expected, "{lines}");
    }
}
