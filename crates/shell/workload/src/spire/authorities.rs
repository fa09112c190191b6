//! The life of a SPIRE server's keys: prepared, activated, tainted, revoked. The server enforces the order and says so.

use serde::Serialize;
use x0t_model::UnixTime;

use super::proto::localauthority::v1::local_authority_client::LocalAuthorityClient;
use super::proto::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, AuthorityState, GetJwtAuthorityStateRequest,
    GetX509AuthorityStateRequest, PrepareJwtAuthorityRequest, PrepareX509AuthorityRequest, RevokeJwtAuthorityRequest,
    RevokeX509AuthorityRequest, TaintJwtAuthorityRequest, TaintX509AuthorityRequest,
};
use super::{SpireError, SpireServer, bounded};

/// Which of the server's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Those that sign X.509-SVIDs.
    X509,
    /// Those that sign JWT-SVIDs.
    Jwt,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyState {
    /// A CA's subject key id in hexadecimal digits, or a token key's `kid`.
    pub id: String,
    /// The last second of its life.
    pub expires_at: UnixTime,
    /// The subject key id of the CA above, if there is one.
    pub upstream: Option<String>,
}

/// Where the keys of one kind stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeysView {
    /// Signs.
    pub active: Option<KeyState>,
    /// In the bundle, does not sign yet.
    pub prepared: Option<KeyState>,
    /// Has signed, is in the bundle still.
    pub old: Option<KeyState>,
}

impl SpireServer {
    /// Where the keys stand.
    pub async fn keys(&self, kind: KeyKind) -> Result<KeysView, SpireError> {
        let (active, prepared, old) = match kind {
            KeyKind::X509 => {
                let request = GetX509AuthorityStateRequest {};
                let call = |channel| async move { authority(channel).get_x509_authority_state(request).await };
                let answer = self.call("LocalAuthority.GetX509AuthorityState", call).await?;
                (answer.active, answer.prepared, answer.old)
            }
            KeyKind::Jwt => {
                let request = GetJwtAuthorityStateRequest {};
                let call = |channel| async move { authority(channel).get_jwt_authority_state(request).await };
                let answer = self.call("LocalAuthority.GetJWTAuthorityState", call).await?;
                (answer.active, answer.prepared, answer.old)
            }
        };
        Ok(KeysView { active: active.map(state), prepared: prepared.map(state), old: old.map(state) })
    }

    /// Makes the next key and puts it into the bundle.
    pub async fn prepare_key(&self, kind: KeyKind) -> Result<KeyState, SpireError> {
        match kind {
            KeyKind::X509 => {
                const METHOD: &str = "LocalAuthority.PrepareX509Authority";
                let request = PrepareX509AuthorityRequest {};
                let call = |channel| async move { authority(channel).prepare_x509_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.prepared_authority)
            }
            KeyKind::Jwt => {
                const METHOD: &str = "LocalAuthority.PrepareJWTAuthority";
                let request = PrepareJwtAuthorityRequest {};
                let call = |channel| async move { authority(channel).prepare_jwt_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.prepared_authority)
            }
        }
    }

    /// Has a prepared key sign from here on. Ask only when its public part has reached everybody: SPIRE does not wait.
    pub async fn activate_key(&self, kind: KeyKind, id: &str) -> Result<KeyState, SpireError> {
        let authority_id = id.to_owned();
        match kind {
            KeyKind::X509 => {
                const METHOD: &str = "LocalAuthority.ActivateX509Authority";
                let request = ActivateX509AuthorityRequest { authority_id };
                let call = |channel| async move { authority(channel).activate_x509_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.activated_authority)
            }
            KeyKind::Jwt => {
                const METHOD: &str = "LocalAuthority.ActivateJWTAuthority";
                let request = ActivateJwtAuthorityRequest { authority_id };
                let call = |channel| async move { authority(channel).activate_jwt_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.activated_authority)
            }
        }
    }

    /// Has everything that an old key signed be signed anew.
    pub async fn taint_key(&self, kind: KeyKind, id: &str) -> Result<KeyState, SpireError> {
        let authority_id = id.to_owned();
        match kind {
            KeyKind::X509 => {
                const METHOD: &str = "LocalAuthority.TaintX509Authority";
                let request = TaintX509AuthorityRequest { authority_id };
                let call = |channel| async move { authority(channel).taint_x509_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.tainted_authority)
            }
            KeyKind::Jwt => {
                const METHOD: &str = "LocalAuthority.TaintJWTAuthority";
                let request = TaintJwtAuthorityRequest { authority_id };
                let call = |channel| async move { authority(channel).taint_jwt_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.tainted_authority)
            }
        }
    }

    /// Takes a tainted key out of the bundle.
    pub async fn revoke_key(&self, kind: KeyKind, id: &str) -> Result<KeyState, SpireError> {
        let authority_id = id.to_owned();
        match kind {
            KeyKind::X509 => {
                const METHOD: &str = "LocalAuthority.RevokeX509Authority";
                let request = RevokeX509AuthorityRequest { authority_id };
                let call = |channel| async move { authority(channel).revoke_x509_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.revoked_authority)
            }
            KeyKind::Jwt => {
                const METHOD: &str = "LocalAuthority.RevokeJWTAuthority";
                let request = RevokeJwtAuthorityRequest { authority_id };
                let call = |channel| async move { authority(channel).revoke_jwt_authority(request).await };
                present(METHOD, self.call(METHOD, call).await?.revoked_authority)
            }
        }
    }
}

fn authority(channel: tonic::transport::Channel) -> LocalAuthorityClient<tonic::transport::Channel> {
    LocalAuthorityClient::new(channel)
}

fn present(method: &'static str, key: Option<AuthorityState>) -> Result<KeyState, SpireError> {
    key.map(state).ok_or(SpireError::Protocol { method, what: "no key in the answer" })
}

fn state(key: AuthorityState) -> KeyState {
    KeyState {
        id: bounded(&key.authority_id),
        expires_at: UnixTime::from_secs(u64::try_from(key.expires_at).unwrap_or_default()),
        upstream: Some(bounded(&key.upstream_authority_subject_key_id)).filter(|id| !id.is_empty()),
    }
}
