//! `x0t events`: what happens to the node, as it happens.
//!
//! With `--json`, one object per line: the event as the daemon tells it, with `at` in nanoseconds of the host's monotonic clock,
//! or `{"event":"missed","count":N}` if events came faster than they were read.

use std::time::Duration;

use serde::Serialize;
use x0t_node::{NodeEvent, What};
use x0t_runtime::admin_client::EventItem;
use x0t_runtime::clock::Clock;

use super::Context;
use crate::daemon;
use crate::exit::Exit;
use crate::output::{Names, Style, distrust, millis, time_of_day};

/// Names of nodes are asked for again after this time, not for each of the many events of a mesh that is falling apart.
const NAMES_AGE_MAX: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Missed {
    event: &'static str,
    count: u64,
}

/// Until interrupted, or until the node stops.
pub async fn run(context: &Context) -> anyhow::Result<Exit> {
    let client = context.client();
    let mut events = client.events().await?;
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    context.out.remark("waiting for something to happen; Ctrl-C ends this");
    let (mut names, mut names_of) = (client.names().await?, Clock.now());
    loop {
        let item = tokio::select! {
            item = events.next() => item,
            _ = &mut interrupted => return Ok(Exit::Ok),
        };
        match item.transpose() {
            // A daemon that ends takes the connection with it, sometimes in the middle of a line.
            Err(_) if daemon::gone(&context.state_dir).await.is_ok() => return stopped(context),
            Err(error) => return Err(error.into()),
            Ok(None) => return stopped(context),
            Ok(Some(EventItem::Event { event, .. })) => {
                if !context.out.is_json() && Clock.now().since(names_of) >= NAMES_AGE_MAX {
                    // A node that is stopping tells its last news and answers no more questions.
                    (names, names_of) = (client.names().await.unwrap_or(names), Clock.now());
                }
                context.out.item(&event, |style| line(&event, &names, style))?;
            }
            Ok(Some(EventItem::Missed(count))) => {
                let missed = Missed { event: "missed", count };
                context
                    .out
                    .item(&missed, |style| style.yellow(&format!("{count} events came too fast to be shown")))?;
            }
        }
    }
}

fn stopped(context: &Context) -> anyhow::Result<Exit> {
    context.out.remark("the node has stopped");
    Ok(Exit::Ok)
}

fn line(event: &NodeEvent, names: &Names, style: Style) -> String {
    let when = time_of_day(Clock.wall() - Clock.now().since(event.at));
    format!("{} {}", style.dim(&when), describe(&event.what, names, style))
}

fn describe(what: &What, names: &Names, style: Style) -> String {
    let name = |node| names.of(node);
    match what {
        What::LinkUp { peer, address, origin, .. } => {
            style.green(&format!("link to {} is up ({address}, {origin})", name(*peer)))
        }
        What::LinkSuspect { peer, silent_us } => {
            style.yellow(&format!("{} is silent for {}; its traffic has been moved", name(*peer), millis(*silent_us)))
        }
        What::LinkRecovered { peer } => style.green(&format!("{} is heard again", name(*peer))),
        What::LinkDown { peer, reason } => style.red(&format!("link to {} is down ({reason})", name(*peer))),
        What::RouteChanged { destination, via: Some(via), metric } => {
            let cost = metric.map(|metric| format!(", {}", millis(metric.into()))).unwrap_or_default();
            let way = if via == destination { "direct".to_owned() } else { format!("via {}", name(*via)) };
            format!("route to {}: {way}{cost}", name(*destination))
        }
        What::RouteChanged { destination, via: None, .. } => style.red(&format!("no route to {}", name(*destination))),
        What::WaySuspect { destination, via } => style.yellow(&format!(
            "nothing arrives at {} by {}; its traffic has been moved",
            name(*destination),
            name(*via)
        )),
        What::WayTrusted { destination, via } => {
            style.green(&format!("{} is reached by {} again", name(*destination), name(*via)))
        }
        What::WayDemoted { destination, via, steps } => style.yellow(&format!(
            "too much is lost on the way to {} by {}; it counts {} times as dear for a while",
            name(*destination),
            name(*via),
            1u32 << steps.min(&8)
        )),
        What::SessionUp { peer } => format!("session with {} is ready", names.of_id(peer)),
        What::SvidRotated { .. } => style.green("the SVID was renewed"),
        What::SvidDistrusted { reason } => {
            style.yellow(&format!("the SVID is replaced before its time: {}", distrust(reason)))
        }
        What::SvidRenewalFailed { reason } => style.yellow(&format!("the SVID could not be renewed: {reason}")),
        What::SvidExpiring { left_s: 0 } => style.red("the SVID has expired: no peer accepts it"),
        What::SvidExpiring { left_s } => style.red(&format!("the SVID ends in {left_s} s and could not be renewed")),
        What::ClockJumped { forward, by_s } => {
            let direction = if *forward { "forward" } else { "back" };
            style.yellow(&format!("the wall clock jumped {direction} by {by_s} s"))
        }
        What::NodeJoined { spiffe_id } => style.green(&format!("{spiffe_id} joined")),
        What::SvidWithdrawn { reason } => style.red(&format!("the identity was taken back: {reason}")),
        What::Region { change, region, from, reason } => {
            region_news(change, region, from.as_deref(), reason.as_deref(), style)
        }
        What::Refused { reason } => style.yellow(&format!("refused: {reason}")),
    }
}

fn region_news(change: &str, region: &str, from: Option<&str>, reason: Option<&str>, style: Style) -> String {
    let (from, reason) = (from.unwrap_or("another"), reason.map(|reason| format!(": {reason}")).unwrap_or_default());
    match change {
        "failed_over" => {
            style.yellow(&format!("identities come from region {region}, since {from} has failed{reason}"))
        }
        "failed_back" => style.green(&format!("identities come from region {region} again, not from {from}")),
        "down" => style.yellow(&format!("region {region} is down{reason}")),
        "up" => style.green(&format!("region {region} is up again")),
        "all_down" => style.red(&format!("no region answers; what {region} gave is used until it ends")),
        "recovered" => style.green(&format!("region {region} answers again")),
        other => format!("region {region}: {other}{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use x0t_model::NodeId;

    use super::*;

    #[test]
    fn news_read_as_sentences() {
        let (peer, other) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let text = |what| describe(&what, &Names::default(), Style::Plain);
        assert_eq!(
            text(What::LinkSuspect { peer, silent_us: 52_000 }),
            "01010101 is silent for 52.0 ms; its traffic has been moved"
        );
        assert_eq!(
            text(What::RouteChanged { destination: peer, via: Some(other), metric: Some(900) }),
            "route to 01010101: via 02020202, 0.90 ms"
        );
        assert_eq!(text(What::RouteChanged { destination: peer, via: None, metric: None }), "no route to 01010101");
    }
}
