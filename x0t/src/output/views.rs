//! A node's view as text for people. For programs it is printed as it is, in JSON.

use std::time::Duration;

use comfy_table::Cell;
use x0t_model::{Underlay, UnixTime};
use x0t_node::{PeerView, RouteView, SessionView, StatusView, TraceHop, UnansweredView};

use super::Style;
use super::names::{Names, hop_name, short};
use super::table::{state, table};
use super::units::{ago, count, millis, permille, span};
use crate::beside::WorkloadsView;

/// What `x0t status` shows.
pub fn status(status: &StatusView, now: UnixTime, style: Style) -> String {
    let headline = match (&status.not_ready_because, status.ready) {
        (_, true) => style.green("ready"),
        (Some(reason), false) => style.yellow(&format!("not ready: {reason}")),
        (None, false) => style.yellow("not ready"),
    };
    let role = if status.is_authority { " (authority)" } else { "" };
    let lines = [
        ("identity", status.spiffe_id.to_string()),
        ("address", status.overlay_address.to_string()),
        ("svid", svid(status, now, style)),
        ("problem", status.svid_error.clone().unwrap_or_default()),
        ("links", format!("{} up", status.links_up)),
        ("reachable", plural(status.reachable, "node")),
        ("uptime", span(status.uptime_ms)),
    ];
    let mut text = format!("{}{role}  {headline}", style.bold(&status.name));
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text += &format!("\n  {name:<10} {value}");
    }
    text
}

/// The line of `x0t status` about workloads.
pub fn workloads(view: &WorkloadsView, style: Style) -> String {
    let served = match &view.socket {
        None => "not served: the settings say so".to_owned(),
        Some(_) if !view.serving => style.red("not served: the socket has failed, see the log"),
        Some(socket) => {
            let (entries, svids) = (plural_of(view.entries, "entry", "entries"), plural(view.svids, "SVID"));
            format!("served at {}: {entries}, {svids}, {} connected", socket.display(), view.connections)
        }
    };
    let unreachable = view
        .authority_unreachable
        .as_ref()
        .map(|reason| format!("\n  {:<10} {}", "", style.yellow(&format!("the authority does not answer: {reason}"))));
    format!("  {:<10} {served}{}", "workloads", unreachable.unwrap_or_default())
}

fn svid(status: &StatusView, now: UnixTime, style: Style) -> String {
    let left = UnixTime::from_secs(status.svid_not_after).since(now);
    let state = match status.svid_state.as_str() {
        state @ "valid" => style.green(state),
        state @ ("renewing" | "degraded") => style.yellow(state),
        state => style.red(state),
    };
    let source = if status.svid_source == "workload_api" { ", from SPIRE" } else { "" };
    if left == Duration::ZERO || status.svid_state == "withdrawn" {
        return format!("{state}{source}");
    }
    let left = format!("{state}, {} left{source}", span(left.as_secs() * 1_000));
    match &status.svid_distrust {
        Some(word) => format!("{left}; {}", style.yellow(&format!("is being replaced: {}", distrust(word)))),
        None => left,
    }
}

/// Why an SVID is replaced before its time, in words.
pub fn distrust(word: &str) -> &str {
    match word {
        "tainted" => "the authority that signed it is tainted",
        "revoked" => "it was taken back",
        "not_in_bundle" => "the authority that signed it has left the bundle",
        other => other,
    }
}

/// What `x0t peers` shows.
pub fn peers(peers: &[PeerView], me: &StatusView, style: Style) -> String {
    let mut rows: Vec<(String, &PeerView)> = peers.iter().map(|peer| (short(&peer.spiffe_id, me), peer)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let row = |(name, peer): (String, &PeerView)| {
        vec![
            Cell::new(name),
            state(&peer.state),
            Cell::new(place(peer)),
            Cell::new(&peer.origin),
            Cell::new(peer.rtt_us.map_or("-".to_owned(), |rtt| millis(rtt.into()))),
            Cell::new(permille(peer.loss_permille)),
            Cell::new(millis(peer.cost_us.into())),
            Cell::new(ago(peer.heard_ms_ago)),
        ]
    };
    let header = ["PEER", "STATE", "ADDRESS", "ORIGIN", "RTT", "LOSS", "COST", "HEARD"];
    let neighbors = (!rows.is_empty())
        .then(|| table(style, &header, &["RTT", "LOSS", "COST"], rows.into_iter().map(row).collect()));
    neighbors.into_iter().chain(unanswered(&me.unanswered, style)).collect::<Vec<_>>().join("\n\n")
}

/// Where a neighbour is, and what carries packets there.
fn place(peer: &PeerView) -> Underlay {
    if peer.transport == "tls" { Underlay::Tls(peer.address) } else { Underlay::Udp(peer.address) }
}

/// Addresses that are dialled and do not answer, if there are any.
fn unanswered(addresses: &[UnansweredView], style: Style) -> Option<String> {
    let row = |view: &UnansweredView| {
        vec![Cell::new(view.address), Cell::new(&view.origin), Cell::new(span(view.for_ms)), Cell::new(&view.reason)]
    };
    let rows = addresses.iter().map(row).collect();
    (!addresses.is_empty()).then(|| table(style, &["NOT ANSWERING", "ORIGIN", "FOR", "REASON"], &[], rows))
}

/// What `x0t routes` shows: the way in use, then the ones that take over without a word to anybody.
pub fn routes(routes: &[RouteView], names: &Names, style: Style) -> String {
    let mut rows: Vec<(String, &RouteView)> = routes.iter().map(|route| (names.of(route.node_id), route)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let row = |(name, route): (String, &RouteView)| {
        let via = |node| if node == route.node_id { "direct".to_owned() } else { names.of(node) };
        let mut usable = route.successors.iter().filter(|successor| successor.usable);
        let best = usable.next();
        let backups: Vec<String> =
            usable.map(|backup| format!("{} {}", via(backup.via), millis(backup.metric_us.into()))).collect();
        vec![
            Cell::new(name),
            best.map_or_else(|| state("unreachable"), |best| state(&via(best.via))),
            Cell::new(route.hops.filter(|_| best.is_some()).map_or("-".to_owned(), |hops| hops.to_string())),
            Cell::new(best.map_or("-".to_owned(), |best| millis(best.metric_us.into()))),
            Cell::new(if backups.is_empty() { "-".to_owned() } else { backups.join(", ") }),
            Cell::new(route.overlay_address),
        ]
    };
    let header = ["NODE", "VIA", "HOPS", "COST", "BACKUPS", "ADDRESS"];
    table(style, &header, &["HOPS", "COST"], rows.into_iter().map(row).collect())
}

/// What `x0t sessions` shows.
pub fn sessions(sessions: &[SessionView], me: &StatusView, style: Style) -> String {
    let row = |session: &SessionView| {
        vec![
            Cell::new(session.id),
            Cell::new(session.peer.as_ref().map_or("-".to_owned(), |peer| short(peer, me))),
            Cell::new(&session.purpose),
            state(&session.state),
            Cell::new(&session.carrier),
            Cell::new(session.group.as_deref().unwrap_or("-")),
            Cell::new(session.key_epoch),
            Cell::new(count(session.packets_received)),
            Cell::new(count(session.packets_sent)),
        ]
    };
    let header = ["ID", "PEER", "PURPOSE", "STATE", "CARRIER", "GROUP", "EPOCH", "RECEIVED", "SENT"];
    table(style, &header, &["ID", "EPOCH", "RECEIVED", "SENT"], sessions.iter().map(row).collect())
}

/// What `x0t trace` shows, one line for each node on the way.
pub fn trace(hops: &[TraceHop], me: &StatusView, style: Style) -> String {
    let width = hops.iter().map(|hop| hop_name(hop, me).len()).max().unwrap_or_default();
    let line = |hop: &TraceHop| {
        format!("{:>2}  {:<width$}  {}", hop.hop, hop_name(hop, me), style.dim(&millis(hop.rtt_ns / 1_000)))
    };
    hops.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn plural(number: usize, noun: &str) -> String {
    plural_of(number, noun, &format!("{noun}s"))
}

fn plural_of(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests;
