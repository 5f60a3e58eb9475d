//! What a file system does to a disk, as a list of steps: the same for the same seed and size of disk.
//!
//! The disk has, from its front, metadata (a 64th), a journal (a 64th, written round and round) and data in 16 groups.
//! Work stays in one group for a while before it moves to another. Files are mostly small, some large (1 cell to
//! 4 MiB, each size twice as rare as half of it); they are made, appended to, overwritten in place and deleted, and what
//! a deleted file held is trimmed. Each of these touches the journal and one cell of metadata, which is therefore
//! rewritten again and again. Nothing here writes: the guest does.

use std::collections::VecDeque;

use crate::pattern::mix;

/// Groups of the data area.
const GROUPS: u64 = 16;
/// Steps after which work moves to another group, on average.
const STAY: u64 = 24;
/// Files that are remembered on a disk.
const FILES: usize = 64;
/// Largest file is 2 to the power of this in cells: 4 MiB.
const LARGEST: u64 = 10;
/// Cells written in one step at most: 1 MiB.
const RUN: u64 = 256;

/// One thing to do to a disk; places and lengths in cells of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) act: Act,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Bytes of this pattern are written.
    Write(u64),
    /// The content is given up.
    Trim,
}

/// The file system of one disk.
#[derive(Debug)]
pub(crate) struct Workload {
    seed: u64,
    drawn: u64,
    cells: u64,
    group: u64,
    journal: u64,
    files: Vec<Run>,
    steps: VecDeque<Step>,
}

/// Where a file lies.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    len: u64,
}

impl Workload {
    /// The work on a disk of so many cells; at least one.
    pub(crate) fn new(seed: u64, cells: u64) -> Self {
        Self {
            seed,
            drawn: 0,
            cells: cells.max(1),
            group: 0,
            journal: 0,
            files: Vec::new(),
            steps: VecDeque::new(),
        }
    }

    /// Returns the next step.
    pub(crate) fn next(&mut self) -> Step {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return step;
            }
            self.plan();
        }
    }

    fn draw(&mut self, sides: u64) -> u64 {
        self.drawn += 1;
        mix(self.seed ^ mix(self.drawn)) % sides.max(1)
    }

    /// Returns where data begins.
    fn data(&self) -> u64 {
        (self.cells / 32).min(self.cells - 1)
    }

    /// Decides what happens to one file.
    fn plan(&mut self) {
        if self.draw(STAY) == 0 {
            self.group = self.draw(GROUPS);
        }
        let known = u64::try_from(self.files.len()).unwrap_or(0);
        let at = usize::try_from(self.draw(known)).unwrap_or(0);
        match (self.draw(10), self.files.get(at).copied()) {
            // Overwritten in place, a part of it.
            (0..=3, Some(file)) => {
                let from = self.draw(file.len);
                let len = 1 + self.draw(file.len - from);
                self.write(file.start + from, len);
            }
            // Appended to.
            (4..=5, Some(file)) => {
                let room = self.cells - (file.start + file.len);
                let more = (1 + self.draw(16)).min(room);
                self.write(file.start + file.len, more);
                self.files[at].len += more;
            }
            (6, Some(file)) => {
                self.files.swap_remove(at);
                self.steps.push_back(Step {
                    start: file.start,
                    len: file.len,
                    act: Act::Trim,
                });
            }
            (_, _) => self.make(),
        }
        let journal = (self.cells / 64).max(1);
        self.journal = (self.journal + 1) % journal;
        let metadata = self.draw(journal);
        self.write((journal + self.journal).min(self.cells - 1), 1);
        self.write(metadata.min(self.cells - 1), 1);
    }

    /// Makes a file in the group where work is.
    fn make(&mut self) {
        let size = mix(self.seed ^ mix(self.drawn)).trailing_zeros();
        let most = 1 << u64::from(size).min(LARGEST);
        let data = self.data();
        let group = ((self.cells - data) / GROUPS).max(1);
        let start = (data + self.group * group + self.draw(group)).min(self.cells - 1);
        let len = (most / 2 + 1 + self.draw(most / 2)).min(self.cells - start);
        self.write(start, len);
        if self.files.len() == FILES {
            let oldest = usize::try_from(self.draw(FILES as u64)).unwrap_or(0);
            self.files.swap_remove(oldest);
        }
        self.files.push(Run { start, len });
    }

    fn write(&mut self, start: u64, len: u64) {
        let mut done = 0;
        while done < len {
            let part = (len - done).min(RUN);
            let pattern = self.draw(u64::MAX);
            self.steps.push_back(Step {
                start: start + done,
                len: part,
                act: Act::Write(pattern),
            });
            done += part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seed: u64, cells: u64, count: usize) -> Vec<Step> {
        let mut work = Workload::new(seed, cells);
        (0..count).map(|_| work.next()).collect()
    }

    #[test]
    fn the_same_seed_does_the_same_and_stays_on_the_disk() {
        for cells in [1, 2, 31, 64, 1000, 1 << 20] {
            let one = steps(7, cells, 3000);
            assert_eq!(one, steps(7, cells, 3000));
            assert!(
                one.iter()
                    .all(|step| step.len > 0 && step.start + step.len <= cells),
                "{cells}"
            );
        }
        assert_ne!(steps(7, 1 << 16, 50), steps(8, 1 << 16, 50));
    }

    #[test]
    fn the_work_is_that_of_a_file_system() {
        let cells = 1 << 20;
        let all = steps(1, cells, 20_000);
        let writes: Vec<_> = all.iter().filter(|step| step.act != Act::Trim).collect();
        assert!(all.len() - writes.len() > 100, "trims");
        let metadata = writes.iter().filter(|step| step.start < cells / 64).count();
        assert!(metadata > writes.len() / 5, "metadata is rewritten");
        let single = writes.iter().filter(|step| step.len == 1).count();
        let large = writes.iter().filter(|step| step.len >= 64).count();
        assert!(
            single > large && large > 20,
            "{single} single, {large} large"
        );
        // Locality: steps that follow each other lie in the same group far more often than one in sixteen times.
        let group = |step: &&&Step| (step.start - cells / 32) / ((cells - cells / 32) / GROUPS);
        let data: Vec<u64> = writes
            .iter()
            .filter(|step| step.start >= cells / 32)
            .map(|step| group(&step))
            .collect();
        let near = data.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(near > data.len() / 5, "{near} of {}", data.len());
    }
}
