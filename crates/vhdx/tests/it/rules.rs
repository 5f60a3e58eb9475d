//! Every rule broken alone: what `check` says, and what opening does. One test per rule, named by it.
//!
//! `docs/vhdx-rules.md` is made from the same list. A rule without a test does not compile.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use uuid::{Uuid, uuid};

use crate::chains::{Shelf, child_of};
use crate::refusals::{
    BAT, BAT_GUID, Break, CASES, HEADERS, ITEMS, LOG, METADATA, Make, TABLES, base, child, copy,
    edit_summed, entry, forge_identity, headers, large, poke, poke32, poke64, put, tables,
    third_region, unclean, zeros_in_log,
};
use crate::support::{MIB, disk_of, link};
use vhdx::{
    Chain, CheckReport, FileInfo, Finding, MAX_CHAIN_DEPTH, MemoryFile, Params, ReadAt, Rule,
    Severity, Vhdx, WriteAt, check, check_chain, create_differencing, inspect,
};

/// Returns where something lies in a file before it is spoiled.
type Place = fn(&MemoryFile) -> u64;

/// Makes a leaf and its parents; the report on the leaf's way to its parent must name the rule.
type MakeChain = fn() -> (Arc<MemoryFile>, Shelf);

/// How a rule is broken alone.
enum Case {
    /// In one file: what is spoiled, where the finding is, which rules cannot but be broken with it.
    File(Make, Break, Place, &'static [Rule]),
    /// Between files.
    Chain(MakeChain),
    /// Another test does it.
    Elsewhere,
}

macro_rules! cases {
    (
        files { $($name:ident $rule:ident $make:ident $at:expr, [$($also:ident)*], $spoil:expr;)* }
        chains { $($chain_name:ident $chain_rule:ident $chain:ident;)* }
        elsewhere { $($other_rule:ident $other_test:literal;)* }
    ) => {
        fn case(rule: Rule) -> Case {
            match rule {
                $(Rule::$rule => Case::File($make, $spoil, $at, &[$(Rule::$also),*]),)*
                $(Rule::$chain_rule => Case::Chain($chain),)*
                $(Rule::$other_rule => Case::Elsewhere,)*
            }
        }

        fn test_of(rule: Rule) -> &'static str {
            match rule {
                $(Rule::$rule => concat!("rules::", stringify!($name)),)*
                $(Rule::$chain_rule => concat!("rules::", stringify!($chain_name)),)*
                $(Rule::$other_rule => $other_test,)*
            }
        }

        $(#[test] fn $name() { breaks_alone(Rule::$rule); })*
        $(#[test] fn $chain_name() { breaks_alone(Rule::$chain_rule); })*
    };
}

#[rustfmt::skip]
cases! {
    files {
        file_too_short FileTooShort base |_| 0, [], |f| WriteAt::set_len(f, MIB - 1).unwrap();
        file_length FileLength base |_| 0, [FileTail], |f| WriteAt::set_len(f, 7 * MIB + 512).unwrap();
        file_tail FileTail base |_| 7 * MIB, [], |f| WriteAt::set_len(f, 9 * MIB).unwrap();
        space_leaked SpaceLeaked base |_| 5 * MIB, [], |f| poke64(f, BAT + 16, 0);
        header_area_reserved HeaderAreaReserved base |_| 500 << 10, [], |f| poke(f, 500 << 10, b"x");
        file_signature FileSignature base |_| 0, [], |f| poke(f, 0, b"V");
        header_none_valid HeaderNoneValid base |_| HEADERS[0], [], |f| HEADERS.iter().for_each(|at| poke(f, at + 100, b"x"));
        header_one_bad HeaderOneBad base older, [], |f| poke(f, older(f), b"x");
        header_tie HeaderTie base |_| HEADERS[0] + 8, [], |f| {
            headers(f, |h| put(h, 8, &[9, 0, 0, 0, 0, 0, 0, 0]));
            edit_summed(f, HEADERS[1], 4096, |h| h[16] ^= 1);
        };
        header_twins HeaderTwins base |_| HEADERS[0] + 8, [], |f| copy(f, newer(f), older(f), 4096);
        header_other_log HeaderOtherLog base |f| older(f) + 48, [], |f| edit_summed(f, older(f), 4096, |h| h[48] = 7);
        header_version HeaderVersion base |f| newer(f) + 66, [], |f| headers(f, |h| h[66] = 2);
        header_reserved HeaderReserved base |f| newer(f) + 4000, [], |f| headers(f, |h| h[4000] = 1);
        file_write_guid_nil FileWriteGuidNil base |f| newer(f) + 16, [], |f| headers(f, |h| put(h, 16, &[0; 16]));
        data_write_guid_nil DataWriteGuidNil base |f| newer(f) + 32, [], |f| headers(f, |h| put(h, 32, &[0; 16]));
        log_version LogVersion unclean |f| newer(f) + 64, [], |f| headers(f, |h| h[64] = 1);
        log_version_unused LogVersionUnused base |f| newer(f) + 64, [], |f| headers(f, |h| h[64] = 1);
        log_place LogPlace base |f| newer(f) + 72, [SpaceLeaked], |f| headers(f, |h| put(h, 72, &(8 * MIB).to_le_bytes()));
        log_missing LogMissing base |f| newer(f) + 68, [SpaceLeaked], |f| headers(f, |h| put(h, 68, &[0; 12]));
        log_too_long LogTooLong unclean |_| LOG, [LogInUse], |f| {
            WriteAt::set_len(f, 300 * MIB).unwrap();
            headers(f, |h| put(h, 68, &(257_u32 << 20).to_le_bytes()));
        };
        log_in_use LogInUse unclean |f| newer(f) + 48, [], |_| ();
        region_none_valid RegionNoneValid base |_| TABLES[0], [], |f| TABLES.iter().for_each(|at| poke(f, at + 100, b"x"));
        region_one_bad RegionOneBad base |_| TABLES[0], [], |f| poke(f, TABLES[0], b"x");
        region_copies RegionCopies base |_| TABLES[1], [], |f| edit_summed(f, TABLES[1], 64 << 10, |t| t[44] = 0);
        region_count RegionCount base |_| TABLES[0] + 8, [], |f| tables(f, |t| put(t, 8, &2048_u32.to_le_bytes()));
        region_reserved RegionReserved base |_| TABLES[0] + 12, [], |f| tables(f, |t| t[12] = 1);
        region_duplicate RegionDuplicate base |_| TABLES[0] + 80, [], |f| tables(f, |t| {
            third_region(t, 0);
            put(t, 80, &BAT_GUID.to_bytes_le());
        });
        region_place RegionPlace base |_| TABLES[0] + 96, [RegionOptional], |f| tables(f, |t| {
            third_region(t, 0);
            put(t, 96, &(7 * MIB).to_le_bytes());
        });
        region_overlap RegionOverlap base |_| TABLES[0] + 96, [RegionOptional], |f| tables(f, |t| {
            third_region(t, 0);
            put(t, 96, &LOG.to_le_bytes());
        });
        region_unknown RegionUnknown base |_| TABLES[0] + 80, [], |f| third_region_at_the_end(f, 1);
        region_optional RegionOptional base |_| TABLES[0] + 80, [], |f| third_region_at_the_end(f, 0);
        region_not_required RegionNotRequired base |_| TABLES[0] + 44, [], |f| tables(f, |t| t[44] = 0);
        region_missing RegionMissing base |_| TABLES[0], [RegionOptional], |f| tables(f, |t| { t[16] ^= 1; t[44] = 0; });
        log_entry_header LogEntryHeader unclean |_| SECOND_ENTRY + 8, [LogInUse], |f| second_entry(f, |e| put(e, 8, &[0; 4]));
        log_entry_checksum LogEntryChecksum unclean |_| SECOND_ENTRY + 4, [LogInUse], |f| second_entry(f, |e| e[5000] ^= 1);
        log_entry_reserved LogEntryReserved unclean |_| LOG + 28, [LogInUse], |f| edit_summed(f, LOG, 8192, |e| e[28] = 1);
        log_file_sizes LogFileSizes unclean |_| LOG + 48, [LogInUse], |f| edit_summed(f, LOG, 8192, |e| put(e, 48, &4096_u64.to_le_bytes()));
        log_file_too_long LogFileTooLong unclean |_| LOG + 56, [LogInUse], |f| edit_summed(f, LOG, 8192, |e| put(e, 56, &((1_u64 << 48) + MIB).to_le_bytes()));
        log_zero_descriptor LogZeroDescriptor unclean |_| SECOND_ENTRY + 64, [LogInUse], |f| second_entry(f, |e| { put(e, 64, b"zero"); put(e, 72, &1_u64.to_le_bytes()); });
        log_zero_ranges LogZeroRanges unclean |_| 16 * MIB, [LogInUse], |f| zeros_in_log(f, (1 << 18) + 1);
        log_data_descriptor LogDataDescriptor unclean |_| SECOND_ENTRY + 64, [LogInUse], |f| second_entry(f, |e| e[64 + 16] = 1);
        log_data_sector LogDataSector unclean |_| SECOND_ENTRY + 4096, [LogInUse], |f| second_entry(f, |e| e[4096] = b'D');
        log_no_sequence LogNoSequence unclean |_| LOG, [LogInUse], |f| headers(f, |h| h[48] ^= 1);
        log_file_truncated LogFileTruncated unclean |_| LOG + 48, [LogInUse], |f| edit_summed(f, LOG, 8192, |e| put(e, 48, &(1_u64 << 40).to_le_bytes()));
        bitmap_unused BitmapUnused child |_| BAT + 2048 * 8, [], |f| poke(f, BAT + 8, &[6]);
        bitmap_full BitmapFull child |_| 6 * MIB + 512, [], |f| poke(f, 6 * MIB + 512, &[0xFF; 512]);
        bat_too_short BatTooShort base |_| BAT, [], |f| poke64(f, ITEMS + 8, 64 << 40);
        bat_padding BatPadding base |_| BAT + 5000, [], |f| poke(f, BAT + 5000, &[1]);
        bat_reserved BatReserved base |_| BAT, [], |f| poke64(f, BAT, (4 << 20) | 8 | 6);
        block_state BlockState base |_| BAT + 8, [], |f| poke(f, BAT + 8, &[4]);
        block_partial BlockPartial base |_| BAT + 8, [], |f| poke64(f, BAT + 8, (7 << 20) | 7);
        block_offset BlockOffset base |_| BAT + 8, [], |f| poke64(f, BAT + 8, 5 << 20);
        bitmap_state BitmapState large |_| BAT + 4096 * 8, [], |f| poke64(f, BAT + 4096 * 8, (4 << 20) | 6);
        block_place BlockPlace base |_| BAT + 8, [], |f| poke64(f, BAT + 8, (7 << 20) | 6);
        block_overlap BlockOverlap base |_| BAT + 16, [], |f| poke64(f, BAT + 8, (5 << 20) | 6);
        block_cut BlockCut base |_| BAT + 56, [FileLength], |f| WriteAt::set_len(f, 7 * MIB - 4096).unwrap();
        anchor_place AnchorPlace base |_| BAT + 8, [], |f| poke64(f, BAT + 8, (9 << 20) | 3);
        metadata_signature MetadataSignature base |_| METADATA, [], |f| poke(f, METADATA, b"M");
        metadata_count MetadataCount base |_| METADATA + 10, [], |f| poke(f, METADATA + 10, &2048_u16.to_le_bytes());
        metadata_reserved MetadataReserved base |_| METADATA + 12, [], |f| poke(f, METADATA + 12, &[1]);
        metadata_entry MetadataEntry base |_| entry(5, 16), [], |f| sixth_item(f, Uuid::nil(), 0, (0, 0));
        metadata_overlap MetadataOverlap base |_| entry(5, 0), [MetadataOptional], |f| sixth_item(f, UNKNOWN, 0, (64 << 10, 8));
        metadata_duplicate MetadataDuplicate base |_| entry(5, 0), [], |f| sixth_item(f, uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8"), 6, (0, 0));
        metadata_unknown MetadataUnknown base |_| entry(5, 0), [], |f| sixth_item(f, UNKNOWN, 4, (0, 0));
        metadata_optional MetadataOptional base |_| entry(5, 0), [], |f| sixth_item(f, UNKNOWN, 0, (0, 0));
        metadata_flags MetadataFlags base |_| entry(1, 24), [], |f| poke32(f, entry(1, 24), 4);
        metadata_missing MetadataMissing base |_| METADATA, [], |f| poke(f, METADATA + 10, &[4]);
        metadata_length MetadataLength base |_| entry(4, 20), [], |f| poke32(f, entry(4, 20), 8);
        incomplete Incomplete base |_| entry(5, 0), [], |f| sixth_item(f, uuid!("71CC85F0-1B69-4E28-9558-C3BF83AE75D3"), 4, (0, 0));
        block_size BlockSize base |_| ITEMS, [], |f| poke32(f, ITEMS, 3 << 20);
        parameters_reserved ParametersReserved base |_| ITEMS + 4, [], |f| poke32(f, ITEMS + 4, 4);
        fixed_child FixedChild child |_| ITEMS + 4, [], |f| poke32(f, ITEMS + 4, 3);
        fixed_hole FixedHole base |_| BAT + 8, [], |f| poke32(f, ITEMS + 4, 1);
        disk_size DiskSize base |_| ITEMS + 8, [], |f| poke64(f, ITEMS + 8, 0);
        disk_id_nil DiskIdNil base |_| ITEMS + 24, [], |f| poke(f, ITEMS + 24, &[0; 16]);
        sector_size SectorSize base |_| ITEMS + 20, [], |f| poke32(f, ITEMS + 20, 0);
        sector_size_order SectorSizeOrder base |_| ITEMS + 20, [], |f| { poke32(f, ITEMS + 16, 4096); poke32(f, ITEMS + 20, 512); };
        locator_missing LocatorMissing base |_| ITEMS + 4, [], |f| poke32(f, ITEMS + 4, 2);
        locator_unused LocatorUnused base |_| entry(5, 0), [], |f| sixth_item(f, uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"), 4, (0, 0));
        locator_format LocatorFormat child |_| LOCATOR, [], |f| poke(f, LOCATOR + 18, &[0xFF; 2]);
        locator_reserved LocatorReserved child |_| LOCATOR + 16, [], |f| poke(f, LOCATOR + 16, &[1]);
        locator_type LocatorType child |_| LOCATOR, [], |f| poke(f, LOCATOR, b"x");
        locator_linkage LocatorLinkage child |_| LOCATOR, [], |f| poke(f, LOCATOR + 56 + 28, b"x");
        merge_unfinished MergeUnfinished child |_| LOCATOR, [], |f| third_key(f, "parent_linkage2", true);
        locator_path LocatorPath child |_| LOCATOR, [], |f| poke(f, LOCATOR + 18, &[1]);
        locator_text LocatorText child |_| LOCATOR + 32, [], |f| poke(f, LOCATOR + u64::from(peek32(f, LOCATOR + 32 + 4)) + 4, &[0x00, 0xD8]);
        locator_key LocatorKey child |_| LOCATOR + 44, [], |f| third_key(f, "nobody_knows", false);
    }
    chains {
        parent_missing ParentMissing no_parent;
        parent_identity ParentIdentity another_parent;
        parent_sector_size ParentSectorSize parent_of_other_sectors;
        parent_size ParentSize parent_of_other_size;
        parent_disk_id ParentDiskId parent_of_other_id;
        chain_cycle ChainCycle its_own_parent;
        chain_depth ChainDepth too_many_parents;
    }
    elsewhere {
        VhdFooter "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdFooterChecksum "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdVersion "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdType "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdSize "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdFixedLength "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdHeaderPlace "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdHeaderSignature "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdHeaderChecksum "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdHeaderVersion "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdBlockSize "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdTableLength "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdTablePlace "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdLocator "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdLocatorPath "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdBlockPlace "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdBlockOverlap "vhd::refuses_each_broken_rule_of_vhd_by_its_name";
        VhdChainFormat "vhd::a_chain_is_of_one_format";
    }
}

/// The parent locator of `child`.
const LOCATOR: u64 = ITEMS + 40;
/// A place of the log where nothing lies.
const SECOND_ENTRY: u64 = LOG + (64 << 10);
const UNKNOWN: Uuid = uuid!("FFFFFFFF-0000-4000-8000-000000000001");

fn newer(file: &MemoryFile) -> u64 {
    HEADERS[0] + HEADERS[1] - older(file)
}

/// Returns where the header lies that is not current.
fn older(file: &MemoryFile) -> u64 {
    let first_is_newer = peek32(file, HEADERS[0] + 8) > peek32(file, HEADERS[1] + 8);
    HEADERS[usize::from(first_is_newer)]
}

fn peek32(file: &MemoryFile, at: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).unwrap();
    u32::from_le_bytes(bytes)
}

fn third_region_at_the_end(file: &MemoryFile, flags: u8) {
    WriteAt::set_len(file, 8 * MIB).unwrap();
    tables(file, |table| {
        third_region(table, flags);
        put(table, 96, &(7 * MIB).to_le_bytes());
    });
}

/// Copies the entry of the log elsewhere and spoils the copy.
fn second_entry(file: &MemoryFile, edit: impl FnOnce(&mut [u8])) {
    let mut entry = vec![0; 8192];
    file.read_exact_at(&mut entry, LOG).unwrap();
    edit(&mut entry);
    poke(file, SECOND_ENTRY, &entry);
}

fn sixth_item(file: &MemoryFile, id: Uuid, flags: u32, place: (u32, u32)) {
    poke(file, METADATA + 10, &[6]);
    poke(file, entry(5, 0), &id.to_bytes_le());
    poke32(file, entry(5, 16), place.0);
    poke32(file, entry(5, 20), place.1);
    poke32(file, entry(5, 24), flags);
}

/// Gives the last pair of the parent locator another key, and the value of the first pair if `linkage`.
fn third_key(file: &MemoryFile, key: &str, linkage: bool) {
    let length = peek32(file, entry(5, 20));
    let units: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let key_len = u16::try_from(units.len()).unwrap();
    poke(file, LOCATOR + u64::from(length), &units);
    poke32(file, entry(5, 20), length + u32::from(key_len));
    let pair = LOCATOR + 20 + 2 * 12;
    poke32(file, pair, length);
    poke(file, pair + 8, &key_len.to_le_bytes());
    if linkage {
        copy(file, LOCATOR + 20 + 4, pair + 4, 4);
        copy(file, LOCATOR + 20 + 10, pair + 10, 2);
    }
}

fn parent() -> (Arc<MemoryFile>, FileInfo) {
    let params = Params {
        block_bytes: 1 << 20,
        ..Params::dynamic(4 * MIB)
    };
    disk_of(&params, &[])
}

fn shelf(parent: Arc<MemoryFile>) -> Shelf {
    Shelf(vec![("parent.vhdx".into(), parent)])
}

fn no_parent() -> (Arc<MemoryFile>, Shelf) {
    let (_, info) = parent();
    (child_of(&info, "parent.vhdx").0, Shelf::default())
}

fn another_parent() -> (Arc<MemoryFile>, Shelf) {
    let (file, info) = parent();
    let (child, _) = child_of(&info, "parent.vhdx");
    forge_identity(&file, UNKNOWN);
    (child, shelf(file))
}

/// Makes a child whose parameters are not those of its parent.
fn odd_child(change: impl FnOnce(&mut Params)) -> (Arc<MemoryFile>, Shelf) {
    let (file, info) = parent();
    let child = Arc::new(MemoryFile::new());
    let mut params = Params::child_of(&info, link(&info, "parent.vhdx"));
    change(&mut params);
    create_differencing(Arc::clone(&child), &params).unwrap();
    (child, shelf(file))
}

fn parent_of_other_sectors() -> (Arc<MemoryFile>, Shelf) {
    odd_child(|params| params.logical = 4096)
}

fn parent_of_other_size() -> (Arc<MemoryFile>, Shelf) {
    odd_child(|params| params.size = 8 * MIB)
}

fn parent_of_other_id() -> (Arc<MemoryFile>, Shelf) {
    odd_child(|params| params.disk_id = UNKNOWN)
}

fn its_own_parent() -> (Arc<MemoryFile>, Shelf) {
    let (_, info) = parent();
    let (child, made) = child_of(&info, "parent.vhdx");
    forge_identity(&child, made.parent.unwrap().linkage);
    (Arc::clone(&child), shelf(child))
}

fn too_many_parents() -> (Arc<MemoryFile>, Shelf) {
    let (file, mut info) = parent();
    let mut shelf = Shelf(vec![("0".into(), file)]);
    for depth in 1..=MAX_CHAIN_DEPTH {
        let (file, child) = child_of(&info, &(depth - 1).to_string());
        shelf.0.push((depth.to_string(), file));
        info = child;
    }
    (shelf.0.pop().unwrap().1, shelf)
}

fn breaks_alone(rule: Rule) {
    match case(rule) {
        Case::File(make, spoil, at, also) => {
            let file = make();
            let at = at(&file);
            spoil(&file);
            breaks_alone_in_a_file(rule, &file, at, also);
        }
        Case::Chain(make) => breaks_alone_in_a_chain(rule, make),
        Case::Elsewhere => {}
    }
}

fn breaks_alone_in_a_file(rule: Rule, file: &Arc<MemoryFile>, at: u64, also: &[Rule]) {
    let opened = Vhdx::open(Arc::clone(file));
    match (&opened, rule.severity()) {
        (Err(err), Severity::Error) => assert_eq!(err.rule(), Some(rule), "{err}"),
        (Ok(_), Severity::Note | Severity::Warning) => {}
        (Ok(_), Severity::Error) => panic!("was accepted"),
        (Err(err), Severity::Note | Severity::Warning) => panic!("was refused: {err}"),
    }
    let report = match check(Arc::clone(file)) {
        Ok(report) => report,
        Err(err) => {
            assert!(
                [Rule::FileTooShort, Rule::FileSignature].contains(&rule),
                "{err}"
            );
            assert_eq!(err.rule(), Some(rule));
            return;
        }
    };
    let finding = report.findings.iter().find(|finding| finding.rule == rule);
    let finding = finding.unwrap_or_else(|| panic!("was not found: {report:?}"));
    assert_eq!(
        (finding.at, finding.severity),
        (at, rule.severity()),
        "{finding}"
    );
    assert_eq!(report.count(rule), 1, "{report:?}");
    let found: BTreeSet<Rule> = report.totals.iter().map(|(rule, _)| *rule).collect();
    let expected: BTreeSet<Rule> = also.iter().copied().chain([rule]).collect();
    assert_eq!(found, expected, "{report:?}");
}

fn breaks_alone_in_a_chain(rule: Rule, make: MakeChain) {
    let (leaf, shelf) = make();
    let report = check_chain(Arc::clone(&leaf), "leaf", &shelf).unwrap();
    let of_files = report.files.iter().flat_map(|file| &file.report.findings);
    assert_eq!(of_files.count(), 0, "{report:?}");
    let links: Vec<&Finding> = report.files.iter().flat_map(|file| &file.link).collect();
    let [finding] = links[..] else {
        panic!("not one finding: {report:?}");
    };
    assert_eq!((finding.rule, finding.severity), (rule, rule.severity()));
    assert_eq!(report.worst(), Some(rule.severity()));
    match Chain::open(leaf, "leaf", &shelf) {
        Ok(_) => assert!(rule.severity() < Severity::Error),
        Err(err) => {
            assert_eq!(
                (err.rule(), rule.severity()),
                (Some(rule), Severity::Error),
                "{err}"
            );
        }
    }
}

#[test]
fn nothing_is_found_in_what_we_write() {
    for make in [base, child, large] {
        let report = check(make()).unwrap();
        assert_eq!(report.findings, [], "{report:?}");
        assert_eq!(
            report.info,
            Some(inspect(make()).unwrap()).map(|info| same_ids(info, &report))
        );
    }
    let figures = check(base()).unwrap().figures;
    assert_eq!(
        (figures.blocks.fully_present, figures.blocks.not_present),
        (3, 5)
    );
    assert_eq!(
        (figures.allocated_bytes, figures.leaked_bytes),
        (3 * MIB, 0)
    );
    let figures = check(child()).unwrap().figures;
    assert_eq!(
        (figures.blocks.partially_present, figures.bitmap_blocks),
        (1, 1)
    );
    assert_eq!(figures.allocated_bytes, 3 * MIB);
    let figures = check(unclean()).unwrap().figures;
    assert_eq!((figures.log_entries, figures.log_pages), (1, 1));
    assert_eq!(figures.log_zeroed_bytes, 0);
    assert_eq!(figures.replayed_file_bytes, figures.file_bytes);
}

/// Two files made alike differ in their ids.
fn same_ids(info: FileInfo, report: &CheckReport) -> FileInfo {
    let of = report.info.clone().unwrap();
    FileInfo {
        disk_id: of.disk_id,
        data_write_guid: of.data_write_guid,
        file_write_guid: of.file_write_guid,
        parent: of.parent,
        ..info
    }
}

#[test]
fn whatever_opening_refuses_is_found() {
    for (rule, case, make, spoil) in CASES {
        let file = make();
        spoil(&file);
        match check(file) {
            Ok(report) => assert!(
                report.count(*rule) > 0,
                "{}, {case}: {report:?}",
                rule.code()
            ),
            Err(err) => assert_eq!(err.rule(), Some(*rule), "{case}"),
        }
    }
}

#[test]
fn many_findings_of_one_rule_are_counted_and_not_listed() {
    let file = large();
    let blocks = 5 << 10;
    for entry in 0..blocks {
        poke64(&file, BAT + entry * 8, 4);
    }
    let report = check(file).unwrap();
    // One entry is that of a bitmap block.
    let rules = [
        report.count(Rule::BlockState),
        report.count(Rule::BitmapState),
    ];
    assert_eq!(rules, [blocks - 1, 1]);
    assert_eq!(report.count_of(Severity::Error), blocks);
    let listed = report
        .findings
        .iter()
        .filter(|finding| finding.rule == Rule::BlockState);
    assert_eq!(listed.count(), 1000);
}

#[test]
fn the_page_of_rules_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("../../docs/vhdx-rules.md");
    let made = page_of_rules(&root.join("src"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, &made).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        found == made,
        "docs/vhdx-rules.md is not what the rules say: run this test with UPDATE_DOCS=1"
    );
}

fn page_of_rules(source: &Path) -> String {
    let mut files = Vec::new();
    read_sources(source, source, &mut files);
    let mut page = String::from(
        "# Rules of VHDX\n\n\
         Made from `vhdx::Rule` by a test (`UPDATE_DOCS=1 cargo nextest run -p vhdx the_page_of_rules`); not to be edited.\n\n\
         Sections are those of [MS-VHDX]. Some limits are ours and named in the text. Opening refuses what breaks a rule of\n\
         severity *error*; `check` lists everything. Modules are in `crates/vhdx/src`, tests in `crates/vhdx/tests/it`: each test of\n\
         `rules` breaks its rule alone, and expects `check` to find it in the right place and opening to refuse or tolerate it.\n\n\
         | section | code | severity | what is wrong | what to do | module | test |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for rule in Rule::ALL {
        let name = format!("Rule::{rule:?}");
        let mut modules: Vec<&str> = files
            .iter()
            .filter(|(_, text)| mentions(text, &name))
            .map(|(file, _)| file.as_str())
            .collect();
        // Where it is judged, not where somebody asks about it later.
        let judges = |file: &&str| {
            ["format/", "check/", "vhd", "chain.rs", "table.rs"]
                .iter()
                .any(|start| file.starts_with(start))
        };
        if modules.iter().any(judges) {
            modules.retain(judges);
        }
        assert!(!modules.is_empty(), "{} is judged nowhere", rule.code());
        let modules: Vec<String> = modules.iter().map(|file| format!("`{file}`")).collect();
        writeln!(
            page,
            "| {} | `{}` | {} | {rule} | {} | {} | `{}` |",
            rule.section(),
            rule.code(),
            rule.severity(),
            rule.advice(),
            modules.join(", "),
            test_of(*rule),
        )
        .unwrap();
    }
    page
}

fn mentions(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let next = text[at + name.len()..].chars().next();
        !next.is_some_and(|next| next.is_alphanumeric())
    })
}

fn read_sources(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read_sources(root, &path, files);
            continue;
        }
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .replace('\\', "/");
        if !["rule.rs", "error.rs", "repair.rs"].contains(&name.as_str()) {
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}
