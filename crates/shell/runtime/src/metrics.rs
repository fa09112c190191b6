//! Every instrument of the node and its loop, with name, unit and help, built from a [`Snapshot`]; those who stand beside the node bring
//! theirs as [`Reading`]s. Nothing here counts anything itself.
//!
//! Labels have bounded sets of values: states, purposes, and the neighbours of this node. Destinations are counted, not listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};
use x0t_netstack::{SocksStats, StackStats};
use x0t_node::{PeerView, View};

use crate::event_loop::LoopStats;
use crate::handle::Snapshot;
use crate::readings::{Reading, Value, families};

/// What [`render`] produces.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All names begin with it.
const PREFIX: &str = "x0t";
/// Neighbours that get series of their own; a node has a few dozen at most.
const PEERS_MAX: usize = 256;
/// Counters of the node that are passed on.
const COUNTERS_MAX: usize = 512;

/// What an SVID can be.
const SVID_STATES: &[&str] = &["valid", "renewing", "degraded", "critical", "expired", "withdrawn"];

type Labels = Vec<(&'static str, String)>;
type Level = Gauge<f64, AtomicU64>;

/// One counter of the event loop: name, help, and where it is kept.
type LoopCounter = (&'static str, &'static str, fn(&LoopStats) -> u64);

/// Counters of the event loop and its sockets; `_total` is added to each name.
const LOOP_COUNTERS: &[LoopCounter] = &[
    ("udp_datagrams_received", "Datagrams received from the underlay", |s| s.udp.datagrams_received),
    ("udp_received_bytes", "Bytes received from the underlay", |s| s.udp.bytes_received),
    ("udp_datagrams_sent", "Datagrams handed to the kernel", |s| s.udp.datagrams_sent),
    ("udp_sent_bytes", "Bytes handed to the kernel", |s| s.udp.bytes_sent),
    ("udp_datagrams_queued", "Datagrams that had to wait for the kernel", |s| s.udp.datagrams_queued),
    ("udp_send_calls", "System calls that handed datagrams to the kernel", |s| s.udp.send_calls),
    ("udp_trains_received", "Runs of datagrams that the kernel handed over in one piece", |s| s.udp.trains_received),
    ("udp_segmentation_refused", "Runs that a device could not send in one call", |s| s.udp.segmentation_refused),
    ("udp_icmp_errors", "ICMP errors about underlay destinations", |s| s.udp.icmp_errors),
    ("tls_frames_received", "Datagrams received over TLS", |s| s.tls.frames_received),
    ("tls_received_bytes", "Bytes received over TLS, framing not counted", |s| s.tls.bytes_received),
    ("tls_frames_sent", "Datagrams handed to a TLS connection", |s| s.tls.frames_sent),
    ("tls_sent_bytes", "Bytes handed to TLS connections, framing not counted", |s| s.tls.bytes_sent),
    ("tls_frames_dropped", "Datagrams that a TLS connection did not take", |s| {
        s.tls.frames_dropped_full + s.tls.frames_dropped_unconnected + s.tls.frames_dropped_size
    }),
    ("tls_connections_accepted", "TLS connections that others made", |s| s.tls.connections_accepted),
    ("tls_connections_made", "TLS connections made", |s| s.tls.connections_made),
    ("tls_connections_failed", "TLS connections that could not be made", |s| s.tls.connections_failed),
    ("tls_connections_refused", "TLS connections closed for not speaking the protocol", |s| s.tls.connections_refused),
    ("discovery_beacons_sent", "Beacons sent, one for each interface", |s| s.discovery.beacons_sent),
    ("discovery_datagrams_received", "Datagrams that came to the discovery group", |s| s.discovery.datagrams_received),
    ("udp_receive_errors", "Errors while receiving from the underlay", |s| s.udp.receive_errors),
    ("host_packets_received", "Packets that the host wanted carried", |s| s.host_packets_received),
    ("host_packets_not_ipv6", "Packets of the host dropped for not being IPv6", |s| s.host_packets_not_ipv6),
    ("host_packets_malformed", "Packets of the host with impossible offload facts", |s| s.host_packets_malformed),
    ("super_packets_refused", "Super-packets that the kernel refused", |s| s.super_packets_refused),
    ("host_packets_sent", "Packets handed to the host", |s| s.host_packets_sent),
    ("host_packets_dropped", "Packets for the host that it did not take", |s| s.host_packets_dropped),
    ("worker_jobs", "Jobs given to the threads that work for the event loop", |s| s.workers.jobs),
    ("worker_trains_unsealable", "Runs of datagrams that did not seal", |s| s.workers.trains_unsealable),
    ("loop_wakeups", "How often the event loop woke up", |s| s.wakeups),
    ("loop_timeouts", "How often a deadline of the node had come", |s| s.timeouts),
    ("link_changes", "Changes of interfaces that the kernel reported", |s| s.link_changes),
    ("unreachable_hints", "Unreachable addresses that the node was told of", |s| s.unreachable_hints),
    ("records_written", "Records made durable", |s| s.records_written),
    ("record_failures", "Attempts to make a record durable that failed", |s| s.record_failures),
];

/// One counter of the stack: name, help, and where it is kept.
type StackCounter = (&'static str, &'static str, fn(&StackStats) -> u64);

/// Counters of the stack, on hosts without an interface into the mesh; `_total` is added to each name.
const STACK_COUNTERS: &[StackCounter] = &[
    ("netstack_packets_received", "Packets that the stack took in", |s| s.packets_received),
    ("netstack_packets_dropped", "Packets that came faster than the stack took them in", |s| s.packets_dropped),
    ("netstack_packets_malformed", "Packets that the stack could not read", |s| s.packets_malformed),
    ("netstack_packets_refused", "Packets for ports that nobody serves", |s| s.packets_refused),
    ("netstack_answers_dropped", "Answers of the stack for which there was no room", |s| s.answers_dropped),
    ("netstack_connections_opened", "Connections that this node opened", |s| s.connections_opened),
    ("netstack_connections_offered", "Connections that peers asked for", |s| s.connections_offered),
    ("netstack_syns_dropped", "Requests for connections dropped because there were too many", |s| s.syns_dropped),
    ("netstack_connections_broken", "Connections lost to a bug", |s| s.connections_broken),
    ("netstack_datagrams_received", "Datagrams handed to their users", |s| s.datagrams_received),
    ("netstack_datagrams_dropped", "Datagrams dropped by the stack", |s| s.datagrams_dropped),
];

/// One counter of the SOCKS5 listener: name, help, and where it is kept.
type SocksCounter = (&'static str, &'static str, fn(&SocksStats) -> u64);

/// Counters of the SOCKS5 listener; `_total` is added to each name.
const SOCKS_COUNTERS: &[SocksCounter] = &[
    ("socks_associations_made", "UDP associations of SOCKS5 clients", |s| s.associations_made),
    ("socks_associations_refused", "UDP associations refused because there were too many", |s| s.associations_refused),
    ("socks_datagrams_sent", "Datagrams of SOCKS5 clients handed to the mesh", |s| s.datagrams_sent),
    ("socks_datagrams_received", "Datagrams of nodes handed to SOCKS5 clients", |s| s.datagrams_received),
];

/// One reason to drop a datagram of a SOCKS5 client, and where it is counted.
type SocksDrop = (&'static str, fn(&SocksStats) -> u64);

/// Why a datagram of a SOCKS5 client, or for one, was dropped.
const SOCKS_DROPS: &[SocksDrop] = &[
    ("fragment", |s| s.fragments_dropped),
    ("malformed", |s| s.datagrams_malformed),
    ("stranger", |s| s.datagrams_of_strangers),
    ("not_of_this_mesh", |s| s.datagrams_not_of_this_mesh),
    ("unasked", |s| s.datagrams_unasked),
];

/// One reason to drop a datagram, and where it is counted.
type Drop = (&'static str, fn(&LoopStats) -> u64);

/// Why a datagram was dropped before it reached the wire.
const UDP_DROPS: &[Drop] = &[
    ("queue_full", |s| s.udp.datagrams_dropped_queue_full),
    ("no_socket", |s| s.udp.datagrams_dropped_no_socket),
    ("too_big", |s| s.udp.datagrams_dropped_too_big),
    ("refused", |s| s.udp.datagrams_refused),
];

/// The text that a Prometheus server scrapes; `socks` is what the SOCKS5 listener counted.
///
/// # Errors
/// Never with the instruments of this file; the encoder's signature allows it.
pub fn render(
    snapshot: &Snapshot,
    socks: Option<&SocksStats>,
    readings: &[Reading],
    version: &str,
) -> Result<String, fmt::Error> {
    let mut instruments = Instruments { registry: Registry::with_prefix(PREFIX), names: BTreeSet::new() };
    let build = Info::new(vec![("version", version.to_owned())]);
    instruments.register("build", "The program that runs this node", build);
    register_status(&mut instruments, snapshot);
    register_peers(&mut instruments, &snapshot.view.peers);
    register_sessions(&mut instruments, &snapshot.view);
    register_loop(&mut instruments, &snapshot.runtime);
    if let Some(socks) = socks {
        register_socks(&mut instruments, socks);
    }
    register_readings(&mut instruments, readings);
    register_counters(&mut instruments, &snapshot.view.counters);
    let mut text = String::new();
    encode(&mut text, &instruments.registry)?;
    Ok(text)
}

fn register_status(instruments: &mut Instruments, Snapshot { view, wall, .. }: &Snapshot) {
    let status = &view.status;
    instruments.register("ready", "1 if the node holds a valid SVID and a usable link", level(status.ready.into()));
    instruments.register("authority", "1 if the node issues identities", level(status.is_authority.into()));
    instruments.register("links_up", "Neighbours that can carry traffic", level(status.links_up as f64));
    instruments.register("destinations_reachable", "Destinations that can be reached", level(status.reachable as f64));
    instruments.register("destinations_known", "Destinations the node knows of", level(view.routes.len() as f64));
    instruments.register("routing_epoch", "Routing epoch; grows with every boot", level(status.epoch.into()));
    let svid_expiry = level(status.svid_not_after as f64);
    instruments.register_with_unit("svid_expiry_timestamp", "End of the SVID's validity", Unit::Seconds, svid_expiry);
    let svid_left = level(status.svid_not_after.saturating_sub(wall.as_secs()) as f64);
    instruments.register_with_unit("svid_remaining", "Time until the SVID's end", Unit::Seconds, svid_left);
    instruments.register(
        "svid_failures",
        "Attempts at the next SVID that have failed since the last one was adopted",
        level(status.svid_failures.into()),
    );
    let distrust = one_hot(
        "reason",
        &["tainted", "revoked", "not_in_bundle"],
        status.svid_distrust.as_deref().unwrap_or_default(),
    );
    instruments.register("svid_distrusted", "1 for the reason why the SVID is replaced before its time", distrust);
    let svid_state = one_hot("state", SVID_STATES, &status.svid_state);
    instruments.register("svid_state", "1 for the state the SVID is in", svid_state);
    let uptime = level(status.uptime_ms as f64 / 1e3);
    instruments.register_with_unit("uptime", "Time since the node started", Unit::Seconds, uptime);
}

fn register_peers(instruments: &mut Instruments, peers: &[PeerView]) {
    let (up, rtt, loss, cost, silence) = (family(), family(), family(), family(), family());
    for peer in peers.iter().take(PEERS_MAX) {
        let labels = vec![("peer", peer.spiffe_id.to_string())];
        up.get_or_create(&labels).set((peer.state == "up").into());
        if let Some(rtt_us) = peer.rtt_us {
            rtt.get_or_create(&labels).set(f64::from(rtt_us) / 1e6);
        }
        loss.get_or_create(&labels).set(f64::from(peer.loss_permille) / 1e3);
        cost.get_or_create(&labels).set(f64::from(peer.cost_us) / 1e6);
        silence.get_or_create(&labels).set(peer.heard_ms_ago as f64 / 1e3);
    }
    instruments.register("peer_up", "1 if the neighbour can carry traffic", up);
    instruments.register_with_unit("peer_rtt", "Smallest round-trip time of the last 10 s", Unit::Seconds, rtt);
    instruments.register_with_unit("peer_loss", "Share of packets lost", Unit::Other("ratio".into()), loss);
    instruments.register_with_unit("peer_cost", "Cost of the link as expected delay", Unit::Seconds, cost);
    instruments.register_with_unit("peer_silence", "Time since the neighbour was heard", Unit::Seconds, silence);
}

fn register_sessions(instruments: &mut Instruments, view: &View) {
    let sessions = family();
    for session in &view.sessions {
        let labels = vec![("purpose", session.purpose.clone()), ("state", session.state.clone())];
        sessions.get_or_create(&labels).inc_by(1.0);
    }
    instruments.register("sessions", "Sessions by purpose and state", sessions);
}

fn register_loop(instruments: &mut Instruments, stats: &LoopStats) {
    for (name, help, value) in LOOP_COUNTERS {
        instruments.register(name, help, counter(value(stats)));
    }
    let drops = Family::<Labels, Counter>::default();
    for (reason, value) in UDP_DROPS {
        drops.get_or_create(&vec![("reason", (*reason).to_owned())]).inc_by(value(stats));
    }
    instruments.register("udp_datagrams_dropped", "Datagrams dropped before they reached the wire", drops);
    if let Some(stack) = &stats.netstack {
        for (name, help, value) in STACK_COUNTERS {
            instruments.register(name, help, counter(value(stack)));
        }
        instruments.register("netstack_connections", "Connections of the stack", level(stack.connections as f64));
        instruments.register("netstack_udp_ports", "UDP ports of the stack in use", level(stack.udp_ports as f64));
    }
    instruments.register("events_readers", "Readers of the event stream", level(stats.events_readers as f64));
    instruments.register(
        "stalled",
        "1 if the node is held because its state cannot be saved",
        level(stats.stalled.into()),
    );
    instruments.register(
        "interface",
        "1 if the host has an interface into the mesh",
        level(stats.has_interface.into()),
    );
}

fn register_socks(instruments: &mut Instruments, stats: &SocksStats) {
    for (name, help, value) in SOCKS_COUNTERS {
        instruments.register(name, help, counter(value(stats)));
    }
    let drops = Family::<Labels, Counter>::default();
    for (reason, value) in SOCKS_DROPS {
        drops.get_or_create(&vec![("reason", (*reason).to_owned())]).inc_by(value(stats));
    }
    instruments.register(
        "socks_datagrams_dropped",
        "Datagrams of SOCKS5 clients, or for one, that were dropped",
        drops,
    );
    let associations = level(stats.associations as f64);
    instruments.register("socks_associations", "UDP associations of SOCKS5 clients at present", associations);
}

/// What those who stand beside the node count. A name that is taken is left to whoever took it.
fn register_readings(instruments: &mut Instruments, readings: &[Reading]) {
    for (first, samples) in families(readings) {
        let Reading { name, help, value, labels } = first;
        let name_in_text = match value {
            Value::Counter(_) | Value::Level(_) => (*name).to_owned(),
            Value::Seconds(_) => format!("{name}_{}", Unit::Seconds.as_str()),
        };
        if !is_metric_name(name) || instruments.names.contains(&name_in_text) {
            continue;
        }
        // A family of one sample without labels would be written with empty braces.
        if labels.is_empty() {
            match *value {
                Value::Counter(count) => instruments.register(name, help, counter(count)),
                Value::Level(amount) => instruments.register(name, help, level(amount)),
                Value::Seconds(amount) => instruments.register_with_unit(name, help, Unit::Seconds, level(amount)),
            }
            continue;
        }
        let (counters, levels) = (Family::<Labels, Counter>::default(), family());
        for Reading { labels, value, .. } in samples {
            match value {
                Value::Counter(count) => {
                    counters.get_or_create(labels).inc_by(*count);
                }
                Value::Level(value) | Value::Seconds(value) => {
                    levels.get_or_create(labels).set(*value);
                }
            }
        }
        match value {
            Value::Counter(_) => instruments.register(name, help, counters),
            Value::Level(_) => instruments.register(name, help, levels),
            Value::Seconds(_) => instruments.register_with_unit(name, help, Unit::Seconds, levels),
        }
    }
}

/// The node names its counters itself; each appears as `x0t_<name>_total`, unless an instrument of this file has that name.
fn register_counters(instruments: &mut Instruments, counters: &BTreeMap<String, u64>) {
    for (name, value) in counters.iter().filter(|(name, _)| is_metric_name(name)).take(COUNTERS_MAX) {
        if !instruments.names.contains(name) {
            instruments.register(name, &format!("Counted by the node: {}", name.replace('_', " ")), counter(*value));
        }
    }
}

/// A registry that knows which names are taken: a scrape with one twice is refused as a whole.
struct Instruments {
    registry: Registry,
    names: BTreeSet<String>,
}

impl Instruments {
    fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.names.insert(name.to_owned());
        self.registry.register(name, help, metric);
    }

    fn register_with_unit(&mut self, name: &str, help: &str, unit: Unit, metric: impl Metric) {
        self.names.insert(format!("{name}_{}", unit.as_str()));
        self.registry.register_with_unit(name, help, unit, metric);
    }
}

fn level(value: f64) -> Level {
    let gauge = Level::default();
    gauge.set(value);
    gauge
}

fn counter(value: u64) -> Counter {
    let counter = Counter::default();
    counter.inc_by(value);
    counter
}

fn family() -> Family<Labels, Level> {
    Family::default()
}

fn one_hot(label: &'static str, values: &[&str], current: &str) -> Family<Labels, Level> {
    let family = family();
    for value in values {
        family.get_or_create(&vec![(label, (*value).to_owned())]).set((*value == current).into());
    }
    family
}

/// OpenMetrics 1.0 section 4.1.2, without colons, which are for recording rules.
fn is_metric_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
