//! A weakness that a node has and `inspect` calls "not open" is one that its operator leaves there. What is
//! not known must be called so, and a listing must not turn a pipeline red that was green.

use std::fs;
use std::path::Path;

use kubelet_gate::adopt::kubelet::Root;
use kubelet_gate::adopt::kubelet::invocation::Invocation;
use kubelet_gate::adopt::prove::{KubeletBuild, Ports, ProbeReport};
use kubelet_gate::adopt::weaknesses::{Claims, KnownWeakness, ShieldedBy, Standing, WeaknessListing};
use serde_json::Value;
use tempfile::TempDir;
use time::{Date, Duration, OffsetDateTime};

use crate::corpus::rows;
use crate::go_programs::{GoProgram, kubelet};
use crate::inspecting::{inspect, inspect_tree, judged, only};
use crate::program::{assert_says, code, json_of, stderr, stdout};
use crate::schemas::{assert_valid, sarif_schema, schema};
use crate::trees::{copied, files, tree, write};

const EDGES: &str = include_str!("data/weaknesses.tsv");
const COMMIT: &str = "faecb196815e248d3ecfb03c680a4507229c2a56";

fn today() -> Date {
    OffsetDateTime::now_utc().date()
}

/// A kubelet that meets every precondition that can be read.
fn open_kubelet() -> Invocation {
    let flags = [
        "--client-ca-file=/ca.crt",
        "--read-only-port=10255",
        "--feature-gates=ContainerCheckpoint=true",
    ];
    Invocation::given(&flags.map(str::to_owned), Root::new("/nowhere"))
}

fn listing(invocation: Invocation, claims: &Claims, report: Option<&ProbeReport>) -> WeaknessListing {
    WeaknessListing::of(&judged(invocation), claims, report, today()).unwrap()
}

/// With what `/metrics` said.
fn probed(kubernetes: &str, go: &str) -> ProbeReport {
    ProbeReport {
        api_version: String::new(),
        kind: String::new(),
        version: String::new(),
        host: String::new(),
        started: String::new(),
        finished: String::new(),
        ports: Ports::default(),
        results: Vec::new(),
        skipped: Vec::new(),
        untried: Vec::new(),
        build: Some(KubeletBuild {
            address: "127.0.0.1:10250".parse().unwrap(),
            kubernetes: kubernetes.to_owned(),
            go: go.to_owned(),
        }),
    }
}

fn said(kubelet: &str) -> Claims {
    Claims {
        kubelet_version: Some(kubelet.to_owned()),
        ..Claims::default()
    }
}

fn find<'a>(listing: &'a WeaknessListing, id: &str) -> &'a KnownWeakness {
    listing
        .known
        .iter()
        .find(|weakness| weakness.id == id)
        .unwrap_or_else(|| panic!("{id}"))
}

/// The tree of a node whose kubelet is this program.
fn node(program: &[u8]) -> TempDir {
    let folder = copied("v1.20");
    write(&folder.path().join("usr/bin/kubelet"), program);
    folder
}

/// The weaknesses of the only kubelet in a tree, as JSON.
fn listed(folder: &Path, more: &[&str]) -> Value {
    let output = inspect_tree(folder, &[&["-o", "json"], more].concat());
    let document = json_of(&output);
    assert_valid(&schema("inspection.json"), &document);
    document["kubelets"][0]["weaknesses"].clone()
}

/// Each version that is known, with where it was found.
fn versions(weaknesses: &Value) -> Vec<String> {
    let all = weaknesses["versions"].as_array().unwrap();
    all.iter()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or("-");
            format!("{} {} {}", text("name"), text("version"), text("from"))
        })
        .collect()
}

fn is<'a>(weaknesses: &'a Value, id: &str) -> &'a str {
    let known = weaknesses["known"].as_array().unwrap();
    let weakness = known
        .iter()
        .find(|weakness| weakness["id"] == id)
        .unwrap_or_else(|| panic!("{id}"));
    weakness["is"].as_str().unwrap()
}

#[test]
fn the_program_in_the_tree_of_an_old_node_is_as_the_linker_writes_it() {
    let kept = fs::read(tree("v1.20").join("usr/bin/kubelet")).unwrap();
    assert!(
        kept == kubelet("v1.20.15", "go1.15.15"),
        "write it anew with go_programs::kubelet"
    );
}

/// Seen red: with the API server's ranges shown without what decides.
#[test]
fn an_old_kubelets_weaknesses_are_listed_with_what_shields_each_side() {
    let folder = tree("v1.20");
    let output = inspect_tree(&folder, &[]);
    let text = stdout(&output);
    let row = |id: &str| text.lines().find(|line| line.starts_with(id)).unwrap_or_default();
    let columns = |id: &str| row(id).split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
    for (id, expected) in [
        ("CVE-2023-44487", "open both both both none"),
        ("CVE-2026-97032", "open both both both none"),
        ("CVE-2023-24534", "open part part part none"),
        ("nodes-proxy-get", "may be open gate gate gate none"),
        ("CVE-2018-1002105", "not judged gate gate gate none"),
        ("CVE-2020-8562", "not judged none none none none"),
    ] {
        assert_eq!(columns(id), expected, "{id}: {text}");
    }
    assert_says(
        &text,
        &[
            "kubelet   v1.20.15 (/usr/bin/kubelet)",
            "Go        go1.15.15 (/usr/bin/kubelet)",
            "also CVE-2023-39325",
            "CVSS 7.5",
            "only if HTTP/2 is offered: yes (kubelets before 1.36 do)",
            "CVE-2020-8551 (v1.20.15 does not have it)",
            "CVE-2024-9042 (Windows alone has it)",
            "fixed in 1.10.11, 1.11.5, 1.12.3; this node does not tell its version",
        ],
    );
    let weaknesses = listed(&folder, &[]);
    for (id, expected) in [
        ("CVE-2023-44487", "open"),
        ("CVE-2021-44716", "open"),
        ("CVE-2019-9512", "notOpen"),
        ("CVE-2020-8558", "notOpen"),
        ("CVE-2025-0426", "notOpen"),
        ("CVE-2025-46599", "notOpen"),
        ("nodes-proxy-get", "mayBeOpen"),
        ("CVE-2024-9042", "otherSystem"),
        ("CVE-2020-8559", "notJudged"),
    ] {
        assert_eq!(is(&weaknesses, id), expected, "{id}");
    }
    let document = json_of(&inspect_tree(&folder, &["-o", "sarif"]));
    assert_valid(&sarif_schema(), &document);
    let results = document["runs"][0]["results"].as_array().unwrap();
    let level = |id: &str| {
        let rule = format!("weakness/{id}");
        let found = results.iter().find(|result| result["ruleId"] == rule.as_str());
        found.map(|result| result["level"].as_str().unwrap().to_owned())
    };
    assert_eq!(level("CVE-2023-44487").as_deref(), Some("error"));
    assert_eq!(level("nodes-proxy-get").as_deref(), Some("warning"));
    assert_eq!(level("CVE-2020-8551"), None, "not open");
    assert_eq!(
        level("CVE-2020-8562"),
        None,
        "the same for every node of a cluster"
    );
}

/// Seen red: with a pre-release called unclear though a range begins in its minor version.
#[test]
fn each_range_ends_where_its_source_says() {
    for row in rows(EDGES) {
        let [id, version, expected] = row[..] else {
            panic!("{row:?}")
        };
        let listing = match version.starts_with("go") {
            true => listing(
                open_kubelet(),
                &Claims::default(),
                Some(&probed("v1.20.15", version)),
            ),
            false => listing(open_kubelet(), &said(version), None),
        };
        let weakness = find(&listing, id);
        let has = weakness.why.contains(&format!("{version} has it"))
            || weakness.why == "every version"
            || weakness.standing == Standing::OtherSystem;
        let found = match (has, weakness.standing) {
            (true, Standing::NotOpen) => panic!("{id} {version}: {weakness:?}"),
            (true, _) => "in",
            (false, Standing::MayBeOpen) if weakness.why.contains("pre-release") => "open",
            (false, Standing::NotOpen) => "out",
            _ => panic!("{id} {version}: {weakness:?}"),
        };
        // What Windows alone has is not this node's, whatever the version.
        let expected = if id == "CVE-2024-9042" && expected == "out" {
            found
        } else {
            expected
        };
        assert_eq!(found, expected, "{id} {version}: {}", weakness.why);
    }
}

#[test]
fn every_weakness_has_its_sources_and_each_edge_is_tested() {
    let listing = listing(open_kubelet(), &Claims::default(), None);
    let tested: Vec<&str> = rows(EDGES).map(|row| row[0]).collect();
    for weakness in &listing.known {
        let id = &weakness.id;
        assert!(!weakness.sources.is_empty(), "{id}");
        assert!(
            weakness
                .sources
                .iter()
                .all(|source| source.starts_with("https://")),
            "{id}"
        );
        assert!(
            weakness
                .severity
                .is_none_or(|score| (0.1..=10.0).contains(&score)),
            "{id}"
        );
        assert_eq!(
            weakness.shield.root,
            ShieldedBy::None,
            "{id}: root can take any shield away"
        );
        let judged = weakness.standing != Standing::NotJudged;
        assert_eq!(judged, tested.contains(&id.as_str()), "{id}");
        assert!(weakness.title.len() <= 110 && weakness.how.len() <= 130, "{id}");
    }
    let mut ids: Vec<&String> = listing.known.iter().map(|weakness| &weakness.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), listing.known.len());
}

/// (Not seen red.)
#[test]
fn what_is_not_known_is_not_called_closed() {
    let unknown = listing(open_kubelet(), &Claims::default(), None);
    for weakness in &unknown.known {
        let expected = match weakness.id.as_str() {
            // Whatever the version is.
            "nodes-proxy-get" => Standing::MayBeOpen,
            "CVE-2024-9042" => Standing::OtherSystem,
            _ if weakness.decides == "kube-apiserver" => Standing::NotJudged,
            _ => Standing::NotKnown,
        };
        assert_eq!(weakness.standing, expected, "{}: {}", weakness.id, weakness.why);
    }
    for odd in ["v0.0.0-master+$Format:%H$", "1.x", "v1.20.15\u{1b}[0m"] {
        let listing = listing(open_kubelet(), &said(odd), None);
        assert_eq!(
            find(&listing, "CVE-2020-8551").standing,
            Standing::NotKnown,
            "{odd:?}"
        );
        assert!(!listing.versions[0].from.contains('\u{1b}'));
    }
    // A precondition that is not met tells whatever the version is, unless a source is missing.
    let closed = |flags: &[&str]| {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let invocation = Invocation::given(&flags, Root::new("/nowhere"));
        find(&listing(invocation, &Claims::default(), None), "CVE-2025-0426").standing
    };
    assert_eq!(closed(&["--read-only-port=0"]), Standing::NotOpen);
    assert_eq!(
        closed(&["--read-only-port=0", "--dynamic-config-dir=/dynamic"]),
        Standing::NotKnown
    );
    // k3s' own flag is not in every version of it.
    let k3s = listed(&tree("k3s"), &["--kubelet-version", "v1.32.3+k3s1"]);
    assert_ne!(is(&k3s, "CVE-2025-46599"), "notOpen");
    assert_ne!(
        is(
            &listed(&tree("rke2"), &["--kubelet-version", "v1.32.3+rke2r1"]),
            "rke2-issue-8094"
        ),
        "notOpen"
    );
    assert_eq!(
        is(
            &listed(&tree("k3s"), &["--kubelet-version", "v1.32.4+k3s1"]),
            "CVE-2025-46599"
        ),
        "notOpen"
    );
}

/// (Not seen red.)
#[test]
fn a_distributions_build_may_have_the_fix() {
    for (version, expected) in [
        ("v1.16.3", Standing::Open),
        ("v1.16.3+k3s1", Standing::Open),
        ("v1.16.3-gke.100", Standing::MayBeOpen),
        ("v1.16.3-eks-036c24b", Standing::MayBeOpen),
        ("v1.16.7-gke.100", Standing::NotOpen),
    ] {
        let listing = listing(open_kubelet(), &said(version), None);
        assert_eq!(find(&listing, "CVE-2020-8551").standing, expected, "{version}");
    }
}

/// Of two versions, such as that of a kubelet that runs and of the file that replaced it, both count.
/// (Not seen red.)
#[test]
fn each_version_that_is_found_counts() {
    let folder = node(&kubelet("v1.30.1", "go1.22.3"));
    let claimed = listed(folder.path(), &["--kubelet-version", "Kubernetes v1.16.3"]);
    assert_eq!(is(&claimed, "CVE-2020-8551"), "open");
    assert_eq!(is(&listed(folder.path(), &[]), "CVE-2020-8551"), "notOpen");
    let answered = probed("v1.16.3", "go1.13.5");
    let listing =
        WeaknessListing::of(&only(folder.path()), &Claims::default(), Some(&answered), today()).unwrap();
    assert_eq!(find(&listing, "CVE-2020-8551").standing, Standing::Open);
    assert_eq!(find(&listing, "CVE-2023-45288").standing, Standing::Open);
    let from: Vec<&str> = listing
        .versions
        .iter()
        .map(|version| version.from.as_str())
        .collect();
    assert_eq!(
        from,
        [
            "/metrics of 127.0.0.1:10250",
            "/usr/bin/kubelet",
            "/metrics of 127.0.0.1:10250",
            "/usr/bin/kubelet"
        ]
    );
}

/// (Not seen red.)
#[test]
fn a_version_is_read_from_a_program_only_where_it_is_certain() {
    let program = |modules: &str, linked: &[&str], pointers| {
        let program = GoProgram {
            go: "go1.15.15",
            modules,
            linked,
            pointers,
        };
        let folder = node(&program.file());
        versions(&listed(folder.path(), &[]))
    };
    let go = "Go go1.15.15 /usr/bin/kubelet".to_owned();
    let found = |version: &str| vec![format!("kubelet {version} /usr/bin/kubelet"), go.clone()];
    let path = "path\tk8s.io/kubernetes/cmd/kubelet\n";
    for pointers in [false, true] {
        assert_eq!(program(path, &["v1.20.15", COMMIT], pointers), found("v1.20.15"));
        assert_eq!(
            program("", &["v1.20.15", COMMIT, "v1.20.15"], pointers),
            found("v1.20.15")
        );
    }
    let flags = format!(
        "{path}build\t-ldflags=\"-s -X 'k8s.io/component-base/version.gitVersion=v1.27.3-eks-1a2b' -X a=b\"\n"
    );
    assert_eq!(
        program(&flags, &["v1.2.3", "v4.5.6"], false),
        found("v1.27.3-eks-1a2b")
    );
    let module = "path\tk8s.io/kubernetes/cmd/kubelet\nmod\tk8s.io/kubernetes\tv1.33.1\t\n";
    assert_eq!(program(module, &[], false), found("v1.33.1"));
    let k3s = program(
        "path\tgithub.com/k3s-io/k3s/cmd/k3s\n",
        &["v1.32.3+k3s1", COMMIT, "v1.7.23-k3s2"],
        false,
    );
    assert_eq!(k3s[0], "kubelet v1.32.3+k3s1 /usr/bin/kubelet");
    assert!(
        k3s.contains(&"k3s v1.32.3+k3s1 /usr/bin/kubelet".to_owned()),
        "{k3s:?}"
    );
    for (modules, linked) in [
        (path, &["v1.20.15", COMMIT, "v1.20.14"][..]),
        (path, &["v1.20.15"]),
        (path, &[COMMIT]),
        (path, &["v1.20", COMMIT]),
        ("path\texample.com/kubelet\n", &["v1.20.15", COMMIT]),
        (
            "path\tk8s.io/kubernetes/cmd/kubelet\nmod\tk8s.io/kubernetes\tv1.33.2-0.20250601000000-0123456789ab\t\n",
            &[],
        ),
        (
            "path\tk8s.io/kubernetes/cmd/kubelet\nmod\tk8s.io/kubernetes\t(devel)\t\n",
            &[],
        ),
    ] {
        let versions = program(modules, linked, false);
        assert!(
            versions[0].starts_with("kubelet - "),
            "{modules} {linked:?}: {versions:?}"
        );
    }
}

/// The file may be anything.
#[test]
fn what_is_no_program_says_nothing_and_stops_nothing() {
    let whole = kubelet("v1.20.15", "go1.15.15");
    let mut pointing = GoProgram {
        go: "go1.15.15",
        modules: "",
        linked: &[],
        pointers: true,
    }
    .file();
    let information = pointing
        .windows(8)
        .position(|bytes| bytes == b"buildinf")
        .unwrap();
    for byte in &mut pointing[information + 10..information + 26] {
        *byte = 0xff;
    }
    for program in [
        &b""[..],
        b"no program\n",
        &whole[..200],
        &whole[..whole.len() - 100],
        &pointing,
    ] {
        let folder = node(program);
        let weaknesses = listed(folder.path(), &[]);
        assert_eq!(is(&weaknesses, "CVE-2023-44487"), "notKnown");
        assert!(
            versions(&weaknesses)
                .iter()
                .all(|version| version.contains(" - /usr/bin/kubelet: "))
        );
    }
    let folder = copied("v1.20");
    let path = folder.path().join("usr/bin/kubelet");
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(is(&listed(folder.path(), &[]), "CVE-2023-44487"), "notKnown");
}

#[test]
fn a_version_is_found_where_distributions_write_it() {
    let folder = copied("v1.20");
    fs::remove_file(folder.path().join("usr/bin/kubelet")).unwrap();
    let packages = "Package: kubectl\nStatus: install ok installed\nVersion: 1.33.0-1.1\n\n\
                    Package: kubelet\nStatus: hold ok installed\nVersion: 1.16.3-00\n";
    write(&folder.path().join("var/lib/dpkg/status"), packages);
    let weaknesses = listed(folder.path(), &[]);
    assert_eq!(
        versions(&weaknesses)[0],
        "kubelet 1.16.3 /var/lib/dpkg/status: kubelet 1.16.3-00"
    );
    assert_eq!(is(&weaknesses, "CVE-2020-8551"), "open");
    assert_eq!(
        is(&weaknesses, "CVE-2023-44487"),
        "notKnown",
        "Go's version is not in the package"
    );
    write(
        &folder.path().join("var/lib/dpkg/status"),
        packages.replace("hold ok installed", "deinstall ok config-files"),
    );
    assert_eq!(is(&listed(folder.path(), &[]), "CVE-2020-8551"), "notKnown");

    let rke2 = copied("rke2");
    let data = rke2
        .path()
        .join("var/lib/rancher/rke2/data/v1.32.3-rke2r2-1a2b3c4d5e6f/bin");
    fs::create_dir_all(&data).unwrap();
    std::os::unix::fs::symlink(
        "/var/lib/rancher/rke2/data/v1.32.3-rke2r2-1a2b3c4d5e6f/bin",
        rke2.path().join("var/lib/rancher/rke2/bin"),
    )
    .unwrap();
    let weaknesses = listed(rke2.path(), &[]);
    assert!(
        versions(&weaknesses)
            .contains(&"RKE2 v1.32.3+rke2r2 the folder of /var/lib/rancher/rke2/bin/kubelet".to_owned())
    );
    assert_eq!(is(&weaknesses, "CVE-2025-46599"), "notOpen", "RKE2 is not k3s");
}

#[test]
fn a_node_object_says_what_files_do_not() {
    let object = |system: &str, runtime: &str| {
        format!(
            "{{\"kind\": \"Node\", \"status\": {{\"nodeInfo\": {{\"kubeletVersion\": \"v1.31.2\", \
             \"operatingSystem\": \"{system}\", \"containerRuntimeVersion\": \"{runtime}\"}}}}}}"
        )
    };
    let listed = |system: &str, runtime: &str| {
        let claims = Claims {
            node: Some(serde_json::from_str(&object(system, runtime)).unwrap()),
            ..Claims::default()
        };
        listing(open_kubelet(), &claims, None)
    };
    for (runtime, expected) in [
        ("containerd://1.7.22", Standing::NotOpen),
        ("containerd://2.0.1-k3s1", Standing::MayBeOpen),
        ("cri-o://1.24.6", Standing::NotOpen),
        ("cri-o://1.31.0", Standing::MayBeOpen),
        ("docker://20.10.7", Standing::NotOpen),
        ("other://1.0", Standing::MayBeOpen),
    ] {
        assert_eq!(
            find(&listed("linux", runtime), "CVE-2025-0426").standing,
            expected,
            "{runtime}"
        );
    }
    assert_eq!(
        find(&listed("linux", ""), "CVE-2024-9042").standing,
        Standing::OtherSystem
    );
    assert_eq!(
        find(&listed("windows", ""), "CVE-2024-9042").standing,
        Standing::Open
    );

    let node = object("linux", "containerd://1.7.22");
    let folder = files(&[
        ("node.json", &node),
        ("list.json", "{\"kind\": \"List\"}"),
        ("broken.json", "{"),
    ]);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let given = [
        "--kubelet-arg=--read-only-port=10255",
        "--node-object",
        &path("node.json"),
    ];
    assert_says(&stdout(&inspect(&given)), &["v1.31.2 (the Node object)"]);
    let output = inspect(&["--kubelet-arg=--port=1", "--kubelet-version", "1.x"]);
    assert_eq!(code(&output), 64);
    assert_says(
        &stderr(&output),
        &["--kubelet-version \"1.x\": expected what kubelet --version prints"],
    );
    for (name, says) in [
        ("list.json", "kubectl get node"),
        ("broken.json", "broken JSON"),
        ("none.json", "No such"),
    ] {
        let output = inspect(&["--kubelet-arg=--port=1", "--node-object", &path(name)]);
        assert_eq!(code(&output), 64, "{name}");
        assert_says(&stderr(&output), &["--node-object", says]);
    }
}

/// Kubelets of 1.36 offer no HTTP/2 where they reload their client CA. (Not seen red.)
#[test]
fn a_kubelet_without_http2_is_not_open_to_what_needs_it() {
    let go = "go1.25.1";
    for (kubernetes, flags, expected) in [
        ("v1.35.2", &["--client-ca-file=/ca"][..], Standing::Open),
        ("v1.36.1", &["--client-ca-file=/ca"], Standing::NotOpen),
        ("v1.36.1", &[], Standing::Open),
        (
            "v1.36.1",
            &[
                "--client-ca-file=/ca",
                "--feature-gates=ReloadKubeletClientCAFile=false",
            ],
            Standing::Open,
        ),
        ("v1.36.2", &["--client-ca-file=/ca"], Standing::MayBeOpen),
        ("v1.37.0", &["--client-ca-file=/ca"], Standing::MayBeOpen),
    ] {
        let words: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let invocation = Invocation::given(&words, Root::new("/nowhere"));
        let listing = listing(invocation, &Claims::default(), Some(&probed(kubernetes, go)));
        assert_eq!(
            find(&listing, "CVE-2026-97032").standing,
            expected,
            "{kubernetes} {flags:?}"
        );
        assert_eq!(
            find(&listing, "CVE-2026-56862").standing,
            Standing::Open,
            "TLS is there without HTTP/2"
        );
    }
}

/// (Not seen red.)
#[test]
fn data_that_is_old_is_said_to_be() {
    let at = |days: i64| {
        let inspection = judged(open_kubelet());
        let read = WeaknessListing::of(&inspection, &Claims::default(), None, today())
            .unwrap()
            .data_of;
        let format = time::macros::format_description!("[year]-[month]-[day]");
        let day = Date::parse(&read, format).unwrap() + Duration::days(days);
        WeaknessListing::of(&inspection, &Claims::default(), None, day)
            .unwrap()
            .outdated_days
    };
    assert_eq!([at(0), at(180), at(181), at(-1)], [None, None, Some(181), None]);
}

/// (Not seen red.)
#[test]
fn the_exit_code_and_the_verdicts_are_those_of_the_checks() {
    let folder = node(&kubelet("v1.15.3", "go1.12.1"));
    let config = folder.path().join("var/lib/kubelet/config.yaml");
    let closed = fs::read_to_string(&config)
        .unwrap()
        .replace("readOnlyPort: 10255", "readOnlyPort: 0");
    write(&config, closed);
    let output = inspect_tree(folder.path(), &[]);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    assert_says(
        &stdout(&output),
        &["open", "They change neither the verdicts above nor the exit code"],
    );
    let checks = |program: &[u8]| {
        let folder = node(program);
        json_of(&inspect_tree(folder.path(), &["-o", "json"]))["kubelets"][0]["checks"].clone()
    };
    assert_eq!(
        checks(&kubelet("v1.15.3", "go1.12.1")),
        checks(&kubelet("v1.99.0", "go1.99.0"))
    );
}
