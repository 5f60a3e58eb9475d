//! Putting chains together, with resolvers and locators nobody should trust.
//!
//! Whether a chain is accepted, and of which files, must be what the rules say one by one; what it reads as must be what its
//! files say one by one.

use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use vhdx::{
    Chain, DirectoryResolver, DiskFile, Error, FileInfo, Format, Kind, MAX_CHAIN_DEPTH,
    ParentLocator, ParentResolver, ReadAt, Rule,
};

use crate::look::{self, Spot};
use crate::plain::Plain;
use crate::sparse::SparseFile;

/// Opens the chain of the first file, with these manners of the resolver, and compares.
///
/// Manners: bit 0: offers every file too; 1: offers every file first; 2: may not open what is not there; 3: offers nothing
/// it should.
pub(crate) fn check(files: &[SparseFile], manners: u8, spots: &[Spot]) {
    let Some(leaf) = files.first() else {
        return;
    };
    let resolver = Resolver { files, manners };
    let chain = Chain::open(leaf.clone(), "folder/0", &resolver);
    match (chain, expected(&resolver)) {
        (Ok(chain), Ok(numbers)) => compare(chain, &numbers, files, spots),
        (Err(found), Err(expected)) => {
            assert_eq!((found.kind(), found.rule()), expected, "{found}");
        }
        (Ok(_), Err(expected)) => panic!("accepted in spite of {expected:?}"),
        (Err(found), Ok(numbers)) => panic!("files {numbers:?} are a chain, but {found}"),
    }
    let untouched = files.iter().all(|file| file.writes() == 0);
    assert!(untouched, "reading wrote to a file");
}

fn compare(chain: Chain, numbers: &[usize], files: &[SparseFile], spots: &[Spot]) {
    let opened: Vec<FileInfo> = chain
        .layers()
        .iter()
        .map(|layer| layer.info().clone())
        .collect();
    let again = numbers
        .iter()
        .map(|number| DiskFile::open(files[*number].clone()).expect("opened before"));
    let again = Chain::from_layers(again.collect()).expect("the same files are a chain again");
    let infos = again.layers().iter().map(DiskFile::info);
    assert!(infos.eq(&opened), "the chain is of other files");
    let open = match opened[0].format {
        Format::Vhdx => Plain::vhdx,
        Format::Vhd => Plain::vhd,
    };
    let plain: Vec<Plain> = numbers.iter().map(|number| open(&files[*number])).collect();
    look::compare(&chain.into_disk(), &plain, spots);
}

/// Returns the numbers of the files that are the chain, or how it must be refused.
fn expected(resolver: &Resolver<'_>) -> Result<Vec<usize>, (Kind, Option<Rule>)> {
    let corrupt = |rule| Err((Kind::Corrupt, Some(rule)));
    let refusal = |err: &Error| (err.kind(), err.rule());
    let open = |number: usize| DiskFile::open(resolver.files[number].clone());
    let leaf = open(0).map_err(|err| refusal(&err))?;
    let mut numbers = vec![0];
    let mut infos = vec![leaf.info().clone()];
    let mut location = "folder/0".to_owned();
    while let Some(locator) = infos.last().and_then(|info| info.parent.clone()) {
        let mut first_refusal = None;
        let mut found = None;
        for candidate in resolver.locate(&location, &locator) {
            let number = match resolver.number(&candidate) {
                Ok(number) => number,
                Err(io::ErrorKind::NotFound) => continue,
                Err(_) => return Err((Kind::Retry, None)),
            };
            match open(number) {
                Err(err) => first_refusal = first_refusal.or(Some(refusal(&err))),
                Ok(layer) => {
                    let identity = layer.info().data_write_guid;
                    if identity == locator.linkage || Some(identity) == locator.linkage2 {
                        found = Some((number, layer.info().clone(), candidate));
                        break;
                    }
                    first_refusal =
                        first_refusal.or(Some((Kind::Corrupt, Some(Rule::ParentIdentity))));
                }
            }
        }
        let Some((number, info, candidate)) = found else {
            return Err(first_refusal.unwrap_or((Kind::NotFound, Some(Rule::ParentMissing))));
        };
        if info.format != infos[0].format {
            return corrupt(Rule::VhdChainFormat);
        }
        if info.logical_sector_bytes != infos[0].logical_sector_bytes {
            return corrupt(Rule::ParentSectorSize);
        }
        if infos
            .iter()
            .any(|other| other.data_write_guid == info.data_write_guid)
        {
            return corrupt(Rule::ChainCycle);
        }
        if infos.len() == MAX_CHAIN_DEPTH {
            return corrupt(Rule::ChainDepth);
        }
        numbers.push(number);
        infos.push(info);
        location = candidate;
    }
    Ok(numbers)
}

/// Finds files by the number their path ends with.
struct Resolver<'a> {
    files: &'a [SparseFile],
    manners: u8,
}

impl Resolver<'_> {
    fn number(&self, location: &str) -> Result<usize, io::ErrorKind> {
        let name = location.rsplit(['/', '\\']).next().unwrap_or(location);
        let absent = if self.manners & 4 == 4 {
            io::ErrorKind::PermissionDenied
        } else {
            io::ErrorKind::NotFound
        };
        let number = name.parse::<usize>().ok();
        number
            .filter(|number| *number < self.files.len())
            .ok_or(absent)
    }
}

impl ParentResolver for Resolver<'_> {
    fn locate(&self, child: &str, locator: &ParentLocator) -> Vec<String> {
        let relative = DirectoryResolver::new("/nowhere").locate(child, locator);
        // What a child is called that was opened by a path given whole is not the resolver's doing.
        let foreign =
            child.contains(['\\', ':', '\0']) || child.split('/').any(|name| name == "..");
        if !foreign {
            relative.iter().for_each(|path| assert_stays_below(path));
        }
        let given = [&locator.volume_path, &locator.absolute_path];
        let mut paths: Vec<String> = if self.manners & 8 == 8 {
            Vec::new()
        } else {
            relative
                .into_iter()
                .chain(given.into_iter().flatten().cloned())
                .collect()
        };
        let all = (0..self.files.len()).map(|number| number.to_string());
        if self.manners & 2 == 2 {
            paths = all.chain(paths).collect();
        } else if self.manners & 1 == 1 {
            paths.extend(all);
        }
        paths
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn ReadAt>> {
        let number = self.number(location)?;
        Ok(Arc::new(self.files[number].clone()))
    }
}

/// A path relative to a folder must not lead out of it, on any platform.
fn assert_stays_below(path: &str) {
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let names = path.split(['/', '\\']);
    let sound = |name: &str| !name.is_empty() && name != "." && name != "..";
    assert!(
        plain && names.into_iter().all(sound) && !path.contains([':', '\0']),
        "the resolver looks for {path:?}"
    );
}
