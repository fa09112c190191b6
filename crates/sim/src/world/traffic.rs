//! What is asked of the nodes, and what their hosts send to each other.

use std::net::Ipv6Addr;
use std::time::Duration;

use x0t_model::Instant;
use x0t_node::{Command, Input, Offload, Reply, Target, View};

use super::{Stream, World};

impl World {
    /// Gives a command to a host. [`Self::reply`] has the answer once there is one.
    pub fn command(&mut self, host: usize, command: Command) -> u64 {
        let id = self.next_command;
        self.next_command += 1;
        self.handle(host, Input::Command { id, command });
        id
    }

    /// Asks the authority as the agent of a host does. [`Self::agent_reply`] has the answer once there is one.
    pub fn ask_as_agent(&mut self, host: usize, body: &[u8]) -> u64 {
        let id = self.next_command;
        self.next_command += 1;
        self.handle(host, Input::AskAuthority { id, body });
        id
    }

    /// When and how the agent of a host was answered.
    pub fn agent_reply(&self, id: u64) -> Option<&(Instant, Result<Vec<u8>, String>)> {
        self.agent_replies.get(&id)
    }

    /// When and how a command was answered.
    pub fn reply(&self, id: u64) -> Option<&(Instant, Reply)> {
        self.replies.get(&id)
    }

    /// Sends one ping from `a` to `b`.
    pub fn ping(&mut self, a: usize, b: usize) -> u64 {
        let target = Target(self.hosts[b].name.clone());
        self.command(a, Command::Ping { target, payload: 32, timeout: Duration::from_secs(2) })
    }

    /// Pings from `a` to `b` every `interval` for `time`, while `fault` happens to the world `fault_at` after the start.
    /// Gives the pings that were answered and those that were not, and the longest time without an answered one.
    pub fn stream(
        &mut self,
        (a, b): (usize, usize),
        interval: Duration,
        time: Duration,
        fault_at: Duration,
        fault: impl FnOnce(&mut Self),
    ) -> Stream {
        let (start, mut fault, mut sent) = (self.now, Some(fault), Vec::new());
        while self.now.since(start) < time {
            if self.now.since(start) >= fault_at
                && let Some(fault) = fault.take()
            {
                fault(self);
            }
            sent.push((self.now, self.ping(a, b)));
            self.advance(interval);
        }
        self.advance(Duration::from_millis(2_100));
        let answered = |id: u64| matches!(self.replies.get(&id), Some((_, Reply::Pong { .. })));
        let times: Vec<Instant> = sent.iter().filter(|(_, id)| answered(*id)).map(|(at, _)| *at).collect();
        // From the first sending to the last: a stream that never comes back is silent to the end.
        let last = sent.last().map_or(start, |(at, _)| *at + interval);
        let marks: Vec<Instant> = [start].into_iter().chain(times.iter().copied()).chain([last]).collect();
        let gap = marks.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or(time);
        Stream { answered: times.len(), lost: sent.len() - times.len(), longest_gap: gap.saturating_sub(interval) }
    }

    /// Everything there is to see of a running host.
    ///
    /// # Panics
    /// If it does not run.
    pub fn view(&self, host: usize) -> View {
        let node = self.hosts[host].node.as_ref().expect("a host that runs");
        x0t_node::Drive::view(node, self.now, self.wall_at(host))
    }

    /// How many ends of links can carry traffic, over all running hosts.
    pub fn links_up(&self) -> usize {
        (0..self.hosts()).filter(|host| self.node(*host).is_some()).map(|host| self.view(host).status.links_up).sum()
    }

    /// A host's address inside the mesh.
    pub fn address(&self, host: usize) -> Ipv6Addr {
        x0t_model::overlay_address(&self.terms.trust_domain, self.id(host))
    }

    /// Host `a` sends `b` a UDP packet that holds `payload`.
    pub fn send_packet(&mut self, a: usize, b: usize, payload: &[u8]) {
        self.send_packet_as(a, self.address(a), b, payload);
    }

    /// The same, marked so that it counts as critical: expedited forwarding.
    pub fn send_critical(&mut self, a: usize, b: usize, payload: &[u8]) {
        self.send_marked(a, self.address(a), b, payload, 46);
    }

    /// `a` sends `b` a packet every `interval` for `time`, and the time passes.
    pub fn send_stream(&mut self, (a, b): (usize, usize), interval: Duration, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.send_packet(a, b, &[7; 64]);
            self.advance(interval);
        }
    }

    /// The same under a source address of the caller's choice.
    pub fn send_packet_as(&mut self, a: usize, source: Ipv6Addr, b: usize, payload: &[u8]) {
        self.send_marked(a, source, b, payload, 0);
    }

    /// Host `a` sends `b` UDP packets, all told to its node before that is asked what to send.
    pub fn send_together(&mut self, a: usize, b: usize, payloads: &[Vec<u8>]) {
        let (source, destination) = (self.address(a), self.address(b));
        let (now, wall) = (self.now, self.wall_at(a));
        let Some(node) = self.hosts[a].node.as_mut() else { return };
        for payload in payloads {
            let packet = udp_packet(source, destination, payload, 0);
            node.handle(Input::LocalPacket { bytes: &packet, offload: Offload::default() }, now, wall);
        }
        self.drain(a);
    }

    fn send_marked(&mut self, a: usize, source: Ipv6Addr, b: usize, payload: &[u8], codepoint: u8) {
        let packet = udp_packet(source, self.address(b), payload, codepoint);
        self.handle(a, Input::LocalPacket { bytes: &packet, offload: Offload::default() });
    }

    /// Writes down every packet that a node hands to its host from here on.
    pub fn note_packets(&mut self) {
        self.handed_over = Some(Vec::new());
    }

    /// What was handed over since [`Self::note_packets`], in order: to which host, and the whole packet.
    pub fn noted_packets(&mut self) -> Vec<(usize, Vec<u8>)> {
        self.handed_over.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How many packets a host was handed by its node.
    pub fn delivered(&self, host: usize) -> usize {
        self.hosts[host].delivered
    }
}

fn udp_packet(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8], codepoint: u8) -> Vec<u8> {
    let mut packet = vec![0x60 | codepoint >> 2, codepoint << 6, 0, 0];
    packet.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[17, 64]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(payload);
    packet
}
