//! Users and API tokens.

use api::v1::{NewToken, Page, Token, TokenSpec, User, UserSpec};
use axum::extract::State;
use axum::http::StatusCode;
use catalog::{ApiToken, SecretHash, TokenId};
use model::UserId;
use zeroize::Zeroizing;

use crate::app::Shared;
use crate::auth::{Secret, hash_password, role_of, stored_role};
use crate::clock;
use crate::http::{ApiError, ApiResult, Caller, Json, PathId};

const MIN_PASSWORD_CHARS: usize = 12;
const MAX_TOKEN_DAYS: u32 = 3650;
const DAY_SECS: u64 = 86_400;

/// Lists the users.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", responses((status = 200, body = Page<User>)))]
pub(super) async fn list(State(app): State<Shared>) -> ApiResult<Json<Page<User>>> {
    let items = app.catalog.users().await?.iter().map(describe).collect();
    Ok(Json(Page { items, next: None }))
}

/// Adds a user.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", request_body = UserSpec,
    responses((status = 201, body = User), (status = 409, body = api::Problem))
)]
pub(super) async fn create(
    State(app): State<Shared>,
    caller: Caller,
    Json(spec): Json<UserSpec>,
) -> ApiResult<(StatusCode, Json<User>)> {
    let password = Zeroizing::new(spec.password);
    let chars = password.chars().count();
    if !(MIN_PASSWORD_CHARS..=1000).contains(&chars) {
        return Err(ApiError::bad_request(format!(
            "a password has at least {MIN_PASSWORD_CHARS} characters"
        )));
    }
    let hash = hash_password(password).await.map_err(ApiError::internal)?;
    let role = stored_role(spec.role);
    let user = app
        .catalog
        .create_user(&spec.name, &hash, role, &caller.actor, clock::now())
        .await?;
    Ok((StatusCode::CREATED, Json(describe(&user))))
}

/// Removes a user with all their tokens.
#[utoipa::path(
    delete, path = "/api/v1/users/{user}", tag = "users", params(("user" = String, Path, description = "Id or name")),
    responses((status = 204), (status = 409, description = "The last administrator", body = api::Problem))
)]
pub(super) async fn delete(
    State(app): State<Shared>,
    PathId(user): PathId<String>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    let id = match user.parse::<UserId>() {
        Ok(id) => id,
        Err(_) => app
            .catalog
            .user_by_name(&user)
            .await?
            .map(|user| user.id)
            .ok_or_else(|| ApiError::not_found(format!("there is no user {user:?}")))?,
    };
    app.catalog
        .delete_user(id, &caller.actor, clock::now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the tokens that have not ended.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "users", responses((status = 200, body = Page<Token>)))]
pub(super) async fn list_tokens(State(app): State<Shared>) -> ApiResult<Json<Page<Token>>> {
    let items = app
        .catalog
        .tokens(None, clock::now())
        .await?
        .iter()
        .map(describe_token)
        .collect();
    Ok(Json(Page { items, next: None }))
}

/// Makes a token for a script.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "users", request_body = TokenSpec,
    responses((status = 201, body = NewToken), (status = 400, body = api::Problem))
)]
pub(super) async fn create_token(
    State(app): State<Shared>,
    caller: Caller,
    Json(spec): Json<TokenSpec>,
) -> ApiResult<(StatusCode, Json<NewToken>)> {
    let days = spec.days.unwrap_or(365);
    if !(1..=MAX_TOKEN_DAYS).contains(&days) {
        return Err(ApiError::bad_request(format!(
            "a token lives 1 to {MAX_TOKEN_DAYS} days"
        )));
    }
    if spec.role > caller.role {
        return Err(ApiError::not_allowed(
            "a token's role cannot be above its maker's",
        ));
    }
    let now = clock::now();
    let secret = Secret::random("rpt_").map_err(ApiError::internal)?;
    let new = catalog::NewToken {
        user: caller.user_id,
        name: spec.name,
        hash: SecretHash(secret.hash()),
        role: stored_role(spec.role),
        expires: now.plus_secs(u64::from(days) * DAY_SECS),
    };
    let token = app.catalog.create_token(new, &caller.actor, now).await?;
    let reply = NewToken {
        token: describe_token(&token),
        secret: secret.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(reply)))
}

/// Ends a token.
#[utoipa::path(
    delete, path = "/api/v1/tokens/{token}", tag = "users", params(("token" = String, Path, description = "Id")),
    responses((status = 204), (status = 404, body = api::Problem))
)]
pub(super) async fn delete_token(
    State(app): State<Shared>,
    PathId(token): PathId<String>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    let id: TokenId = token
        .parse()
        .map_err(|_| ApiError::not_found(format!("there is no token {token:?}")))?;
    app.catalog
        .revoke_token(id, &caller.actor, clock::now())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn describe(user: &catalog::User) -> User {
    User {
        id: user.id.to_string(),
        name: user.name.clone(),
        role: role_of(user.role),
        created: user.created.to_string(),
    }
}

fn describe_token(token: &ApiToken) -> Token {
    Token {
        id: token.id.to_string(),
        name: token.name.clone(),
        role: role_of(token.role),
        expires: token.expires.to_string(),
    }
}
