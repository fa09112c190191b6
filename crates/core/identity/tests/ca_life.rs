//! The life of an authority: which step follows which, what each waits for, and what is said when it is refused.
#![expect(clippy::unwrap_used, reason = "a test whose arrangement fails should stop")]

mod support;

use std::time::Duration;

use support::{NOW, id, secs};
use x0t_identity::ca_life::{
    Acks, AuthorityKind, CaAction, CaCommand, CaLife, CaLifeConfig, Evidence, KeyId, Material, Patience,
    SLOTS_IN_BUNDLE_MAX, Slot, SlotState, TAIL, Waiting,
};
use x0t_identity::{AwsLcKeys, KeySource, SeededKeys};
use x0t_model::{Entropy, SpiffeId, TrustDomain, UnixTime};

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const X509: AuthorityKind = AuthorityKind::X509;
/// The bundle that holds the JWT key and the first X.509 authority of [`Ca::with_an_active_authority`].
const FIRST: u64 = 2;
/// The bundle after the next preparation.
const NEXT: u64 = 3;

#[test]
fn the_first_authority_signs_at_once_for_nobody_waits_for_it() {
    let mut ca = Ca::new();
    let first = ca.prepare(NOW, YEAR);
    assert_eq!(ca.state(first), "prepared");
    ca.activate(NOW).unwrap();
    assert_eq!((ca.state(first), ca.life.sequence()), ("active", 1));
}

#[test]
fn a_successor_signs_when_every_live_node_has_the_bundle_that_holds_it() {
    let mut ca = Ca::with_an_active_authority();
    ca.hear("b", FIRST, NOW);
    ca.hear("c", FIRST, NOW);
    let next = ca.prepare(NOW, YEAR);
    assert_eq!(ca.life.sequence(), NEXT);
    assert_eq!(ca.activate(NOW).unwrap_err(), "unacknowledged");
    ca.hear("b", NEXT, NOW);
    assert_eq!(ca.activate(NOW).unwrap_err(), "unacknowledged");
    ca.hear("c", NEXT, NOW);
    assert_eq!(ca.activate(NOW).unwrap(), Evidence::AllReady { nodes: 2 });
    assert_eq!(ca.life.active(X509).map(Slot::key_id), Some(next));
    assert_eq!(ca.states(), ["old", "active"]);
    assert_eq!(ca.life.sequence(), NEXT, "an activation changes nothing in the bundle");
}

#[test]
fn a_node_whose_svids_have_all_ended_is_not_waited_for() {
    let mut ca = Ca::with_an_active_authority();
    ca.acks.expect(&node("away"), NOW + secs(300));
    ca.hear("b", FIRST, NOW);
    ca.prepare(NOW, YEAR);
    ca.hear("b", NEXT, NOW);
    assert_eq!(ca.activate(NOW + secs(300)).unwrap_err(), "unacknowledged");
    assert_eq!(ca.activate(NOW + secs(301)).unwrap(), Evidence::AllReady { nodes: 1 });
}

#[test]
fn after_the_deadline_a_successor_signs_and_the_journal_says_who_was_left_behind() {
    let mut ca = Ca::with_an_active_authority();
    ca.prepare(NOW, YEAR);
    ca.hear("slow", FIRST, NOW + secs(599));
    assert_eq!(ca.activate(NOW + secs(599)).unwrap_err(), "unacknowledged");
    let Evidence::Deadline { missing } = ca.activate(NOW + secs(600)).unwrap() else { panic!("not by the deadline") };
    assert_eq!((missing.count, missing.first), (1, vec![node("slow")]));
}

#[test]
fn an_operator_may_force_what_a_node_holds_up() {
    let mut ca = Ca::with_an_active_authority();
    ca.prepare(NOW, YEAR);
    ca.hear("slow", FIRST, NOW);
    let command = ca.life.activate(X509, &ca.acks, &ca.config, Patience::Force, NOW).unwrap();
    assert!(
        matches!(&command, CaCommand::Activate { evidence: Evidence::Forced { missing }, .. } if missing.count == 1)
    );
}

#[test]
fn after_a_restart_nodes_that_have_yet_to_speak_are_waited_for() {
    let mut ca = Ca::with_an_active_authority();
    ca.prepare(NOW, YEAR);
    ca.acks = Acks::default();
    assert!(ca.acks.expect(&node("b"), NOW + DAY));
    assert_eq!(ca.activate(NOW).unwrap_err(), "unacknowledged");
    ca.hear("b", NEXT, NOW);
    // A renewal is a sign of life, and no step back.
    assert!(ca.acks.expect(&node("b"), NOW + DAY + secs(60)));
    ca.activate(NOW + secs(60)).unwrap();
}

#[test]
fn a_node_that_was_set_back_to_an_older_bundle_is_believed() {
    let mut ca = Ca::with_an_active_authority();
    ca.prepare(NOW, YEAR);
    ca.hear("b", NEXT, NOW);
    ca.hear("b", FIRST, NOW);
    assert_eq!(ca.activate(NOW).unwrap_err(), "unacknowledged");
    ca.acks.forget(&node("b"));
    assert!(!ca.acks.record(&node("b"), NEXT, None, NOW), "nobody waits for it, and it has no say");
    ca.activate(NOW).unwrap();
}

#[test]
fn l12_an_authority_that_slept_past_the_end_of_everything_prepares_and_activates_at_once() {
    let mut ca = Ca::with_an_active_authority();
    let now = NOW + YEAR + secs(1);
    ca.acks.expect(&node("b"), now + DAY);
    let step = ca.life.ready(&ca.acks, &ca.config, now).unwrap();
    assert_eq!((step.action, step.key_id), (CaAction::Prepare, None));
    ca.prepare(now, YEAR);
    assert_eq!(ca.activate(now).unwrap(), Evidence::NothingValid);
}

#[test]
fn each_step_in_each_state_is_taken_or_refused_with_what_to_do_next() {
    // Rows: the state of the authority; columns: activate, taint, revoke, prune (a day after the end of it).
    let table = [
        ("prepared", ["ok", "ok", "not_tainted", "ok"]),
        ("active", ["not_prepared", "still_active", "still_active", "still_active"]),
        ("old", ["not_prepared", "ok", "not_tainted", "ok"]),
        ("tainted", ["tainted", "already_tainted", "ok", "ok"]),
        ("revoked", ["not_prepared", "gone", "gone", "gone"]),
        ("pruned", ["not_prepared", "gone", "gone", "gone"]),
    ];
    for (state, expected) in table {
        let (ca, key_id) = Ca::with_one(state);
        assert_eq!(ca.state(key_id), state);
        let end = ca.life.slot(key_id).unwrap().not_after() + TAIL;
        let nothing = Evidence::AllReady { nodes: 0 };
        let commands = [
            CaCommand::Activate { key_id, evidence: nothing.clone(), at: NOW },
            CaCommand::Taint { key_id, at: NOW },
            CaCommand::Revoke { key_id, evidence: nothing, at: NOW },
            CaCommand::Prune { key_id, at: end },
        ];
        for (command, expected) in commands.iter().zip(expected) {
            let mut life = ca.life.clone();
            let outcome = life.apply(command);
            assert_eq!(
                outcome.as_ref().map_or_else(|refusal| refusal.code(), |_| "ok"),
                expected,
                "{state}: {command:?}"
            );
            if let Err(refusal) = outcome {
                assert_eq!(life, ca.life, "a refused command has changed something");
                let text = refusal.to_string();
                assert!(text.contains(": ") && text.contains(&key_id.to_string()), "{text}");
            }
        }
    }
}

#[test]
fn what_is_not_known_cannot_be_changed() {
    let mut ca = Ca::with_an_active_authority();
    let key_id = KeyId::of(b"nobody");
    for command in [
        CaCommand::Activate { key_id, evidence: Evidence::NothingValid, at: NOW },
        CaCommand::Taint { key_id, at: NOW },
        CaCommand::Revoke { key_id, evidence: Evidence::NothingValid, at: NOW },
        CaCommand::Prune { key_id, at: NOW },
    ] {
        assert_eq!(ca.life.apply(&command).unwrap_err().code(), "unknown");
    }
    assert_eq!(ca.activate(NOW).unwrap_err(), "nothing_prepared");
}

#[test]
fn only_one_successor_is_prepared_at_a_time_and_no_key_twice() {
    let mut ca = Ca::with_an_active_authority();
    let material = ca.material(NOW, YEAR);
    let command = ca.life.prepare(material.clone(), NOW).unwrap();
    ca.life.apply(&command).unwrap();
    assert_eq!(ca.life.apply(&command).unwrap_err().code(), "key_id_in_use");
    let other = ca.material(NOW, YEAR);
    assert_eq!(ca.life.prepare(other, NOW).unwrap_err().code(), "already_prepared");
}

#[test]
fn an_authority_of_another_trust_domain_or_without_a_future_is_not_prepared() {
    let mut ca = Ca::new();
    let key = ca.keys.generate().unwrap();
    let other: TrustDomain = "other.test".parse().unwrap();
    let foreign = Material::self_signed(&other, &key, (NOW, NOW + YEAR), None, &mut ca.entropy).unwrap();
    assert_eq!(ca.life.prepare(foreign, NOW).unwrap_err().code(), "bad_material");
    let past = ca.material(NOW - YEAR, DAY);
    assert_eq!(ca.life.prepare(past, NOW).unwrap_err().code(), "expired");
}

#[test]
fn the_bundle_holds_a_bounded_number_of_authorities() {
    let mut ca = Ca::with_an_active_authority();
    for _ in 1..SLOTS_IN_BUNDLE_MAX {
        ca.prepare(NOW, YEAR);
        ca.activate(NOW).unwrap();
    }
    let material = ca.material(NOW, YEAR);
    assert_eq!(ca.life.prepare(material, NOW).unwrap_err().code(), "bundle_full");
}

#[test]
fn a_tainted_authority_is_revoked_when_every_live_node_has_replaced_its_svid() {
    let mut ca = Ca::with_an_active_authority();
    let leaked = ca.life.active(X509).unwrap().key_id();
    ca.prepare(NOW, YEAR);
    ca.activate(NOW).unwrap();
    let next = ca.life.active(X509).unwrap().key_id();
    ca.say("b", NEXT, Some(leaked), NOW);
    ca.life.apply(&ca.life.taint(leaked, NOW).unwrap()).unwrap();
    assert_eq!(ca.life.tainted().collect::<Vec<_>>(), [leaked]);
    assert!(!ca.life.needs_private_key(leaked) && ca.life.needs_private_key(next));
    assert!(ca.life.in_bundle(X509).any(|slot| slot.key_id() == leaked), "its SVIDs validate until they are replaced");

    assert_eq!(ca.revoke(leaked, NOW).unwrap_err(), "still_held");
    ca.say("b", NEXT, Some(next), NOW);
    assert_eq!(
        ca.revoke(leaked, NOW).unwrap_err(),
        "still_held",
        "it may adopt a late answer: it has not heard of the taint"
    );
    ca.say("b", NEXT + 1, None, NOW);
    assert_eq!(ca.revoke(leaked, NOW).unwrap_err(), "still_held");
    ca.say("b", NEXT + 1, Some(next), NOW);
    assert_eq!(ca.revoke(leaked, NOW).unwrap(), Evidence::AllReady { nodes: 1 });
    assert!(ca.life.in_bundle(X509).all(|slot| slot.key_id() == next));
    assert_eq!(ca.life.tainted().collect::<Vec<_>>(), [leaked], "a revoked key stays known as one");
    assert_eq!(ca.life.sequence(), NEXT + 2);
}

#[test]
fn the_plan_prepares_at_thirty_days_and_activates_at_seven_and_prunes_a_day_after_the_end() {
    let mut ca = Ca::with_an_active_authority();
    let end = ca.life.active(X509).unwrap().not_after();
    assert_eq!(ca.plan(NOW), [(CaAction::Prepare, end - 30 * DAY), (CaAction::Activate, end - 7 * DAY)]);
    assert!(ca.life.ready(&ca.acks, &ca.config, end - 30 * DAY - secs(1)).is_none());
    let step = ca.life.ready(&ca.acks, &ca.config, end - 30 * DAY).unwrap();
    assert_eq!(step.action, CaAction::Prepare);

    ca.prepare(end - 30 * DAY, YEAR);
    assert_eq!(ca.plan(end - 30 * DAY), [(CaAction::Activate, end - 7 * DAY)]);
    assert_eq!(ca.life.wake_at(&ca.acks, &ca.config, end - 30 * DAY), Some(end - 7 * DAY));
    ca.activate(end - 7 * DAY).unwrap();
    let next = ca.life.active(X509).unwrap().not_after();
    let expected =
        [(CaAction::Prune, end + TAIL), (CaAction::Prepare, next - 30 * DAY), (CaAction::Activate, next - 7 * DAY)];
    assert_eq!(ca.plan(end), expected);
}

#[test]
fn a_short_life_is_divided_by_halves_and_sixths() {
    let mut ca = Ca::with_an_active_authority();
    ca.prepare(NOW, DAY);
    ca.activate(NOW).unwrap();
    let plan = [(CaAction::Prepare, NOW + secs(12 * 3600)), (CaAction::Activate, NOW + secs(20 * 3600))];
    assert_eq!(ca.plan(NOW)[..2], plan);
    let config = CaLifeConfig { x509_life: DAY, ..CaLifeConfig::default() };
    assert!(config.check(X509, secs(4 * 3600)).is_ok());
    assert_eq!(config.check(X509, secs(4 * 3600 + 1)).unwrap_err().code(), "life_too_short");
}

#[test]
fn the_plan_says_for_whom_a_step_waits() {
    let mut ca = Ca::with_an_active_authority();
    let old = ca.life.active(X509).unwrap().key_id();
    let end = ca.life.active(X509).unwrap().not_after();
    let now = end - 7 * DAY;
    ca.prepare(now, YEAR);
    ca.hear("slow", FIRST, now);
    let steps = ca.life.plan(&ca.acks, &ca.config, now);
    let [Waiting::Acknowledgements { sequence: NEXT, missing, deadline }] = &steps[0].waits[..] else {
        panic!("{steps:?}")
    };
    assert_eq!((missing.count, *deadline), (1, now + secs(600)));
    assert_eq!(ca.life.wake_at(&ca.acks, &ca.config, now), Some(now + secs(600)));

    ca.activate(now + secs(600)).unwrap();
    ca.life.apply(&ca.life.taint(old, now).unwrap()).unwrap();
    let steps = ca.life.plan(&ca.acks, &ca.config, now);
    let revoke = steps.iter().find(|step| step.action == CaAction::Revoke).unwrap();
    assert!(matches!(&revoke.waits[..], [Waiting::Operator, Waiting::Rekeying { holders }] if holders.count == 1));
}

#[test]
fn a_successor_that_was_never_needed_makes_room_for_another() {
    let mut ca = Ca::with_an_active_authority();
    let unused = ca.prepare(NOW, DAY);
    let later = NOW + DAY + secs(1);
    assert_eq!(ca.life.activate(X509, &ca.acks, &ca.config, Patience::Force, later).unwrap_err().code(), "expired");
    let step = ca.life.ready(&ca.acks, &ca.config, later).unwrap();
    assert_eq!((step.action, step.key_id), (CaAction::Prune, Some(unused)));
    ca.life.apply(&ca.life.prune(unused, later).unwrap()).unwrap();
    ca.prepare(later, YEAR);
}

#[test]
fn both_kinds_live_side_by_side_in_one_numbered_bundle() {
    let mut ca = Ca::new();
    ca.prepare(NOW, YEAR);
    ca.activate(NOW).unwrap();
    let key = AwsLcKeys.generate().unwrap();
    let jwt = Material::jwt(&key, (NOW, NOW + DAY));
    ca.life.apply(&ca.life.prepare(jwt, NOW).unwrap()).unwrap();
    assert_eq!(ca.life.sequence(), 2);
    let command = ca.life.activate(AuthorityKind::Jwt, &ca.acks, &ca.config, Patience::Wait, NOW).unwrap();
    ca.life.apply(&command).unwrap();
    let signer = ca.life.active(AuthorityKind::Jwt).unwrap();
    assert_eq!(signer.key_id(), KeyId::of(key.public_key_info()));
    assert_eq!(ca.life.in_bundle(X509).count(), 1);
}

#[test]
fn the_same_commands_give_the_same_state_whoever_applies_them() {
    let mut ca = Ca::with_an_active_authority();
    let first = ca.life.active(X509).unwrap().key_id();
    ca.prepare(NOW, YEAR);
    ca.hear("slow", FIRST, NOW);
    ca.activate(NOW + secs(600)).unwrap();
    let command = ca.life.taint(first, NOW).unwrap();
    ca.apply(&command);
    let journal: Vec<String> = ca.journal.iter().map(|command| serde_json::to_string(command).unwrap()).collect();
    let mut replica = CaLife::new(ca.life.trust_domain().clone());
    for line in &journal {
        replica.apply(&serde_json::from_str(line).unwrap()).unwrap();
    }
    assert_eq!(replica, ca.life);
    let stored = serde_json::to_vec(&ca.life).unwrap();
    assert_eq!(serde_json::from_slice::<CaLife>(&stored).unwrap(), ca.life);
}

#[test]
fn stored_state_that_contradicts_its_certificates_is_refused() {
    let (ca, _) = Ca::with_one("old");
    let stored = serde_json::to_value(&ca.life).unwrap();
    let damage: [fn(&mut serde_json::Value); 5] = [
        |stored| stored["slots"][1]["not_after"] = 1.into(),
        |stored| stored["slots"][1]["key_id"] = "00".repeat(20).into(),
        |stored| stored["trust_domain"] = "other.test".into(),
        |stored| stored["slots"][1]["state"] = serde_json::json!({"state": "active"}),
        |stored| stored["slots"][2] = stored["slots"][1].clone(),
    ];
    for damage in damage {
        let mut stored = stored.clone();
        damage(&mut stored);
        assert!(serde_json::from_value::<CaLife>(stored).is_err());
    }
}

#[test]
fn the_status_counts_who_holds_what_in_stable_words() {
    let mut ca = Ca::with_an_active_authority();
    let first = ca.life.active(X509).unwrap().key_id();
    ca.say("b", FIRST, Some(first), NOW);
    ca.prepare(NOW, YEAR);
    let status = serde_json::to_value(ca.life.status(&ca.acks, NOW)).unwrap();
    assert_eq!(
        (&status["sequence"], &status["live_nodes"], &status["behind"]["count"]),
        (&NEXT.into(), &1.into(), &1.into())
    );
    let (active, prepared) = (&status["authorities"][1], &status["authorities"][2]);
    assert_eq!(
        (&active["kind"], &active["state"], &active["made"]),
        (&"x509".into(), &"active".into(), &"self_signed".into())
    );
    assert_eq!((&active["nodes"], &active["key_id"]), (&1.into(), &first.to_string().into()));
    assert_eq!((&prepared["state"], &prepared["waits_for"]["count"]), (&"prepared".into(), &1.into()));
}

#[test]
fn a_key_id_is_read_as_it_is_written() {
    let key_id = KeyId::of(b"key");
    assert_eq!(key_id.to_string().parse::<KeyId>(), Ok(key_id));
    for wrong in ["", "00", "zz", &"0".repeat(39), &"0".repeat(42)] {
        assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
    }
}

struct Ca {
    life: CaLife,
    acks: Acks,
    config: CaLifeConfig,
    keys: SeededKeys,
    entropy: Entropy,
    journal: Vec<CaCommand>,
}

impl Ca {
    fn new() -> Self {
        let mut entropy = Entropy::new([9; 32]);
        Self {
            life: CaLife::new("mesh.test".parse().unwrap()),
            acks: Acks::default(),
            config: CaLifeConfig::default(),
            keys: SeededKeys::new(entropy.fork("keys")),
            entropy,
            journal: Vec::new(),
        }
    }

    fn with_an_active_authority() -> Self {
        let mut ca = Self::new();
        // So that the plan is about X.509 authorities.
        let key = AwsLcKeys.generate().unwrap();
        let lasting = ca.life.prepare(Material::jwt(&key, (NOW, NOW + 100 * YEAR)), NOW).unwrap();
        ca.apply(&lasting);
        let activate = ca.life.activate(AuthorityKind::Jwt, &ca.acks, &ca.config, Patience::Wait, NOW).unwrap();
        ca.apply(&activate);
        ca.prepare(NOW, YEAR);
        ca.activate(NOW).unwrap();
        ca
    }

    /// A trust domain with an authority in `state` beside those that it takes to get there.
    fn with_one(state: &str) -> (Self, KeyId) {
        let mut ca = Self::with_an_active_authority();
        let first = ca.life.active(X509).unwrap().key_id();
        if state == "active" {
            return (ca, first);
        }
        let second = ca.prepare(NOW, YEAR);
        if state == "prepared" {
            return (ca, second);
        }
        ca.activate(NOW).unwrap();
        let evidence = Evidence::AllReady { nodes: 0 };
        match state {
            "tainted" | "revoked" => ca.apply(&CaCommand::Taint { key_id: first, at: NOW }),
            "pruned" => ca.apply(&CaCommand::Prune { key_id: first, at: NOW + YEAR + TAIL }),
            _ => {}
        }
        if state == "revoked" {
            ca.apply(&CaCommand::Revoke { key_id: first, evidence, at: NOW });
        }
        (ca, first)
    }

    fn material(&mut self, at: UnixTime, life: Duration) -> Material {
        let key = self.keys.generate().unwrap();
        Material::self_signed(self.life.trust_domain(), &key, (at, at + life), None, &mut self.entropy).unwrap()
    }

    fn prepare(&mut self, at: UnixTime, life: Duration) -> KeyId {
        let material = self.material(at, life);
        let command = self.life.prepare(material, at).unwrap();
        self.apply(&command);
        self.life.prepared(X509).unwrap().key_id()
    }

    fn activate(&mut self, at: UnixTime) -> Result<Evidence, &'static str> {
        let command = self.life.activate(X509, &self.acks, &self.config, Patience::Wait, at);
        let command = command.map_err(|refusal| refusal.code())?;
        self.apply(&command);
        let CaCommand::Activate { evidence, .. } = command else { panic!("{command:?}") };
        Ok(evidence)
    }

    fn revoke(&mut self, key_id: KeyId, at: UnixTime) -> Result<Evidence, &'static str> {
        let command = self.life.revoke(key_id, &self.acks, Patience::Wait, at);
        let command = command.map_err(|refusal| refusal.code())?;
        self.apply(&command);
        let CaCommand::Revoke { evidence, .. } = command else { panic!("{command:?}") };
        Ok(evidence)
    }

    fn apply(&mut self, command: &CaCommand) {
        self.life.apply(command).unwrap();
        self.journal.push(command.clone());
    }

    fn hear(&mut self, name: &str, sequence: u64, seen: UnixTime) {
        self.say(name, sequence, None, seen);
    }

    fn say(&mut self, name: &str, sequence: u64, issuer: Option<KeyId>, seen: UnixTime) {
        self.acks.expect(&node(name), seen + DAY);
        assert!(self.acks.record(&node(name), sequence, issuer, seen));
    }

    fn plan(&self, now: UnixTime) -> Vec<(CaAction, UnixTime)> {
        let steps = self.life.plan(&self.acks, &self.config, now);
        steps.iter().filter(|step| step.kind == X509).map(|step| (step.action, step.due)).collect()
    }

    fn state(&self, key_id: KeyId) -> &'static str {
        self.life.slot(key_id).unwrap().state().name()
    }

    fn states(&self) -> Vec<&'static str> {
        let in_bundle = |slot: &&Slot| !matches!(slot.state(), SlotState::Revoked | SlotState::Pruned);
        self.life
            .slots()
            .iter()
            .filter(in_bundle)
            .filter(|slot| slot.kind() == X509)
            .map(|slot| slot.state().name())
            .collect()
    }
}

fn node(name: &str) -> SpiffeId {
    id(&format!("spiffe://mesh.test/node/{name}"))
}
