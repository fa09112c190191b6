//! What is done by workers, where there are any, and what is done at once all the same.
//!
//! Nothing is handed out while the event loop has nothing else to do: two threads would take turns where one does. Nor is what is short
//! and has nothing in front of it: an echo would wait for two threads to wake up.

use std::net::SocketAddr;
use std::sync::Arc;

use x0t_model::Underlay;
use x0t_node::{Delivery, Drive, Input, Opening, Train, Unsealed};

use super::{Ending, EventLoop, Store};
use crate::workers::{Gone, Job, Spent, Workers};

/// Bytes from which a train or a delivery is worth handing out.
pub const HANDED_OUT_LEN_MIN: usize = 4_096;

/// So much of the host is put together before workers get it: half of a full train.
const PASSED_ON_LEN_MIN: usize = 32 << 10;

impl<N: Drive, S: Store> EventLoop<N, S> {
    /// Has `count` threads seal, send, open and deliver for a node that hands out its work.
    ///
    /// # Errors
    /// If there are no threads to be had.
    pub fn with_workers(mut self, count: usize) -> std::io::Result<Self> {
        let tun = self.io.tun.as_ref().map(|tun| tun.writer());
        let workers = Workers::start(count, &self.io.udp.sender(), tun.as_ref(), &self.poller.waker())?;
        self.workers = Some(workers);
        Ok(self)
    }

    /// Whether outputs can be performed: the kernel takes datagrams, and so does every worker.
    pub(super) fn has_room(&mut self) -> bool {
        if !self.io.udp.is_flushed() {
            return false;
        }
        if self.workers.as_ref().is_none_or(Workers::has_room) {
            return true;
        }
        self.collect();
        self.workers.as_ref().is_none_or(Workers::has_room)
    }

    /// Whether datagrams can be taken in.
    pub(super) fn opens_more(&self) -> bool {
        self.workers.as_ref().is_none_or(Workers::opens_more)
    }

    /// Whether packets of the host are taken in. While the workers have enough to do they wait in the host, which then sends less.
    pub(super) fn takes_packets(&self) -> bool {
        self.takes_in() && self.workers.as_ref().is_none_or(Workers::has_room)
    }

    /// The host has sent more, behind so much that the node has been told of already: workers begin with that.
    pub(super) fn pass_on(&mut self, told: &mut usize) {
        if self.workers.is_some() && *told >= PASSED_ON_LEN_MIN {
            *told = 0;
            self.busy = true;
            self.perform_outputs();
            self.busy = false;
        }
    }

    /// Before a sleep: what is done meanwhile ends it, if something waits for that. False if it need not begin.
    pub(super) fn may_sleep(&mut self) -> bool {
        let Some(workers) = &self.workers else { return true };
        let had_room = workers.has_room();
        if !workers.wake() {
            return true;
        }
        self.collect();
        let takes_in = self.takes_in();
        self.workers
            .as_ref()
            .is_none_or(|workers| workers.has_room() == had_room && !(takes_in && workers.has_opened()))
    }

    /// Takes back what workers are done with.
    pub(super) fn collect(&mut self) {
        let (Some(workers), node) = (&mut self.workers, &mut self.node) else { return };
        workers.collect(|spent| match spent {
            Spent::Train(train) => node.reclaim_train(train),
            Spent::Delivery(delivery) => node.reclaim_delivery(delivery),
        });
        if self.io.tun.as_ref().is_some_and(crate::tun::Tun::take_refusal) {
            self.refused_super_packet(&std::io::ErrorKind::InvalidInput.into());
        }
    }

    /// Tells the node of trains that were opened. A node that is held gets them later: what came after them waits for them.
    pub(super) fn take_opened(&mut self) {
        self.collect();
        while self.takes_in()
            && let Some(opening) = self.workers.as_mut().and_then(Workers::next_opened)
        {
            self.busy = self.workers.as_ref().is_some_and(Workers::has_openings);
            self.handle(Input::Opened(opening));
        }
        self.busy = false;
    }

    /// Sends a train, at once or by the worker of its flow.
    pub(super) fn send(&mut self, to: SocketAddr, flow: Option<u32>, train: Train) {
        match self.worker_for(flow, train.len()) {
            Some(worker) => self.give(worker, Job::Send(to, train)),
            None => {
                if let Some(spent) = self.io.udp.send(to, train) {
                    self.node.reclaim_train(spent);
                }
            }
        }
    }

    /// Seals a train and sends it.
    pub(super) fn seal(&mut self, to: Underlay, flow: u32, unsealed: Unsealed) {
        if let Underlay::Udp(to) = to
            && let Some(worker) = self.worker_for(Some(flow), unsealed.len())
        {
            return self.give(worker, Job::Seal(to, unsealed));
        }
        match (unsealed.seal(), to) {
            (Ok(train), Underlay::Udp(to)) => {
                if let Some(spent) = self.io.udp.send(to, train) {
                    self.node.reclaim_train(spent);
                }
            }
            (Ok(train), Underlay::Tls(to)) => {
                train.datagrams().for_each(|datagram| self.io.tls.send(to, datagram));
                self.node.reclaim_train(train);
            }
            (Err(unsealable), _) => self.node.reclaim_train(unsealable.0),
        }
    }

    /// Who is to send so much of a flow; none if it is to be sent at once.
    fn worker_for(&self, flow: Option<u32>, len: usize) -> Option<usize> {
        let (workers, flow) = (self.workers.as_ref()?, flow?);
        let worker = workers.worker_of(flow);
        let at_once = !self.is_worth(len) && workers.is_idle(worker);
        (!at_once).then_some(worker)
    }

    const fn is_worth(&self, len: usize) -> bool {
        self.busy && len >= HANDED_OUT_LEN_MIN
    }

    /// Opens a train.
    pub(super) fn open(&mut self, mut opening: Box<Opening>) {
        match self.workers.as_ref().filter(|_| self.busy).map(Workers::idlest) {
            Some(worker) => self.give(worker, Job::Open(opening)),
            None => {
                opening.open();
                self.tell(Input::Opened(opening));
            }
        }
    }

    /// Hands packets to the host, at once or by the workers of their flows.
    pub(super) fn hand_over(&mut self, delivery: Delivery) {
        let Some(workers) = self.workers.as_ref().filter(|_| self.io.tun.is_some()) else {
            return self.hand_over_at_once(delivery);
        };
        let wanted = workers.workers_of(&delivery);
        let mut involved = (0..u32::BITS as usize).filter(|worker| wanted >> worker & 1 == 1);
        if !self.is_worth(delivery.len()) && involved.clone().all(|worker| workers.is_idle(worker)) {
            return self.hand_over_at_once(delivery);
        }
        if wanted.count_ones() == 1 {
            if let Some(worker) = involved.next() {
                self.give(worker, Job::Deliver(delivery));
            }
            return;
        }
        let delivery = Arc::new(delivery);
        involved.for_each(|worker| self.give(worker, Job::Share(Arc::clone(&delivery))));
    }

    fn hand_over_at_once(&mut self, delivery: Delivery) {
        self.deliver(&delivery);
        self.node.reclaim_delivery(delivery);
    }

    fn give(&mut self, worker: usize, job: Job) {
        let Some(workers) = &mut self.workers else { return };
        if let Err(error @ Gone) = workers.give(worker, job) {
            tracing::error!(%error, worker, "the node cannot go on");
            self.ending.get_or_insert(Ending::Abandoned);
        }
    }
}
