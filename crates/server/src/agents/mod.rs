//! The agents' API (`/agent/v1`, agents' port): every route behind [`identity::check`], which says whose certificate
//! the connection showed and refuses agents that were shut out.

mod enrol;
mod identity;
mod inventory;
mod poll;
mod polls;
mod questions;
mod report;
mod settle;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{post, put};

pub(crate) use enrol::enrol;
pub(crate) use identity::Peer;
pub(crate) use polls::Polls;
pub(crate) use questions::Questions;

use crate::app::Shared;
use crate::http::{around, not_allowed_method, not_found};
use crate::{backup, restore, transfer};

/// Returns the router of the agents' port.
pub(crate) fn router(app: &Shared) -> Router {
    let json = Router::new()
        .route("/agent/v1/certificate", post(enrol::renew))
        .route("/agent/v1/poll", post(poll::poll))
        .route(
            "/agent/v1/questions/{question}/answer",
            post(questions::answer),
        )
        .route("/agent/v1/inventory", post(inventory::take))
        .route("/agent/v1/jobs/{job}/report", post(report::report))
        .route("/agent/v1/jobs/{job}/finish", post(report::finish))
        .route("/agent/v1/jobs/{job}/void-bases", post(settle::void_bases))
        .route("/agent/v1/jobs/{job}/backup-session", post(backup::open))
        .route("/agent/v1/jobs/{job}/restore-session", post(restore::open))
        .route("/agent/v1/sessions/{session}/have", post(transfer::have))
        .route("/agent/v1/sessions/{session}/seals", post(transfer::seals))
        .route("/agent/v1/sessions/{session}/nodes", post(transfer::nodes))
        .route(
            "/agent/v1/sessions/{session}/chunks",
            post(transfer::chunks),
        )
        .route(
            "/agent/v1/sessions/{session}/cell-hashes",
            post(transfer::cell_hashes),
        )
        .route("/agent/v1/sessions/{session}/cells", post(transfer::cells))
        .route(
            "/agent/v1/sessions/{session}/publish",
            post(backup::publish),
        )
        .route("/agent/v1/sessions/{session}/bases", post(backup::bases))
        .route("/agent/v1/sessions/{session}/close", post(transfer::close))
        .route("/agent/v1/settle", post(settle::settle))
        .route("/agent/v1/settle-bases", post(settle::settle_bases))
        .layer(DefaultBodyLimit::max(api::AGENT_JSON_BODY_BYTES));
    let packs = Router::new()
        .route(
            "/agent/v1/sessions/{session}/packs/{pack}",
            put(transfer::put_pack),
        )
        .layer(DefaultBodyLimit::max(api::PACK_BODY_BYTES));
    let router = json
        .merge(packs)
        .route_layer(middleware::from_fn_with_state(app.clone(), identity::check))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed_method)
        .with_state(app.clone());
    around(router)
}
