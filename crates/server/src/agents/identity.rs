//! Whose request it is, from the certificate the connection showed.

use api::codes;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use catalog::{Actor, Agent};

use crate::app::Shared;
use crate::http::{ApiError, ApiResult};
use crate::tls::PeerAgent;

/// The agent that makes a request; not shut out when the request came.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Agent);

impl Peer {
    /// Returns the name for the audit log.
    pub(crate) fn actor(&self) -> Actor {
        Actor::Agent(self.0.id)
    }
}

/// Refuses requests of agents that are unknown or shut out.
pub(crate) async fn check(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    match find(&app, request.extensions().get::<PeerAgent>().copied()).await {
        Ok(peer) => {
            request.extensions_mut().insert(peer);
            next.run(request).await
        }
        Err(err) => err.into_response(),
    }
}

async fn find(app: &Shared, peer: Option<PeerAgent>) -> ApiResult<Peer> {
    let refused = || {
        ApiError::new(
            codes::NOT_AUTHENTICATED,
            "this agent is not known here or was shut out",
        )
        .hint("enrol it anew: `reprise host token`, then `reprise agent enroll`")
    };
    let PeerAgent(id) = peer.ok_or_else(refused)?;
    match app.catalog.agent(id).await {
        Ok(agent) if agent.revoked.is_none() => Ok(Peer(agent)),
        Ok(_) => Err(refused()),
        Err(err) if err.kind() == catalog::ErrorKind::NotFound => Err(refused()),
        Err(err) => Err(err.into()),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Peer>().cloned().ok_or_else(|| {
            ApiError::internal(anyhow::anyhow!("a route of agents is not behind the check"))
        })
    }
}
