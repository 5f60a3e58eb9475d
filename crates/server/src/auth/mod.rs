//! Who is calling: passwords, tokens, the brake on guessing.

mod password;
mod secret;
mod throttle;

use api::codes;
use api::v1::Role;
use axum::http::{HeaderMap, header};

pub(crate) use password::{check_password, hash_password, random_password};
pub(crate) use secret::{Secret, hash_secret};
pub(crate) use throttle::Throttle;

use crate::app::Shared;
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller};

/// Returns the name of a role as people know it.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Administrator => "administrator",
    }
}

/// Returns a role as the API knows it.
pub(crate) fn role_of(role: catalog::Role) -> Role {
    match role {
        catalog::Role::Viewer => Role::Viewer,
        catalog::Role::Operator => Role::Operator,
        catalog::Role::Administrator => Role::Administrator,
    }
}

/// Returns a role as the catalog knows it.
pub(crate) fn stored_role(role: Role) -> catalog::Role {
    match role {
        Role::Viewer => catalog::Role::Viewer,
        Role::Operator => catalog::Role::Operator,
        Role::Administrator => catalog::Role::Administrator,
    }
}

/// Says whose token a request carries.
pub(crate) async fn identify(app: &Shared, headers: &HeaderMap) -> ApiResult<Caller> {
    let refused = |why: &str| {
        ApiError::new(codes::NOT_AUTHENTICATED, why)
            .hint("log in with `reprise login`, or give a token in REPRISE_TOKEN")
    };
    let header = headers
        .get(header::AUTHORIZATION)
        .ok_or_else(|| refused("no token was given"))?;
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .ok_or_else(|| refused("the authorization header is not `Bearer <token>`"))?;
    let hash = hash_secret(token.trim());
    app.find_caller(&hash, clock::now())
        .await?
        .ok_or_else(|| refused("the token is not known, was revoked or has ended"))
}
