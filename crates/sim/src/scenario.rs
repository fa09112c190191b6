//! Stories a person can read and the simulator can run.
//!
//! ```text
//! topology   A-B:1 B-C:1 A-C:5
//! seed       7
//! at 0s      start all
//! at 5s      cut A B
//! expect     all-reach-all by 6s
//! at 10s     mend all
//! expect     all-reach-all by 12s
//! expect     event link_suspect at A by 6s
//! ```
//!
//! `hole B 30% longer-than 600` makes B drop data that it relays, though it routes as before, and `fill B` mends it. `stream A B every
//! 10ms for 5s` sends packets one way and lets the time pass.
//!
//! Lines are performed in order. `at` lets time pass up to then; `expect … by` lets time pass until it is true, at the latest then.
//! Times count from the beginning of the story.

use std::collections::BTreeSet;
use std::time::Duration;

use x0t_model::{Entropy, Instant};

use crate::network::{Hole, Weather};
use crate::topology::Topology;
use crate::world::{Terms, World};

/// A line that does not read or does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ScenarioError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// How often `expect … by` looks.
const STEP: Duration = Duration::from_millis(10);
/// How often `expect ping` asks: in bad weather one echo may well be lost.
const PING_EVERY: Duration = Duration::from_millis(200);

/// Runs a story and gives the world it ends in.
pub fn run(text: &str) -> Result<World, ScenarioError> {
    let (mut topology, mut terms, mut told) = (None, Terms::seeded(1), None::<Story>);
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let result = match (words.as_slice(), &mut told) {
            ([], _) => Ok(()),
            (["topology", "ring", hosts], None) => parse(hosts).map(|hosts| topology = Some(Topology::ring(hosts))),
            (["topology", "geometric", hosts, degree], None) => parse(hosts).and_then(|hosts| {
                let mut entropy = Entropy::new([terms.seed as u8; 32]);
                topology = Some(Topology::geometric(hosts, parse(degree)?, &mut entropy));
                Ok(())
            }),
            (["topology", links @ ..], None) => {
                topology = Some(Topology::of(&links.join(" ")));
                Ok(())
            }
            (["seed", seed], None) => parse(seed).map(|seed| terms.seed = seed),
            (["svid-lifetime", ttl], None) => duration(ttl).map(|ttl| terms.svid_ttl = ttl),
            (_, None) => match topology.take() {
                Some(topology) => {
                    let world = World::new(topology, terms.clone());
                    let mut story = Story { begun: world.now(), world };
                    let result = story.tell(&words);
                    told = Some(story);
                    result
                }
                None => Err("a story begins with its topology".into()),
            },
            (_, Some(story)) => story.tell(&words),
        };
        result.map_err(|reason| ScenarioError { line: number + 1, reason })?;
    }
    told.map(|story| story.world).ok_or(ScenarioError { line: 0, reason: "nothing happens".into() })
}

struct Story {
    world: World,
    begun: Instant,
}

impl Story {
    fn tell(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["at", time, rest @ ..] => {
                self.pass_until(duration(time)?)?;
                self.perform(rest)
            }
            ["expect", expected @ .., "by", time] => self.expect(expected, duration(time)?),
            _ => Err(format!("`{}` is neither `at` nor `expect … by`", words.join(" "))),
        }
    }

    fn pass_until(&mut self, time: Duration) -> Result<(), String> {
        let until = self.begun + time;
        if until < self.world.now() {
            return Err(format!("time is already at {:?}", self.world.now().since(self.begun)));
        }
        self.world.advance(until.since(self.world.now()));
        Ok(())
    }

    fn perform(&mut self, words: &[&str]) -> Result<(), String> {
        let world = &mut self.world;
        match words {
            ["start", "all"] => world.start_all(),
            ["start", host] | ["restart", host] => world.start(world.host(host)),
            ["kill", host] => world.kill(world.host(host)),
            ["stop", host] => world.stop(world.host(host)),
            ["freeze", host] => world.freeze(world.host(host)),
            ["thaw", host] => world.thaw(world.host(host)),
            ["interface", host, state @ ("up" | "down")] => world.interface(world.host(host), *state == "up"),
            ["cut", a, b] => world.network.cut(world.host(a), world.host(b)),
            ["hole", host, share] => world.network.dig(world.host(host), hole(share, 0)?),
            ["hole", host, share, "longer-than", bytes] => {
                world.network.dig(world.host(host), hole(share, parse(bytes)?)?);
            }
            ["fill", host] => world.network.fill(world.host(host)),
            ["stream", a, b, "every", interval, "for", time] => {
                let (a, b) = (world.host(a), world.host(b));
                world.send_stream((a, b), duration(interval)?, duration(time)?);
            }
            ["mend", "all"] => world.network.mend_all(),
            ["mend", a, b] => world.network.mend(world.host(a), world.host(b)),
            ["partition", island @ ..] => {
                let island: BTreeSet<usize> = island.iter().map(|host| world.host(host)).collect();
                world.network.partition(&island);
            }
            ["weather", rest @ ..] => world.network.set_weather(weather(rest)?),
            ["audit"] => world.audit(),
            _ => return Err(format!("nobody knows how to `{}`", words.join(" "))),
        }
        Ok(())
    }

    fn expect(&mut self, words: &[&str], by: Duration) -> Result<(), String> {
        let left = (self.begun + by).since(self.world.now());
        let (begun, unmet) = (self.begun, format!("not so by {by:?}: {}", words.join(" ")));
        let met = match words {
            ["all-reach-all"] => self.world.wait_for(left, STEP, World::all_reach_all),
            ["path", hosts @ ..] => {
                let path: Vec<usize> = hosts.iter().map(|host| self.world.host(host)).collect();
                let (Some(&first), Some(&last)) = (path.first(), path.last()) else {
                    return Err("an empty path".into());
                };
                self.world.wait_for(left, STEP, |world| world.path(first, last).as_ref() == Some(&path))
            }
            ["no-path", a, b] => {
                let (a, b) = (self.world.host(a), self.world.host(b));
                self.world.wait_for(left, STEP, |world| world.path(a, b).is_none())
            }
            ["ping", a, b] => {
                let (a, b) = (self.world.host(a), self.world.host(b));
                let deadline = self.world.now() + left;
                loop {
                    let id = self.world.ping(a, b);
                    let answered = |world: &World| matches!(world.reply(id), Some((_, x0t_node::Reply::Pong { .. })));
                    let wait = PING_EVERY.min(deadline.since(self.world.now()));
                    let met = self.world.wait_for(wait, STEP, answered);
                    if met.is_some() || self.world.now() >= deadline {
                        break met;
                    }
                }
            }
            ["event", name, "at", host] => {
                let (name, host) = ((*name).to_owned(), self.world.host(host));
                self.world.wait_for(left, STEP, |world| {
                    world.events().iter().any(|(at, when, what)| {
                        *at == host && *when >= begun && event_name(what).as_deref() == Some(name.as_str())
                    })
                })
            }
            _ => return Err(format!("nobody knows how to expect `{}`", words.join(" "))),
        };
        met.map(|_| ()).ok_or_else(|| match self.world.first_unreachable() {
            Some((a, b)) => format!("{unmet} (host {a} does not reach host {b})"),
            None => unmet,
        })
    }
}

fn event_name(what: &x0t_node::What) -> Option<String> {
    match serde_json::to_value(what).ok()?.get("event")? {
        serde_json::Value::String(name) => Some(name.clone()),
        _ => None,
    }
}

/// `loss 5% duplicate 1% corrupt 1% jitter 3ms`, in any order.
fn weather(words: &[&str]) -> Result<Weather, String> {
    let mut weather = Weather::default();
    for pair in words.chunks(2) {
        match pair {
            ["loss", share] => weather.loss_per_million = per_million(share)?,
            ["duplicate", share] => weather.duplicate_per_million = per_million(share)?,
            ["corrupt", share] => weather.corrupt_per_million = per_million(share)?,
            ["jitter", time] => weather.jitter = duration(time)?,
            _ => return Err(format!("there is no weather `{}`", pair.join(" "))),
        }
    }
    Ok(weather)
}

/// `30%`, or what of it is longer than so many bytes.
fn hole(share: &str, longer_than: usize) -> Result<Hole, String> {
    Ok(Hole { loss_per_million: per_million(share)?, longer_than })
}

fn per_million(share: &str) -> Result<u32, String> {
    let percent: f64 = parse(share.strip_suffix('%').ok_or_else(|| format!("`{share}` is no share: write `5%`"))?)?;
    Ok((percent * 10_000.0) as u32)
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let value: f64 = parse(&text[..unit])?;
    match &text[unit..] {
        "ms" => Ok(Duration::from_secs_f64(value / 1e3)),
        "s" => Ok(Duration::from_secs_f64(value)),
        "min" => Ok(Duration::from_secs_f64(value * 60.0)),
        _ => Err(format!("`{text}` is no duration: write `5s`, `20ms` or `2min`")),
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_does_not_read_is_named() {
        let error = |text: &str| run(text).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(error("at 0s start all"), "line 1: a story begins with its topology");
        assert_eq!(error("topology A-B\nat 0s dance"), "line 2: nobody knows how to `dance`");
        assert_eq!(error("topology A-B\nat 1h start all"), "line 2: `1h` is no duration: write `5s`, `20ms` or `2min`");
        assert_eq!(weather(&["loss", "5%", "jitter", "3ms"]).unwrap().loss_per_million, 50_000);
    }
}
