//! What SPIRE says, in terms of one node: given, failing, taken back.

use x0t_model::{SpiffeId, in_one_line};
use x0t_node::WorkloadApiNews;
use x0t_workload::client::X509Context;
use x0t_workload::regions::{Given, Serving};

use super::{Wanted, choose};

/// Reads what is given as news for one node.
#[derive(Debug)]
pub struct Follower {
    wanted: Wanted,
    /// The region that gave the SVID in use: only that one can take it back.
    from: Option<usize>,
}

impl Follower {
    /// For the node `me`, which was made with what `given` holds.
    pub fn new(me: &SpiffeId, given: &Given) -> Self {
        let name = me.node_name().map(str::to_owned);
        Self { wanted: Wanted { trust_domain: Some(me.trust_domain().clone()), name }, from: given.from }
    }

    /// What the node is to be told, if anything.
    pub fn read(&mut self, given: &Given) -> Option<WorkloadApiNews> {
        let problem = given.problem.as_ref().map(|error| in_one_line(error));
        let Some(context) = &given.context else {
            // Nothing was given, or what was given has been taken back.
            self.from.take()?;
            return Some(WorkloadApiNews::Withdrawn(
                problem.unwrap_or_else(|| "there is no identity any more".to_owned()),
            ));
        };
        if given.serving != Serving::Live {
            // Between two regions nothing is wrong yet.
            return problem.map(WorkloadApiNews::Failing);
        }
        match choose(context, &self.wanted) {
            Ok((svid, bundle)) => {
                self.from = given.from;
                Some(WorkloadApiNews::Given { svid: Box::new(svid), bundle })
            }
            // What cannot be used is still there: only an identity that is missing was taken back.
            Err(error) if self.is_given(context) => Some(WorkloadApiNews::Failing(error.to_string())),
            Err(error) if self.from.is_some() && self.from == given.from => {
                self.from = None;
                Some(WorkloadApiNews::Withdrawn(error.to_string()))
            }
            // Another region, whose entry may be on its way.
            Err(error) => Some(WorkloadApiNews::Failing(error.to_string())),
        }
    }

    fn is_given(&self, context: &X509Context) -> bool {
        context.svids().iter().any(|given| self.wanted.fits(given.svid.spiffe_id()))
    }
}
