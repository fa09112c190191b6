//! The stack in place of an interface of the kernel: to the event loop it is one more source and sink of packets.

use x0t_node::{Delivery, Drive, Input, Offload};

use super::{EventLoop, Store};

/// Packets taken from the stack in one turn. They are single ones; as many as fit a few runs of datagrams.
const BATCH: usize = 128;

impl<N: Drive, S: Store> EventLoop<N, S> {
    /// Takes what the stack wants carried. Whether there may be more.
    pub(super) fn take_from_stack(&mut self) -> bool {
        let Some(mut stack) = self.io.netstack.take() else { return false };
        let mut taken = 0;
        while taken < BATCH && self.takes_in() {
            let Some(bytes) = stack.poll_packet() else { break };
            taken += 1;
            self.stats.host_packets_received += 1;
            self.tell(Input::LocalPacket { bytes, offload: Offload::default() });
        }
        self.io.netstack = Some(stack);
        taken == BATCH
    }

    /// Hands packets to the stack; where there is none they are dropped.
    pub(super) fn deliver_to_stack(&mut self, delivery: &Delivery) {
        for (_, pieces) in delivery.packets() {
            let delivered = self.io.netstack.as_ref().is_some_and(|stack| stack.push_packet(pieces));
            if delivered { self.stats.host_packets_sent += 1 } else { self.stats.host_packets_dropped += 1 }
        }
    }
}
