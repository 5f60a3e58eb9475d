//! Chains of VHDX files: see [`crate::chain`].

use crate::chain;
use crate::image::Image;
use crate::look::Spot;
use crate::sparse::{self, SparseFile};
use crate::wire::{Input, Wire};

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Links {
    /// The leaf is the first one; the others are found by their number.
    pub(crate) images: Vec<Image>,
    pub(crate) spots: Vec<Spot>,
    /// See [`chain::check`].
    pub(crate) resolver: u8,
}

impl Input for Links {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.byte(&mut self.resolver);
        wire.list(&mut self.spots, 7, |wire, spot| spot.wire(wire));
        wire.list(&mut self.images, 5, |wire, image| image.wire(wire));
    }
}

pub(crate) fn run(input: &[u8]) -> u64 {
    let input = Links::decode(input);
    let files: Vec<SparseFile> = input.images.iter().map(Image::build).collect();
    chain::check(&files, input.resolver, &input.spots);
    sparse::total_size(&files)
}
