//! Where records without a key go: to one partition for a batch's worth of bytes, then to another, rather one that
//! has little waiting (KIP-794; Kafka's `BuiltInPartitioner`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Stands for no partition chosen yet.
const NONE: u32 = u32::MAX;

/// The partition of one topic that is stayed on.
///
/// It moves on only once the batch that it filled is complete, so that none is left half full behind: from `bytes` on
/// if it is, from twice as many on in any case.
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
