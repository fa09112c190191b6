//! What changes an authority: commands that give the same state wherever and whenever they are applied.
//!
//! Everything random or timed is inside the command, so a log of commands is the state (and a replicated log is a replicated
//! state). A command that does not apply is refused and changes nothing: with several authorities behind one log, the second
//! of two that spend one token is refused here and nowhere else.

use serde::{Deserialize, Serialize};
use x0t_model::{SpiffeId, UnixTime};

use super::refusal::CommandRefusal;
use super::tokens::{TokenHash, TokenId};
use super::{Authority, ISSUED_NAMES_MAX, check_name};
use crate::ca_life::CaCommand;
use crate::entry::{EntryId, EntrySpec};
use crate::federation::FederationCommand;
use crate::revocation::RevokedSvid;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum AuthorityCommand {
    /// Remembers a join token by the hash of its secret.
    AddToken {
        /// Of the secret.
        hash: TokenHash,
        /// The one name it is good for, or any.
        name: Option<String>,
        /// When it was made.
        at: UnixTime,
        /// Refused from the next second on.
        expires: UnixTime,
    },
    /// Forgets a token.
    RevokeToken {
        /// Which.
        id: TokenId,
    },
    /// Uses a token up and gives a name away. Refused if the token was used before: of many that race, one wins.
    SpendToken {
        /// Which.
        id: TokenId,
        /// By whom.
        name: String,
        /// When.
        at: UnixTime,
    },
    /// Takes a name back.
    ForgetName {
        /// Which.
        name: String,
    },
    /// Keeps a new registration entry.
    CreateEntry {
        /// Its name from now on.
        id: EntryId,
        /// What it says.
        spec: EntrySpec,
        /// When.
        at: UnixTime,
    },
    /// Replaces what an entry says.
    UpdateEntry {
        /// Which.
        id: EntryId,
        /// What it says from now on.
        spec: EntrySpec,
        /// When.
        at: UnixTime,
    },
    /// Deletes an entry. What was issued for it stays valid until its end.
    DeleteEntry {
        /// Which.
        id: EntryId,
    },
    /// An authority is prepared, activated, tainted, revoked or pruned.
    ChangeCa {
        /// The step.
        change: CaCommand,
    },
    /// Trust in a foreign trust domain begins, changes or ends.
    Federate {
        /// How.
        change: FederationCommand,
    },
    /// Puts SVIDs on the revocation list of the authority that signed them.
    RevokeSvids {
        /// Which.
        svids: Vec<RevokedSvid>,
        /// When.
        at: UnixTime,
    },
}

impl Authority {
    /// Applies one command, from the own log or from a replicated one. Refused commands change nothing.
    pub fn apply(&mut self, command: &AuthorityCommand) -> Result<(), CommandRefusal> {
        match command {
            AuthorityCommand::AddToken { hash, name, at, expires } => {
                name.iter().try_for_each(|name| self.check_given_name(name))?;
                if !self.tokens.insert(*hash, name.as_deref(), *at, *expires) {
                    return Err(CommandRefusal::TooManyTokens);
                }
            }
            AuthorityCommand::RevokeToken { id } => {
                if !self.tokens.remove(*id) {
                    return Err(CommandRefusal::UnknownToken(*id));
                }
            }
            AuthorityCommand::SpendToken { id, name, at } => {
                self.check_given_name(name)?;
                self.tokens.spend(*id, *at, name)?;
                self.names.insert(name.clone(), *at);
            }
            AuthorityCommand::ForgetName { name } => {
                if *name == self.name || self.names.remove(name).is_none() {
                    return Err(CommandRefusal::UnknownName(name.clone()));
                }
                // Whoever is gone acknowledges nothing, and is not waited for.
                if let Ok(node) = SpiffeId::node(self.node.trust_domain(), name) {
                    self.acks.forget(&node);
                }
            }
            AuthorityCommand::CreateEntry { id, spec, at } => {
                if self.entries.get(id).is_some() {
                    return Err(CommandRefusal::EntryExists(id.clone()));
                }
                self.entries.check(id, spec, self.node.trust_domain())?;
                self.revision += 1;
                self.entries.put(id, spec, *at, self.revision);
            }
            AuthorityCommand::UpdateEntry { id, spec, at } => {
                if self.entries.get(id).is_none() {
                    return Err(CommandRefusal::UnknownEntry(id.clone()));
                }
                self.entries.check(id, spec, self.node.trust_domain())?;
                self.revision += 1;
                self.entries.put(id, spec, *at, self.revision);
            }
            AuthorityCommand::DeleteEntry { id } => {
                if !self.entries.remove(id, self.revision + 1) {
                    return Err(CommandRefusal::UnknownEntry(id.clone()));
                }
                self.revision += 1;
            }
            AuthorityCommand::ChangeCa { change } => {
                self.keyring.apply(change)?;
            }
            AuthorityCommand::Federate { change } => {
                self.federations.apply(self.node.trust_domain(), change)?;
            }
            AuthorityCommand::RevokeSvids { svids, at } => {
                if !self.revocations.add(svids, *at) {
                    return Err(CommandRefusal::TooManyRevocations);
                }
                self.keyring.renumber()?;
            }
        }
        Ok(())
    }

    /// A name that could not be read back from the state must not get into it.
    fn check_given_name(&self, name: &str) -> Result<(), CommandRefusal> {
        let is_known = self.names.contains_key(name);
        if check_name(self.node.trust_domain(), name).is_err() || (!is_known && self.names.len() >= ISSUED_NAMES_MAX) {
            return Err(CommandRefusal::BadName(name.to_owned()));
        }
        Ok(())
    }
}
