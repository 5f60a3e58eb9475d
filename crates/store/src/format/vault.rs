//! Layout of `vault.json`: the plain description of a vault, in JSON. Holds no secret.
//!
//! The parameters are those this format version is made of; a vault with others is refused, since its leaves could not
//! be read.

use model::{Timestamp, VaultId};
use serde::{Deserialize, Serialize};

use crate::{CELL_BYTES, CHUNK_MAX_CELLS, FAN_OUT, FormatError, REGION_CELLS};

const WHAT: &str = "vault description";

/// The format version this program writes.
pub const VERSION: u32 = 1;

/// What `vault.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultDescription {
    /// The vault.
    pub vault: VaultId,
    /// When it was made.
    pub created: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Version1 {
    format: String,
    version: u32,
    vault: VaultId,
    created: Timestamp,
    parameters: Parameters,
}

#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Parameters {
    cell_bytes: u64,
    region_cells: u16,
    chunk_max_cells: u16,
    fan_out: u16,
}

const PARAMETERS: Parameters = Parameters {
    cell_bytes: CELL_BYTES as u64,
    region_cells: REGION_CELLS,
    chunk_max_cells: CHUNK_MAX_CELLS,
    fan_out: FAN_OUT,
};

impl VaultDescription {
    /// Returns the bytes of `vault.json`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(&Version1 {
            format: "reprise vault".to_owned(),
            version: VERSION,
            vault: self.vault,
            created: self.created,
            parameters: PARAMETERS,
        })
        .expect("numbers and texts make JSON");
        json.push(b'\n');
        json
    }

    /// Reads `vault.json`.
    pub fn decode(json: &[u8]) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        struct Opening {
            format: String,
            version: u32,
        }
        let wrong = |source: serde_json::Error| FormatError::invalid(WHAT, source.to_string());
        if json.len() > 1 << 20 {
            return Err(FormatError::invalid(WHAT, "longer than 1 MiB"));
        }
        let opening: Opening = serde_json::from_slice(json).map_err(wrong)?;
        if opening.format != "reprise vault" {
            return Err(FormatError::WrongMagic { what: WHAT });
        }
        if opening.version != VERSION {
            return Err(FormatError::UnknownVersion {
                what: WHAT,
                version: opening.version,
            });
        }
        let read: Version1 = serde_json::from_slice(json).map_err(wrong)?;
        if read.parameters != PARAMETERS {
            return Err(FormatError::invalid(
                WHAT,
                format!("its parameters are {:?}", read.parameters),
            ));
        }
        Ok(Self {
            vault: read.vault,
            created: read.created,
        })
    }
}
