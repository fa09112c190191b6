//! Agents of a SPIRE server, and the tokens by which they join.

use std::time::Duration;

use serde::Serialize;
use x0t_identity::Selectors;
use x0t_model::{SpiffeId, UnixTime};
use zeroize::Zeroizing;

use super::entry_form::{EntryFormError, from_spire_id, from_spire_selectors, to_spire_id};
use super::proto::agent::v1::agent_client::AgentClient;
use super::proto::agent::v1::{
    BanAgentRequest, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
};
use super::proto::types;
use super::{ANSWER_LEN_MAX, SpireError, SpireServer, bounded};

/// Agents of one page.
const PAGE: i32 = 200;

/// An agent as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentView {
    /// Its identity.
    pub id: SpiffeId,
    /// How it was attested: `join_token`, `x509pop`, …
    pub attestation: String,
    /// The last second of its SVID.
    pub not_after: UnixTime,
    /// What attestation found; entries for nodes match these.
    pub selectors: Selectors,
    /// It may not come back.
    pub banned: bool,
    /// It can attest anew by itself.
    pub can_reattest: bool,
    /// Its version, as it says; empty for old ones.
    pub version: String,
}

/// A secret that lets one agent join once. `Debug` shows none of it.
#[derive(Clone)]
pub struct JoinTokenForAgent {
    /// The secret.
    pub value: Zeroizing<String>,
    /// Until when.
    pub expires_at: UnixTime,
}

impl std::fmt::Debug for JoinTokenForAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinTokenForAgent").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl SpireServer {
    /// All agents, page by page.
    pub async fn list_agents(&self) -> Result<Vec<AgentView>, SpireError> {
        const METHOD: &str = "Agent.ListAgents";
        let page = |page_token: String| {
            let request = ListAgentsRequest { page_size: PAGE, page_token, ..ListAgentsRequest::default() };
            let call = self.call(METHOD, |channel| async move { agents(channel).list_agents(request).await });
            async move { call.await.map(|answer| (answer.agents, answer.next_page_token)) }
        };
        let all = self.pages(METHOD, page).await?;
        Ok(all.into_iter().map(view).collect::<Result<_, _>>()?)
    }

    /// One agent; [`SpireError::NotFound`] if there is none.
    pub async fn agent(&self, id: &SpiffeId) -> Result<AgentView, SpireError> {
        let request = GetAgentRequest { id: Some(to_spire_id(id)), output_mask: None };
        let call = |channel| async move { agents(channel).get_agent(request).await };
        Ok(view(self.call("Agent.GetAgent", call).await?)?)
    }

    /// Takes an agent out. It may attest anew.
    pub async fn evict_agent(&self, id: &SpiffeId) -> Result<(), SpireError> {
        let request = DeleteAgentRequest { id: Some(to_spire_id(id)) };
        let call = |channel| async move { agents(channel).delete_agent(request).await };
        self.call("Agent.DeleteAgent", call).await
    }

    /// Takes an agent out for good: until it is evicted as well, it may not attest anew.
    pub async fn ban_agent(&self, id: &SpiffeId) -> Result<(), SpireError> {
        let request = BanAgentRequest { id: Some(to_spire_id(id)) };
        let call = |channel| async move { agents(channel).ban_agent(request).await };
        self.call("Agent.BanAgent", call).await
    }

    /// Makes a token for one agent. `alias` is a second identity for it, by which entries can name it as their parent before
    /// it exists.
    pub async fn create_join_token(
        &self,
        ttl: Duration,
        alias: Option<&SpiffeId>,
    ) -> Result<JoinTokenForAgent, SpireError> {
        let seconds = i32::try_from(ttl.as_secs()).map_err(|_| EntryFormError::TtlTooLong(ttl))?;
        let request = CreateJoinTokenRequest { ttl: seconds, token: String::new(), agent_id: alias.map(to_spire_id) };
        let call = |channel| async move { agents(channel).create_join_token(request).await };
        let token = self.call("Agent.CreateJoinToken", call).await?;
        let expires_at = u64::try_from(token.expires_at).map_err(|_| EntryFormError::Negative("the expiry"))?;
        Ok(JoinTokenForAgent { value: Zeroizing::new(token.value), expires_at: UnixTime::from_secs(expires_at) })
    }
}

fn agents(channel: tonic::transport::Channel) -> AgentClient<tonic::transport::Channel> {
    AgentClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX)
}

fn view(agent: types::Agent) -> Result<AgentView, EntryFormError> {
    Ok(AgentView {
        id: from_spire_id(agent.id, "id of the agent")?,
        attestation: bounded(&agent.attestation_type),
        not_after: UnixTime::from_secs(u64::try_from(agent.x509svid_expires_at).unwrap_or_default()),
        selectors: from_spire_selectors(agent.selectors)?,
        banned: agent.banned,
        can_reattest: agent.can_reattest,
        version: bounded(&agent.agent_version),
    })
}
