//! What both APIs share: errors as problems, bodies that are read with limits, routes that say who may use them.

mod body;
mod error;
mod layers;
mod routes;

pub(crate) use body::{Body, Json, PathId, Query};
pub(crate) use error::{ApiError, ApiResult};
pub(crate) use layers::{around, not_allowed_method, not_found};
pub(crate) use routes::{Access, Caller, Routes};
