//! The merged picture for the page: every node and link of the plan, as the nodes themselves see them.

use std::time::Duration;

use serde_json::{Value, json};
use x0t_model::Instant;

use super::board::{Board, LinkState, State};
use super::fault::millis;
use super::report::percentile;
use super::stream::{INTERVAL, LOST_AFTER};

/// How much of the stream the page shows: at first little, so that it fills the picture.
const WINDOW: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
const BUCKET: Duration = Duration::from_millis(100);

/// `/api/v1/topology` of the demo.
pub fn topology(board: &Board, now: Instant) -> Value {
    let state = board.state();
    let plan = &board.plan;
    let id = |node: usize| Board::id_text(&state, node);
    let nodes: Vec<Value> = (0..plan.len()).map(|node| node_json(board, &state, node)).collect();
    let links: Vec<Value> = plan.links().iter().map(|&(a, b)| link_json(&state, a, b)).collect();
    let path: Vec<String> = state.path.iter().map(|&node| id(node)).collect();
    let (from, to) = (id(plan.sender()), id(plan.receiver()));
    // A packet is late when twice the usual pause has passed; a quarter of a second is what a reader sees as a stop.
    let alive = state.stream.is_alive(now - Duration::from_millis(250));
    let flows =
        if path.is_empty() { vec![] } else { vec![json!({ "from": from, "to": to, "path": path, "alive": alive })] };
    let routes = if path.is_empty() { vec![] } else { vec![json!({ "from": from, "to": to, "path": path })] };
    json!({
        "self": from,
        "nodes": nodes,
        "links": links,
        "routes": routes,
        "flows": flows,
        "demo": {
            "started_ms": board.started.as_millis(),
            "phase": state.phase,
            "text": state.story,
            "faults": state.faults,
            "stream": stream_json(board, &state, now),
        },
    })
}

fn node_json(board: &Board, state: &State, node: usize) -> Value {
    let views = state.views[node].as_ref();
    let silent = board.plan.neighbors(node).any(|peer| state.links.get(&(peer, node)) == Some(&LinkState::Suspect));
    let appearance = match (state.notes[node], views) {
        (Some(_), _) => "down",
        (None, None) => "unreachable",
        (None, Some(_)) if silent => "suspect",
        (None, Some(_)) => "up",
    };
    json!({
        "id": Board::id_text(state, node),
        "name": board.plan.name(node),
        "spiffe_id": views.map(|views| views.status.spiffe_id.to_string()),
        "state": appearance,
        "role": board.plan.role(node),
        "note": state.notes[node].or(views.is_none().then_some("starting")),
    })
}

fn link_json(state: &State, a: usize, b: usize) -> Value {
    let ends = [(a, b), (b, a)];
    // What a node said before it was broken says nothing about its links since.
    let said = |&(observer, _): &(usize, usize)| state.notes[observer].is_none() && state.views[observer].is_some();
    let views = ends.iter().filter(|end| said(end)).filter_map(|&(observer, peer)| {
        let peer_id = state.ids[peer]?;
        state.views[observer].as_ref()?.peers.iter().find(|view| view.node_id == peer_id)
    });
    let (mut cost_us, mut rtt_us) = (None, None);
    for view in views {
        cost_us = cost_us.max(Some(view.cost_us));
        rtt_us = rtt_us.max(view.rtt_us);
    }
    let link = ends.iter().filter(|end| said(end)).filter_map(|end| state.links.get(end)).max();
    json!({
        "a": Board::id_text(state, a),
        "b": Board::id_text(state, b),
        "state": link.copied().unwrap_or(LinkState::Down),
        "cost_us": cost_us,
        "rtt_us": rtt_us,
    })
}

fn stream_json(board: &Board, state: &State, now: Instant) -> Value {
    let totals = state.stream.totals();
    if totals.sent == 0 {
        return Value::Null;
    }
    let window = now.since(board.started).clamp(WINDOW.0, WINDOW.1);
    let from = board.started.max(now - window);
    let rtts: Vec<f64> = state.stream.round_trips(from).into_iter().map(f64::from).collect();
    json!({
        "from": Board::id_text(state, board.plan.sender()),
        "to": Board::id_text(state, board.plan.receiver()),
        "interval_ms": millis(INTERVAL),
        "lost_after_ms": millis(LOST_AFTER),
        "sent": totals.sent,
        "answered": totals.answered,
        "lost": totals.lost,
        "rtt_p50_us": percentile(&rtts, 50.0),
        "rtt_p99_us": percentile(&rtts, 99.0),
        "bucket_ms": BUCKET.as_millis() as u64,
        "window_ms": window.as_millis() as u64,
        "now_ms": now.since(board.started).as_millis() as u64,
        "buckets": state.stream.buckets(board.started, from, BUCKET),
    })
}
