//! Routes of the people's API. A route cannot be added without saying who may use it.
//!
//! [`Routes::add`] takes the access with the handler and puts the check in front of it; the same table is what the
//! test of the roles walks.

use api::v1::Role;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::ApiError;
use crate::RouteEntry;
use crate::app::Shared;
use crate::auth;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everyone, without a token.
    Open,
    /// Whoever has this role or a higher one.
    Role(Role),
}

impl Access {
    fn role(self) -> Option<Role> {
        match self {
            Access::Open => None,
            Access::Role(role) => Some(role),
        }
    }
}

/// Who makes a request; handlers behind [`Access::Role`] can extract it.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Their name.
    pub(crate) user: String,
    /// Their id.
    pub(crate) user_id: model::UserId,
    /// The same for the audit log.
    pub(crate) actor: catalog::Actor,
    /// What the token they showed lets them do.
    pub(crate) role: Role,
    /// That token.
    pub(crate) token: catalog::TokenId,
}

/// The people's routes.
#[derive(Default)]
pub(crate) struct Routes {
    routes: Vec<(Access, UtoipaMethodRouter<Shared>)>,
    plain: Vec<(Access, &'static str, &'static str, MethodRouter<Shared>)>,
}

impl Routes {
    /// Adds handlers of one path that the same people may use.
    pub(crate) fn add(mut self, access: Access, route: UtoipaMethodRouter<Shared>) -> Self {
        self.routes.push((access, route));
        self
    }

    /// Adds a route that the OpenAPI document does not describe.
    pub(crate) fn add_plain(
        mut self,
        access: Access,
        method: &'static str,
        path: &'static str,
        handlers: MethodRouter<Shared>,
    ) -> Self {
        self.plain.push((access, method, path, handlers));
        self
    }

    /// Returns the table of all routes.
    pub(crate) fn entries(&self) -> Vec<RouteEntry> {
        let mut entries: Vec<RouteEntry> = self
            .plain
            .iter()
            .map(|(access, method, path, _)| RouteEntry {
                method: (*method).to_owned(),
                path: (*path).to_owned(),
                role: access.role(),
            })
            .collect();
        for (access, (_, paths, _)) in &self.routes {
            for (path, item) in &paths.paths {
                let methods = [
                    ("GET", &item.get),
                    ("PUT", &item.put),
                    ("POST", &item.post),
                    ("DELETE", &item.delete),
                    ("PATCH", &item.patch),
                ];
                for (method, operation) in methods {
                    if operation.is_some() {
                        entries.push(RouteEntry {
                            method: method.to_owned(),
                            path: path.clone(),
                            role: access.role(),
                        });
                    }
                }
            }
        }
        entries
    }

    /// Returns the OpenAPI description of all routes over `base`.
    pub(crate) fn openapi(self, base: OpenApi) -> OpenApi {
        let mut router = OpenApiRouter::with_openapi(base);
        for (access, (schemas, mut paths, handlers)) in self.routes {
            describe_access(access, &mut paths);
            let schemas: Vec<(String, RefOr<Schema>)> = schemas;
            router = router.routes((schemas, paths, handlers));
        }
        router.into_openapi()
    }

    /// Returns the router, each route behind its check.
    pub(crate) fn into_router(self, app: &Shared) -> Router<Shared> {
        let mut router = OpenApiRouter::new();
        for (access, (schemas, paths, handlers)) in self.routes {
            let check = middleware::from_fn_with_state((app.clone(), access), check_access);
            router = router.routes((schemas, paths, handlers.route_layer(check)));
        }
        let mut router = router.split_for_parts().0;
        for (access, _, path, handlers) in self.plain {
            let check = middleware::from_fn_with_state((app.clone(), access), check_access);
            router = router.route(path, handlers.route_layer(check));
        }
        router
    }
}

fn describe_access(access: Access, paths: &mut utoipa::openapi::path::Paths) {
    for item in paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            match access {
                Access::Open => operation.security = Some(Vec::new()),
                Access::Role(role) => {
                    let name: &[&str] = &[];
                    operation.security = Some(vec![SecurityRequirement::new(
                        "token",
                        name.iter().copied(),
                    )]);
                    let role = auth::role_name(role);
                    let text = operation.description.take().unwrap_or_default();
                    let gap = if text.is_empty() { "" } else { "\n\n" };
                    operation.description = Some(format!("{text}{gap}Role: {role}."));
                }
            }
        }
    }
}

async fn check_access(
    State((app, access)): State<(Shared, Access)>,
    mut request: Request,
    next: Next,
) -> Response {
    match access {
        Access::Open => {}
        Access::Role(needed) => {
            let caller = match auth::identify(&app, request.headers()).await {
                Ok(caller) => caller,
                Err(err) => return err.into_response(),
            };
            if caller.role < needed {
                return ApiError::not_allowed(format!(
                    "this needs the role {}; {} is {}",
                    auth::role_name(needed),
                    caller.user,
                    auth::role_name(caller.role)
                ))
                .hint("ask an administrator")
                .into_response();
            }
            request.extensions_mut().insert(caller);
        }
    }
    next.run(request).await
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _state: &S,
    ) -> Result<Self, ApiError> {
        parts.extensions.get::<Caller>().cloned().ok_or_else(|| {
            ApiError::internal(anyhow::anyhow!("an open route asked who is calling"))
        })
    }
}
