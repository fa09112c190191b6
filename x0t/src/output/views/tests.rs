//! Golden text: what people see, letter by letter.

use x0t_model::{NodeId, SpiffeId, overlay_address};
use x0t_node::SuccessorView;

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn id(name: &str) -> SpiffeId {
    SpiffeId::node(&"mesh.test".parse().unwrap(), name).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::of(&id(name))
}

fn alpha() -> StatusView {
    let domain = "mesh.test".parse().unwrap();
    StatusView {
        spiffe_id: id("alpha"),
        node_id: node("alpha"),
        name: "alpha".to_owned(),
        overlay_address: overlay_address(&domain, node("alpha")),
        trust_domain: domain,
        is_authority: true,
        ready: true,
        not_ready_because: None,
        svid_not_after: NOW.as_secs() + 2_880,
        svid_state: "valid".to_owned(),
        svid_distrust: None,
        svid_failures: 0,
        svid_source: "authority".to_owned(),
        svid_error: None,
        epoch: 3,
        uptime_ms: 5_400_000,
        links_up: 2,
        unanswered: Vec::new(),
        reachable: 3,
    }
}

fn peer(name: &str, state: &str, rtt_us: Option<u32>) -> PeerView {
    PeerView {
        node_id: node(name),
        spiffe_id: id(name),
        address: "192.0.2.7:4600".parse().unwrap(),
        transport: "udp".to_owned(),
        origin: "configured".to_owned(),
        observed: None,
        state: state.to_owned(),
        rtt_us,
        loss_permille: 25,
        cost_us: 1_300,
        path_mtu: Some(1452),
        heard_ms_ago: if state == "up" { 12 } else { 4_200 },
        interface: 2,
    }
}

fn route(name: &str, hops: u8, via: &[(&str, u32, bool)]) -> RouteView {
    let successor = |&(via, metric_us, usable)| SuccessorView {
        via: node(via),
        metric_us,
        usable,
        weight: 1,
        demoted: 0,
        suspect: false,
    };
    RouteView {
        node_id: node(name),
        spiffe_id: Some(id(name)),
        overlay_address: "fd00::1".parse().unwrap(),
        hops: Some(hops),
        packet_mtu: Some(1348),
        successors: via.iter().map(successor).collect(),
        sequence: (1, 7),
        feasible_distance_us: Some(900),
    }
}

fn golden(shown: &str, expected: &str) {
    assert_eq!(shown, expected.trim_matches('\n'), "\nshown:\n{shown}\n");
}

#[test]
fn status_fits_on_one_glance() {
    golden(
        &status(&alpha(), NOW, Style::Plain),
        "
alpha (authority)  ready
  identity   spiffe://mesh.test/node/alpha
  address    fd13:efc0:66ce:22f:3797:1514:4066:cae4
  svid       valid, 48 min left
  links      2 up
  reachable  3 nodes
  uptime     1 h 30 min
",
    );
}

#[test]
fn status_says_why_a_node_is_not_ready() {
    let mut lonely = alpha();
    lonely.ready = false;
    lonely.not_ready_because = Some("no neighbour answers".to_owned());
    lonely.svid_state = "expired".to_owned();
    lonely.svid_not_after = 0;
    let shown = status(&lonely, NOW, Style::Plain);
    assert!(shown.starts_with("alpha (authority)  not ready: no neighbour answers\n"), "{shown}");
    assert!(shown.contains("svid       expired\n"), "{shown}");
}

#[test]
fn peers_are_sorted_by_name() {
    let list = [peer("gamma", "suspect", None), peer("beta", "up", Some(840))];
    golden(
        &peers(&list, &alpha(), Style::Plain),
        "
PEER   STATE    ADDRESS         ORIGIN          RTT   LOSS     COST  HEARD
beta   up       192.0.2.7:4600  configured  0.84 ms  2.5 %  1.30 ms  now
gamma  suspect  192.0.2.7:4600  configured        -  2.5 %  1.30 ms  4 s ago
",
    );
}

#[test]
fn routes_show_the_way_in_use_and_the_backups() {
    let list = [
        route("delta", 2, &[("beta", 700, false)]),
        route("gamma", 2, &[("beta", 900, true), ("gamma", 4_000, true)]),
        route("beta", 1, &[("beta", 400, true)]),
    ];
    let names = Names::known(&alpha(), &[], &list);
    golden(
        &routes(&list, &names, Style::Plain),
        "
NODE   VIA          HOPS     COST  BACKUPS         ADDRESS
beta   direct          1  0.40 ms  -               fd00::1
delta  unreachable     -        -  -               fd00::1
gamma  beta            2  0.90 ms  direct 4.00 ms  fd00::1
",
    );
}

#[test]
fn sessions_show_what_protects_them() {
    let list = [SessionView {
        id: 7,
        purpose: "end-to-end".to_owned(),
        peer: Some(id("gamma")),
        carrier: "overlay".to_owned(),
        state: "established".to_owned(),
        group: Some("X25519MLKEM768".to_owned()),
        key_epoch: 2,
        packets_received: 12_345,
        packets_sent: 10,
    }];
    golden(
        &sessions(&list, &alpha(), Style::Plain),
        "
ID  PEER   PURPOSE     STATE        CARRIER  GROUP           EPOCH  RECEIVED  SENT
 7  gamma  end-to-end  established  overlay  X25519MLKEM768      2     12.3k    10
",
    );
}

#[test]
fn a_trace_lists_the_nodes_on_the_way() {
    let hop = |hop, name: &str, spiffe_id, rtt_ns| TraceHop { hop, node: node(name), spiffe_id, rtt_ns };
    let hops = [hop(1, "alpha", None, 410_000), hop(2, "gamma", Some(id("gamma")), 12_300_000)];
    golden(&trace(&hops, &alpha(), Style::Plain), " 1  022f3797  0.41 ms\n 2  gamma     12.3 ms");
}

#[test]
fn colours_are_only_in_coloured_text() {
    let list = [peer("beta", "up", Some(840))];
    assert!(!peers(&list, &alpha(), Style::Plain).contains('\x1b'));
    assert!(peers(&list, &alpha(), Style::Colored).contains("\x1b["));
    assert!(status(&alpha(), NOW, Style::Colored).contains("\x1b[32mready\x1b[0m"));
}

#[test]
fn a_mistyped_name_gets_a_suggestion_and_a_strange_one_does_not() {
    let names = Names::known(&alpha(), &[peer("gateway", "up", None)], &[]);
    assert_eq!(names.suggestion("gatewai"), Some("gateway"));
    assert_eq!(names.suggestion("zzz"), None);
}

#[test]
fn every_field_that_scripts_see_is_documented() {
    const PAGE: &str = include_str!("../../../COMMANDS.md");
    let session = SessionView {
        id: 1,
        purpose: String::new(),
        peer: None,
        carrier: String::new(),
        state: String::new(),
        group: None,
        key_epoch: 0,
        packets_received: 0,
        packets_sent: 0,
    };
    let hop = TraceHop { hop: 1, node: node("beta"), spiffe_id: None, rtt_ns: 1 };
    let shown = [
        serde_json::to_value(alpha()).unwrap(),
        serde_json::to_value(peer("beta", "up", None)).unwrap(),
        serde_json::to_value(route("beta", 1, &[("beta", 400, true)])).unwrap(),
        serde_json::to_value(&route("beta", 1, &[("beta", 400, true)]).successors[0]).unwrap(),
        serde_json::to_value(session).unwrap(),
        serde_json::to_value(hop).unwrap(),
    ];
    for object in shown {
        for field in object.as_object().unwrap().keys() {
            assert!(PAGE.contains(&format!("`{field}`")), "COMMANDS.md does not tell what `{field}` is");
        }
    }
}

#[test]
fn peers_over_tls_and_addresses_that_do_not_answer_say_so() {
    let mut beta = peer("beta", "up", Some(840));
    (beta.transport, beta.address) = ("tls".to_owned(), "192.0.2.7:443".parse().unwrap());
    let address = "192.0.2.7:4600".parse().unwrap();
    let unanswered =
        UnansweredView { address, origin: "configured".to_owned(), for_ms: 12_000, reason: "no answer".to_owned() };
    let shown = peers(&[beta], &StatusView { unanswered: vec![unanswered], ..alpha() }, Style::Plain);
    assert!(shown.contains("tls://192.0.2.7:443"), "{shown}");
    let last = shown.lines().last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(last, "192.0.2.7:4600 configured 12 s no answer");
}
