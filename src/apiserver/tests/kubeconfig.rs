use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

use super::server::{Authority, kubeconfig_text};
use crate::apiserver::material::Material;
use crate::apiserver::{Kubeconfig, KubeconfigError};

const URL: &str = "https://192.0.2.1:6443";
const CA: &str = "certificate-authority: ca.crt";
const TOKEN: &str = "token: t0ken";
const V1: &str = "apiVersion: client.authentication.k8s.io/v1";

fn parse(text: &str) -> Result<Kubeconfig, KubeconfigError> {
    Kubeconfig::parse(Path::new("/etc/kubernetes/kubelet.conf"), text)
}

fn refusal(server: &str, cluster: &str, user: &str) -> String {
    parse(&kubeconfig_text(server, cluster, user))
        .unwrap_err()
        .to_string()
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let cluster = "/etc/kubernetes/kubelet.conf: clusters[k].cluster.";
    let user = "/etc/kubernetes/kubelet.conf: users[u].user.";
    let with_cluster = |line: &str| refusal(URL, &format!("{CA}, {line}"), TOKEN);
    let with_user = |line: &str| refusal(URL, CA, &format!("{TOKEN}, {line}"));
    let with_exec = |lines: &str| with_user(&format!("exec: {{{lines}}}"));
    for (error, begin) in [
        (
            with_cluster("insecure-skip-tls-verify: true"),
            format!("{cluster}insecure-skip-tls-verify: "),
        ),
        (
            with_cluster("proxy-url: 'http://p'"),
            format!("{cluster}proxy-url: "),
        ),
        (
            with_cluster("tls-server-name: 'a b'"),
            format!("{cluster}tls-server-name: "),
        ),
        (with_user("username: a"), format!("{user}username: ")),
        (with_user("password: a"), format!("{user}password: ")),
        (
            with_user("auth-provider: {name: gcp}"),
            format!("{user}auth-provider: "),
        ),
        (with_user("as: root"), format!("{user}as: ")),
        (with_user("as-uid: '1'"), format!("{user}as-uid: ")),
        (with_user("as-groups: [a]"), format!("{user}as-groups: ")),
        (
            with_user("as-user-extra: {a: [b]}"),
            format!("{user}as-user-extra: "),
        ),
        (
            with_exec("command: aws"),
            format!("{user}exec.apiVersion: not set"),
        ),
        (
            with_exec("apiVersion: client.authentication.k8s.io/v1alpha1, command: aws"),
            format!("{user}exec.apiVersion: client.authentication.k8s.io/v1alpha1; write "),
        ),
        (with_exec(V1), format!("{user}exec.command: not set")),
        (
            with_exec(&format!("{V1}, command: aws")),
            format!("{user}exec.interactiveMode: not set"),
        ),
        (
            with_exec(&format!("{V1}, command: aws, interactiveMode: Always")),
            format!("{user}exec.interactiveMode: Always: nobody can be asked here"),
        ),
        (
            with_exec(&format!("{V1}, command: aws, interactiveMode: Perhaps")),
            format!("{user}exec.interactiveMode: Perhaps: unknown"),
        ),
        (
            with_exec(&format!(
                "{V1}, command: aws, interactiveMode: Never, env: [{{value: t0ken}}]"
            )),
            format!("{user}exec.env: has an entry"),
        ),
        (
            with_user("client-key: k"),
            format!("{user}client-certificate: not set"),
        ),
        (
            with_user("client-certificate: k"),
            format!("{user}client-key: not set"),
        ),
        (
            with_user("client-key-data: '%%'"),
            format!("{user}client-key-data: not base64"),
        ),
        (
            refusal(URL, "", TOKEN),
            format!("{cluster}certificate-authority: not set"),
        ),
        (refusal("", CA, TOKEN), format!("{cluster}server: not set")),
        (
            refusal("http://192.0.2.1", CA, TOKEN),
            format!("{cluster}server: not https://"),
        ),
        (
            refusal("192.0.2.1:6443", CA, TOKEN),
            format!("{cluster}server: not https://"),
        ),
        (
            refusal("https://u:p@192.0.2.1", CA, TOKEN),
            format!("{cluster}server: names a user"),
        ),
        (
            refusal("https://192.0.2.1:99999", CA, TOKEN),
            format!("{cluster}server: "),
        ),
        (
            refusal("https://192.0.2.1:", CA, TOKEN),
            format!("{cluster}server: "),
        ),
        (
            refusal("https://192.0.2.1/?a", CA, TOKEN),
            format!("{cluster}server: has a query"),
        ),
        (
            refusal(URL, CA, ""),
            "/etc/kubernetes/kubelet.conf: users[u].user: no credential".to_owned(),
        ),
    ] {
        assert!(
            error.starts_with(&begin),
            "{error:?} does not begin with {begin:?}"
        );
        assert!(!error.contains("t0ken"), "{error}");
    }
}

#[test]
fn harmless_and_unknown_keys_pass() {
    let cluster =
        format!("{CA}, insecure-skip-tls-verify: false, proxy-url: '', disable-compression: true, new: [1]");
    let user = format!("{TOKEN}, username: '', as: '', exec: null, auth-provider: null");
    let found = parse(&kubeconfig_text("https://api.example.org/base/", &cluster, &user)).unwrap();
    assert_eq!(found.server.host, "api.example.org");
    assert_eq!(found.server.port, 443);
    assert_eq!(found.server.authority, "api.example.org");
    assert_eq!(found.server.prefix, "/base");
    let found = parse(&kubeconfig_text("https://[2001:db8::1]:6443", CA, TOKEN)).unwrap();
    assert_eq!(
        (found.server.host.as_str(), found.server.port),
        ("2001:db8::1", 6443)
    );
    assert_eq!(found.server.authority, "[2001:db8::1]:6443");
}

#[test]
fn paths_are_relative_to_the_kubeconfig_and_data_and_token_file_win() {
    let user = "client-certificate: pki/c.pem, client-key: /abs/k.pem, token: x, tokenFile: tok";
    let found = parse(&kubeconfig_text(URL, CA, user)).unwrap();
    let pair = found.client_certificate.unwrap();
    assert_eq!(found.authority.origin(), Path::new("/etc/kubernetes/ca.crt"));
    assert_eq!(pair.chain.origin(), Path::new("/etc/kubernetes/pki/c.pem"));
    assert_eq!(pair.key.origin(), Path::new("/abs/k.pem"));
    assert!(matches!(found.token.unwrap(), Material::File(file) if file == Path::new("/etc/kubernetes/tok")));

    let cluster = format!(
        "{CA}, certificate-authority-data: \"{}\\n  \"",
        BASE64_STANDARD.encode("bundle")
    );
    let found = parse(&kubeconfig_text(URL, &cluster, TOKEN)).unwrap();
    assert_eq!(found.authority.read().unwrap(), b"bundle");
    assert!(
        found
            .authority
            .origin()
            .ends_with("kubelet.conf: clusters[k].cluster.certificate-authority-data")
    );
    assert!(!format!("{found:?}").contains("t0ken"));
}

#[test]
fn the_current_context_decides() {
    let two = format!(
        "current-context: b\ncontexts:\n- {{name: a, context: {{cluster: x, user: x}}}}\n\
         - {{name: b, context: {{cluster: k, user: u}}}}\n\
         clusters: [{{name: k, cluster: {{server: '{URL}', {CA}}}}}]\nusers: [{{name: u, user: {{{TOKEN}}}}}]\n"
    );
    assert_eq!(parse(&two).unwrap().server.authority, "192.0.2.1:6443");
    let error = parse(&two.replace("current-context: b", "current-context: a"))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("clusters: nothing in it is named \"x\""),
        "{error}"
    );
    let error = parse(&two.replace("name: a", "name: b")).unwrap_err().to_string();
    assert!(
        error.ends_with("contexts: has \"b\" twice; remove one"),
        "{error}"
    );
    let error = parse("kind: Config\nusers: null").unwrap_err().to_string();
    assert!(error.contains("current-context: not set"), "{error}");
}

#[test]
fn syntax_errors_tell_the_place_and_nothing_of_the_content() {
    for text in [
        "current-context: c\nusers: secret-value\n",
        "users:\n- name: u\n  user: {token: [secret-value]}\n",
        "a: b\n\t- secret-value: [",
        "users: [{name: u, user: secret-value}]",
    ] {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, KubeconfigError::Syntax { .. }), "{error}");
        assert!(error.to_string().contains("near line "), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn the_files_must_be_files() {
    let directory = tempfile::tempdir().unwrap();
    let error = Kubeconfig::load(directory.path()).unwrap_err().to_string();
    assert!(error.ends_with("not a regular file"), "{error}");
    let path = directory.path().join("large");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    let error = Kubeconfig::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("larger than 1 MiB"), "{error}");
}

#[test]
fn the_common_name_of_inline_data_is_found() {
    let signed = Authority::new("ca").client("system:node:worker-1");
    let data = |pem: &str| BASE64_STANDARD.encode(pem);
    let user = format!(
        "client-certificate-data: {}, client-key-data: {}",
        data(&signed.certificate),
        data(&signed.key)
    );
    let found = parse(&kubeconfig_text(URL, CA, &user)).unwrap();
    assert_eq!(
        found.client_certificate_common_name().unwrap().as_deref(),
        Some("system:node:worker-1")
    );
    let found = parse(&kubeconfig_text(URL, CA, TOKEN)).unwrap();
    assert_eq!(found.client_certificate_common_name().unwrap(), None);
}

#[test]
fn in_cluster_needs_host_and_port() {
    let directory = Path::new("/sa");
    let found = Kubeconfig::in_cluster(Some("2001:db8::1"), Some("443"), directory).unwrap();
    assert_eq!(found.server.authority, "[2001:db8::1]:443");
    assert_eq!(found.authority.origin(), Path::new("/sa/ca.crt"));
    for (host, port) in [
        (None, Some("443")),
        (Some(""), Some("443")),
        (Some("h"), None),
        (Some("h"), Some("x")),
    ] {
        let error = Kubeconfig::in_cluster(host, port, directory)
            .unwrap_err()
            .to_string();
        assert!(error.contains("KUBERNETES_SERVICE_"), "{error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn arbitrary_values_never_panic(server in any::<String>(), cluster in ".*", user in ".*") {
        let _ = parse(&kubeconfig_text(&server, &cluster, &user));
        let _ = parse(&kubeconfig_text(&format!("https://{server}"), CA, TOKEN));
    }
}
