//! Asking the running nodes: everything goes through their admin sockets, as a person's questions would.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;
use tokio::time::timeout;
use x0t_node::{Command, Reply, Target};
use x0t_runtime::admin_client::AdminClient;

use super::board::{Board, Views};
use super::children::Children;

/// A node that is well answers within milliseconds; a frozen one never.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a token of the demo is valid.
const TOKEN_TTL: Duration = Duration::from_secs(600);
/// How long an echo of the all-reach-all check may take.
const ECHO: Duration = Duration::from_millis(800);
/// How long a trace waits for each hop.
const TRACE: Duration = Duration::from_millis(300);

/// The admin clients of all nodes, in the order of the plan.
#[derive(Clone)]
pub struct Nodes {
    clients: Vec<AdminClient>,
    names: Vec<String>,
}

impl Nodes {
    /// For the processes of the demo, whether they run or not.
    pub fn new(children: &Children, names: Vec<String>) -> Self {
        let clients = (0..names.len()).map(|node| AdminClient::new(children.state_dir(node))).collect();
        Self { clients, names }
    }

    /// The client of one node.
    pub fn client(&self, node: usize) -> &AdminClient {
        &self.clients[node]
    }

    /// What a node says about itself.
    pub async fn views(&self, node: usize) -> anyhow::Result<Views> {
        let client = &self.clients[node];
        let answers = async { tokio::try_join!(client.status(), client.peers(), client.routes()) };
        let (status, peers, routes) = timeout(ANSWER, answers).await.context("no answer in time")??;
        Ok(Views { status, peers, routes })
    }

    /// A token with which a node can join through the member at `via`. It names no other address: the joiner is to reach
    /// nobody it is not linked to.
    pub async fn token(&self, authority: usize, joiner: usize, via: SocketAddr) -> anyhow::Result<String> {
        let name = Some(self.names[joiner].clone());
        let command = Command::CreateToken { name, ttl: TOKEN_TTL, addresses: vec![via] };
        match timeout(ANSWER, self.clients[authority].command(command)).await.context("no answer in time")?? {
            Reply::Token { token, .. } => Ok(token.expose().clone()),
            other => bail!("failed to make a token: {other:?}"),
        }
    }

    /// One echo; `None` if there was no answer in time. Gives the round-trip time.
    pub async fn echo(&self, from: usize, to: usize, patience: Duration) -> Option<Duration> {
        let command = Command::Ping { target: Target(self.names[to].clone()), payload: 56, timeout: patience };
        let reply = timeout(patience + ANSWER, self.clients[from].command(command)).await;
        match reply {
            Ok(Ok(Reply::Pong { rtt_ns, .. })) => Some(Duration::from_nanos(rtt_ns)),
            _ => None,
        }
    }

    /// The way a packet takes, both ends included; `None` if not every hop answered.
    pub async fn trace(&self, board: &Board, from: usize, to: usize) -> Option<Vec<usize>> {
        let command = Command::Trace { target: Target(self.names[to].clone()), timeout: TRACE };
        let reply = timeout(ANSWER + TRACE, self.clients[from].command(command)).await;
        let Ok(Ok(Reply::Trace { hops, complete: true })) = reply else { return None };
        let mut path = vec![from];
        for hop in hops {
            path.push(board.node_of(hop.node)?);
        }
        Some(path)
    }

    /// Whether every node gets an answer from every other; names one pair that does not.
    pub async fn all_reach_all(&self) -> Result<(), String> {
        let mut echoes = JoinSet::new();
        for from in 0..self.clients.len() {
            for to in (0..self.clients.len()).filter(|to| *to != from) {
                let nodes = self.clone();
                echoes.spawn(async move { (from, to, nodes.echo(from, to, ECHO).await) });
            }
        }
        while let Some(echo) = echoes.join_next().await {
            if let Ok((from, to, None)) = echo {
                return Err(format!("{} does not reach {}", self.names[from], self.names[to]));
            }
        }
        Ok(())
    }
}
