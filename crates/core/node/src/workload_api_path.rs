//! An identity from outside of the mesh: a Workload API gives it, renews it, and may take it back.
//!
//! What is given goes the way of a renewal: checked as a stranger would, adopted, shown to every peer anew (`trust_path`). What is
//! taken back ends every session, because each of them was made with it; the node stays, and begins again with the next.

use x0t_overlay::close_code;

use crate::api::{What, WorkloadApiNews};
use crate::node::Node;
use crate::trust_path::printable;

const WITHDRAWN: &str = "identity withdrawn";

impl Node {
    pub(crate) fn on_workload_api(&mut self, news: WorkloadApiNews) {
        let (now, wall) = (self.now, self.wall);
        match news {
            WorkloadApiNews::Given { svid, bundle } => match self.trust.take_given(*svid, bundle, now, wall) {
                // A new SVID is shown by the news that it makes.
                Ok(changed) if changed.bundle && !changed.svid => self.show_identity(),
                Ok(_) => {}
                Err(_) => self.stats.svids_refused += 1,
            },
            WorkloadApiNews::Failing(reason) => self.trust.source_failed(printable(&reason), now, wall),
            WorkloadApiNews::Withdrawn(reason) => self.trust.withdraw(printable(&reason), now, wall),
        }
    }

    /// The identity is nobody's to show any more: peers are told, and dialled again when there is another.
    pub(crate) fn on_withdrawn(&mut self, reason: String) {
        self.endpoint.clear_identity();
        for session in self.endpoint.sessions().collect::<Vec<_>>() {
            self.endpoint.close(session, close_code::APPLICATION, WITHDRAWN, self.now);
        }
        for link in self.links.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.lose_neighbor(link, "withdrawn");
        }
        self.tell(What::SvidWithdrawn { reason });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use x0t_identity::{Authority, AuthorityConfig, Bundle, KeySource as _, SeededKeys, Svid, signing_request};
    use x0t_model::{Entropy, Instant, SpiffeId, UnixTime};

    use crate::{Crypto, Input, Node, NodeConfig, Output, Start, StartError, VerifyAfresh, What, WorkloadApiNews};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    struct World {
        authority: Authority,
        keys: SeededKeys,
        entropy: Entropy,
    }

    impl World {
        fn new() -> Self {
            let mut entropy = Entropy::new([1; 32]);
            let mut keys = SeededKeys::new(entropy.fork("keys"));
            let owner: SpiffeId = "spiffe://mesh.test/node/spire".parse().unwrap();
            let config = AuthorityConfig::default();
            let authority = Authority::create(&owner, config, &mut keys, &mut entropy, NOW).unwrap();
            Self { authority, keys, entropy }
        }

        fn svid(&mut self, name: &str) -> Svid {
            let addresses = vec!["192.0.2.1:4600".parse().unwrap()];
            let ttl = std::time::Duration::from_secs(60);
            let token = self.authority.create_token(Some(name), ttl, addresses, &mut self.entropy, NOW).unwrap();
            let key = self.keys.generate().unwrap();
            let csr = signing_request(&key).unwrap();
            let issued = self.authority.redeem(&token.secret, Some(name), &csr, &mut self.entropy, NOW).unwrap();
            Svid::new(issued.chain, key).unwrap()
        }

        fn bundle(&self) -> Bundle {
            self.authority.bundle().clone()
        }

        fn start(&self, svid: Svid) -> Result<Start, StartError> {
            let sessions = Arc::new(x0t_overlay::tls::RustlsProvider::new());
            let keys = Box::new(SeededKeys::new(Entropy::new([9; 32])));
            let crypto = Crypto { sessions, signatures: Arc::new(VerifyAfresh), keys };
            let given = (svid, self.bundle());
            Start::from_workload_api(NodeConfig::default(), given, |_| None, 1, crypto, [0; 32]).map(|(start, _)| start)
        }
    }

    fn tell(node: &mut Node, news: WorkloadApiNews) -> Vec<Output> {
        node.handle(Input::WorkloadApi(news), Instant::from_millis(1_000), NOW);
        std::iter::from_fn(|| node.poll_output()).collect()
    }

    fn state(node: &Node) -> (String, bool) {
        let status = crate::Drive::view(node, Instant::from_millis(1_000), NOW).status;
        (status.svid_state, status.ready)
    }

    #[test]
    fn what_a_workload_api_gives_is_adopted_and_never_written() {
        let mut world = World::new();
        let first = world.svid("beta");
        let mut node = Node::new(world.start(first.clone()).unwrap(), Instant::ZERO, NOW).unwrap();
        let second = world.svid("beta");
        let given = |svid: &Svid, bundle| WorkloadApiNews::Given { svid: Box::new(svid.clone()), bundle };
        let said = tell(&mut node, given(&second, world.bundle()));
        assert_eq!(node.svid().chain(), second.chain());
        assert!(
            said.iter()
                .any(|output| matches!(output, Output::Event(event) if matches!(event.what, What::SvidRotated { .. })))
        );
        assert!(!said.iter().any(|output| matches!(output, Output::Persist(_))), "{said:?}");
        let stranger = world.svid("gamma");
        drop(tell(&mut node, given(&stranger, world.bundle())));
        assert_eq!(node.svid().chain(), second.chain(), "somebody else's is not ours");
        assert_eq!(state(&node), ("degraded".to_owned(), true));
        drop(tell(&mut node, given(&second, world.bundle())));
        assert_eq!(state(&node), ("valid".to_owned(), true));
    }

    #[test]
    fn an_svid_that_nobody_has_asked_for_brings_in_no_bundle() {
        let mut world = World::new();
        let svid = world.svid("beta");
        let mut node = Node::new(world.start(svid.clone()).unwrap(), Instant::ZERO, NOW).unwrap();
        let before = node.trust.bundle_document();
        let World { authority, keys, entropy } = &mut world;
        authority.prepare_ca(x0t_identity::ca_life::AuthorityKind::X509, keys, entropy, NOW).unwrap();
        let bundle = world.bundle();
        node.on_renewed(x0t_identity::message::RenewAccepted { chain: svid.chain().to_vec(), bundle });
        assert_eq!(node.trust.bundle_document(), before);
        assert_eq!(node.stats.identity_messages_refused, 1);
    }

    #[test]
    fn what_is_taken_back_is_told_and_shown_no_more_until_it_is_given_again() {
        let mut world = World::new();
        let first = world.svid("beta");
        let mut node = Node::new(world.start(first.clone()).unwrap(), Instant::ZERO, NOW).unwrap();
        let said = tell(&mut node, WorkloadApiNews::Withdrawn("no \u{1b}entry".to_owned()));
        let Some(Output::Event(event)) = said.first() else { panic!("{said:?}") };
        assert_eq!(event.what, What::SvidWithdrawn { reason: "no \u{fffd}entry".to_owned() });
        assert_eq!(state(&node), ("withdrawn".to_owned(), false));
        let connected = node.endpoint.connect(
            x0t_overlay::Purpose::Link,
            x0t_overlay::Carrier::Udp("192.0.2.1:4600".parse().unwrap()),
            node.now,
            NOW,
        );
        assert!(connected.is_err(), "no session is begun with it");
        drop(tell(&mut node, WorkloadApiNews::Given { svid: Box::new(first), bundle: world.bundle() }));
        assert_eq!(state(&node), ("valid".to_owned(), true));
    }
}
