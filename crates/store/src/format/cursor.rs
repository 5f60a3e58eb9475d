//! Reads numbers and bytes from the front of a slice, never beyond its end.

use crate::FormatError;

/// A slice that is read from its front.
pub(crate) struct Cursor<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((front, rest)) = self.bytes.split_at_checked(len) else {
            return Err(FormatError::Truncated {
                what: self.what,
                needed: len as u64,
                found: self.bytes.len() as u64,
            });
        };
        self.bytes = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    /// Reads magic bytes and a version that must be 1.
    pub(crate) fn opening(&mut self, magic: [u8; 8]) -> Result<(), FormatError> {
        if self.take(8)? != magic {
            return Err(FormatError::WrongMagic { what: self.what });
        }
        match self.u32()? {
            1 => Ok(()),
            version => Err(FormatError::UnknownVersion {
                what: self.what,
                version,
            }),
        }
    }

    /// Fails where bytes are left over.
    pub(crate) fn end(self) -> Result<(), FormatError> {
        match self.bytes.len() {
            0 => Ok(()),
            n => Err(FormatError::invalid(
                self.what,
                format!("{n} bytes are left over"),
            )),
        }
    }

    pub(crate) fn invalid(&self, why: impl Into<String>) -> FormatError {
        FormatError::invalid(self.what, why)
    }
}
