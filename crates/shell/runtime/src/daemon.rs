//! A whole node on this host: state directory, sockets, interface, HTTP and the event loop, from start to goodbye.
//!
//! The event loop has a thread of its own and nothing else runs there; its workers, if it has any, have theirs. Everything that may take its time, HTTP, TLS connections, link
//! events, signals, shares the caller's runtime, for which one thread is enough.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use x0t_identity::{AuthorityRequest, Ticket};
use x0t_model::{Instant, OverlayPrefix, UnixTime};
use x0t_netstack::forwarding::{Forwarding, ForwardingThread, Home};
use x0t_netstack::spec::{Exposure, Forward};
use x0t_netstack::{HostPort, Limits};
use x0t_node::Drive;

use crate::clock::{self, Clock};
use crate::discovery::DiscoverySockets;
use crate::event_loop::{Ending, EventLoop, Io};
use crate::handle::NodeHandle;
use crate::http::{self, Asset, Listeners, Site};
use crate::link_events::LinkEvents;
use crate::readings::Readings;
use crate::state_dir::{MeshFile, StateDir};
use crate::tls_transport::{TlsListener, TlsTransport};
use crate::tun::{MTU_RANGE, Tun, TunConfig};
use crate::udp::UdpSockets;

/// What a daemon needs to know besides its state directory.
pub struct DaemonConfig {
    /// Where the node lives. Held until the daemon ends.
    pub state: StateDir,
    /// The settings to run with: those of the state directory, or changed by flags.
    pub settings: MeshFile,
    /// The live page.
    pub assets: &'static [Asset],
    /// Version of the program.
    pub version: &'static str,
    /// Starts what stands beside the node: the authority, and the identities of this host's workloads.
    pub companion: Option<Companion>,
    /// Called once everything listens.
    pub on_started: Box<dyn FnOnce(&Started) + Send>,
}

impl DaemonConfig {
    /// With the settings of the state directory and no page.
    pub fn new(state: StateDir, version: &'static str) -> Self {
        let settings = state.mesh().clone();
        Self { state, settings, assets: &[], version, companion: None, on_started: Box::new(|_| {}) }
    }
}

/// What stands beside a node is started with this, once there is a node.
pub type Companion = Box<dyn FnOnce(Beside) -> anyhow::Result<Additions> + Send>;

/// What those who stand beside a node add to what it shows.
#[derive(Default)]
pub struct Additions {
    /// Routes of the admin socket.
    pub routes: axum::Router,
    /// What they count.
    pub readings: Option<Readings>,
}

/// Questions to the authority that wait for it. More are answered with no.
const AUTHORITY_WAITING_MAX: usize = 1024;

/// What stands beside a node is given this.
pub struct Beside {
    /// To talk to the node.
    pub node: NodeHandle,
    /// What the node asks the authority of this host; answered through [`NodeHandle::authority_answered`].
    pub questions: mpsc::Receiver<(Ticket, AuthorityRequest)>,
    /// True once the node has stopped.
    pub stop: watch::Receiver<bool>,
}

/// Where a daemon is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// UDP addresses it listens on.
    pub listen: Vec<SocketAddr>,
    /// Where its page, API and metrics are read.
    pub http: Option<SocketAddr>,
    /// Its admin socket.
    pub admin: PathBuf,
    /// Its interface into the mesh.
    pub interface: Option<String>,
}

/// Runs a node until it is told to stop by SIGTERM, SIGINT or [`x0t_node::Command::Shutdown`].
///
/// Everything is bound before the node is made; `make_node` gets the state directory to read its records from.
///
/// # Errors
/// With what could not be bound, read or made, and what to do about it. A node that was stopped is no error.
pub async fn run<N: Drive + Send + 'static>(
    config: DaemonConfig,
    make_node: impl FnOnce(&mut StateDir, &[SocketAddr], Instant, UnixTime) -> anyhow::Result<N>,
) -> anyhow::Result<Ending> {
    let DaemonConfig { mut state, settings, assets, version, companion, on_started } = config;
    let clock = Clock;
    let mut udp = UdpSockets::bind(&settings.listen)?;
    if !settings.offload {
        udp.send_singly();
    }
    let listen = udp.local_addresses();
    let tls_listener = settings.listen_tls.map(TlsListener::bind).transpose()?;
    let tls = TlsTransport::new(tls_listener)?;
    let takes_part = settings.discovery.then(|| open_to_others(&listen)).filter(|(v4, v6)| *v4 || *v6);
    let discovery = takes_part.map(|(v4, v6)| DiscoverySockets::open(v4, v6));
    let tcp = settings.http.map(http::bind_tcp).transpose()?;
    let http_address = tcp.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
    let admin = StateDir::admin_socket(state.path());
    let listeners = Listeners { tcp, admin: http::bind_admin(&admin)? };
    let stop = stop_signals()?;

    let workers = settings.workers();
    let node = make_node(&mut state, &listen, clock.now(), clock.wall()).context("failed to start the node")?;
    let tun_config = TunConfig {
        name: settings.tun_name,
        address: node.view(clock.now(), clock.wall()).status.overlay_address,
        network: (OverlayPrefix::of(&settings.trust_domain).network(), OverlayPrefix::BITS),
        mtu: settings.mtu.map(|mtu| mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end())),
        offload: settings.offload,
    };
    let tun = Tun::open_as(settings.tun, &tun_config).await?;
    let links = LinkEvents::open().await.inspect_err(|error| tracing::warn!(%error, "no link events")).ok();
    let interface = tun.as_ref().map(|tun| tun.name().to_owned());
    let home = Home { trust_domain: settings.trust_domain, address: tun_config.address };
    let (forwarding, _forwarding_thread, netstack) = start_forwarding(home, interface.as_deref())?;
    apply(&forwarding, &settings.forwards, &settings.exposed, settings.socks)?;

    let (authority, questions) = mpsc::channel(AUTHORITY_WAITING_MAX);
    let authority = companion.is_some().then_some(authority);
    let io = Io { udp, tls, discovery, tun, netstack, links, authority, store: state, stop };
    let (mut event_loop, handle) = EventLoop::new(node, clock, io).context("cannot watch the sockets")?;
    if workers > 0 {
        event_loop = event_loop.with_workers(workers).context("cannot start workers; start with --workers 0")?;
    }
    let (stop_http, stopped) = watch::channel(false);
    let beside = Beside { node: handle.clone(), questions, stop: stopped.clone() };
    let more = companion.map(|companion| companion(beside)).transpose()?.unwrap_or_default();
    let site = Site::new(handle, assets, version).with_forwarding(forwarding).with_readings(more.readings);
    let (reading, admin_only) =
        (http::reading_routes(site.clone()), http::admin_routes(site).merge(http::guarded(more.routes)));
    let http = tokio::spawn(http::serve(listeners, reading, admin_only, stopped));
    let started = Started { listen, http: http_address, admin: admin.clone(), interface };
    tracing::info!(listen = ?started.listen, http = ?started.http, interface = started.interface, "the node runs");
    on_started(&started);

    let ending = event_loop.run().await;
    let _ = stop_http.send(true);
    // Bounded by the time that answers have to get out.
    match http.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "HTTP ended"),
        Err(error) => tracing::error!(%error, "HTTP panicked"),
    }
    let _ = std::fs::remove_file(&admin);
    let ending = ending.context("the event loop could not go on")?;
    tracing::info!(?ending, "the node has stopped");
    Ok(ending)
}

/// Forwarding through the kernel if it has an interface into the mesh, else through a stack of our own.
fn start_forwarding(
    home: Home,
    interface: Option<&str>,
) -> anyhow::Result<(Forwarding, ForwardingThread, Option<HostPort>)> {
    let started = if let Some(interface) = interface {
        Forwarding::over_kernel(home, interface).map(|(forwarding, thread)| (forwarding, thread, None))
    } else {
        let seed = clock::seed().context("cannot get randomness from the kernel")?;
        // What IPv6 entitles to pass goes everywhere, in pieces if need be: this stack heeds no "packet too big".
        let limits = Limits::default();
        Forwarding::over_stack(home, limits, seed, || Clock.now())
            .map(|(forwarding, thread, port)| (forwarding, thread, Some(port)))
    };
    started.context("cannot start forwarding")
}

/// Does what the settings say. What does not work is said and does not keep the node from starting, except for the SOCKS5 listener:
/// whoever asked for it would send its traffic elsewhere without it.
fn apply(
    forwarding: &Forwarding,
    forwards: &[Forward],
    exposed: &[Exposure],
    socks: Option<SocketAddr>,
) -> anyhow::Result<()> {
    for forward in forwards {
        if let Err(error) = forwarding.keep_forward(forward.clone()) {
            tracing::error!(%error, %forward, "a forward of the settings does not work");
        }
    }
    for exposure in exposed {
        if let Err(error) = forwarding.expose(exposure.clone()) {
            tracing::error!(%error, %exposure, "a port cannot be exposed as the settings say");
        }
    }
    if let Some(address) = socks {
        forwarding.serve_socks(address).context("cannot serve SOCKS5; choose another address with --socks")?;
    }
    Ok(())
}

/// Whether a node that listens there can be found by others over IPv4 and over IPv6.
fn open_to_others(listen: &[SocketAddr]) -> (bool, bool) {
    let open = |v4: bool| listen.iter().any(|address| address.is_ipv4() == v4 && !address.ip().is_loopback());
    (open(true), open(false))
}

/// The first signal asks the node to stop, the second does not wait for it.
fn stop_signals() -> anyhow::Result<mpsc::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
