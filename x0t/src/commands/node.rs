//! `x0t node remove`: a name is taken back.

use serde::Serialize;
use x0t_identity::{AuthorityCommand, OperatorAnswer, OperatorRequest};
use x0t_model::SpiffeId;

use super::Context;
use super::entry::Revoked;
use crate::cli::{NodeAction, NodeName};
use crate::exit::{Exit, Failure};

#[derive(Serialize)]
struct Removed<'a> {
    removed: &'a SpiffeId,
    revoked: Revoked,
}

pub async fn run(context: &Context, NodeAction::Remove { name }: NodeAction) -> anyhow::Result<Exit> {
    let client = context.client();
    let status = client.status().await?;
    let id = SpiffeId::node(status.spiffe_id.trust_domain(), name.as_str())?;
    if id == status.spiffe_id && status.is_authority {
        let text = format!("{name} runs the authority of this mesh: its name is not taken back", name = name.as_str());
        return Err(Failure::new(Exit::Denied, text).next("`x0t down` stops it").into());
    }
    // Before the list: in between, it could renew.
    let forget = AuthorityCommand::ForgetName { name: name.as_str().to_owned() };
    match client.authority(&OperatorRequest::Change(forget)).await? {
        OperatorAnswer::Done => {}
        OperatorAnswer::Refused(refused) => return Err(not_removed(&name, &refused.code, &refused.text).into()),
        _ => return Err(unexpected().into()),
    }
    let revoked = match client.authority(&OperatorRequest::RevokeSvids { id: id.clone() }).await? {
        OperatorAnswer::Revoked { svids, complete_from } => Revoked::new(svids, complete_from),
        OperatorAnswer::Refused(refused) => {
            let text = format!("{id} was removed, but what it holds is not on the revocation list: {}", refused.text);
            return Err(Failure::new(Exit::Denied, text).into());
        }
        _ => return Err(unexpected().into()),
    };
    context.out.result(&Removed { removed: &id, revoked }, |_| format!("removed: {id}; {}", revoked.text()))?;
    if !context.out.is_json() {
        context.out.remark(
            "it gets no other SVID, by renewal or by its old key; nodes talk to it until the one it holds ends by itself, \
             within the life that SVIDs have here (`--svid-ttl`, 1h unless said otherwise)",
        );
    }
    Ok(Exit::Ok)
}

fn not_removed(name: &NodeName, code: &str, text: &str) -> Failure {
    if code == "unknown_name" {
        let text = format!("no node is called {} here", name.as_str());
        return Failure::new(Exit::Usage, text).next("`x0t routes` shows those that can be reached");
    }
    Failure::new(Exit::Denied, format!("not done: {text}"))
}

fn unexpected() -> Failure {
    Failure::new(Exit::Error, "the authority answered something else than what was asked")
}
