use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;

use super::server::{ServerAuthority, kubeconfig_text};
use crate::apiserver::material::Material;
use crate::apiserver::{Kubeconfig, KubeconfigError};
use crate::files::Guard;

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

/// Asserts that an error is about this key of cluster or user, and says no secret.
#[track_caller]
fn assert_names(error: &str, key: &str) {
    let begin = format!("/etc/kubernetes/kubelet.conf: {key}");
    assert!(
        error.starts_with(&begin),
        "{error:?} does not begin with {begin:?}"
    );
    assert!(!error.contains("t0ken"), "{error}");
}

#[test]
fn unsupported_and_missing_keys_are_refused_by_name() {
    for (line, key) in [
        ("insecure-skip-tls-verify: true", "insecure-skip-tls-verify: "),
        ("proxy-url: 'http://p'", "proxy-url: "),
        ("tls-server-name: 'a b'", "tls-server-name: "),
    ] {
        let error = refusal(URL, &format!("{CA}, {line}"), TOKEN);
        assert_names(&error, &format!("clusters[k].cluster.{key}"));
    }
    for (line, key) in [
        ("username: a", "username: "),
        ("password: a", "password: "),
        ("auth-provider: {name: gcp}", "auth-provider: "),
        ("as: root", "as: "),
        ("as-uid: '1'", "as-uid: "),
        ("as-groups: [a]", "as-groups: "),
        ("as-user-extra: {a: [b]}", "as-user-extra: "),
        ("client-key: k", "client-certificate: not set"),
        ("client-certificate: k", "client-key: not set"),
        ("client-key-data: '%%'", "client-key-data: not base64"),
    ] {
        let error = refusal(URL, CA, &format!("{TOKEN}, {line}"));
        assert_names(&error, &format!("users[u].user.{key}"));
    }
    for (server, key) in [
        ("", "server: not set"),
        ("http://192.0.2.1", "server: not https://"),
        ("192.0.2.1:6443", "server: not https://"),
        ("https://u:p@192.0.2.1", "server: names a user"),
        ("https://192.0.2.1:99999", "server: "),
        ("https://192.0.2.1:", "server: "),
        ("https://192.0.2.1/?a", "server: has a query"),
    ] {
        let error = refusal(server, CA, TOKEN);
        assert_names(&error, &format!("clusters[k].cluster.{key}"));
    }
    let no_authority = refusal(URL, "", TOKEN);
    assert_names(
        &no_authority,
        "clusters[k].cluster.certificate-authority: not set",
    );
    assert_names(&refusal(URL, CA, ""), "users[u].user: no credential");
}

#[test]
fn an_exec_plugin_that_cannot_be_run_is_refused_by_key() {
    const ALPHA: &str = "apiVersion: client.authentication.k8s.io/v1alpha1, command: aws";
    const ALPHA_ERROR: &str = "apiVersion: client.authentication.k8s.io/v1alpha1; write ";
    let v1 = |lines: &str| format!("{V1}{lines}");
    for (lines, key) in [
        ("command: aws".to_owned(), "apiVersion: not set"),
        (ALPHA.to_owned(), ALPHA_ERROR),
        (v1(""), "command: not set"),
        (v1(", command: aws"), "interactiveMode: not set"),
        (
            v1(", command: aws, interactiveMode: Always"),
            "interactiveMode: Always: there is no terminal here",
        ),
        (
            v1(", command: aws, interactiveMode: Perhaps"),
            "interactiveMode: Perhaps: unknown",
        ),
        (
            v1(", command: aws, interactiveMode: Never, env: [{value: t0ken}]"),
            "env: has an entry",
        ),
    ] {
        let error = refusal(URL, CA, &format!("{TOKEN}, exec: {{{lines}}}"));
        assert_names(&error, &format!("users[u].user.exec.{key}"));
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
    assert_eq!(found.authority.read(1024, Guard::Trusted).unwrap(), b"bundle");
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
         clusters: [{{name: k, cluster: {{server: '{URL}', {CA}}}}}]\nusers: [{{name: u, user: \
         {{{TOKEN}}}}}]\n"
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
    assert!(error.contains("it is a folder, not a regular file"), "{error}");
    let path = directory.path().join("large");
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    let error = Kubeconfig::load(&path).unwrap_err().to_string();
    assert!(error.contains("larger than 1 MiB"), "{error}");
}

#[test]
fn the_common_name_of_inline_data_is_found() {
    let signed = ServerAuthority::new("ca").client("system:node:worker-1");
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
