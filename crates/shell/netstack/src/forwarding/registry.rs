//! What is forwarded and exposed at present.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use x0t_model::OverlayPrefix;

use crate::spec::{Exposure, Forward, MeshPort};

/// What one forward or exposure has done.
#[derive(Debug, Default)]
pub struct Counters {
    open: AtomicU64,
    opened: AtomicU64,
    failed: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub struct Counted(Arc<Counters>);

impl Counters {
    /// A connection was opened.
    pub fn opened(self: &Arc<Self>) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// A connection was not.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Why it does not work at all at present, if it does not. Whether that is news.
    pub fn set_problem(&self, problem: Option<String>) -> bool {
        let mut shown = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *shown != problem;
        *shown = problem;
        is_news
    }

    fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A forward, and how it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardView {
    /// What is forwarded. With the port that the system chose.
    #[serde(flatten)]
    pub forward: Forward,
    /// Whether it is kept in the settings; else it lasts as long as the command that asked for it.
    pub is_kept: bool,
    /// Connections at present.
    pub connections: u64,
    /// Connections since it began.
    pub opened: u64,
    /// Connections that could not be made.
    pub failed: u64,
    /// Why it does not work, if it does not.
    pub problem: Option<String>,
}

/// An exposed port, and how it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposureView {
    /// What is exposed.
    #[serde(flatten)]
    pub exposure: Exposure,
    /// Connections at present.
    pub connections: u64,
    /// Connections since it began.
    pub opened: u64,
    /// Connections that were refused, or found nobody at the local port.
    pub failed: u64,
    /// Why it does not work, if it does not.
    pub problem: Option<String>,
}

#[derive(Debug)]
struct ForwardEntry {
    forward: Forward,
    is_kept: bool,
    counters: Arc<Counters>,
    task: AbortHandle,
}

/// An exposed port as whoever serves it sees it.
#[derive(Clone, Debug)]
pub struct Exposed {
    /// The port on 127.0.0.1.
    pub to: u16,
    /// The mesh's own network. A kernel also hands over what reached its overlay address by another interface.
    pub mesh: OverlayPrefix,
    /// Which nodes may use it; all of the mesh if empty.
    pub admitted: Vec<Ipv6Addr>,
    /// What it has done.
    pub counters: Arc<Counters>,
}

impl Exposed {
    /// Whether whoever has that address may use it.
    pub fn admits(&self, address: Ipv6Addr) -> bool {
        self.mesh.contains(address) && (self.admitted.is_empty() || self.admitted.contains(&address))
    }
}

#[derive(Debug)]
struct ExposedEntry {
    exposure: Exposure,
    exposed: Exposed,
    /// What serves it: a task of its own, or the connections that were offered for it.
    tasks: Vec<AbortHandle>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Registry {
    forwards: BTreeMap<u64, ForwardEntry>,
    next_id: u64,
    exposed: BTreeMap<MeshPort, ExposedEntry>,
}

impl Registry {
    /// How many forwards there are.
    pub fn forward_count(&mut self) -> usize {
        self.forwards.retain(|_, entry| !entry.task.is_finished());
        self.forwards.len()
    }

    /// Puts a forward in that `task` serves.
    pub fn insert_forward(&mut self, forward: Forward, is_kept: bool, counters: Arc<Counters>, task: AbortHandle) {
        self.forwards.insert(self.next_id, ForwardEntry { forward, is_kept, counters, task });
        self.next_id += 1;
    }

    /// Ends a kept forward.
    pub fn end_kept(&mut self, forward: &Forward) -> bool {
        let before = self.forwards.len();
        self.forwards.retain(|_, entry| {
            let goes = entry.is_kept && entry.forward.local() == forward.local();
            if goes {
                entry.task.abort();
            }
            !goes
        });
        self.forwards.len() < before
    }

    /// What is forwarded.
    pub fn forwards(&mut self) -> Vec<ForwardView> {
        self.forward_count();
        let view = |entry: &ForwardEntry| ForwardView {
            forward: entry.forward.clone(),
            is_kept: entry.is_kept,
            connections: entry.counters.open.load(Ordering::Relaxed),
            opened: entry.counters.opened.load(Ordering::Relaxed),
            failed: entry.counters.failed.load(Ordering::Relaxed),
            problem: entry.counters.problem(),
        };
        self.forwards.values().map(view).collect()
    }

    /// How many ports are exposed.
    pub fn exposed_count(&self) -> usize {
        self.exposed.len()
    }

    /// The exposure of a port.
    pub fn exposed(&self, port: MeshPort) -> Option<&Exposed> {
        self.exposed.get(&port).map(|entry| &entry.exposed)
    }

    /// Exposes a port.
    pub fn insert_exposed(&mut self, exposure: Exposure, exposed: Exposed) {
        self.exposed.insert(exposure.mesh_port(), ExposedEntry { exposure, exposed, tasks: Vec::new() });
    }

    /// A task serves the port, and ends with its exposure.
    pub fn serve_exposed(&mut self, port: MeshPort, task: AbortHandle) {
        match self.exposed.get_mut(&port) {
            Some(entry) => {
                entry.tasks.retain(|task| !task.is_finished());
                entry.tasks.push(task);
            }
            // It was concealed a moment ago.
            None => task.abort(),
        }
    }

    /// Exposes a port no more.
    pub fn end_exposed(&mut self, port: MeshPort) -> bool {
        let Some(entry) = self.exposed.remove(&port) else { return false };
        entry.tasks.iter().for_each(AbortHandle::abort);
        true
    }

    /// What is exposed.
    pub fn exposures(&self) -> Vec<ExposureView> {
        let view = |entry: &ExposedEntry| ExposureView {
            exposure: entry.exposure.clone(),
            connections: entry.exposed.counters.open.load(Ordering::Relaxed),
            opened: entry.exposed.counters.opened.load(Ordering::Relaxed),
            failed: entry.exposed.counters.failed.load(Ordering::Relaxed),
            problem: entry.exposed.counters.problem(),
        };
        self.exposed.values().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::address_of;

    #[test]
    fn a_port_that_is_exposed_to_all_nodes_is_exposed_to_nobody_else() {
        let domain = "mesh.test".parse().unwrap();
        let mut exposed =
            Exposed { to: 22, mesh: OverlayPrefix::of(&domain), admitted: Vec::new(), counters: Arc::default() };
        let [alpha, beta] = ["alpha", "beta"].map(|node| address_of(node, &domain).unwrap());
        let neighbor_in_the_lan = "fe80::1".parse().unwrap();
        assert!(exposed.admits(alpha) && exposed.admits(beta) && !exposed.admits(neighbor_in_the_lan));
        exposed.admitted.push(alpha);
        assert!(exposed.admits(alpha) && !exposed.admits(beta) && !exposed.admits(neighbor_in_the_lan));
    }
}
