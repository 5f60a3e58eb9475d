//! Receipts of restores (`docs/receipts.md`): what is said, the exact bytes that are signed, and the file around them.
//!
//! The payload is JSON that is written once; the file carries those very bytes in base64, so nobody has to write JSON the
//! same way to check a signature. Signed is [`signed_bytes`]: a line that names format and version, then the payload.
//!
//! Names in the payload are added to, never renamed; a reader ignores what it does not know. Another version is refused
//! by name. Nothing here signs or checks: see the server, and the command `verify-receipt`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::v1::{JobFigures, NamedRef, Step};

/// First word of a receipt.
pub const FORMAT: &str = "reprise-receipt";
/// The version written here.
pub const VERSION: u32 = 1;
/// The only kind of signature.
pub const ALGORITHM: &str = "ed25519";
/// Longest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 64 << 20;
/// Most certificates in a file.
const MAX_CERTIFICATES: usize = 8;

/// A receipt as a file: the signed bytes, the signature, and whose key it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptFile {
    /// `reprise-receipt`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// The payload ([`Receipt`] as JSON), base64.
    pub payload: String,
    /// Signature over [`signed_bytes`], base64.
    pub signature: String,
    /// The key that signed.
    pub key: ReceiptKey,
}

/// A key that signs receipts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptKey {
    /// `ed25519`.
    pub algorithm: String,
    /// The public key, 32 bytes, base64.
    pub public: String,
    /// SHA-256 of the public key's 32 bytes, hexadecimal.
    pub fingerprint: String,
    /// The key's certificate, then that of the server's CA, each DER in base64.
    #[serde(default)]
    pub certificates: Vec<String>,
}

/// The bytes of a receipt's file, taken out of their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptParts {
    /// The payload, as it was signed.
    pub payload: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
    /// The public key.
    pub public: Vec<u8>,
    /// Certificates, DER: the key's, then the CA's.
    pub certificates: Vec<Vec<u8>>,
}

/// Why a file is no receipt that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// It is no JSON of this form.
    #[error("it is no receipt")]
    NotReceipt(#[source] serde_json::Error),
    /// It is something else.
    #[error("its format is {0:?}, not {FORMAT:?}")]
    Format(String),
    /// It is of another version.
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// It was signed in a way this program does not know.
    #[error("it was signed by {0:?}; this program knows {ALGORITHM:?}")]
    Algorithm(String),
    /// A part is no base64.
    #[error("its {0} cannot be decoded")]
    Encoding(&'static str),
    /// It is longer than any receipt.
    #[error("it is longer than {MAX_FILE_BYTES} bytes")]
    TooLong,
}

/// Returns what is signed: `reprise-receipt 1`, a line feed, the payload.
#[must_use]
pub fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    [format!("{FORMAT} {VERSION}\n").as_bytes(), payload].concat()
}

impl ReceiptFile {
    /// Puts a signed payload into a file.
    #[must_use]
    pub fn new(payload: &[u8], signature: &[u8], key: ReceiptKey) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            payload: STANDARD.encode(payload),
            signature: STANDARD.encode(signature),
            key,
        }
    }

    /// Reads a file. Nothing is known of its signature yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(ReceiptError::TooLong);
        }
        /// What says whether the rest can be understood.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(ReceiptError::NotReceipt)?;
        if head.format != FORMAT {
            return Err(ReceiptError::Format(head.format));
        }
        if head.version != VERSION {
            return Err(ReceiptError::Version(head.version));
        }
        serde_json::from_slice(bytes).map_err(ReceiptError::NotReceipt)
    }

    /// Takes the bytes out of their text.
    pub fn parts(&self) -> Result<ReceiptParts, ReceiptError> {
        if self.key.algorithm != ALGORITHM {
            return Err(ReceiptError::Algorithm(self.key.algorithm.clone()));
        }
        if self.key.certificates.len() > MAX_CERTIFICATES {
            return Err(ReceiptError::Encoding("certificates"));
        }
        let decode = |what, text: &String| {
            STANDARD
                .decode(text)
                .map_err(|_| ReceiptError::Encoding(what))
        };
        let certificates = self.key.certificates.iter();
        Ok(ReceiptParts {
            payload: decode("payload", &self.payload)?,
            signature: decode("signature", &self.signature)?,
            public: decode("key", &self.key.public)?,
            certificates: certificates
                .map(|der| decode("certificates", der))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl ReceiptKey {
    /// Describes a key by its bytes.
    #[must_use]
    pub fn new(public: &[u8], fingerprint: String, certificates: &[&[u8]]) -> Self {
        Self {
            algorithm: ALGORITHM.to_owned(),
            public: STANDARD.encode(public),
            fingerprint,
            certificates: certificates
                .iter()
                .map(|der| STANDARD.encode(der))
                .collect(),
        }
    }
}

/// What a receipt says of a restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// Id of the vault the data came from.
    pub vault: String,
    /// Version of the server that wrote it.
    pub server_version: String,
    /// Id of the job.
    pub job: String,
    /// Who asked for it.
    pub requested_by: String,
    /// When it was asked for (RFC 3339; so are all moments here).
    pub asked: String,
    /// When its first run began.
    pub started: Option<String>,
    /// When it ended.
    pub ended: String,
    /// When this was written.
    pub issued: String,
    /// The recovery point.
    pub point: ReceiptPoint,
    /// The host that was restored to.
    pub host: NamedRef,
    /// The plan that was carried out.
    pub plan: PlanDone,
    /// The steps of the run that ended well.
    pub steps: Vec<Step>,
    /// `succeeded` or `warnings`.
    pub result: String,
    /// What was not honoured.
    pub warnings: Vec<String>,
    /// What was moved.
    pub figures: JobFigures,
    /// The disks, as they were read back.
    pub disks: Vec<DiskEvidence>,
    /// The files that disks came as, as they were read back before anything in them was changed.
    #[serde(default)]
    pub files: Vec<FileEvidence>,
    /// The VM, as the host had it registered in the end.
    #[serde(default)]
    pub vm: Option<VmEvidence>,
}

impl Receipt {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, ReceiptError> {
        serde_json::from_slice(payload).map_err(ReceiptError::NotReceipt)
    }
}

/// The recovery point of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptPoint {
    /// Its id: the name of the object whose writing was the commit.
    pub id: String,
    /// The VM, named as at the time.
    pub vm: NamedRef,
    /// The host it was made on.
    pub host: NamedRef,
    /// Its moment.
    pub created: String,
    /// `rct` or `vss`.
    pub method: String,
    /// Its images: disks, then files.
    pub images: Vec<ReceiptImage>,
}

/// An image of the recovery point, as the backup left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptImage {
    /// Path on the host at backup time.
    pub path: String,
    /// VirtualDiskId; absent for a file.
    #[serde(default)]
    pub disk: Option<String>,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Id of the root of its tree: commits to the whole content, under the vault's key. Absent where all is zero.
    pub root: Option<String>,
    /// Digest of its content, where it has been read whole before this restore.
    pub digest: Option<String>,
}

/// What an agent found on the host after a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The plan that was carried out.
    pub plan: PlanDone,
    /// The disks, as they were read back.
    #[serde(default)]
    pub disks: Vec<DiskEvidence>,
    /// The files that disks came as.
    #[serde(default)]
    pub files: Vec<FileEvidence>,
    /// The VM, as it is registered.
    #[serde(default)]
    pub vm: Option<VmEvidence>,
}

impl Evidence {
    /// Returns what is to be told, if anything was found.
    #[must_use]
    pub fn told(&self) -> Option<Box<Self>> {
        (*self != Self::default()).then(|| Box::new(self.clone()))
    }
}

/// The plan that was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDone {
    /// Hash of the effects.
    pub fingerprint: String,
    /// Everything it came to, a line each.
    pub effects: Vec<String>,
}

/// A disk, read back from where it was restored to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEvidence {
    /// VirtualDiskId in the recovery point; absent for a file of a checkpoint tree that no disk of the VM uses now.
    #[serde(default)]
    pub disk: Option<String>,
    /// Its path at backup time.
    pub source_path: String,
    /// Its path on the host now.
    pub path: String,
    /// VirtualDiskId in the file now.
    pub virtual_disk_id: String,
    /// Virtual size in bytes.
    pub size_bytes: u64,
    /// Files it is read through: 1, or those of its chain where checkpoints came back.
    pub files: u32,
    /// Digest of its content as it was read back; absent only where that is not the whole disk.
    pub digest: Option<String>,
    /// How it was read back.
    pub read_back: ReadBack,
    /// Ranges that are zero because the recovery point is damaged there.
    #[serde(default)]
    pub zeroed: Vec<ZeroedRange>,
}

/// A file that a disk came as, read back before anything in it was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvidence {
    /// Its path at backup time.
    pub source_path: String,
    /// Where it was written.
    pub path: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Digest of its bytes as they were read back; absent only where that is not the whole file.
    pub digest: Option<String>,
    /// How it was read back.
    pub read_back: ReadBack,
    /// Ranges that are zero because the recovery point is damaged there.
    #[serde(default)]
    pub zeroed: Vec<ZeroedRange>,
}

/// How bytes were read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadBack {
    /// Written out, then read without the system's buffers: certainly from the volume.
    Unbuffered,
    /// Written out, then read after the system was asked to forget its pages: most likely from the volume.
    CacheDropped,
    /// Written out, then read as any file is: perhaps from memory.
    Cached,
}

impl ReadBack {
    /// Says for people how sure it is.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            ReadBack::Unbuffered => {
                "read back past the page cache (unbuffered): certainly from the volume"
            }
            ReadBack::CacheDropped => {
                "read back after the page cache was dropped: most likely from the volume"
            }
            ReadBack::Cached => {
                "read back through the page cache, which this system cannot avoid: perhaps from memory"
            }
        }
    }
}

/// A range that reads as zeros because what belongs there is damaged in the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ZeroedRange {
    /// Where it begins in the image, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A VM, as its host has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmEvidence {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its disks, in the order of their slots.
    pub disks: Vec<SlotEvidence>,
    /// Names of its checkpoints.
    #[serde(default)]
    pub checkpoints: Vec<String>,
}

/// A disk in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotEvidence {
    /// Such as `scsi 0:1`.
    pub slot: String,
    /// Path on the host.
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ReceiptFile {
        let key = ReceiptKey::new(&[7; 32], "ab".to_owned(), &[b"one"]);
        ReceiptFile::new(b"{\"a\":1}", &[9; 64], key)
    }

    #[test]
    fn what_goes_into_a_file_comes_out_of_it() {
        let text = serde_json::to_vec(&file()).unwrap();
        let parts = ReceiptFile::parse(&text).unwrap().parts().unwrap();
        assert_eq!(parts.payload, b"{\"a\":1}");
        assert_eq!((parts.signature.len(), parts.public.len()), (64, 32));
        assert_eq!(parts.certificates, [b"one"]);
        assert_eq!(signed_bytes(b"x"), b"reprise-receipt 1\nx");
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut ReceiptFile), text: &str| {
            let mut file = file();
            change(&mut file);
            let bytes = serde_json::to_vec(&file).unwrap();
            let error = ReceiptFile::parse(&bytes)
                .and_then(|file| file.parts())
                .unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        };
        refused(&|file| file.version = 2, "version 2");
        refused(&|file| file.format = "x".into(), "\"x\"");
        refused(&|file| file.key.algorithm = "rsa".into(), "\"rsa\"");
        refused(&|file| file.payload = "?".into(), "payload");
        refused(
            &|file| file.key.certificates = vec!["?".into()],
            "certificates",
        );
        assert!(ReceiptFile::parse(b"[]").is_err());
        assert!(Receipt::parse(b"{}").is_err());
    }
}
