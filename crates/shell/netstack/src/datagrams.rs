//! Datagrams relayed between a port that many senders use and a port for each of them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::network::DatagramPort;

/// Senders served at once at one port.
const FLOWS_MAX: usize = 256;
/// A sender from and to which nothing has come for this long is forgotten (RFC 4787, REQ-5 recommends 5 minutes or more).
const FLOW_IDLE: Duration = Duration::from_secs(300);
/// After an error of the port itself, so that one that persists does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// One sender's port and whether it was used since that was last asked.
#[derive(Debug)]
struct Sender {
    port: Arc<DatagramPort>,
    is_used: Arc<AtomicBool>,
}

/// Relays whatever arrives at `front` from senders that `admits` to `to`, and the answers back. `open` makes a port for each sender.
/// Never returns.
pub async fn relay<F: Future<Output = io::Result<DatagramPort>>>(
    front: Arc<DatagramPort>,
    to: SocketAddr,
    admits: impl Fn(SocketAddr) -> bool,
    open: impl Fn() -> F,
) {
    let mut senders: BTreeMap<SocketAddr, Sender> = BTreeMap::new();
    let mut answers = JoinSet::new();
    loop {
        let (from, payload) = tokio::select! {
            Some(gone) = answers.join_next(), if !answers.is_empty() => {
                if let Ok(gone) = gone {
                    senders.remove(&gone);
                }
                continue;
            }
            received = front.receive() => match received {
                Ok(received) => received,
                // An ICMP error for an earlier answer, most likely: that sender has gone.
                Err(_) => { tokio::time::sleep(ERROR_PAUSE).await; continue }
            },
        };
        if !admits(from) {
            continue;
        }
        if !senders.contains_key(&from) {
            if senders.len() >= FLOWS_MAX {
                continue;
            }
            let Ok(port) = open().await else { continue };
            let sender = Sender { port: Arc::new(port), is_used: Arc::default() };
            answers.spawn(return_answers(from, to, sender.port.clone(), front.clone(), sender.is_used.clone()));
            senders.insert(from, sender);
        }
        if let Some(sender) = senders.get(&from) {
            sender.is_used.store(true, Ordering::Relaxed);
            sender.port.send_to(&payload, to).await;
        }
    }
}

/// Passes answers back to one sender until nothing has moved for long enough. Returns whom it served.
async fn return_answers(
    sender: SocketAddr,
    served_by: SocketAddr,
    port: Arc<DatagramPort>,
    front: Arc<DatagramPort>,
    is_used: Arc<AtomicBool>,
) -> SocketAddr {
    loop {
        match tokio::time::timeout(FLOW_IDLE, port.receive()).await {
            // Somebody else's datagram is no answer.
            Ok(Ok((from, payload))) if from == served_by => front.send_to(&payload, sender).await,
            Ok(Ok(_)) => {}
            Ok(Err(_)) => tokio::time::sleep(ERROR_PAUSE).await,
            Err(_) if is_used.swap(false, Ordering::Relaxed) => {}
            Err(_) => return sender,
        }
    }
}
