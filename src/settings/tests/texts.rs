//! Whatever is written: no panic, and what is printed loads as itself.

use super::*;

#[test]
fn the_printed_settings_load_as_themselves() {
    let everything = least_and(
        "nodeName: worker-1\nnodeNameFromHost: true\nkubeconfig: k\ntlsMinVersion: \
         VersionTLS13\ntlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\nauthentication: {anonymous: \
         {enabled: true}, x509: {clientCAFile: 'with space: #.crt', clientCertificates: Require, crlFiles: \
         [ca.crl, /pki/b.crl], legacyV1Certificates: true}, webhook: {cacheTTL: 1500ms, audiences: ['yes', \
         '1']}, denyFiles: [deny, '/etc/deny #2']}\nauthorization: {mode: AlwaysAllow, webhook: {cacheAuthorizedTTL: 1h1s, \
         cacheUnauthorizedTTL: 1ns}, interactive: {requireCreate: false, allowedUsers: ['kube-apiserver', \
         'null'], cacheAuthorizedTTL: 1s}, paths: {deny: [/checkpoint]}}\nreadOnlyPort: {listen: \
         ['[2001:db8::1]:10255']}\nstreamingConnectionIdleTimeout: 1h\nlimits: {idleTimeout: 1m30s, \
         connections: 10}\naudit: {path: '-', mode: blocking, commands: show, strangers: full, \
         maxSizeMB: 7, maxBackups: 0}\nadmin: {listen: ''}\nworkers: 4",
    );
    let remote = upstream(
        "{url: 'https://198.51.100.1:10250', allowRemote: true, caFile: ca, serverName: worker-1, \
         clientCertificateFile: c, clientKeyFile: k, tokenFile: t}",
    );
    let socket = upstream("{url: 'unix:///run/kubelet.sock'}");
    for text in [EXAMPLE, LEAST, &everything, &remote, &socket] {
        let settings = good(text);
        let yaml = settings.to_yaml().unwrap();
        let again = Settings::parse(&yaml, Path::new("/elsewhere/x.yaml"), &KubeletFlags::default())
            .unwrap_or_else(|error| panic!("{error}\n{yaml}"));
        assert_eq!(without_warnings(again), without_warnings(settings), "{yaml}");
    }
}

/// The example with `from` to `to` (in characters) replaced by `with`.
fn spliced(from: usize, length: usize, with: &str) -> String {
    let kept: Vec<char> = EXAMPLE.chars().collect();
    let from = from % kept.len();
    let end = (from + length).min(kept.len());
    kept[..from]
        .iter()
        .copied()
        .chain(with.chars())
        .chain(kept[end..].iter().copied())
        .collect()
}

#[test]
fn a_character_lost_from_any_key_is_found_and_the_key_named() {
    let mut tried = 0;
    let mut sections: Vec<(usize, &str)> = Vec::new();
    for (index, line) in EXAMPLE.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some((key, _)) = line
            .trim_start()
            .split_once(':')
            .filter(|(key, _)| !key.starts_with('#'))
        else {
            continue;
        };
        sections.retain(|(depth, _)| *depth < indent);
        sections.push((indent, key));
        let path = sections.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
        for lost in 0..key.len() {
            let misspelt = format!(
                "{}{}{}",
                &line[..indent + lost],
                &key[lost + 1..],
                &line[indent + key.len()..]
            );
            let lines = EXAMPLE
                .lines()
                .enumerate()
                .map(|(at, old)| if at == index { &misspelt } else { old });
            let said = error(&lines.map(|line| format!("{line}\n")).collect::<String>());
            let place = format!("/etc/gate/gate.yaml:{}: ", index + 1);
            let nearest = format!("the nearest known key is {path}: write {key} or");
            assert!(
                said.starts_with(&place) && said.contains(&nearest),
                "{misspelt}\n{said}"
            );
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
}

proptest! {
    #[test]
    fn any_text_is_refused_or_read_but_never_panics(text in "\\PC*|[a-z:\\[\\]{}&*<>!|#\"' \n-]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_change_to_the_example_is_refused_or_read(
        from in 0..20_000usize,
        length in 0..40usize,
        with in "\\PC{0,10}|[:\\[\\]{}&*!|#\"' \n-]{0,5}",
    ) {
        let _ = parse(&spliced(from, length, &with));
    }

    #[test]
    fn any_value_of_a_text_is_refused_or_printed_as_it_was(value in "\\PC{0,40}", key in 0..200usize) {
        let texts: Vec<_> = known_leaves().into_iter().filter(|(_, default)| default.is_string()).collect();
        let key = &texts[key % texts.len()].0;
        let mut changed = example();
        *key.split('.').fold(&mut changed, |value, segment| &mut value[segment]) = Value::from(value);
        if let Ok(settings) = parse(&changed.to_string()) {
            let again = good(&settings.to_yaml().unwrap());
            prop_assert_eq!(without_warnings(again), without_warnings(settings));
        }
    }
}
