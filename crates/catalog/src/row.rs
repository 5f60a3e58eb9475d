//! Reading columns. A value that makes no sense is an error that names the column, never a panic.

use std::str::FromStr;

use model::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;

use crate::CatalogError;
use crate::db::{Row, db};

fn bad(column: &str, value: &str) -> CatalogError {
    CatalogError::BadRow {
        column: column.to_owned(),
        value: value.chars().take(80).collect(),
    }
}

/// Typed access to the columns of a row.
pub(crate) trait Columns {
    fn text(&self, column: &str) -> Result<String, CatalogError>;
    fn opt_text(&self, column: &str) -> Result<Option<String>, CatalogError>;
    fn number(&self, column: &str) -> Result<i64, CatalogError>;
    fn opt_number(&self, column: &str) -> Result<Option<i64>, CatalogError>;

    fn parsed<T: FromStr>(&self, column: &str) -> Result<T, CatalogError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| bad(column, &text))
    }

    fn opt_parsed<T: FromStr>(&self, column: &str) -> Result<Option<T>, CatalogError> {
        match self.opt_text(column)? {
            Some(text) => Ok(Some(text.parse().map_err(|_| bad(column, &text))?)),
            None => Ok(None),
        }
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, CatalogError> {
        let text = self.text(column)?;
        serde_json::from_str(&text).map_err(|_| bad(column, &text))
    }

    /// A value of one of the enums of `model`, stored under its serialised name.
    fn name<T: DeserializeOwned>(&self, column: &str) -> Result<T, CatalogError> {
        let text = self.text(column)?;
        serde_json::from_value(serde_json::Value::String(text.clone()))
            .map_err(|_| bad(column, &text))
    }

    fn opt_name<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, CatalogError> {
        match self.opt_text(column)? {
            Some(text) => serde_json::from_value(serde_json::Value::String(text.clone()))
                .map(Some)
                .map_err(|_| bad(column, &text)),
            None => Ok(None),
        }
    }

    fn unsigned(&self, column: &str) -> Result<u64, CatalogError> {
        let number = self.number(column)?;
        u64::try_from(number).map_err(|_| bad(column, &number.to_string()))
    }

    fn small(&self, column: &str) -> Result<u32, CatalogError> {
        let number = self.number(column)?;
        u32::try_from(number).map_err(|_| bad(column, &number.to_string()))
    }

    fn opt_unsigned(&self, column: &str) -> Result<Option<u64>, CatalogError> {
        match self.opt_number(column)? {
            Some(number) => Ok(Some(
                u64::try_from(number).map_err(|_| bad(column, &number.to_string()))?,
            )),
            None => Ok(None),
        }
    }

    fn truth(&self, column: &str) -> Result<bool, CatalogError> {
        Ok(self.number(column)? != 0)
    }

    fn time(&self, column: &str) -> Result<Timestamp, CatalogError> {
        Ok(Timestamp::from_millis(self.number(column)?))
    }

    fn opt_time(&self, column: &str) -> Result<Option<Timestamp>, CatalogError> {
        Ok(self.opt_number(column)?.map(Timestamp::from_millis))
    }
}

impl Columns for Row {
    fn text(&self, column: &str) -> Result<String, CatalogError> {
        self.try_get(column)
            .map_err(db("read a row of the catalog"))
    }
    fn opt_text(&self, column: &str) -> Result<Option<String>, CatalogError> {
        self.try_get(column)
            .map_err(db("read a row of the catalog"))
    }
    fn number(&self, column: &str) -> Result<i64, CatalogError> {
        self.try_get(column)
            .map_err(db("read a row of the catalog"))
    }
    fn opt_number(&self, column: &str) -> Result<Option<i64>, CatalogError> {
        self.try_get(column)
            .map_err(db("read a row of the catalog"))
    }
}

/// Returns a size or count as the engine stores it; beyond 2^63 it is a refused request, not a wrapped number.
pub(crate) fn stored(number: u64) -> Result<i64, CatalogError> {
    i64::try_from(number)
        .map_err(|_| CatalogError::refused(format!("{number} is too large for the catalog")))
}

/// Returns the JSON of a value whose types always have one.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String, CatalogError> {
    serde_json::to_string(value)
        .map_err(|error| CatalogError::refused(format!("not to be written as JSON: {error}")))
}

/// Returns the name an enum of `model` is stored under.
pub(crate) fn to_name<T: Serialize>(value: &T) -> Result<String, CatalogError> {
    let json = to_json(value)?;
    Ok(json.trim_matches('"').to_owned())
}
