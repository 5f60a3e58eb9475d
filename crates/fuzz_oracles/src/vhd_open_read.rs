//! VHD files, alone and in chains: see [`crate::chain`].

use vhdx::{DiskFile, inspect};

use crate::chain;
use crate::sparse::{self, SparseFile};
use crate::vhd_image::{VhdImage, VhdLinks};
use crate::wire::Input;

pub(crate) fn run(input: &[u8]) -> u64 {
    let input = VhdLinks::decode(input);
    let files: Vec<SparseFile> = input.images.iter().map(VhdImage::build).collect();
    for file in &files {
        match (DiskFile::open(file.clone()), inspect(file.clone())) {
            (Ok(opened), Ok(info)) => assert_eq!(opened.info(), &info),
            (Err(refusal), Err(other)) => assert_eq!(refusal.rule(), other.rule()),
            (Ok(_), Err(refusal)) => panic!("an accepted file cannot be inspected: {refusal}"),
            // The block table is all that `inspect` leaves out.
            (Err(refusal), Ok(_)) => assert!(refusal.rule().is_some(), "{refusal}"),
        }
    }
    chain::check(&files, input.resolver, &input.spots);
    sparse::total_size(&files)
}
