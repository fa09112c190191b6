//! News for whoever listens: the live page, `x0t events`, the demo.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;
use x0t_node::NodeEvent;

/// Events kept for a reader that is slow. At the rate of a mesh that is falling apart (some hundred events a second) a reader may
/// sleep for seconds before it loses any.
pub const BACKLOG: usize = 1024;

/// One event with its number. Numbers start at 1 and have no gaps, so a reader sees what it missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its number since the node started.
    pub id: u64,
    /// What happened.
    pub event: NodeEvent,
}

/// Hands events to any number of readers and waits for none of them.
#[derive(Clone, Debug)]
pub struct News {
    sender: broadcast::Sender<Arc<Numbered>>,
    published: Arc<AtomicU64>,
}

impl Default for News {
    fn default() -> Self {
        Self { sender: broadcast::channel(BACKLOG).0, published: Arc::default() }
    }
}

impl News {
    /// Tells every reader.
    pub fn publish(&self, event: NodeEvent) {
        let id = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        // An error means that nobody listens, which is fine.
        let _ = self.sender.send(Arc::new(Numbered { id, event }));
    }

    /// Reads from the next event on.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.sender.subscribe())
    }

    /// How many readers there are.
    pub fn readers(&self) -> usize {
        self.sender.receiver_count()
    }
}

/// One reader's place in the news.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<Numbered>>);

/// What a reader is handed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The next event.
    Event(Arc<Numbered>),
    /// The reader was too slow; this many events are lost to it.
    Missed(u64),
}

impl Subscription {
    /// The next item, or `None` once the node has stopped and everything was read. Cancel safe.
    pub async fn next(&mut self) -> Option<Item> {
        match self.0.recv().await {
            Ok(event) => Some(Item::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Item::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use x0t_model::Instant;
    use x0t_node::What;

    use super::*;

    fn event(at: u64) -> NodeEvent {
        NodeEvent { at: Instant::from_millis(at), what: What::SvidRotated { not_after: at } }
    }

    #[tokio::test]
    async fn a_slow_reader_loses_the_oldest_events_and_is_told_how_many() {
        let news = News::default();
        let mut slow = news.subscribe();
        let extra = 3;
        for at in 1..=(BACKLOG as u64 + extra) {
            news.publish(event(at));
        }
        assert_eq!(slow.next().await, Some(Item::Missed(extra)));
        let Some(Item::Event(first)) = slow.next().await else { panic!("an event is waiting") };
        assert_eq!((first.id, &first.event), (extra + 1, &event(extra + 1)));
    }

    #[tokio::test]
    async fn the_last_reader_sees_the_end() {
        let news = News::default();
        let mut reader = news.subscribe();
        news.publish(event(1));
        drop(news);
        assert!(matches!(reader.next().await, Some(Item::Event(_))));
        assert_eq!(reader.next().await, None);
    }
}
