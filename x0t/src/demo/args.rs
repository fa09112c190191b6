//! What `x0t demo` may be told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;

use super::fault::FaultKind;

/// Where the live page is served if nothing else is said.
const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// What the numbers mean, for `x0t demo --help`.
const DEFINITIONS: &str = "\
What is measured, on one monotonic clock for all processes:
  detected  from the fault to the first neighbour that reports the silence
  restored  from the fault to the sending of the first packet that was answered
            and after which none was lost until the fault was taken away; packets
            are 10 ms apart, so this is never finer
  lost      packets sent from 20 ms before the fault until it was taken away and
            not answered within 400 ms
  healed    from taking the fault away until both ends of every link say that it
            carries and every node has got an answer from every other
Percentiles are by nearest rank. Exit code 0 only if everything healed, else 3.";

/// `x0t demo`.
#[derive(Clone, Debug, Args)]
#[command(after_long_help = DEFINITIONS)]
pub struct DemoArgs {
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(4..=12))]
    pub nodes: u8,
    /// How many faults: in turn a killed relay, a frozen relay and a link that silently carries nothing.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=300))]
    pub faults: u16,
    /// A benchmark of this many rounds, each with one fault of every kind.
    #[arg(long, value_name = "N", conflicts_with = "faults", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: Option<u16>,
    /// Stay up afterwards, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Where the live page is served; another port is taken if this one is in use.
    #[arg(long, value_name = "ADDR", default_value_t = DEFAULT_HTTP)]
    pub http: SocketAddr,
}

impl DemoArgs {
    /// The faults to make, in order.
    pub fn faults(&self) -> impl Iterator<Item = FaultKind> + use<> {
        let count = self.rounds.map_or(usize::from(self.faults), |rounds| usize::from(rounds) * FaultKind::ALL.len());
        FaultKind::ALL.into_iter().cycle().take(count)
    }
}
