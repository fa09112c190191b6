//! Bringing this host's node back when its SVID has ended while it slept: no peer talks to it any more, so it asks the authority as a
//! joiner asks, with its old key in place of a token.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use x0t_identity::{AwsLcKeys, Bundle, Svid};
use x0t_model::{SpiffeId, Underlay};
use x0t_node::join::{JoinClient, JoinError, RecoveryTerms};
use x0t_node::{RecordKind, View};
use x0t_overlay::tls::RustlsProvider;
use x0t_runtime::clock::{Clock, seed};
use x0t_runtime::handle::NodeHandle;
use x0t_runtime::join::{JOIN_DEADLINE, drive};

/// How often it is looked whether the node has to be brought back.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pause after an attempt that got no answer; doubled up to the second.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Addresses that are knocked at.
const ADDRESSES_MAX: usize = 16;

/// What is known of the mesh besides what the node shows.
pub struct Memory {
    /// The state directory: SVID and bundle are read from there, as they are at that moment.
    pub state_dir: std::path::PathBuf,
    /// Who renews.
    pub authorities: Vec<SpiffeId>,
    /// Addresses of the settings.
    pub peers: Vec<Underlay>,
    /// Where TLS is tried on a host whose UDP address does not answer.
    pub fallback_port: Option<u16>,
}

/// Looks after `node` until `stop` turns true.
pub async fn watch_over(node: NodeHandle, memory: Memory, mut stop: watch::Receiver<bool>) {
    let mut seen: BTreeSet<Underlay> = BTreeSet::new();
    let mut pause = PAUSE_MIN;
    loop {
        let mut wait = LOOK_EVERY;
        if let Ok(snapshot) = node.snapshot().await {
            remember(&mut seen, &snapshot.view);
            if snapshot.view.status.svid_state == "expired" {
                let via: Vec<_> =
                    memory.peers.iter().copied().chain(seen.iter().copied()).take(ADDRESSES_MAX).collect();
                match bring_back(&node, &memory, via).await {
                    Ok(()) => {
                        tracing::info!("this node has come back: it has a new SVID in place of one that had ended");
                        pause = PAUSE_MIN;
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(error, again_in = ?pause, "this node's SVID has ended, and it cannot come back by its old key");
                        wait = pause;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Neighbours are where they were last, as long as there are any.
fn remember(seen: &mut BTreeSet<Underlay>, view: &View) {
    let place = |peer: &x0t_node::PeerView| match peer.transport.as_str() {
        "tls" => Underlay::Tls(peer.address),
        _ => Underlay::Udp(peer.address),
    };
    let now: BTreeSet<_> = view.peers.iter().filter(|peer| peer.state == "up").map(place).take(ADDRESSES_MAX).collect();
    if !now.is_empty() {
        *seen = now;
    }
}

async fn bring_back(node: &NodeHandle, memory: &Memory, via: Vec<Underlay>) -> anyhow::Result<()> {
    let read = |kind: RecordKind| {
        let path = memory.state_dir.join(kind.file_name());
        std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let svid = Svid::from_stored(&zeroize::Zeroizing::new(read(RecordKind::Svid)?))?;
    let bundle = Bundle::from_json(svid.spiffe_id().trust_domain().clone(), &read(RecordKind::Bundle)?)?;
    let (authorities, fallback_port) = (memory.authorities.clone(), memory.fallback_port);
    let terms = RecoveryTerms { svid, bundle, authorities, via, fallback_port };
    let (now, wall) = (Clock.now(), Clock.wall());
    let client = JoinClient::recover(terms, Arc::new(RustlsProvider::new()), &mut AwsLcKeys, seed()?, now, wall)?;
    // The sockets of an attempt are not to be shared between threads.
    let runtime = tokio::runtime::Handle::current();
    let attempt = move || {
        let mut client = client;
        let driven = runtime.block_on(drive(&mut client, JOIN_DEADLINE, |_| {}));
        (client.outcome().cloned(), driven)
    };
    let outcome = match tokio::task::spawn_blocking(attempt).await? {
        (Some(outcome), _) => outcome,
        (None, Err(error)) => return Err(error.into()),
        (None, Ok(())) => anyhow::bail!("the attempt ended without an outcome"),
    };
    match outcome {
        Ok(joined) => Ok(node.recovered(joined.svid, joined.bundle).await?),
        Err(error @ JoinError::Refused { .. }) => Err(anyhow::Error::from(error)
            .context("join again with `x0t join TOKEN`, with a token made for this node's name")),
        Err(error) => Err(error.into()),
    }
}
