//! Replaying the log: in memory, in place, plainly, twice, and after the process died in the middle, are all the same.

use vhdx::{Chain, Durability, Error, Kind, Rule, Vhdx, inspect, replay_log};

use crate::MIB;
use crate::image::Image;
use crate::look::{self, Spot};
use crate::plain::{self, Plain};
use crate::sparse::SparseFile;
use crate::wire::{Input, Wire};

/// Behind the headers: what replay may change by itself.
const BEHIND_HEADERS: u64 = 192 << 10;
/// Longer files are not replayed in place: zeroing all of a file takes as long as the file is.
const LONGEST: u64 = 64 * MIB;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct LogReplay {
    pub(crate) image: Image,
    pub(crate) spots: Vec<Spot>,
    /// After how many writes the process dies, modulo their number.
    pub(crate) deaths: Vec<u8>,
}

impl Input for LogReplay {
    fn wire(&mut self, wire: &mut impl Wire) {
        wire.list(&mut self.deaths, 3, |wire, death| wire.byte(death));
        wire.list(&mut self.spots, 7, |wire, spot| spot.wire(wire));
        self.image.wire(wire);
    }
}

pub(crate) fn run(input: &[u8]) -> u64 {
    let input = LogReplay::decode(input);
    let file = input.image.build();
    if file.size() <= LONGEST {
        check(&file, &input);
    }
    file.size()
}

fn replay(file: &SparseFile) -> Result<(), Error> {
    replay_log(file.clone(), Durability::PowerLoss).map(drop)
}

fn check(file: &SparseFile, input: &LogReplay) {
    let in_place = file.copy();
    let done = replay(&in_place);
    let through_log = Vhdx::open(file.clone());
    if let Err(refusal) = done {
        // A log without space, and numbers that cannot grow, are no reason not to read a file.
        let readable = refusal.rule() == Some(Rule::LogPlace) || refusal.kind() == Kind::Refused;
        assert!(
            through_log.is_err() || readable,
            "replay alone refuses: {refusal}"
        );
        return;
    }
    assert_eq!(
        in_place.difference(&plain::replayed(file), BEHIND_HEADERS),
        None,
        "replayed plainly"
    );
    let info = inspect(in_place.clone()).expect("a replayed file can be inspected");
    assert!(!info.unclean, "a replayed file is clean");

    let again = in_place.copy();
    replay(&again).expect("a replayed file can be replayed again");
    assert_eq!(again.writes(), 0, "a clean file is left alone");

    for death in &input.deaths {
        let writes = u64::from(*death) % (in_place.writes() + 1);
        let cut = file.copy_that_dies_after(writes);
        let dead = replay(&cut);
        assert_eq!(
            dead.is_err(),
            writes < in_place.writes(),
            "died after {writes} writes"
        );
        let revived = cut.copy();
        replay(&revived).expect("what was begun can be done again");
        assert_eq!(
            revived.difference(&in_place, BEHIND_HEADERS),
            None,
            "died after {writes} writes of {}",
            in_place.writes()
        );
    }

    match (through_log, Vhdx::open(in_place.clone())) {
        (Ok(unclean), Ok(clean)) => {
            let (before, after) = (unclean.info(), clean.info());
            assert_eq!(
                before.data_write_guid, after.data_write_guid,
                "replay changes no content"
            );
            assert_eq!((before.size, before.kind), (after.size, after.kind));
            if before.parent.is_none() {
                let plain = [Plain::vhdx(&in_place)];
                for layer in [unclean, clean] {
                    let disk = Chain::from_layers(vec![layer])
                        .expect("no parent")
                        .into_disk();
                    look::compare(&disk, &plain, &input.spots);
                }
            }
        }
        (Err(before), Err(after)) => {
            assert_eq!(before.rule(), after.rule(), "{before} but {after}");
        }
        (Ok(_), Err(refusal)) => panic!("refused once replayed: {refusal}"),
        (Err(refusal), Ok(_)) => panic!("refused until replayed: {refusal}"),
    }
}
