//! The shape of a tree, which follows from the image's length.

use model::ImageRef;

use crate::format::node::MAX_LEVEL;
use crate::{CELL_BYTES, FAN_OUT, ImageDigest, NodeId, REGION_BYTES, REGION_CELLS, TreeError};

/// How many regions, levels and children a tree of an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeShape {
    len: u64,
}

impl TreeShape {
    /// Takes the image's length in bytes.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { len }
    }

    /// Returns the image's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Says whether the image has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of regions.
    #[must_use]
    pub fn regions(&self) -> u64 {
        self.len.div_ceil(REGION_BYTES)
    }

    /// Returns the number of levels; 1 where the root is a leaf.
    #[must_use]
    pub fn height(&self) -> u8 {
        (1..MAX_LEVEL)
            .find(|&level| self.regions() <= Self::span(level))
            .unwrap_or(MAX_LEVEL)
    }

    /// Returns the cells of a region; fewer than [`REGION_CELLS`] in the last one.
    #[must_use]
    pub fn cells(&self, region: u64) -> u16 {
        let left = self
            .len
            .saturating_sub(region.saturating_mul(REGION_BYTES))
            .min(REGION_BYTES);
        u16::try_from(left.div_ceil(CELL_BYTES as u64)).unwrap_or(REGION_CELLS)
    }

    /// Returns how many regions a node of a level covers at most.
    pub(crate) fn span(level: u8) -> u64 {
        u64::from(FAN_OUT).saturating_pow(u32::from(level.saturating_sub(1)))
    }

    /// Returns how many children the `index`-th node of a level (2 or more) has.
    pub(crate) fn children(&self, level: u8, index: u64) -> usize {
        let first = index.saturating_mul(Self::span(level));
        let regions = self.regions().saturating_sub(first).min(Self::span(level));
        usize::try_from(regions.div_ceil(Self::span(level - 1))).unwrap_or(usize::MAX)
    }
}

/// The root of an image tree, with the length that gives its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    /// Length of the image in bytes.
    pub len: u64,
    /// Id of the root node; `None`: all zero, or empty.
    pub root: Option<NodeId>,
}

impl TreeRoot {
    /// Returns the shape of the tree.
    #[must_use]
    pub fn shape(&self) -> TreeShape {
        TreeShape::new(self.len)
    }

    /// Returns what a recovery point says of the image.
    #[must_use]
    pub fn to_image_ref(&self, digest: Option<ImageDigest>) -> ImageRef {
        ImageRef {
            len: self.len,
            root: self.root.map(|root| root.to_string()),
            height: self.root.map_or(0, |_| self.shape().height()),
            digest: digest.map(|digest| digest.to_string()),
        }
    }

    /// Reads what a recovery point says of an image.
    pub fn from_image_ref(image: &ImageRef) -> Result<Self, TreeError> {
        let root = match &image.root {
            Some(text) => Some(
                text.parse::<NodeId>()
                    .map_err(|error| TreeError::shape(error.to_string()))?,
            ),
            None => None,
        };
        let tree = Self {
            len: image.len,
            root,
        };
        let height = root.map_or(0, |_| tree.shape().height());
        if image.height != height || (image.len == 0 && root.is_some()) {
            return Err(TreeError::shape(format!(
                "an image of {} bytes has {height} levels, not {}",
                image.len, image.height
            )));
        }
        Ok(tree)
    }
}
