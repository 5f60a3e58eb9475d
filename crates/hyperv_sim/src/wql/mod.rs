//! WQL: queries as text, as a tree, and what they select.

mod eval;
mod parse;

pub(crate) use eval::{Scope, check, is_known, matches};
pub(crate) use parse::{AssocFilter, Expr, Query, parse};
