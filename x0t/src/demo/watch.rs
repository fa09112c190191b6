//! Listens to every node: its events as they happen, its state a few times a second, and the way of the stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use x0t_runtime::admin_client::EventItem;
use x0t_runtime::clock::Clock;

use super::board::Board;
use super::nodes::Nodes;
use super::stream::{INTERVAL, LOST_AFTER};

/// How often a node is asked for its state.
const LOOK: Duration = Duration::from_millis(400);
/// How often the way of the stream is traced for the page.
const TRACE: Duration = Duration::from_millis(500);
/// A node that cannot be listened to is tried again after this long.
const AGAIN: Duration = Duration::from_millis(20);

/// Starts to listen to all nodes. Ends when the set is dropped.
pub fn watch_all(board: &Arc<Board>, nodes: &Nodes) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for node in 0..board.plan.len() {
        tasks.spawn(listen(Arc::clone(board), nodes.clone(), node));
        tasks.spawn(look(Arc::clone(board), nodes.clone(), node));
    }
    tasks
}

/// Sends one packet every 10 ms from end to end, and traces their way. Ends when the set is dropped.
pub fn stream(board: &Arc<Board>, nodes: &Nodes) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(send(Arc::clone(board), nodes.clone()));
    tasks.spawn(follow(Arc::clone(board), nodes.clone()));
    tasks
}

/// Passes a node's events on; a node that went away is listened to again as soon as it is back.
async fn listen(board: Arc<Board>, nodes: Nodes, node: usize) {
    loop {
        if let Ok(mut events) = nodes.client(node).events().await {
            while let Some(Ok(item)) = events.next().await {
                if let EventItem::Event { event, .. } = item {
                    board.hear(node, &event);
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn look(board: Arc<Board>, nodes: Nodes, node: usize) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match nodes.views(node).await {
            Ok(views) => board.learn(node, views),
            Err(_) => board.miss(node),
        }
    }
}

async fn send(board: Arc<Board>, nodes: Nodes) {
    let (from, to) = (board.plan.sender(), board.plan.receiver());
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut echoes = JoinSet::new();
    loop {
        ticks.tick().await;
        let sequence = board.state().stream.send(Clock.now());
        let (board, nodes) = (Arc::clone(&board), nodes.clone());
        echoes.spawn(async move {
            let rtt = nodes.echo(from, to, LOST_AFTER).await;
            let mut state = board.state();
            match rtt {
                Some(rtt) => state.stream.answer(sequence, rtt),
                None => state.stream.lose(sequence),
            }
        });
        // Whoever is done is forgotten; the timeout of an echo bounds how many there are.
        while echoes.try_join_next().is_some() {}
    }
}

async fn follow(board: Arc<Board>, nodes: Nodes) {
    let (from, to) = (board.plan.sender(), board.plan.receiver());
    let mut ticks = interval(TRACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(path) = nodes.trace(&board, from, to).await {
            board.state().path = path;
        }
    }
}
