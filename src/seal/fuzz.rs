//! Fuzz targets: what `nft` lists, and the sockets of a node. No listing but a right one counts as the
//! confirmed plan in force.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target tells what it found"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::connections::among;
use super::foreign;
use super::listing::{Listing, parse};
use super::plan::{Plan, PortKind};
use super::rules::Rules;
use crate::host::sockets::TcpSocket;
use crate::settings::Backend;

/// `nft -j -n -n -n list table inet kubelet_gate` once [`Plan::sample`] was confirmed and the gate admitted.
const CONFIRMED: &str = include_str!("../../fuzz/seeds/nft_listing/confirmed");

/// What the listing of the confirmed plan says.
static RIGHT: LazyLock<(String, Vec<String>, Vec<String>)> = LazyLock::new(|| {
    let listing = parse("nft", CONFIRMED).expect("the recorded listing");
    let document = serde_json::from_str(CONFIRMED).expect("JSON");
    let (rules, exempting) = effective(&document);
    assert!(
        rules.len() > 20 && exempting.len() == 1,
        "{rules:#?} {exempting:#?}"
    );
    assert!(admits(&listing));
    (listing.fingerprint(), rules, exempting)
});

fn admits(listing: &Listing) -> bool {
    listing.admits(990, 0x1, 0x107f, None)
}

/// A listing as text; or the confirmed one with changes, four bytes each, behind an `m`.
///
/// # Panics
/// A listing counts as the confirmed plan in force, or as admitting the gate alone, and is not; or a foreign
/// rule is overlooked.
pub(crate) fn nft_listing(data: &[u8]) {
    let text = match data.split_first() {
        Some((b'm', plan)) => {
            let mut document: Value = serde_json::from_str(CONFIRMED).expect("JSON");
            for change in plan.chunks_exact(4).take(4) {
                change_object(&mut document, change);
            }
            document.to_string()
        }
        _ => String::from_utf8_lossy(data).into_owned(),
    };
    foreign_rules_are_found(&text);
    let Ok(listing) = parse("nft", &text) else { return };
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let (right, rules, exempting) = &*RIGHT;
    let (its_rules, its_exempting) = effective(&document);
    if admits(&listing) {
        assert_eq!(&its_exempting, exempting, "it admits others");
    }
    let is_right = listing.fingerprint() == *right;
    if is_right {
        assert_eq!(&its_rules, rules, "it is taken for the confirmed plan");
    }
    let listed = Rules::Nft(Some(listing));
    let plan = Plan::sample(Backend::Nftables);
    assert!(!is_right || listed.confirms(&plan) && listed.confirms_any());
    if listed.trial_remaining().is_some() {
        assert!(listed.left_of_trial());
    }
    let _ = listed.tries(&plan);
}

/// What decides about packets while no trial runs: every chain and rule, in their order, as text; and the
/// rules of the exemption.
fn effective(document: &Value) -> (Vec<String>, Vec<String>) {
    let (mut rules, mut exempting) = (Vec::new(), Vec::new());
    let of_trial = |name: &Value| name.as_str().is_some_and(|name| name.ends_with("_trial"));
    for object in document["nftables"].as_array().into_iter().flatten() {
        let (chain, rule) = (&object["chain"], &object["rule"]);
        if chain.is_object() && !of_trial(&chain["name"]) {
            let what = ["family", "table", "name", "type", "hook", "prio", "policy"].map(|key| &chain[key]);
            rules.push(format!("{what:?}"));
        }
        let Some(expressions) = rule["expr"].as_array() else {
            continue;
        };
        let mut text = format!("{} {} {}:", rule["family"], rule["table"], rule["chain"]);
        for expression in expressions {
            let mut expression = expression.clone();
            if expression.get("counter").is_some() {
                expression = json!("counter");
            } else if let Some(Value::Array(elements)) = expression.pointer_mut("/match/right/set") {
                elements.sort_by_key(Value::to_string);
            }
            text.push_str(&format!(" {expression}"));
        }
        let name = rule["chain"].as_str().unwrap_or_default();
        // While there is no set `trial`, nothing leads there.
        let to_trial = expressions.len() == 2
            && expressions[0].to_string().contains("\"@trial\"")
            && expressions[1]["goto"]["target"] == format!("{name}_trial");
        match name {
            "exempt" => exempting.push(text),
            name if name.ends_with("_trial") || to_trial => {}
            _ => rules.push(text),
        }
    }
    (rules, exempting)
}

/// One change of the listing: which object, what is done to it, with which of its values.
fn change_object(document: &mut Value, change: &[u8]) {
    let [object, kind, place, value] = *change else {
        return;
    };
    let Some(objects) = document["nftables"]
        .as_array_mut()
        .filter(|objects| !objects.is_empty())
    else {
        return;
    };
    let at = usize::from(object) % objects.len();
    let other = usize::from(place) % objects.len();
    match kind % 6 {
        0 => drop(objects.remove(at)),
        1 => objects.swap(at, other),
        2 => objects.insert(other, objects[at].clone()),
        3 => {
            // Two in one.
            let more = objects[other].as_object().cloned().unwrap_or_default();
            objects[at]
                .as_object_mut()
                .into_iter()
                .for_each(|object| object.extend(more.clone()));
        }
        _ => {
            let mut number = usize::from(place);
            change_value(&mut objects[at], &mut number, value);
        }
    }
}

/// Changes the value of this number, counted downwards.
fn change_value(value: &mut Value, number: &mut usize, with: u8) {
    let children = match value {
        Value::Array(values) => values.len(),
        Value::Object(values) => values.len(),
        _ => 0,
    };
    if *number == 0 || children == 0 {
        if *number == 0 {
            *value = match with % 8 {
                0 => Value::Null,
                1 => json!(["accept"]),
                2 => json!({"accept": null}),
                3 => json!("@trial"),
                4 => json!("exempt"),
                5 => json!("in_trial"),
                _ => json!(with),
            };
        }
        *number = number.wrapping_sub(1);
        return;
    }
    *number -= 1;
    let mut each = |child: &mut Value| {
        if *number < usize::MAX / 2 {
            change_value(child, number, with);
        }
    };
    match value {
        Value::Array(values) => values.iter_mut().for_each(&mut each),
        Value::Object(values) => values.values_mut().for_each(&mut each),
        _ => {}
    }
}

/// Whatever a listing says, a rule that stands behind it is found.
fn foreign_rules_are_found(text: &str) {
    let rule = "tcp dport 10250 meta mark & 0x00000040 == 0x00000040 drop";
    let text = format!("{text}\ntable ip other {{\n\tchain c {{\n\t\t{rule}\n\t}}\n}}\n");
    let found = foreign::naming("nft", &text, &[10250]);
    let last = found.last().expect("a rule");
    assert_eq!(
        (last.rule.as_str(), last.place.as_str()),
        (rule, "nft: table ip other, chain c")
    );
    assert!(last.takes_away, "it drops");
    assert_eq!(foreign::marked(&text) & 0x40, 0x40);
    let _ = foreign::routed(&text);
}

/// Sockets of the node, four bytes each.
///
/// # Panics
/// A connection that passes the gate is overlooked, or one of the gate's is not left alone.
pub(crate) fn connections(data: &[u8]) {
    const GATE: u32 = 990;
    let plan = Plan::sample(Backend::Nftables);
    let address = |number: u8| -> SocketAddr {
        const PORTS: [u16; 6] = [10250, 10255, 10248, 19443, 40000, 40001];
        let ip: IpAddr = match number % 4 {
            0 => Ipv4Addr::LOCALHOST.into(),
            // Where the gate itself holds the port.
            1 => Ipv4Addr::new(127, 0, 0, 2).into(),
            _ => Ipv4Addr::new(192, 0, 2, number % 4).into(),
        };
        (ip, PORTS[usize::from(number / 4) % PORTS.len()]).into()
    };
    let socket = |bytes: &[u8]| TcpSocket {
        local: address(bytes[0]),
        remote: address(bytes[1]),
        listens: bytes[2] & 1 != 0,
        flows: bytes[2] & 2 != 0,
        uid: if bytes[2] & 4 != 0 {
            GATE
        } else {
            u32::from(bytes[3])
        },
        inode: u64::from(bytes[3]),
    };
    let mut sockets: Vec<TcpSocket> = data.chunks_exact(4).take(64).map(socket).collect();
    let found = among(&sockets, &plan, GATE);
    for connection in &found {
        let sealed = plan
            .ports
            .iter()
            .find(|port| port.port == connection.kubelet.port());
        assert!(
            sealed.is_some_and(|port| port.kind != PortKind::Gate),
            "{connection:?}"
        );
        let ends =
            |socket: &&TcpSocket| (socket.local, socket.remote) == (connection.kubelet, connection.peer);
        assert!(
            sockets.iter().filter(ends).any(|socket| socket.flows),
            "{connection:?}"
        );
    }
    // None of these ends is among the others.
    let [kubelet, own, neighbour, user]: [SocketAddr; 4] = [
        "127.0.0.1:10250",
        "127.0.0.1:50000",
        "203.0.113.9:50001",
        "127.0.0.1:50002",
    ]
    .map(|address| address.parse().expect("an address"));
    let mut add = |local, remote, uid| {
        sockets.push(TcpSocket {
            local,
            remote,
            listens: false,
            flows: true,
            uid,
            inode: 1,
        });
    };
    add(kubelet, own, 0);
    add(own, kubelet, GATE);
    add(kubelet, neighbour, 0);
    add(kubelet, user, 0);
    add(user, kubelet, 1000);
    let more: Vec<SocketAddr> = among(&sockets, &plan, GATE)
        .into_iter()
        .skip(found.len())
        .map(|connection| connection.peer)
        .collect();
    assert_eq!(more, [neighbour, user]);
}
