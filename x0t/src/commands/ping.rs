//! `x0t ping NODE`: one echo after the other, and a summary.
//!
//! With `--json`, one object per line: `{"type":"reply",…}` and `{"type":"lost",…}` for each echo in the order in which
//! the outcome is known, then `{"type":"summary",…}`. Times are microseconds.

use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use x0t_model::{Instant, NodeId, SpiffeId};
use x0t_node::{Command, Reply, Target};
use x0t_runtime::clock::Clock;

use super::Context;
use super::trace::no_match;
use crate::cli::PingArgs;
use crate::client::{Client, unexpected};
use crate::exit::Exit;
use crate::output::{Names, Output};

/// Echoes that may be unanswered at once: with a short interval and a long timeout the rest waits.
const IN_FLIGHT_MAX: usize = 64;

/// What became of one echo.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Echo {
    /// It came back.
    Reply {
        sequence: u32,
        node: SpiffeId,
        rtt_us: u64,
        /// The neighbour that carried it first; `null` if the node is a neighbour itself.
        via: Option<NodeId>,
        bytes: u16,
    },
    /// It did not.
    Lost { sequence: u32, reason: String },
}

pub async fn run(context: &Context, args: PingArgs) -> anyhow::Result<Exit> {
    let (out, client) = (context.out, context.client());
    let names = client.names().await?;
    if let Some(name) = names.suggestion(&args.node).filter(|name| *name != args.node) {
        out.remark(format!("no node `{}` is known yet: did you mean `{name}`?", args.node));
    }
    let mut ticks = tokio::time::interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut in_flight: JoinSet<anyhow::Result<Result<Echo, String>>> = JoinSet::new();
    let mut tally = Tally::new(Clock.now());
    loop {
        let may_send = args.count.is_none_or(|count| tally.sent < count);
        if !may_send && in_flight.is_empty() {
            break;
        }
        tokio::select! {
            _ = ticks.tick(), if may_send && in_flight.len() < IN_FLIGHT_MAX => {
                tally.sent += 1;
                in_flight.spawn(echo(client.clone(), args.clone(), tally.sent));
            }
            Some(outcome) = in_flight.join_next(), if !in_flight.is_empty() => {
                let echo = match outcome?? {
                    Ok(echo) => echo,
                    Err(refused) => return Err(no_match(context, &args.node, &refused).await),
                };
                tally.count(&echo);
                out.item(&echo, |_| line(&echo, &names))?;
            }
            _ = &mut interrupted => {
                // What is still under way is neither answered nor lost.
                tally.sent -= u32::try_from(in_flight.len()).unwrap_or_default();
                break;
            }
        }
    }
    summarise(out, &args.node, &tally)
}

async fn echo(client: Client, args: PingArgs, sequence: u32) -> anyhow::Result<Result<Echo, String>> {
    let command = Command::Ping { target: Target(args.node), payload: args.size, timeout: args.timeout };
    Ok(match client.command(command).await? {
        Reply::Pong { node, rtt_ns, via } => {
            Ok(Echo::Reply { sequence, node, rtt_us: rtt_ns / 1_000, via, bytes: args.size })
        }
        Reply::TimedOut { reason } => Ok(Echo::Lost { sequence, reason }),
        Reply::Refused { reason } => Err(reason),
        other => return Err(unexpected(&other)),
    })
}

fn line(echo: &Echo, names: &Names) -> String {
    match echo {
        Echo::Reply { sequence, node, rtt_us, via, bytes } => {
            let name = names.of_id(node);
            let way = via.map_or_else(|| "direct".to_owned(), |via| format!("via {}", names.of(via)));
            format!("{bytes} bytes from {name}: seq={sequence} time={} {way}", exact(*rtt_us))
        }
        Echo::Lost { sequence, reason } => format!("no answer: seq={sequence} ({reason})"),
    }
}

fn summarise(out: Output, node: &str, tally: &Tally) -> anyhow::Result<Exit> {
    let summary = tally.summary(node, Clock.now());
    out.item(&summary, |_| summary.text())?;
    // As ping(8): one answer is enough to say that the node is there.
    Ok(if summary.received == 0 && summary.sent > 0 { Exit::Timeout } else { Exit::Ok })
}

/// Counts and times.
#[derive(Debug)]
struct Tally {
    started: Instant,
    sent: u32,
    rtts_us: Vec<u64>,
}

impl Tally {
    const fn new(started: Instant) -> Self {
        Self { started, sent: 0, rtts_us: Vec::new() }
    }

    fn count(&mut self, echo: &Echo) {
        if let Echo::Reply { rtt_us, .. } = echo {
            self.rtts_us.push(*rtt_us);
        }
    }

    fn summary(&self, node: &str, now: Instant) -> Summary {
        Summary {
            kind: "summary",
            node: node.to_owned(),
            sent: self.sent,
            received: self.rtts_us.len(),
            duration_us: micros(now.since(self.started)),
            rtt_us: Spread::of(&self.rtts_us),
        }
    }
}

#[derive(Debug, Serialize)]
struct Summary {
    #[serde(rename = "type")]
    kind: &'static str,
    node: String,
    sent: u32,
    received: usize,
    duration_us: u64,
    /// `null` if nothing was received.
    rtt_us: Option<Spread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Spread {
    min: u64,
    avg: u64,
    max: u64,
    /// Mean deviation, as in ping(8): the root of the mean square distance from the average.
    mdev: u64,
}

impl Spread {
    fn of(values: &[u64]) -> Option<Self> {
        let (min, max) = (*values.iter().min()?, *values.iter().max()?);
        let count = values.len() as f64;
        let mean = values.iter().sum::<u64>() as f64 / count;
        let variance = values.iter().map(|value| (*value as f64 - mean).powi(2)).sum::<f64>() / count;
        Some(Self { min, avg: mean.round() as u64, max, mdev: variance.sqrt().round() as u64 })
    }
}

impl Summary {
    fn text(&self) -> String {
        let lost = (f64::from(self.sent) - self.received as f64) / f64::from(self.sent.max(1)) * 100.0;
        let took = self.duration_us / 1_000;
        let mut text = format!(
            "\n--- {} ---\n{} sent, {} received, {lost:.1}% lost, {took} ms",
            self.node, self.sent, self.received
        );
        if let Some(Spread { min, avg, max, mdev }) = self.rtt_us {
            let [min, avg, max, mdev] = [min, avg, max, mdev].map(|us| format!("{:.3}", us as f64 / 1_000.0));
            text += &format!("\nrtt min/avg/max/mdev = {min}/{avg}/{max}/{mdev} ms");
        }
        text
    }
}

fn exact(micros: u64) -> String {
    format!("{:.3} ms", micros as f64 / 1_000.0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(sequence: u32, rtt_us: u64) -> Echo {
        let node = "spiffe://mesh.test/node/beta".parse().unwrap();
        Echo::Reply { sequence, node, rtt_us, via: None, bytes: 56 }
    }

    #[test]
    fn an_echo_looks_like_that_of_ping() {
        assert_eq!(
            line(&reply(1, 840), &Names::default()),
            "56 bytes from spiffe://mesh.test/node/beta: seq=1 time=0.840 ms direct"
        );
        let lost = Echo::Lost { sequence: 2, reason: "no route".to_owned() };
        assert_eq!(line(&lost, &Names::default()), "no answer: seq=2 (no route)");
    }

    #[test]
    fn the_summary_counts_losses_and_times() {
        let mut tally = Tally::new(Instant::ZERO);
        tally.sent = 4;
        [1_000, 2_000, 3_000].into_iter().enumerate().for_each(|(i, rtt)| tally.count(&reply(i as u32, rtt)));
        let summary = tally.summary("beta", Instant::from_millis(3_007));
        assert_eq!(
            summary.text(),
            "\n--- beta ---\n4 sent, 3 received, 25.0% lost, 3007 ms\nrtt min/avg/max/mdev = 1.000/2.000/3.000/0.816 ms"
        );
        assert_eq!(
            serde_json::to_string(&summary).unwrap(),
            r#"{"type":"summary","node":"beta","sent":4,"received":3,"duration_us":3007000,"rtt_us":{"min":1000,"avg":2000,"max":3000,"mdev":816}}"#
        );
    }

    #[test]
    fn nothing_received_has_no_times() {
        let summary = Tally::new(Instant::ZERO).summary("beta", Instant::ZERO);
        assert_eq!((summary.rtt_us, summary.text().lines().count()), (None, 3));
    }

    #[test]
    fn echoes_are_stable_json() {
        assert_eq!(
            serde_json::to_string(&reply(1, 840)).unwrap(),
            r#"{"type":"reply","sequence":1,"node":"spiffe://mesh.test/node/beta","rtt_us":840,"via":null,"bytes":56}"#
        );
    }
}
