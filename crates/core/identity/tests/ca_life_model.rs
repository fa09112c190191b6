//! A model of a trust domain whose authorities change: an authority that crashes, nodes that are partitioned, bundles, SVIDs and
//! acknowledgements that are late, lost or out of order. Whatever happens in whatever order, no two nodes with valid SVIDs fail
//! to verify each other, except for nodes that the journal says were left behind. With a known bug switched on, the same search
//! finds a counterexample.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use support::{NOW, id};
use x0t_identity::ca_life::{
    Acks, AuthorityKind, CaCommand, CaLife, CaLifeConfig, CaRefusal, Evidence, KeyId, Material, Patience, Slot,
    SlotState,
};
use x0t_identity::{KeySource, SeededKeys};
use x0t_model::{Entropy, SpiffeId, UnixTime};

const TICK: Duration = Duration::from_secs(4 * 3600);
const SVID_TTL: Duration = Duration::from_secs(12 * 3600);
const CA_LIFE: Duration = Duration::from_secs(72 * 3600);
const KIND: AuthorityKind = AuthorityKind::X509;
/// Messages on their way to one node; more are lost.
const INBOX_MAX: usize = 3;
const RUNS: u64 = 1_500;
const STEPS: usize = 300;

#[test]
fn nobody_ever_holds_an_svid_that_a_peer_cannot_verify() {
    let mut taken = BTreeMap::new();
    for seed in 0..RUNS {
        let mut world = World::new(3, Rules::default());
        if let Err(violation) = world.walk(seed, STEPS) {
            panic!("seed {seed}: {violation}\n{}", world.story.join("\n"));
        }
        for (state, times) in world.taken {
            *taken.entry(state).or_insert(0) += times;
        }
    }
    for state in ["prepared", "active", "old", "tainted", "revoked", "pruned"] {
        assert!(taken.get(state).is_some_and(|times| *times > 100), "hardly ever {state}: {taken:?}");
    }
}

#[test]
fn with_a_deadline_only_those_are_cut_off_that_the_journal_names() {
    let rules = Rules { ack_deadline: TICK, ..Rules::default() };
    let mut left_behind = 0;
    for seed in 0..RUNS {
        let mut world = World::new(3, rules);
        if let Err(violation) = world.walk(seed, STEPS) {
            panic!("seed {seed}: {violation}\n{}", world.story.join("\n"));
        }
        left_behind += usize::from(!world.left_behind.is_empty());
    }
    assert!(left_behind > 100, "the deadline was hardly ever needed: {left_behind} of {RUNS}");
}

/// Breadth first, so that the shortest counterexample would be found first.
#[test]
fn every_order_of_events_up_to_a_depth_is_safe() {
    let depth = search(Rules::default(), 60_000).unwrap_or_else(|story| panic!("{}", story.join("\n")));
    assert!(depth >= 6, "only {depth} steps deep");
}

#[test]
fn each_known_bug_is_found() {
    let bugs = [
        ("the authority activates without acknowledgements", Rules { ignore_acks: true, ..Rules::default() }),
        ("a restart forgets the nodes that have yet to speak", Rules { restart_forgets: true, ..Rules::default() }),
        ("the authority revokes before SVIDs are replaced", Rules { revoke_at_once: true, ..Rules::default() }),
        ("the bundle is published before it is durable", Rules { publish_early: true, ..Rules::default() }),
        ("nodes are given up before their SVIDs end", Rules { counted_for: SVID_TTL - TICK, ..Rules::default() }),
    ];
    for (bug, rules) in bugs {
        let found = (0..RUNS).any(|seed| World::new(3, rules).walk(seed, STEPS).is_err());
        assert!(found, "not found in {RUNS} runs: {bug}");
    }
    let story = search(Rules { ignore_acks: true, ..Rules::default() }, 60_000).unwrap_err();
    assert!(story.len() == 5, "the shortest way is prepare, activate, renew, deliver, and the violation: {story:?}");
}

/// Too long a story to be met by chance, so it is told: an answer of the old authority is late, and arrives when everybody else
/// has heard that it was revoked.
#[test]
fn a_late_answer_of_a_tainted_authority_is_not_adopted() {
    let story = [
        vec![Event::Renew(0), Event::Prepare],
        told(0, 1),
        told(1, 0),
        vec![Event::Activate, Event::Taint],
        told(0, 1),
        told(1, 0),
        vec![Event::Renew(0), Event::Deliver(0, 1), Event::Acknowledge(0), Event::Heard(0)],
        vec![Event::Renew(1), Event::Deliver(1, 0), Event::Acknowledge(1), Event::Heard(1)],
        vec![Event::Revoke, Event::Push(1), Event::Deliver(1, 0), Event::Deliver(0, 0)],
    ];
    let tell = |rules| {
        let mut world = World::new(2, rules);
        story.iter().flatten().try_for_each(|event| world.step(*event)).map(|()| world)
    };
    let world = tell(Rules::default()).unwrap();
    assert!(world.life.slots().iter().any(|slot| slot.state() == SlotState::Revoked));
    assert!(world.nodes.iter().all(|node| node.inbox.is_empty() && node.svid.is_some()));
    assert!(tell(Rules { adopt_tainted: true, ..Rules::default() }).is_err());
}

/// `node` is sent the bundle, which arrives as the `which`th of its messages, and says so.
fn told(node: usize, which: usize) -> Vec<Event> {
    vec![Event::Push(node), Event::Deliver(node, which), Event::Acknowledge(node), Event::Heard(node)]
}

/// What the model does; the default is what ships. Everything else is a bug to be found.
#[derive(Clone, Copy, Debug)]
struct Rules {
    ack_deadline: Duration,
    counted_for: Duration,
    ignore_acks: bool,
    restart_forgets: bool,
    revoke_at_once: bool,
    publish_early: bool,
    adopt_tainted: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            ack_deadline: Duration::from_secs(u64::MAX >> 2),
            counted_for: SVID_TTL,
            ignore_acks: false,
            restart_forgets: false,
            revoke_at_once: false,
            publish_early: false,
            adopt_tainted: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Tick,
    Prepare,
    /// The authority stops after it has made a successor and before that is durable.
    PrepareAndCrash,
    Activate,
    Taint,
    Revoke,
    Prune,
    Restart,
    /// The authority sends its bundle.
    Push(usize),
    /// The node asks for an SVID, and the authority answers.
    Renew(usize),
    /// A message arrives, whichever of those on their way.
    Deliver(usize, usize),
    Lose(usize),
    /// The node says what it has.
    Acknowledge(usize),
    /// What it said arrives.
    Heard(usize),
    Partition(usize),
    Heal(usize),
}

/// What members are told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bundle {
    sequence: u64,
    members: BTreeSet<KeyId>,
    tainted: BTreeSet<KeyId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Svid {
    issuer: KeyId,
    not_after: UnixTime,
}

#[derive(Clone, Debug)]
struct Message {
    bundle: Bundle,
    svid: Option<Svid>,
}

#[derive(Clone, Debug)]
struct Node {
    id: SpiffeId,
    bundle: Bundle,
    svid: Option<Svid>,
    cut_off: bool,
    inbox: Vec<Message>,
    said: VecDeque<(u64, Option<KeyId>)>,
}

#[derive(Clone)]
struct World {
    rules: Rules,
    now: UnixTime,
    life: CaLife,
    acks: Acks,
    nodes: Vec<Node>,
    /// Authorities made beforehand would have the wrong times, so they are made when needed, from a seed.
    made: u64,
    published: BTreeMap<u64, BTreeSet<KeyId>>,
    /// Who was left behind when which authority was activated.
    left_behind: BTreeSet<(KeyId, SpiffeId)>,
    /// How often an authority has entered which state.
    taken: BTreeMap<&'static str, u64>,
    story: Vec<String>,
}

impl World {
    /// One authority signs, and every node holds an SVID of it.
    fn new(nodes: usize, rules: Rules) -> Self {
        let empty = Bundle { sequence: 0, members: BTreeSet::new(), tainted: BTreeSet::new() };
        let node = |number: usize| Node {
            id: id(&format!("spiffe://mesh.test/node/n{number}")),
            bundle: empty.clone(),
            svid: None,
            cut_off: false,
            inbox: Vec::new(),
            said: VecDeque::new(),
        };
        let mut world = Self {
            rules,
            now: NOW,
            life: CaLife::new("mesh.test".parse().unwrap()),
            acks: Acks::default(),
            nodes: (0..nodes).map(node).collect(),
            made: 0,
            published: BTreeMap::new(),
            left_behind: BTreeSet::new(),
            taken: BTreeMap::new(),
            story: Vec::new(),
        };
        for event in [Event::Prepare, Event::Activate] {
            world.step(event).unwrap();
        }
        for node in 0..nodes {
            for event in [Event::Renew(node), Event::Deliver(node, 0), Event::Acknowledge(node), Event::Heard(node)] {
                world.step(event).unwrap();
            }
        }
        world
    }

    /// Random events, then a world without faults in which everything has to come right.
    fn walk(&mut self, seed: u64, steps: usize) -> Result<(), String> {
        let mut dice = Entropy::new([0; 32]).fork(&seed.to_string());
        for _ in 0..steps {
            let event = self.any_event(&mut dice);
            self.step(event)?;
        }
        self.recover()
    }

    fn any_event(&self, dice: &mut Entropy) -> Event {
        let node = dice.below(self.nodes.len() as u64) as usize;
        match dice.below(100) {
            0..=6 => Event::Tick,
            7..=9 => Event::Prepare,
            10 => Event::PrepareAndCrash,
            11..=16 => Event::Activate,
            17..=19 => Event::Taint,
            20..=23 => Event::Revoke,
            24..=26 => Event::Prune,
            27 => Event::Restart,
            28..=37 => Event::Push(node),
            38..=47 => Event::Renew(node),
            48..=65 => Event::Deliver(node, dice.below(INBOX_MAX as u64) as usize),
            66 => Event::Lose(node),
            67..=79 => Event::Acknowledge(node),
            80..=92 => Event::Heard(node),
            93 => Event::Partition(node),
            _ => Event::Heal(node),
        }
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        self.story.push(format!("{event:?}"));
        match event {
            Event::Tick => self.now = self.now + TICK,
            Event::Prepare => {
                let material = self.material();
                if let Ok(command) = self.life.prepare(material, self.now) {
                    self.apply(&command);
                }
            }
            Event::PrepareAndCrash => {
                let material = self.material();
                if let (true, Ok(command)) = (self.rules.publish_early, self.life.prepare(material, self.now)) {
                    let durable = self.life.clone();
                    self.apply(&command);
                    (0..self.nodes.len()).for_each(|node| self.send(node, None));
                    self.life = durable;
                }
                self.restart();
            }
            Event::Activate => self.activate(),
            Event::Taint => {
                let old = self.life.in_bundle(KIND).find(|slot| slot.state() == SlotState::Old).map(Slot::key_id);
                if let Some(Ok(command)) = old.map(|old| self.life.taint(old, self.now)) {
                    self.apply(&command);
                }
            }
            Event::Revoke => {
                let _ = self.revoke();
            }
            Event::Prune => {
                let ended = self.life.in_bundle(KIND).find_map(|slot| self.life.prune(slot.key_id(), self.now).ok());
                if let Some(command) = ended {
                    self.apply(&command);
                }
            }
            Event::Restart => self.restart(),
            Event::Push(node) => self.send(node, None),
            Event::Renew(node) => self.renew(node)?,
            Event::Deliver(node, which) => self.deliver(node, which),
            Event::Lose(node) => {
                self.nodes[node].inbox.pop();
            }
            Event::Acknowledge(node) => {
                let Node { bundle, svid, said, .. } = &mut self.nodes[node];
                said.push_back((bundle.sequence, svid.map(|svid| svid.issuer)));
                said.truncate(INBOX_MAX);
            }
            Event::Heard(node) => self.heard(node),
            Event::Partition(node) => self.nodes[node].cut_off = true,
            Event::Heal(node) => self.nodes[node].cut_off = false,
        }
        self.check()
    }

    fn activate(&mut self) {
        let patience = if self.rules.ignore_acks { Patience::Force } else { Patience::Wait };
        let Ok(command) = self.life.activate(KIND, &self.acks, &self.config(), patience, self.now) else { return };
        if let CaCommand::Activate { key_id, evidence: Evidence::Deadline { missing }, .. } = &command {
            self.left_behind.extend(missing.first.iter().map(|node| (*key_id, node.clone())));
        }
        self.apply(&command);
    }

    fn revoke(&mut self) -> Result<(), CaRefusal> {
        let tainted = |slot: &&Slot| matches!(slot.state(), SlotState::Tainted { .. });
        let Some(tainted) = self.life.in_bundle(KIND).find(tainted).map(Slot::key_id) else { return Ok(()) };
        let patience = if self.rules.revoke_at_once { Patience::Force } else { Patience::Wait };
        let command = self.life.revoke(tainted, &self.acks, patience, self.now)?;
        self.apply(&command);
        Ok(())
    }

    /// Durable before anybody hears of it: a restart finds the state as it is after this.
    fn apply(&mut self, command: &CaCommand) {
        let line = serde_json::to_string(command).unwrap();
        for transition in self.life.apply(&serde_json::from_str(&line).unwrap()).unwrap() {
            *self.taken.entry(transition.state).or_insert(0) += 1;
        }
    }

    fn restart(&mut self) {
        self.life = serde_json::from_slice(&serde_json::to_vec(&self.life).unwrap()).unwrap();
        self.acks = Acks::default();
        if !self.rules.restart_forgets {
            for node in &self.nodes {
                self.acks.expect(&node.id, self.now + self.rules.counted_for);
            }
        }
    }

    fn renew(&mut self, node: usize) -> Result<(), String> {
        let Some(signer) = self.life.active(KIND).filter(|slot| self.now <= slot.not_after()) else { return Ok(()) };
        if self.nodes[node].cut_off {
            return Ok(());
        }
        if !self.life.needs_private_key(signer.key_id()) {
            return Err(format!("{} signs although its key is destroyed", signer.key_id()));
        }
        let svid = Svid { issuer: signer.key_id(), not_after: (self.now + SVID_TTL).min(signer.not_after()) };
        self.acks.expect(&self.nodes[node].id, self.now + self.rules.counted_for);
        self.send(node, Some(svid));
        Ok(())
    }

    fn send(&mut self, node: usize, svid: Option<Svid>) {
        let members = self.life.in_bundle(KIND).map(Slot::key_id).collect();
        let bundle = Bundle { sequence: self.life.sequence(), members, tainted: self.life.tainted().collect() };
        self.published.entry(bundle.sequence).or_insert_with(|| bundle.members.clone());
        let node = &mut self.nodes[node];
        if !node.cut_off && node.inbox.len() < INBOX_MAX {
            node.inbox.push(Message { bundle, svid });
        }
    }

    fn deliver(&mut self, node: usize, which: usize) {
        let (now, adopt_tainted) = (self.now, self.rules.adopt_tainted);
        let node = &mut self.nodes[node];
        if node.cut_off || which >= node.inbox.len() {
            return;
        }
        let Message { bundle, svid } = node.inbox.remove(which);
        if bundle.sequence > node.bundle.sequence {
            node.bundle = bundle;
        }
        let known = |issuer| node.bundle.members.contains(&issuer);
        let tainted = |issuer| node.bundle.tainted.contains(&issuer) && !adopt_tainted;
        if let Some(svid) = svid.filter(|svid| now <= svid.not_after && known(svid.issuer) && !tainted(svid.issuer)) {
            node.svid = Some(svid);
        }
    }

    fn heard(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.cut_off {
            return;
        }
        if let Some((sequence, issuer)) = node.said.pop_front() {
            self.acks.record(&node.id, sequence, issuer, self.now);
        }
    }

    fn check(&self) -> Result<(), String> {
        let valid = |node: &Node| node.svid.filter(|svid| self.now <= svid.not_after);
        for holder in &self.nodes {
            let Some(svid) = valid(holder) else { continue };
            for peer in &self.nodes {
                let needs_it = peer.id == holder.id || valid(peer).is_some();
                let left_behind = self.left_behind.contains(&(svid.issuer, peer.id.clone()));
                if needs_it && !left_behind && !peer.bundle.members.contains(&svid.issuer) {
                    let (holder, peer, sequence) = (&holder.id, &peer.id, peer.bundle.sequence);
                    return Err(format!("{holder} shows an SVID of {}, {peer} has bundle {sequence}", svid.issuer));
                }
            }
        }
        let members: BTreeSet<KeyId> = self.life.in_bundle(KIND).map(Slot::key_id).collect();
        match self.published.get(&self.life.sequence()) {
            Some(published) if *published != members => {
                Err(format!("bundle {} has two contents", self.life.sequence()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Without faults every SVID of a tainted authority is replaced, and the authority can be revoked.
    fn recover(&mut self) -> Result<(), String> {
        let all = 0..self.nodes.len();
        for event in all.clone().map(Event::Heal).chain([Event::Prune, Event::Prepare, Event::Activate]) {
            self.step(event)?;
        }
        for node in all.clone().chain(all.clone()) {
            while !self.nodes[node].inbox.is_empty() {
                self.step(Event::Deliver(node, 0))?;
            }
            self.step(Event::Push(node))?;
            self.step(Event::Deliver(node, 0))?;
            let Node { svid, bundle, .. } = &self.nodes[node];
            let has_to = svid.is_none_or(|svid| self.now > svid.not_after || bundle.tainted.contains(&svid.issuer));
            if has_to {
                self.step(Event::Renew(node))?;
                self.step(Event::Deliver(node, 0))?;
            }
            self.step(Event::Acknowledge(node))?;
            while !self.nodes[node].said.is_empty() {
                self.step(Event::Heard(node))?;
            }
        }
        self.step(Event::Activate)?;
        let tainted: BTreeSet<KeyId> = self.life.tainted().collect();
        if let Some(node) = self.nodes.iter().find(|node| node.svid.is_some_and(|svid| tainted.contains(&svid.issuer)))
        {
            return Err(format!("{} was not re-keyed", node.id));
        }
        self.revoke().map_err(|refusal| refusal.to_string())?;
        self.check()
    }

    fn material(&mut self) -> Material {
        self.made += 1;
        let mut entropy = Entropy::new([1; 32]).fork(&self.made.to_string());
        let key = SeededKeys::new(entropy.fork("key")).generate().unwrap();
        let life = (self.now, self.now + CA_LIFE);
        Material::self_signed(self.life.trust_domain(), &key, life, None, &mut entropy).unwrap()
    }

    fn config(&self) -> CaLifeConfig {
        let ack_deadline = self.rules.ack_deadline;
        CaLifeConfig { x509_life: CA_LIFE, ack_deadline, ..CaLifeConfig::default() }
    }

    /// Equal for worlds in which the same may happen from here on.
    fn fingerprint(&self) -> String {
        let slots: Vec<_> = self.life.slots().iter().map(|slot| (slot.key_id(), slot.state(), slot.since())).collect();
        format!("{:?} {slots:?} {:?} {:?} {}", self.now, self.acks, self.nodes, self.made)
    }
}

/// Every world that is reached from two nodes in peace, nearest first, until `worlds_max` have been seen: how deep that was,
/// or the story of the first violation.
fn search(rules: Rules, worlds_max: usize) -> Result<usize, Vec<String>> {
    let mut start = World::new(2, rules);
    start.story.clear();
    let mut events = vec![Event::Tick, Event::Prepare, Event::Activate, Event::Taint, Event::Revoke, Event::Restart];
    for node in 0..2 {
        events.extend([Event::Push(node), Event::Renew(node), Event::Deliver(node, 0), Event::Deliver(node, 1)]);
        events.extend([Event::Acknowledge(node), Event::Heard(node)]);
    }
    let mut seen = BTreeSet::from([fingerprint_hash(&start.fingerprint())]);
    let mut frontier = vec![start];
    for depth in 0.. {
        let mut next = Vec::new();
        for world in &frontier {
            for event in &events {
                let mut world = world.clone();
                world.step(*event).map_err(|violation| [world.story.clone(), vec![violation]].concat())?;
                if seen.len() >= worlds_max {
                    return Ok(depth);
                }
                if seen.insert(fingerprint_hash(&world.fingerprint())) {
                    next.push(world);
                }
            }
        }
        frontier = next;
    }
    unreachable!("the worlds never end")
}

fn fingerprint_hash(text: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref());
    digest
}
