//! What carries no packets, or few: looked at when it has rung the poller's alarm, in this order.

use std::task::{Context, Poll};

use x0t_node::Drive;

use super::{EventLoop, Store, Wake};

impl<N: Drive, S: Store> EventLoop<N, S> {
    /// What has come from aside. If nothing has, each of them rings when something comes.
    pub(super) fn poll_aside(&mut self) -> Poll<Wake> {
        let (waker, running) = (self.poller.waker(), self.takes_in());
        let context = &mut Context::from_waker(&waker);
        if running
            && let Some(links) = &mut self.links
            && let Poll::Ready(change) = links.poll_recv(context)
        {
            return Poll::Ready(match change {
                Some(Ok(change)) => Wake::Link(change),
                Some(Err(error)) => Wake::LinksLost(error),
                None => Wake::LinksLost(std::io::ErrorKind::BrokenPipe.into()),
            });
        }
        let stop = self.io.stop.poll_recv(context);
        if let Poll::Ready(Some(())) = stop {
            return Poll::Ready(Wake::Stop);
        }
        match self.desk.requests.poll_recv(context) {
            Poll::Ready(Some(request)) => return Poll::Ready(Wake::Request(request)),
            Poll::Ready(None) if stop.is_ready() => return Poll::Ready(Wake::Deserted),
            _ => {}
        }
        if running && self.poll_packets_aside(context) { Poll::Ready(Wake::Other) } else { Poll::Pending }
    }

    /// Whether there is something for a turn to take. All are asked, so that each of them rings.
    fn poll_packets_aside(&mut self, context: &mut Context<'_>) -> bool {
        let tls = self.io.tls.poll_readable(context).is_ready();
        let beacons = self.io.discovery.as_ref().is_some_and(|sockets| sockets.poll_readable(context).is_ready());
        let stack = self.io.netstack.as_ref().is_some_and(|stack| stack.poll_readable(context).is_ready());
        tls || beacons || stack
    }
}
