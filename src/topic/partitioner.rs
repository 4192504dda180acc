//! Which partition a record goes to: [`Partitioner`], and Kafka's way of choosing, [`DefaultPartitioner`].

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

/// Chooses the partition of each record that does not name one.
///
/// # Contract
/// - One partitioner serves one topic: what it remembers, it remembers of that topic.
/// - [`partition`](Partitioner::partition) may be called from any thread at any time, also by several at once. It
///   must not block: it runs on the way of every append.
/// - The result must be below `count`. A caller may refuse a record whose partition is not.
///
/// ```
/// use annals::Partitioner;
///
/// /// Everything with a key in the first partition, the rest in the last one.
/// #[derive(Debug)]
/// struct KeysFirst;
///
/// impl Partitioner for KeysFirst {
///     fn partition(&self, key: Option<&[u8]>, _size: usize, count: u32) -> u32 {
///         if key.is_some() { 0 } else { count - 1 }
///     }
/// }
/// assert_eq!(KeysFirst.partition(Some(b"user-7"), 100, 3), 0);
/// ```
pub trait Partitioner: Debug + Send + Sync {
    /// The partition for one record that will be appended.
    ///
    /// - `key` is the record's key; an empty key is a key.
    /// - `size` is how many bytes the record takes in its batch, before compression.
    /// - `count` is the number of the topic's partitions now, at least 1; it may have grown since the last call.
    fn partition(&self, key: Option<&[u8]>, size: usize, count: u32) -> u32;
}

/// Bytes that a partition gets before another is chosen, unless set otherwise (Kafka's `batch.size`).
const BATCH_BYTES: u32 = 16 * 1024;

/// Kafka's choice: records with a key by [`partition_for_key`], so that equal keys stay in order; the others stay
/// on one partition until it got a batch's worth of bytes, then move to another at random (KIP-794).
///
/// All partitions of a log in one process are equally near, so Kafka's weighing by queue length has no part here.
///
/// ```
/// use annals::{DefaultPartitioner, Partitioner};
///
/// let partitioner = DefaultPartitioner::new(42);
/// assert_eq!(partitioner.partition(Some(b"kafka"), 100, 10), 0);
/// let sticky = partitioner.partition(None, 100, 10);
/// assert_eq!(partitioner.partition(None, 100, 10), sticky);
/// ```
#[derive(Debug)]
pub struct DefaultPartitioner {
    batch_bytes: u32,
    /// The partition stayed on in the upper half, the bytes that it got in the lower: one word, so that both change
    /// at once. Every thread that appends without a key replaces it; nothing else hangs on it, so relaxed order
    /// will do.
    sticky: AtomicU64,
    /// The state of [`random`](DefaultPartitioner::random).
    chance: AtomicU64,
}

/// No partition chosen yet; above any partition there is.
const NONE: u32 = u32::MAX;

impl DefaultPartitioner {
    /// A partitioner that chooses by chance from `seed`: equal seeds, equal choices.
    pub fn new(seed: u64) -> Self {
        let sticky = AtomicU64::new(pack(NONE, 0));
        DefaultPartitioner { batch_bytes: BATCH_BYTES, sticky, chance: AtomicU64::new(seed) }
    }

    /// After how many bytes records without a key move on; 16 KiB if not set. 0 moves on with every record.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u32) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// The partition for a record without a key.
    fn stay_or_move(&self, size: usize, count: u32) -> u32 {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let mut seen = self.sticky.load(Ordering::Relaxed);
        loop {
            let (partition, bytes) = unpack(seen);
            let next = if partition < count && bytes < self.batch_bytes {
                (partition, bytes.saturating_add(size))
            } else {
                (self.another(partition, count), size)
            };
            let next_packed = pack(next.0, next.1);
            match self.sticky.compare_exchange_weak(seen, next_packed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return next.0,
                Err(now) => seen = now,
            }
        }
    }

    /// A partition other than the given one, if there is another; each with the same chance.
    fn another(&self, partition: u32, count: u32) -> u32 {
        let others = if partition < count { count - 1 } else { count };
        // The upper half of the product is uniform below `others`, but for one part in 2^32.
        let chosen = ((u128::from(self.random()) * u128::from(others)) >> 64) as u32;
        match others {
            0 => 0,
            _ if chosen >= partition => chosen + 1,
            _ => chosen,
        }
    }

    /// The next number of SplitMix64: a counter, well mixed, so that threads need no lock to share it.
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.chance.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Partitioner for DefaultPartitioner {
    fn partition(&self, key: Option<&[u8]>, size: usize, count: u32) -> u32 {
        match key {
            Some(key) => partition_for_key(key, count),
            None => self.stay_or_move(size, count),
        }
    }
}

/// Each partition in turn, whatever the key (Kafka's `RoundRobinPartitioner`).
///
/// ```
/// use annals::{Partitioner, RoundRobinPartitioner};
/// let partitioner = RoundRobinPartitioner::new();
/// let turns: Vec<u32> = (0..4).map(|_| partitioner.partition(Some(b"key"), 1, 3)).collect();
/// assert_eq!(turns, [0, 1, 2, 0]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobinPartitioner {
    turn: AtomicU64,
}

impl RoundRobinPartitioner {
    /// One that begins with the first partition.
    pub fn new() -> Self {
        RoundRobinPartitioner::default()
    }
}

impl Partitioner for RoundRobinPartitioner {
    fn partition(&self, _key: Option<&[u8]>, _size: usize, count: u32) -> u32 {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        turn.checked_rem(u64::from(count)).unwrap_or(0) as u32
    }
}

fn pack(partition: u32, bytes: u32) -> u64 {
    u64::from(partition) << 32 | u64::from(bytes)
}

fn unpack(sticky: u64) -> (u32, u32) {
    ((sticky >> 32) as u32, sticky as u32)
}

/// The partition of a key among `count`, as every Kafka client computes it; 0 if there are none.
///
/// ```
/// assert_eq!(annals::partition_for_key(b"abc", 10), 7);
/// ```
pub fn partition_for_key(key: &[u8], count: u32) -> u32 {
    let positive = murmur2(key) as u32 & 0x7fff_ffff;
    positive.checked_rem(count).unwrap_or(0)
}

/// The hash of Kafka's `Utils.murmur2`: 32-bit MurmurHash2 with Kafka's seed.
///
/// ```
/// assert_eq!(annals::murmur2(b"kafka"), -798_503_068);
/// ```
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let (words, tail) = (data.chunks_exact(4), data.chunks_exact(4).remainder());
    let mut hash = SEED ^ data.len() as u32;
    for word in words {
        let mut mixed = little_endian(word).wrapping_mul(M);
        mixed = (mixed ^ (mixed >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ mixed;
    }
    if !tail.is_empty() {
        hash = (hash ^ little_endian(tail)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    (hash ^ (hash >> 15)) as i32
}

/// Up to four bytes as a number, the first lowest.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Made by Kafka's own `Utils.murmur2`.
    const VECTORS: [(&str, i32, u32, u32); 11] = [
        ("", 275646681, 1, 0),
        ("a", -1563381124, 4, 1),
        ("ab", 316155434, 4, 2),
        ("abc", 479470107, 7, 0),
        ("abcd", -1323649548, 0, 2),
        ("abcde", 461995741, 1, 1),
        ("21", -973932308, 0, 0),
        ("foobar", -790332482, 6, 0),
        ("kafka", -798503068, 0, 1),
        ("\u{e9}", 186971271, 1, 0),
        ("a-little-bit-long-string", -985981536, 2, 2),
    ];

    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash, of_ten, of_three) in VECTORS {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key:?}");
            assert_eq!(partition_for_key(key.as_bytes(), 10), of_ten, "{key:?}");
            assert_eq!(partition_for_key(key.as_bytes(), 3), of_three, "{key:?}");
        }
        assert_eq!(murmur2(b"a-little-bit-longer-string"), -1486304829);
        assert_eq!(murmur2(b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8"), -58897971);
    }

    #[test]
    fn counts_at_the_edges_do_not_panic() {
        let partitioner = DefaultPartitioner::new(1).batch_bytes(0);
        for count in [0, 1] {
            assert_eq!(partition_for_key(b"key", count), 0);
            for _ in 0..10 {
                assert_eq!(partitioner.partition(None, usize::MAX, count), 0);
            }
        }
        for _ in 0..1000 {
            assert!(partitioner.partition(None, 1, i32::MAX as u32) < i32::MAX as u32);
            assert!(partitioner.partition(None, 1, u32::MAX) < u32::MAX);
        }
    }

    #[test]
    fn records_without_a_key_stay_until_the_batch_is_full() {
        let partitioner = DefaultPartitioner::new(7).batch_bytes(1000);
        let mut last = None;
        for _ in 0..200 {
            // 300, 600, 900, 1200: the fourth fills it.
            let first = partitioner.partition(None, 300, 5);
            assert_ne!(Some(first), last, "the next is another");
            for _ in 0..3 {
                assert_eq!(partitioner.partition(None, 300, 5), first);
            }
            last = Some(first);
        }
    }

    #[test]
    fn exactly_a_batch_is_full_and_16_kib_is_one() {
        let partitioner = DefaultPartitioner::new(7);
        let first = partitioner.partition(None, 16 * 1024 - 1, 50);
        assert_eq!(partitioner.partition(None, 1, 50), first);
        assert_ne!(partitioner.partition(None, 1, 50), first);
    }

    #[test]
    fn keys_neither_move_nor_fill_what_records_without_stay_on() {
        let partitioner = DefaultPartitioner::new(3).batch_bytes(100);
        let first = partitioner.partition(None, 10, 100);
        for _ in 0..50 {
            assert_eq!(partitioner.partition(Some(b""), 1000, 100), partition_for_key(b"", 100));
        }
        assert_eq!(partitioner.partition(None, 10, 100), first);
    }

    #[test]
    fn the_choice_is_uniform() {
        let partitioner = DefaultPartitioner::new(11).batch_bytes(0);
        let mut hits = [0u32; 8];
        for _ in 0..80_000 {
            hits[partitioner.partition(None, 1, 8) as usize] += 1;
        }
        // Six standard deviations of a fair choice are about 560.
        assert!(hits.iter().all(|hits| hits.abs_diff(10_000) < 560), "{hits:?}");
    }

    #[test]
    fn new_partitions_are_found_and_lost_ones_left() {
        let partitioner = DefaultPartitioner::new(5).batch_bytes(1);
        let of =
            |count| -> BTreeSet<u32> { (0..200).map(|_| partitioner.partition(None, 1, count)).collect() };
        assert_eq!(of(2), [0, 1].into());
        assert_eq!(of(4), [0, 1, 2, 3].into());
        assert_eq!(of(1), [0].into());
    }

    #[test]
    fn equal_seeds_choose_equally_and_others_do_not() {
        let choices = |seed| {
            let partitioner = DefaultPartitioner::new(seed).batch_bytes(0);
            (0..64).map(|_| partitioner.partition(None, 1, 16)).collect::<Vec<_>>()
        };
        assert_eq!(choices(9), choices(9));
        assert_ne!(choices(9), choices(10));
    }

    #[test]
    fn threads_share_one_batch() {
        let partitioner = DefaultPartitioner::new(2).batch_bytes(1_000_000);
        let seen: BTreeSet<u32> = std::thread::scope(|scope| {
            let work = || (0..10_000).map(|_| partitioner.partition(None, 10, 64)).collect::<BTreeSet<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(
            seen.len(),
            1,
            "40,000 records of 10 bytes fit one batch, if none is forgotten or counted twice"
        );
        let (_, bytes) = unpack(partitioner.sticky.load(Ordering::Relaxed));
        assert_eq!(bytes, 400_000);
    }

    proptest! {
        #[test]
        fn the_result_is_always_a_partition(
            seed in any::<u64>(), batch in any::<u32>(),
            calls in prop::collection::vec((any::<Option<Vec<u8>>>(), any::<usize>(), 1..=u32::MAX), 1..50),
        ) {
            let partitioner = DefaultPartitioner::new(seed).batch_bytes(batch);
            for (key, size, count) in calls {
                prop_assert!(partitioner.partition(key.as_deref(), size, count) < count);
            }
        }
    }
}
