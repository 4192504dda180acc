//! Where records without a key go: to one partition for a batch's worth of bytes, then to another, rather one that
//! has little waiting (KIP-794; Kafka's `BuiltInPartitioner`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for no partition chosen yet.
const NONE: u32 = u32::MAX;

/// The partition of one topic that is stayed on.
///
/// It moves on only once the batch that it filled is complete, so that none is left half full behind: from `bytes` on
/// if it is, from twice as many on in any case. (Kafka's begins another batch where it is for the record that the
/// last one had no room for, and leaves that one half full instead.)
#[derive(Debug)]
pub(super) struct Sticky {
    bytes: u32,
    adaptive: bool,
    /// The partition stayed on in the upper half, the bytes that it got in the lower. Changed only by who holds the
    /// lock of that partition's queue, but for the first choice.
    state: AtomicU64,
}

impl Sticky {
    /// `bytes` as the batch size; `adaptive` says whether what waits has weight.
    pub(super) fn new(bytes: usize, adaptive: bool) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Sticky { bytes, adaptive, state: AtomicU64::new(pack(NONE, 0)) }
    }

    /// The partition to go to, of as many as there are lengths of queues.
    pub(super) fn current(
        &self,
        lengths: impl ExactSizeIterator<Item = u32> + Clone,
        random: impl FnOnce() -> u64,
    ) -> u32 {
        let seen = self.state.load(Ordering::Relaxed);
        let (partition, _) = unpack(seen);
        if (partition as usize) < lengths.len() {
            return partition;
        }
        let chosen = pack(self.choose(lengths, random()), 0);
        // Another thread may have been first; then its choice counts.
        match self.state.compare_exchange(seen, chosen, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => unpack(chosen).0,
            Err(now) => unpack(now).0,
        }
    }

    /// Whether it is still that partition; asked with the lock of its queue held.
    pub(super) fn is_current(&self, partition: u32) -> bool {
        unpack(self.state.load(Ordering::Relaxed)).0 == partition
    }

    /// Says that so many bytes went to the current partition, whose queue is locked, and moves on if it has had enough.
    /// `complete` says whether all its batches are.
    pub(super) fn appended(
        &self,
        bytes: usize,
        complete: bool,
        lengths: impl ExactSizeIterator<Item = u32> + Clone,
        random: impl FnOnce() -> u64,
    ) {
        let (partition, before) = unpack(self.state.load(Ordering::Relaxed));
        let produced = before.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let enough = produced >= self.bytes && complete || produced >= self.bytes.saturating_mul(2);
        let next = if enough { pack(self.choose(lengths, random()), 0) } else { pack(partition, produced) };
        self.state.store(next, Ordering::Relaxed);
    }

    /// Says that the last batch of the current partition, whose queue is locked, has no room for so many bytes. Returns
    /// whether it has moved on for that.
    pub(super) fn no_room(
        &self,
        bytes: usize,
        lengths: impl ExactSizeIterator<Item = u32> + Clone,
        random: impl FnOnce() -> u64,
    ) -> bool {
        let (_, produced) = unpack(self.state.load(Ordering::Relaxed));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let enough = produced > 0 && produced.saturating_add(bytes) >= self.bytes;
        if enough {
            self.state.store(pack(self.choose(lengths, random()), 0), Ordering::Relaxed);
        }
        enough
    }

    /// Chooses with the weight `longest queue + 1 - own queue` each, or all alike.
    fn choose(&self, lengths: impl ExactSizeIterator<Item = u32> + Clone, random: u64) -> u32 {
        let longest = if self.adaptive { lengths.clone().max().unwrap_or(0) } else { 0 };
        // Lengths may change while they are looked at.
        let weight = |length: u32| u64::from(longest.saturating_sub(length)) + 1;
        let weights: Vec<u64> =
            if self.adaptive { lengths.map(weight).collect() } else { vec![1; lengths.len()] };
        let total: u64 = weights.iter().sum();
        // The upper half of the product is uniform below `total`, but for one part in 2^32 and less.
        let mut point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        for (partition, weight) in weights.iter().enumerate() {
            match point.checked_sub(*weight) {
                Some(rest) => point = rest,
                None => return partition as u32,
            }
        }
        0
    }
}

fn pack(partition: u32, bytes: u32) -> u64 {
    u64::from(partition) << 32 | u64::from(bytes)
}

fn unpack(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// `share` of all that chance can be, in parts of 1000.
    fn share(of_1000: u64) -> u64 {
        ((u128::from(of_1000) << 64) / 1000) as u64
    }

    fn of(lengths: &[u32]) -> impl ExactSizeIterator<Item = u32> + Clone + '_ {
        lengths.iter().copied()
    }

    #[test]
    fn the_weight_of_a_partition_is_what_its_queue_lacks_to_the_longest_and_one() {
        let sticky = Sticky::new(1000, true);
        // As in KIP-794: queues of 0, 3 and 1 give the weights 4, 1 and 3, in running sums 4, 5 and 8.
        for (of_1000, partition) in [(0, 0), (499, 0), (501, 1), (624, 1), (626, 2), (999, 2)] {
            assert_eq!(sticky.choose(of(&[0, 3, 1]), share(of_1000)), partition, "{of_1000}");
        }
        assert_eq!(sticky.choose(of(&[0, 3, 1]), u64::MAX), 2);
        let mut hits = [0_u32; 3];
        (0..8000)
            .for_each(|step| hits[sticky.choose(of(&[0, 3, 1]), step * (u64::MAX / 8000)) as usize] += 1);
        assert!(
            hits.iter().zip([4000_u32, 1000, 3000]).all(|(hits, expected)| expected.abs_diff(*hits) <= 1),
            "{hits:?}"
        );
    }

    #[test]
    fn equal_queues_and_no_adaptation_weigh_alike() {
        for (adaptive, lengths) in [(true, [7, 7, 7, 7]), (false, [0, 9, 0, 3])] {
            let sticky = Sticky::new(1000, adaptive);
            for (of_1000, partition) in [(0, 0), (249, 0), (251, 1), (501, 2), (751, 3), (999, 3)] {
                assert_eq!(sticky.choose(of(&lengths), share(of_1000)), partition, "{of_1000}");
            }
        }
    }

    /// A sticky partitioner that chooses the partitions in turn, and what it is told of.
    struct Turns {
        sticky: Sticky,
        turn: Cell<u64>,
    }

    impl Turns {
        fn new(bytes: usize) -> Self {
            Turns { sticky: Sticky::new(bytes, true), turn: Cell::new(0) }
        }

        fn next(&self) -> u64 {
            let turn = self.turn.get();
            self.turn.set((turn + 250) % 1000);
            share(turn) + 1
        }

        fn current(&self) -> u32 {
            self.sticky.current(of(&[0; 4]), || self.next())
        }

        fn append(&self, bytes: usize, complete: bool) {
            self.sticky.appended(bytes, complete, of(&[0; 4]), || self.next());
        }
    }

    #[test]
    fn it_moves_on_with_a_complete_batch_and_enough_bytes_or_with_twice_as_many() {
        let turns = Turns::new(1000);
        assert_eq!(turns.current(), 0);
        turns.append(999, true);
        assert_eq!(turns.current(), 0, "not enough");
        turns.append(1, false);
        assert_eq!(turns.current(), 0, "enough, but the batch is not complete");
        turns.append(1, true);
        assert_eq!(turns.current(), 1);
        turns.append(1999, false);
        assert_eq!(turns.current(), 1);
        turns.append(1, false);
        assert_eq!(turns.current(), 2, "twice as many");
        turns.append(usize::MAX, false);
        assert_eq!(turns.current(), 3);
        assert!(turns.sticky.is_current(3) && !turns.sticky.is_current(2));
    }

    #[test]
    fn it_moves_on_with_the_record_that_would_begin_another_batch() {
        let turns = Turns::new(1000);
        let no_room = |bytes| turns.sticky.no_room(bytes, of(&[0; 4]), || turns.next());
        assert_eq!(turns.current(), 0);
        assert!(!no_room(5000), "nothing went there yet");
        turns.append(900, false);
        assert!(!no_room(99), "it is not this partition's bytes that filled the batch");
        assert!(no_room(100));
        assert_eq!(turns.current(), 1);
    }

    #[test]
    fn it_leaves_a_partition_that_is_gone() {
        let sticky = Sticky::new(1000, true);
        assert_eq!(sticky.current(of(&[0; 4]), || u64::MAX), 3);
        assert_eq!(sticky.current(of(&[0; 2]), || 0), 0);
        assert_eq!(sticky.current(of(&[]), || u64::MAX), 0, "there is none to choose");
    }
}
