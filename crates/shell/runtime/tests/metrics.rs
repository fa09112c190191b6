//! The metrics text, read by a small parser of the OpenMetrics format.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::collections::BTreeMap;

use support::sample_view;
use x0t_model::{Instant, UnixTime};
use x0t_netstack::SocksStats;
use x0t_runtime::event_loop::LoopStats;
use x0t_runtime::handle::Snapshot;
use x0t_runtime::metrics;
use x0t_runtime::readings::Reading;

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    unit: Option<String>,
    samples: Vec<(String, f64)>,
}

fn render(stats: LoopStats) -> String {
    let (at, wall) = (Instant::from_millis(1), UnixTime::from_secs(1_790_000_000));
    let readings = [
        Reading::counter("authority_svids_issued", "SVIDs issued by the authority", 3).with("subject", "node"),
        Reading::level("agent_entries", "Entries of this host", 2),
        Reading::counter("authority_svids_issued", "SVIDs issued by the authority", 4).with("subject", "workload"),
        Reading::seconds("certificate_not_after_timestamp", "End of a certificate", 1_900_000_000).with("kind", "ca"),
        Reading::level("ready", "A name that the node has already", 0),
        Reading::level("not a name", "What is no name is left out", 0),
    ];
    let snapshot = Snapshot { at, wall, view: sample_view(), runtime: stats };
    metrics::render(&snapshot, Some(&SocksStats::default()), &readings, "1.2.3").unwrap()
}

/// Families by name; each sample must belong to the family described just before it.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        if let Some(description) = line.strip_prefix("# ") {
            let mut words = description.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
            if what == "HELP" {
                assert!(families.insert(name.to_owned(), Family::default()).is_none(), "{name} is described twice");
            }
            let family = families.get_mut(name).unwrap();
            match what {
                "HELP" => family.help = rest.to_owned(),
                "TYPE" => family.kind = rest.to_owned(),
                "UNIT" => family.unit = Some(rest.to_owned()),
                _ => panic!("{line}"),
            }
            current = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap();
            let suffix = match family.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            assert_eq!(name, format!("{current}{suffix}"), "{line}");
            family.samples.push((series.to_owned(), value.parse().unwrap()));
        }
    }
    families
}

#[test]
fn every_instrument_has_a_name_of_ours_a_type_a_help_and_its_unit_in_the_name() {
    let families = parse(&render(LoopStats::default()));
    assert!(families.len() > 30);
    for (name, family) in &families {
        assert!(name.starts_with("x0t_"), "{name}");
        assert!(["gauge", "counter", "info"].contains(&family.kind.as_str()), "{name}: {}", family.kind);
        assert!(family.help.len() > 10, "{name}");
        if let Some(unit) = &family.unit {
            assert!(name.ends_with(&format!("_{unit}")), "{name} is in {unit}");
        }
    }
}

#[test]
fn what_the_node_shows_and_the_loop_counts_is_what_is_scraped() {
    let mut stats = LoopStats { stalled: true, host_packets_sent: 9, ..LoopStats::default() };
    stats.udp.datagrams_received = 42;
    stats.udp.datagrams_dropped_queue_full = 3;
    let families = parse(&render(stats));
    let sample = |series: &str| {
        let all = families.values().flat_map(|family| &family.samples);
        let found: Vec<_> = all.filter(|(name, _)| name == series).map(|(_, value)| *value).collect();
        assert_eq!(found.len(), 1, "{series}");
        found[0]
    };
    assert_eq!(sample("x0t_ready"), 1.0);
    assert_eq!(sample("x0t_stalled"), 1.0);
    assert_eq!(sample("x0t_uptime_seconds"), 61.5);
    assert_eq!(sample("x0t_svid_expiry_timestamp_seconds"), 1.8e9);
    assert_eq!(sample("x0t_svid_remaining_seconds"), 1e7);
    assert_eq!(sample("x0t_svid_failures"), 0.0);
    assert_eq!(sample(r#"x0t_svid_distrusted{reason="tainted"}"#), 0.0);
    assert_eq!(sample(r#"x0t_authority_svids_issued_total{subject="node"}"#), 3.0);
    assert_eq!(sample(r#"x0t_authority_svids_issued_total{subject="workload"}"#), 4.0);
    assert_eq!(sample("x0t_agent_entries"), 2.0);
    assert_eq!(sample(r#"x0t_certificate_not_after_timestamp_seconds{kind="ca"}"#), 1.9e9);
    assert_eq!(sample(r#"x0t_svid_state{state="valid"}"#), 1.0);
    assert_eq!(sample(r#"x0t_svid_state{state="expired"}"#), 0.0);
    assert_eq!(sample(r#"x0t_peer_rtt_seconds{peer="spiffe://mesh.test/node/bravo"}"#), 0.0015);
    assert_eq!(sample(r#"x0t_peer_loss_ratio{peer="spiffe://mesh.test/node/charlie"}"#), 0.02);
    assert_eq!(sample(r#"x0t_sessions{purpose="link",state="established"}"#), 1.0);
    assert_eq!(sample("x0t_udp_datagrams_received_total"), 42.0);
    assert_eq!(sample(r#"x0t_udp_datagrams_dropped_total{reason="queue_full"}"#), 3.0);
    assert_eq!(sample("x0t_host_packets_sent_total"), 9.0);
    assert_eq!(sample("x0t_forwarded_packets_total"), 5.0);
    assert_eq!(sample(r#"x0t_build_info{version="1.2.3"}"#), 1.0);
    // A neighbour without a measurement has no series, and what is no metric name is left out.
    assert_eq!(families["x0t_peer_rtt_seconds"].samples.len(), 1);
    assert!(!families.keys().any(|name| name.contains("not a name")));
}
