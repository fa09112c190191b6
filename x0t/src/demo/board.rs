//! What the parts of the demo know together: the watchers write it, the script measures on it, the page shows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::broadcast;
use x0t_model::{Instant, NodeId};
use x0t_node::{NodeEvent, PeerView, RouteView, StatusView, What};
use x0t_runtime::clock::Clock;

use super::fault::{FaultReport, Sighting};
use super::plan::Plan;
use super::stream::Stream;

/// Events kept for whoever opens the page late.
const EVENTS_MAX: usize = 500;
/// Sightings kept: those of a fault are looked at seconds after it.
const SIGHTINGS_MAX: usize = 4_096;

/// How far the demo has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Processes start and join.
    Starting,
    /// All is well.
    Steady,
    /// Something is broken.
    Fault,
    /// It was repaired; the mesh grows together again.
    Healing,
    /// The script is over.
    Done,
}

/// What a link is like, as one of its ends says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// It carries.
    Up,
    /// The other end is silent.
    Suspect,
    /// The other end is gone.
    Down,
}

/// What a node last said about itself.
#[derive(Clone, Debug)]
pub struct Views {
    /// Itself.
    pub status: StatusView,
    /// Its neighbours.
    pub peers: Vec<PeerView>,
    /// Whom it can reach.
    pub routes: Vec<RouteView>,
}

/// An event as the page gets it.
#[derive(Debug)]
pub struct Line {
    /// 1 is the first.
    pub id: u64,
    /// A [`NodeEvent`] with the `node` that says it, or the demo's own `fault`.
    pub event: Value,
}

/// All of it, behind one lock that is never held across an await.
pub struct State {
    /// Each node's id, once known.
    pub ids: Vec<Option<NodeId>>,
    /// What each node last said; `None` while it does not answer.
    pub views: Vec<Option<Views>>,
    /// What the script has done to a node.
    pub notes: Vec<Option<&'static str>>,
    /// (observer, peer) to what the observer last said about its link with the peer.
    pub links: BTreeMap<(usize, usize), LinkState>,
    /// The packets from end to end.
    pub stream: Stream,
    /// The way they take, as last traced.
    pub path: Vec<usize>,
    /// Every fault so far.
    pub faults: Vec<FaultReport>,
    /// How far the demo has come.
    pub phase: Phase,
    /// The same in a sentence.
    pub story: String,
    /// Who has noticed the silence of whom.
    pub sightings: VecDeque<Sighting>,
    events: VecDeque<Arc<Line>>,
    next_event: u64,
}

/// The board.
pub struct Board {
    /// The mesh.
    pub plan: Plan,
    /// When the demo began; what the page counts from.
    pub started: Instant,
    state: Mutex<State>,
    news: broadcast::Sender<Arc<Line>>,
}

impl Board {
    /// An empty one.
    pub fn new(plan: Plan) -> Self {
        let nodes = plan.len();
        let state = State {
            ids: vec![None; nodes],
            views: vec![None; nodes],
            notes: vec![None; nodes],
            links: BTreeMap::new(),
            stream: Stream::default(),
            path: Vec::new(),
            faults: Vec::new(),
            phase: Phase::Starting,
            story: String::new(),
            sightings: VecDeque::new(),
            events: VecDeque::new(),
            next_event: 1,
        };
        Self { plan, started: Clock.now(), state: Mutex::new(state), news: broadcast::channel(EVENTS_MAX).0 }
    }

    /// Look at it and change it. Hold it shortly.
    pub fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left plain values behind; the worst that can be wrong is one of them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which node has this id.
    pub fn node_of(&self, id: NodeId) -> Option<usize> {
        self.state().ids.iter().position(|known| *known == Some(id))
    }

    /// How the page calls a node: its id, or its place in the plan until that is known.
    pub fn id_text(state: &State, node: usize) -> String {
        state.ids.get(node).copied().flatten().map_or_else(|| format!("node-{node}"), |id| id.to_string())
    }

    /// A node told something.
    pub fn hear(&self, node: usize, event: &NodeEvent) {
        let (peer, link) = match &event.what {
            What::LinkUp { peer, .. } | What::LinkRecovered { peer } => (Some(*peer), LinkState::Up),
            What::LinkSuspect { peer, .. } => (Some(*peer), LinkState::Suspect),
            What::LinkDown { peer, .. } => (Some(*peer), LinkState::Down),
            _ => (None, LinkState::Up),
        };
        let peer = peer.and_then(|id| self.node_of(id));
        let mut state = self.state();
        if let Some(peer) = peer {
            state.links.insert((node, peer), link);
            if link != LinkState::Up {
                if state.sightings.len() == SIGHTINGS_MAX {
                    state.sightings.pop_front();
                }
                state.sightings.push_back(Sighting { at: event.at, observer: node, peer });
            }
        }
        let mut value = serde_json::to_value(event).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("node".to_owned(), Self::id_text(&state, node).into());
        }
        self.publish(&mut state, value);
    }

    /// The demo itself did or measured something. `mood` is `good`, `warn` or `bad`.
    pub fn tell(&self, at: Instant, mood: &str, text: &str) {
        let event = json!({ "at": at, "event": "fault", "mood": mood, "text": text });
        self.publish(&mut self.state(), event);
    }

    /// Where the demo is.
    pub fn enter(&self, phase: Phase, story: impl Into<String>) {
        let mut state = self.state();
        state.phase = phase;
        state.story = story.into();
    }

    /// A node answered what it is like.
    pub fn learn(&self, node: usize, views: Views) {
        let mut state = self.state();
        state.ids[node] = Some(views.status.node_id);
        let known = state.ids.clone();
        for peer in &views.peers {
            let link = match peer.state.as_str() {
                "up" => LinkState::Up,
                "suspect" => LinkState::Suspect,
                _ => LinkState::Down,
            };
            if let Some(index) = known.iter().position(|id| *id == Some(peer.node_id)) {
                state.links.insert((node, index), link);
            }
        }
        state.views[node] = Some(views);
    }

    /// Whether both ends of every link say that it carries.
    pub fn is_whole(&self) -> bool {
        let state = self.state();
        let is_up = |a, b| state.links.get(&(a, b)) == Some(&LinkState::Up);
        self.plan.links().iter().all(|&(a, b)| is_up(a, b) && is_up(b, a))
    }

    /// A node lost its memory: what it said about its links is void.
    pub fn forget(&self, node: usize) {
        let mut state = self.state();
        state.views[node] = None;
        state.links.retain(|&(observer, _), _| observer != node);
    }

    /// A node does not answer.
    pub fn miss(&self, node: usize) {
        self.state().views[node] = None;
    }

    /// The events so far from number `after` on, and those to come.
    pub fn events(&self, after: u64) -> (Vec<Arc<Line>>, broadcast::Receiver<Arc<Line>>) {
        let state = self.state();
        let past = state.events.iter().filter(|line| line.id > after).cloned().collect();
        (past, self.news.subscribe())
    }

    fn publish(&self, state: &mut State, event: Value) {
        let line = Arc::new(Line { id: state.next_event, event });
        state.next_event += 1;
        if state.events.len() == EVENTS_MAX {
            state.events.pop_front();
        }
        state.events.push_back(Arc::clone(&line));
        // An error means that nobody looks at the page.
        let _unread = self.news.send(line);
    }
}
