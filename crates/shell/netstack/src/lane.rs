//! Carrying packets between the event loop and the stack, which live on two threads. One short lock for a burst of packets, and a
//! wake-up only for whoever sleeps.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::burst::Burst;
use crate::overlay::Overlay;
use crate::stats::StackStats;

/// Packets on their way in one direction. More than this many do not wait.
const PACKETS_MAX: usize = 1024;

/// One direction.
#[derive(Debug, Default)]
pub struct Lane {
    packets: Mutex<Packets>,
    emptied: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Packets {
    waiting: Burst,
    /// Who takes them, if it sleeps.
    sleeper: Option<Waker>,
}

impl Lane {
    fn packets(&self) -> MutexGuard<'_, Packets> {
        // Nothing that is done under the lock leaves it half done.
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a packet in, of the given pieces. Dropped and counted if there is no room, as at any network interface.
    pub fn push<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut packets = self.packets();
        if packets.waiting.len() >= PACKETS_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        packets.waiting.push_pieces(pieces);
        wake(packets);
        true
    }

    /// Puts all of `burst` in, or nothing if that would be too many: then [`Self::emptied`] tells when to try again.
    pub fn offer(&self, burst: &mut Burst) -> bool {
        let mut packets = self.packets();
        if packets.waiting.len() + burst.len() > PACKETS_MAX {
            return burst.is_empty();
        }
        packets.waiting.append(burst);
        if !packets.waiting.is_empty() {
            wake(packets);
        }
        true
    }

    /// Takes everything out into `burst`, which must have been used up.
    pub fn take(&self, burst: &mut Burst) {
        burst.clear();
        let mut packets = self.packets();
        if packets.waiting.is_empty() {
            return;
        }
        std::mem::swap(&mut packets.waiting, burst);
        drop(packets);
        self.emptied.notify_one();
    }

    /// Packets that found no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ready if something is in it; if not, whoever asks is woken when there is. One asks, no more.
    pub fn poll_filled(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut packets = self.packets();
        if !packets.waiting.is_empty() {
            return Poll::Ready(());
        }
        packets.sleeper = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits until something is in it. Cancel safe.
    pub async fn filled(&self) {
        poll_fn(|context| self.poll_filled(context)).await;
    }

    /// Waits until everything was taken out. Cancel safe.
    pub async fn emptied(&self) {
        self.emptied.notified().await;
    }
}

/// Wakes whoever sleeps, not under the lock.
fn wake(mut packets: MutexGuard<'_, Packets>) {
    let sleeper = packets.sleeper.take();
    drop(packets);
    if let Some(sleeper) = sleeper {
        sleeper.wake();
    }
}

/// The event loop's end: for it the stack is what an interface of the kernel is.
#[derive(Debug)]
pub struct HostPort {
    to_stack: Arc<Lane>,
    from_stack: Arc<Lane>,
    taken: Burst,
    stack: Option<Overlay>,
}

/// The stack's end.
#[derive(Clone, Debug)]
pub struct StackPort {
    /// Packets that arrived from the mesh.
    pub arriving: Arc<Lane>,
    /// Packets for the mesh.
    pub leaving: Arc<Lane>,
}

/// Both ends of a way between an event loop and a stack.
pub fn ports() -> (HostPort, StackPort) {
    let (to_stack, from_stack) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
    let stack = StackPort { arriving: to_stack.clone(), leaving: from_stack.clone() };
    (HostPort { to_stack, from_stack, taken: Burst::default(), stack: None }, stack)
}

impl HostPort {
    /// Lets [`Self::stats`] know what the stack has counted.
    pub fn show(&mut self, stack: Overlay) {
        self.stack = Some(stack);
    }

    /// What the stack behind it has counted.
    pub fn stats(&self) -> StackStats {
        let stats = self.stack.as_ref().map(Overlay::stats).unwrap_or_default();
        StackStats { packets_dropped: self.to_stack.dropped(), ..stats }
    }

    /// Hands over a packet that arrived from the mesh, given in pieces. Whether there was room for it.
    pub fn push_packet<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        self.to_stack.push(pieces)
    }

    /// The next packet for the mesh.
    pub fn poll_packet(&mut self) -> Option<&[u8]> {
        if self.taken.is_empty() {
            self.from_stack.take(&mut self.taken);
        }
        self.taken.pop()
    }

    /// Ready if [`Self::poll_packet`] has something; if not, whoever asks is woken when it has.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.taken.is_empty() { self.from_stack.poll_filled(context) } else { Poll::Ready(()) }
    }

    /// Waits until [`Self::poll_packet`] has something. Cancel safe.
    pub async fn readable(&self) {
        poll_fn(|context| self.poll_readable(context)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_cross_in_order_and_wake_whoever_waits() {
        let (mut host, stack) = ports();
        let mut burst = Burst::default();
        burst.push(&[1]);
        burst.push(&[2]);
        assert!(stack.leaving.offer(&mut burst) && burst.is_empty());
        host.readable().await;
        assert_eq!(host.poll_packet(), Some(&[1][..]));
        // One is left in hand: waiting would be waiting for nothing.
        host.readable().await;
        assert_eq!((host.poll_packet().map(<[u8]>::to_vec), host.poll_packet()), (Some(vec![2]), None));
        stack.leaving.emptied().await;
        assert!(host.push_packet([&[3, 4][..], &[], &[5]].into_iter()));
        stack.arriving.filled().await;
        stack.arriving.take(&mut burst);
        assert_eq!(burst.pop(), Some(&[3, 4, 5][..]));
    }

    #[test]
    fn a_lane_that_is_full_drops_what_arrives_and_holds_back_what_leaves() {
        let (host, stack) = ports();
        let accepted = (0..PACKETS_MAX + 7).filter(|_| host.push_packet(std::iter::once(&[0][..]))).count();
        assert_eq!((accepted, stack.arriving.dropped()), (PACKETS_MAX, 7));
        let mut burst = Burst::default();
        (0..PACKETS_MAX).for_each(|_| burst.push(&[1]));
        assert!(stack.leaving.offer(&mut burst));
        burst.push(&[2]);
        assert!(!stack.leaving.offer(&mut burst) && burst.len() == 1);
    }
}
